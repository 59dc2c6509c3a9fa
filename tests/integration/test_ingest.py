"""The one door: what is on the disk and in the index when `finish` has returned, and when it has not."""

import datetime as dt
import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
from pydicom import Dataset

from node.dicom.encoding import file_head
from node.errors import ClassMismatch, InstanceRefused, NotUnderstood, OutOfResources
from node.index.rows.records import Outcome
from node.receive.data_set import LARGE_BYTES
from node.receive.ingest import Announced, Origin
from node.receive.recovery import recover
from tests import make
from tests.ingest import indexed
from tests.integration.conftest import Root, announced, data_set_bytes


def test_an_instance_is_kept_byte_for_byte_and_indexed_at_all_levels(root: Root) -> None:
    [ds] = make.ct_series(1, PatientName="Yamada^Tarou", PatientID="P1", SeriesNumber=7)
    assert root.take(ds) is Outcome.STORED
    [image] = root.rows("SELECT * FROM v_images")
    content = Path(image["path"]).read_bytes()
    sent = data_set_bytes(ds)
    assert content[image["data_set_offset"] :] == sent
    assert image["sha256"] == hashlib.sha256(sent).hexdigest()
    assert image["bytes"] == len(sent)
    assert image["calling_ae_title"] == "MODALITY"
    [series] = root.rows("SELECT * FROM v_series")
    assert (series["state"], series["instances"], series["series_number"]) == ("receiving", 1, 7)
    [study] = root.rows("SELECT * FROM v_studies")
    assert (study["patient_name"], study["patient_id"], study["study_date"]) == ("Yamada^Tarou", "P1", "2024-01-02")


