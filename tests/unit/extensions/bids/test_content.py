"""Copies of volumes in a data set, and the pseudonyms in it."""

import gzip
import hashlib
from pathlib import Path

import pytest

from node.children.pseudonyms import PseudonymKey
from node.extensions.bids.rules import NotExported
from node.extensions.bids.sidecars import NiftiCopy
from node.extensions.bids.subjects import Pseudonyms
from node.extensions.deidentify.deidentification import Deidentification
from node.extensions.deidentify.instance import deidentified
from node.extensions.deidentify.profile import Profile
from node.index.rules.people.identifiers import identity_of
from node.writers.options import WriteOptions
from node.writers.write import write_volume
from tests import make
from tests.volumes import volume


def copied(file: Path, out: Path, *, link: bool = False) -> bytes:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    written = NiftiCopy(file, digest, without_extension=True).write(out, link=link)
    assert written == hashlib.sha256(out.read_bytes()).hexdigest()
    return out.read_bytes()


@pytest.mark.parametrize("compress", [True, False])
def test_a_copy_is_compressed_and_without_the_sidecar_in_its_header(tmp_path: Path, compress: bool) -> None:
    plain, reported = (
        WriteOptions(formats=("nifti",), compress=compress, nifti_extension=kept) for kept in (False, True)
    )
    [small, *_] = write_volume(volume(), tmp_path, "small", plain)
    [large, *_] = write_volume(volume(), tmp_path, "large", reported)
    assert large.bytes > small.bytes
    copies = [copied(file.path, tmp_path / f"{file.path.stem}.copy") for file in (small, large)]
    assert gzip.decompress(copies[0]) == gzip.decompress(copies[1])
    assert copied(large.path, tmp_path / "again") == copies[1], "the bytes depend on nothing else"
    assert (copies[0] == small.path.read_bytes()) is compress


def test_copies_may_be_links_and_are_only_of_what_the_node_wrote(tmp_path: Path) -> None:
    [file, *_] = write_volume(volume(), tmp_path, "one", WriteOptions(formats=("nifti",), thumbnails=False))
    copied(file.path, tmp_path / "link", link=True)
    assert (tmp_path / "link").stat().st_ino == file.path.stat().st_ino
    with pytest.raises(NotExported, match="fsck"):
        NiftiCopy(file.path, "0" * 64, without_extension=True).write(tmp_path / "other", link=False)


KEY = PseudonymKey("test", bytes(range(32)))


def test_pseudonyms_depend_on_key_kind_and_identity_alone() -> None:
    one, other = Pseudonyms(KEY), Pseudonyms(PseudonymKey("test", bytes(32)))
    assert one.subject("\\x") == Pseudonyms(KEY).subject("\\x")
    labels = [one.subject("\\x"), one.session("x"), one.subject("\\y"), one.subject("I\\x"), other.subject("\\x")]
    assert len(set(labels)) == len(labels)
    assert all(label.isalnum() and label == label.lower() for label in labels)
    days = {one.shift_days(str(number)) for number in range(50)}
    assert len(days) > 40
    assert all(day > 101 * 366 for day in days)


def test_a_subject_is_the_patient_of_de_identified_instances() -> None:
    for patient in ({"PatientID": "4711", "IssuerOfPatientID": "HOSPITAL"}, {"PatientID": ""}):
        [ds] = make.ct_series(1, **patient)
        columns = {"patient_id": ds.PatientID, "issuer_of_patient_id": ds.get("IssuerOfPatientID")}
        identity = identity_of(columns, ds.StudyInstanceUID)
        assert deidentified(ds, Deidentification(Profile(), KEY)).PatientID.lower() == Pseudonyms(KEY).subject(identity)
