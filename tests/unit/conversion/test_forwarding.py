"""Copies without identities: what a route changes beside, and in which encoding they leave."""

from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from node.children.forwarding import CopyChange, Encoding, copy_of, forward
from node.children.messages import Garbled
from node.children.pseudonyms import Patient, PseudonymKey
from node.children.serving import Apart, ChildLimits, max_file_bytes
from node.dicom.coercion import Coercion
from node.errors import Withheld
from node.extensions.deidentify.deidentification import RefusalReason
from node.extensions.deidentify.profile import Profile
from node.extensions.deidentify.ways import DeidentifyWay
from tests import make

HOW = DeidentifyWay(Profile(), PseudonymKey("test", bytes(range(32))))


@pytest.mark.parametrize(
    ("encoding", "stored", "sent"),
    [
        ("keep", ExplicitVRLittleEndian, ExplicitVRLittleEndian),
        ("keep", RLELossless, RLELossless),
        ("uncompressed", RLELossless, ExplicitVRLittleEndian),
        ("jpeg2000-lossless", ExplicitVRLittleEndian, JPEG2000Lossless),
    ],
)
def test_identities_go_before_other_changes(tmp_path: Path, encoding: Encoding, stored: str, sent: str) -> None:
    [ds] = make.ct_series(1, rows=64, columns=64, PatientName="Secret^Person", PatientID="SECRET")
    pixels = ds.pixel_array.copy()
    if stored == RLELossless:
        ds.compress(RLELossless, generate_instance_uid=False)
    ds.save_as(tmp_path / "1.dcm", enforce_file_format=True)
    coercion = Coercion.of(
        {"ClinicalTrialProtocolID": "T7", "PatientComments": "of {PatientID}"}, {"StudyID": "X"}, ["StudyTime"]
    )

    change = CopyChange(coercion, encoding, HOW)
    copy = copy_of(forward(tmp_path / "1.dcm", change, tmp_path / "out"), change)

    content = (tmp_path / "out").read_bytes()
    new = dcmread(tmp_path / "out")
    pseudonym = HOW.key.patient(Patient("", "SECRET"))
    assert b"ecret" not in content
    assert b"SECRET" not in content
    assert (copy.transfer_syntax_uid, copy.sop_instance_uid) == (sent, HOW.uid(ds.SOPInstanceUID))
    assert (new.file_meta.TransferSyntaxUID, new.SOPInstanceUID) == (sent, copy.sop_instance_uid)
    assert content[copy.data_set_offset : copy.data_set_offset + 4] == b"\x08\x00\x08\x00"
    assert copy.patient == new.PatientID == pseudonym
    assert new.PatientComments == f"of {pseudonym}"
    assert new.ClinicalTrialProtocolID == "T7"
    assert "StudyTime" not in new
    assert np.array_equal(new.pixel_array, pixels)


def test_what_is_refused_is_not_written_and_an_answer_that_is_none_is_found(tmp_path: Path) -> None:
    make.rgb_capture().save_as(tmp_path / "1.dcm", enforce_file_format=True)
    (tmp_path / "2.dcm").write_bytes(b"no file of PS3.10")
    (tmp_path / "out").touch()
    for name, reason in (("1.dcm", RefusalReason.SECONDARY_CAPTURE), ("2.dcm", RefusalReason.UNREADABLE)):
        answer = forward(tmp_path / name, CopyChange(deidentification=HOW), tmp_path / "out")
        with pytest.raises(Withheld) as raised:
            copy_of(answer, CopyChange(deidentification=HOW))
        assert raised.value.reason == reason
    assert (tmp_path / "out").stat().st_size == 0
    uids = b'{"sop_class_uid": "1", "sop_instance_uid": "2", "transfer_syntax_uid": "3"'
    for garbled in (
        b"",
        b"{}",
        b'{"reason": "because", "detail": ""}',
        b'["reason"]',
        uids + b"}",
        uids + b', "data_set_offset": "4"}',
        b"[" * 100_000,
    ):
        with pytest.raises(Garbled):
            copy_of(garbled, CopyChange(deidentification=HOW))


def test_compressed_files_that_do_not_fit_into_memory_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.extensions.deidentify.ways.MAX_COMPRESSED_BYTES", 1000)
    change = CopyChange(deidentification=HOW)
    [ds] = make.ct_series(1, rows=64, columns=64)
    ds.save_as(tmp_path / "native.dcm", enforce_file_format=True)
    ds.compress(RLELossless, generate_instance_uid=False)
    ds.save_as(tmp_path / "compressed.dcm", enforce_file_format=True)
    copy_of(forward(tmp_path / "native.dcm", change, tmp_path / "out"), change)
    with pytest.raises(Withheld, match=r"too-large: the file has .* bytes with compressed frames; the limit"):
        copy_of(forward(tmp_path / "compressed.dcm", change, tmp_path / "out"), change)


def test_a_copy_may_be_as_long_as_its_original(tmp_path: Path) -> None:
    limits = ChildLimits(1000, 1, 1.0)
    with (tmp_path / "long").open("wb") as file:
        file.truncate(1 << 33)
    assert max_file_bytes(Apart(None, limits, (tmp_path / "long",))) > 1 << 33
    assert max_file_bytes(Apart(None, ChildLimits(4_000_000_000, 1, 1.0))) == 4_000_000_000