@pytest.mark.parametrize("pixels", [0, 65_000, 900_000, LARGE_BYTES, 3 * LARGE_BYTES])
def test_all_bytes_are_kept_however_large_an_instance_is(root: Root, pixels: int) -> None:
    [ds] = make.ct_series(1)
    ds.PixelData = bytes(range(256)) * (pixels // 256)
    sent = data_set_bytes(ds)
    incoming = root.ingest.begin(announced(ds), Origin("dicom", "MODALITY", "VOXELNODE", "192.0.2.1"))
    for begin in range(0, len(sent), 130_001):
        incoming.take_fragment(memoryview(sent)[begin : begin + 130_001])
    indexed(incoming)
    [image] = root.rows("SELECT sha256, path, data_set_offset FROM v_images")
    assert image["sha256"] == hashlib.sha256(sent).hexdigest()
    assert Path(image["path"]).read_bytes()[image["data_set_offset"] :] == sent


@pytest.mark.parametrize(
    ("term", "name"),
    [
        ("ISO 2022 IR 87", "Yamada^Tarou=山田^太郎"),
        ("ISO 2022 IR 87", "Yamada^Haru=山田^春"),
        ("ISO 2022 IR 58", "Zhang^XiaoDong=张^小东"),
        ("ISO 2022 IR 149", "Hong^Gildong=洪^吉洞=홍^길동"),
    ],
)
def test_names_are_utf8_whatever_the_character_set(root: Root, term: str, name: str) -> None:
    [ds] = make.ct_series(1, PatientName=None)
    ds.SpecificCharacterSet = ["", term]
    ds.PatientName = name
    root.take(ds)
    [patient] = root.rows("SELECT patient_name FROM v_patients")
    assert patient["patient_name"] == name


def test_twenty_senders_of_one_instance_leave_one_row_and_one_file(root: Root) -> None:
    [ds] = make.ct_series(1)
    with ThreadPoolExecutor(20) as senders:
        outcomes = list(senders.map(lambda _: root.take(ds), range(20)))
    assert sorted(outcome.name for outcome in outcomes) == ["ALREADY_THERE"] * 19 + ["STORED"]
    assert len(list(root.folder.glob("objects/*/*.dcm"))) == 1


@pytest.mark.parametrize("uid", ["../../etc/passwd", "/etc/shadow", "..", "1.2/../3", ";rm"])
def test_a_hostile_uid_never_becomes_a_path(root: Root, uid: str) -> None:
    [ds] = make.ct_series(1)
    said = announced(ds)
    data = data_set_bytes(ds)
    for mine in (ds.SOPInstanceUID, ds.StudyInstanceUID, ds.SeriesInstanceUID):
        data = data.replace(mine.encode(), uid.encode().ljust(len(mine), b"\0"))
    for any_uids in (False, True):
        root.ingest.any_uids = any_uids
        with suppress(NotUnderstood):
            root.take_bytes(Announced(said.sop_class_uid, uid, said.transfer_syntax_uid), data)
        assert root.rows("SELECT * FROM v_images") == [] or any_uids
    for image in root.rows("SELECT * FROM v_images"):
        assert image["sop_instance_uid"] == uid
        assert Path(image["path"]).resolve().is_relative_to(root.folder.resolve())
    assert [path for path in root.folder.parent.rglob("*") if not path.is_relative_to(root.folder)] == []


def test_a_data_set_that_is_not_the_announced_one_is_refused_and_leaves_nothing(root: Root) -> None:
    [ds] = make.ct_series(1)
    said = announced(ds)
    incoming = root.ingest.begin(
        Announced(said.sop_class_uid, "1.2.3.4", said.transfer_syntax_uid), Origin("dicom", "MODALITY")
    )
    incoming.take_fragment(data_set_bytes(ds))
    with pytest.raises(ClassMismatch):
        indexed(incoming)
    assert not list(root.folder.glob("incoming/*"))
    assert root.rows("SELECT 1 FROM v_images") == []


@pytest.mark.parametrize(
    ("wanted", "is_taken"),
    [
        (None, True),
        (("1.2.3", ""), True),
        (("1.2.3", "1.2.3.1"), True),
        (("1.2.3", "1.2.3.2"), False),
        (("1.2.4", ""), False),
        (("1.2.4", "1.2.3.1"), False),
    ],
)
def test_a_peer_that_is_asked_for_something_stores_nothing_else(
    root: Root, wanted: tuple[str, str] | None, is_taken: bool
) -> None:
    [ds] = make.ct_series(1, study_uid="1.2.3", series_uid="1.2.3.1")
    origin = Origin("dicom", "MODALITY", "VOXELNODE", "127.0.0.1:1", wanted=wanted)
    with nullcontext() if is_taken else pytest.raises(InstanceRefused, match="than the peer was asked for"):
        root.take(ds, origin)
    assert len(root.rows("SELECT 1 FROM v_images")) == is_taken


def test_a_data_set_without_series_is_refused_with_the_tag(root: Root) -> None:
    [ds] = make.ct_series(1)
    del ds.SeriesInstanceUID
    with pytest.raises(NotUnderstood, match=r"Series Instance UID \(0020,000E\)"):
        root.take(ds)


def test_a_truncated_data_set_is_refused_at_every_length(root: Root) -> None:
    [ds] = make.ct_series(1, rows=2, columns=2)
    data = data_set_bytes(ds)
    needed = data.index(b"\x20\x00\x0e\x00")  # behind Series Instance UID everything identifying has been read
    for length in range(0, needed, 7):
        incoming = root.ingest.begin(announced(ds), Origin("dicom"))
        incoming.take_fragment(data[:length])
        with pytest.raises(NotUnderstood):
            indexed(incoming)
    assert not list(root.folder.glob("incoming/*"))


def test_a_header_longer_than_what_is_kept_in_memory_is_read_from_the_file(root: Root) -> None:
    [ds] = make.ct_series(1)
    reference = Dataset()
    reference.ReferencedSOPInstanceUID = "1.2." + "3" * 50
    ds.add_new(0x00081140, "SQ", [reference] * 2000)
    assert len(data_set_bytes(ds)) > 100_000
    assert root.take(ds) is Outcome.STORED


def test_an_abandoned_instance_leaves_nothing(root: Root) -> None:
    [ds] = make.ct_series(1)
    incoming = root.ingest.begin(announced(ds), Origin("dicom"))
    incoming.take_fragment(data_set_bytes(ds)[:100])
    incoming.abandon()
    assert not list(root.folder.glob("incoming/*"))


def test_a_slow_sender_has_a_quiet_time_of_its_own(root: Root) -> None:
    [ds] = make.ct_series(1)
    root.take(ds, Origin("dicom", "SLOW "))
    assert root.index.series.claim_due(root.clock() + dt.timedelta(seconds=299)) is None
    assert root.index.series.claim_due(root.clock() + dt.timedelta(seconds=300)) is not None


def test_a_series_uid_in_two_studies_stays_two_series_and_is_reported(root: Root) -> None:
    first, second = make.ct_series(2)
    second.StudyInstanceUID = "1.2.3"
    root.take(first)
    root.take(second)
    assert len(root.rows("SELECT 1 FROM v_series")) == 2
    assert [row["kind"] for row in root.rows("SELECT kind FROM v_conflicts")] == ["series-in-two-studies"]


def test_a_study_under_a_second_patient_is_accepted_and_reported_once(root: Root) -> None:
    instances = make.ct_series(3, PatientID="A")
    root.take(instances[0])
    for ds in instances[1:]:
        ds.PatientID = "B"
        root.take(ds)
    assert [row["kind"] for row in root.rows("SELECT kind FROM v_conflicts")] == ["study-of-two-patients"]
    assert len(root.rows("SELECT 1 FROM v_images")) == 3


def test_studies_without_patient_id_are_never_merged_into_one_patient(root: Root) -> None:
    for _ in range(2):
        [ds] = make.ct_series(1, PatientID="")
        root.take(ds)
    assert len(root.rows("SELECT 1 FROM v_patients")) == 2


def test_a_closed_door_answers_that_the_node_is_stopping(root: Root) -> None:
    root.ingest.close()
    [ds] = make.ct_series(1)
    with pytest.raises(OutOfResources, match="stopping"):
        root.take(ds)


# What a start puts right after a death at each step of the way in.


def recovered(root: Root) -> tuple[int, int, int, int]:
    done = recover(root.archive, root.index, root.ingest.quiet_seconds, root.clock())
    return done.parts, done.adopted, done.quarantined, done.claims


def test_a_file_that_cannot_be_looked_at_stays_and_ends_no_start(root: Root) -> None:
    root.take(make.ct_series(1)[0])
    folder = next((root.folder / "objects").glob("0*"))
    make.instance().save_as(folder / f"{'b' * 32}.dcm", enforce_file_format=True)
    for name in ("a" * 32, "c" * 32):
        (folder / f"{name}.dcm").symlink_to(f"{name}.dcm")
    kept = next(path for path in folder.glob("*.dcm") if path.stem.strip("abc"))
    kept.unlink()
    (root.folder / "quarantine" / kept.name).symlink_to(kept.name)
    assert recovered(root) == (0, 1, 0, 0)
    assert sum(path.is_symlink() for path in folder.iterdir()) == 2


def test_a_half_received_instance_is_deleted(open_root: Callable[[], Root]) -> None:
    root = open_root()
    [ds] = make.ct_series(1)
    root.ingest.begin(announced(ds), Origin("dicom")).take_fragment(bytes(LARGE_BYTES + 1))
    assert list(root.folder.glob("incoming/*.receiving"))
    root = open_root()
    assert recovered(root) == (1, 0, 0, 0)
    assert not list(root.folder.glob("incoming/*"))


def test_a_file_that_died_before_its_row_is_adopted_whole(open_root: Callable[[], Root]) -> None:
    root = open_root()
    first, second = make.ct_series(2)
    root.take(first)
    said = announced(second)
    head = file_head(said.sop_class_uid, said.sop_instance_uid, said.transfer_syntax_uid, "MODALITY")
    root.archive.write(root.archive.new_key(), head + data_set_bytes(second))
    root = open_root()
    assert recovered(root) == (0, 1, 0, 0)
    [row] = root.rows("SELECT * FROM v_images WHERE sop_instance_uid = :uid", uid=second.SOPInstanceUID)
    sent = data_set_bytes(second)
    assert Path(row["path"]).read_bytes()[row["data_set_offset"] :] == sent
    assert row["sha256"] == hashlib.sha256(sent).hexdigest()
    assert row["calling_ae_title"] == "MODALITY"
    assert recovered(root) == (0, 0, 0, 0)


def test_a_file_that_cannot_be_read_goes_to_quarantine(open_root: Callable[[], Root]) -> None:
    root = open_root()
    [ds] = make.ct_series(1)
    root.take(ds)
    [folder] = root.folder.glob("objects/*")
    (folder / "stray.dcm").write_bytes(b"no DICOM at all")
    assert recovered(open_root()) == (0, 0, 1, 0)
    assert (root.folder / "quarantine" / "stray.dcm").exists()


def test_a_claim_of_a_dead_worker_is_due_at_once(open_root: Callable[[], Root]) -> None:
    root = open_root()
    [ds] = make.ct_series(1)
    root.take(ds)
    root.clock.move(61)
    assert root.index.series.claim_due(root.clock()) is not None
    root = open_root()
    assert root.index.series.claim_due(root.clock()) is None
    assert recovered(root) == (0, 0, 0, 1)
    assert root.index.series.claim_due(root.clock()) is not None
