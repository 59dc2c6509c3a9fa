"""Other bytes under a SOP Instance UID that is here: which of the two counts, and where the other one is."""

import datetime as dt
import hashlib
import re
from collections.abc import Callable
from concurrent.futures import Future
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, FileDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import ImplicitVRLittleEndian, RLELossless, generate_uid

from node.index.rows.records import Outcome
from node.index.rules.people.persons import PersonRepository
from node.receive.custody import Difference, compared
from node.receive.ingest import Announced, Origin
from node.receive.recovery import recover
from node.receive.senders import quiet_seconds_of
from tests import make
from tests.integration.conftest import Root, announced, data_set_bytes
from tests.protocol.conftest import after_file_meta


def two_versions() -> tuple[FileDataset, FileDataset]:
    [first] = make.ct_series(1, SeriesDescription="first")
    second = deepcopy(first)
    second.SeriesDescription = "second"
    return first, second


def digest(ds: FileDataset) -> str:
    return hashlib.sha256(data_set_bytes(ds)).hexdigest()


def current(root: Root) -> tuple[str, bytes]:
    """Digest and data set of the one instance that the index names."""
    [image] = root.rows("SELECT * FROM v_images")
    return image["sha256"], Path(image["path"]).read_bytes()[image["data_set_offset"] :]


def kept_aside(root: Root) -> dict[str, bytes]:
    """What lies beside, by the digest that the index tells."""
    return {
        row["sha256"]: Path(row["path"]).read_bytes()
        for row in root.rows("SELECT sha256, path FROM v_conflicts WHERE path IS NOT NULL")
    }


@pytest.mark.parametrize(
    ("policy", "outcome", "winner", "kind", "event", "aside"),
    [
        ("never", Outcome.OTHER_BYTES, 0, "instance-bytes", "instance-conflict", "quarantine"),
        ("keep_both", Outcome.OTHER_BYTES, 0, "instance-versions", "instance-conflict", "objects"),
        ("replace", Outcome.REPLACED, 1, "instance-replaced", "instance-replaced", "quarantine"),
    ],
)
def test_one_version_counts_and_the_other_is_kept_and_reported(
    root: Root, policy: Any, outcome: Outcome, winner: int, kind: str, event: str, aside: str
) -> None:
    root.ingest.overwrite_policy = policy
    versions = two_versions()
    assert root.take(versions[0]) is Outcome.STORED
    assert root.take(versions[1]) is outcome
    assert current(root) == (digest(versions[winner]), data_set_bytes(versions[winner]))
    [conflict] = root.rows("SELECT * FROM v_conflicts")
    assert (conflict["kind"], conflict["sha256"]) == (kind, digest(versions[1 - winner]))
    assert Path(conflict["path"]).relative_to(root.folder).parts[0] == aside
    assert Path(conflict["path"]).read_bytes().endswith(data_set_bytes(versions[1 - winner]))
    events = [row["kind"] for row in root.rows("SELECT kind FROM v_events ORDER BY id")]
    assert events == [event] + (["attributes-changed"] if winner else [])


@pytest.mark.parametrize("policy", ["never", "keep_both", "replace"])
def test_after_a_restart_both_versions_are_where_they_were(open_root: Callable[[], Root], policy: Any) -> None:
    root = open_root()
    root.ingest.overwrite_policy = policy
    for version in two_versions():
        root.take(version)
    before = current(root), kept_aside(root)
    root = open_root()
    recovered = recover(root.archive, root.index, quiet_seconds_of(60, {}), root.clock())
    assert (recovered.adopted, recovered.quarantined) == (0, 0)
    assert (current(root), kept_aside(root)) == before


@pytest.mark.parametrize(("policy", "is_old"), [("never", False), ("replace", False), ("replace", True)])
def test_a_crash_between_the_commit_and_the_move_loses_neither_also_in_an_old_folder(
    open_root: Callable[[], Root], policy: Any, is_old: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = open_root()
    root.ingest.overwrite_policy = policy
    versions = two_versions()
    with monkeypatch.context() as crash:
        crash.setattr(root.archive, "quarantine", lambda key: None)
        for version in versions:
            root.take(version)
    root = open_root()
    if is_old:
        root.index.about.set("swept_folder", "00000009")
    recover(root.archive, root.index, quiet_seconds_of(60, {}), root.clock())
    [(sha256, content)] = kept_aside(root).items()
    assert {sha256, current(root)[0]} == {digest(version) for version in versions}
    assert [digest(version) for version in versions if content.endswith(data_set_bytes(version))] == [sha256]
    assert len(list(root.folder.glob("objects/*/*.dcm"))) == 1


def test_a_replaced_instance_reopens_its_converted_series(root: Root) -> None:
    root.ingest.overwrite_policy = "replace"
    first, second = two_versions()
    root.take(first)
    claimed = root.index.series.claim_due(root.clock() + dt.timedelta(seconds=60))
    assert claimed is not None
    root.take(second)
    [series] = root.rows("SELECT state, open_since FROM v_series")
    assert series["state"] == "converting"
    root.index.series.release_claim(claimed, root.clock())
    again = root.index.series.claim_due(root.clock() + dt.timedelta(seconds=60))
    assert [one.sha256 for one in again.instances] == [digest(second)]


def test_an_instance_that_comes_back_under_another_series_replaces_nothing(root: Root) -> None:
    root.ingest.overwrite_policy = "replace"
    first, second = two_versions()
    second.SeriesInstanceUID = "1.2.3.4"
    root.take(first)
    assert root.take(second) is Outcome.OTHER_BYTES
    assert current(root)[0] == digest(first)
    assert list(kept_aside(root)) == [digest(second)]


@pytest.mark.parametrize("policy", ["never", "keep_both", "replace"])
def test_a_study_is_of_the_patient_whom_its_current_version_names(root: Root, policy: Any) -> None:
    root.ingest.overwrite_policy = policy
    first, second = two_versions()
    first.PatientID, first.PatientName, first.StudyDescription = "P-1", "A", "first"
    second.PatientID, second.PatientName, second.StudyDescription = "P-2", "B", "second"
    root.take_all([first, second])
    assert current(root)[0] == digest(second if policy == "replace" else first)
    [study] = root.rows("SELECT patient_id, patient_name, study_description FROM v_studies")
    stated = ("P-2", "B", "second") if policy == "replace" else ("P-1", "A", "first")
    assert tuple(study.values()) == stated
    assert [row["patient_id"] for row in root.rows("SELECT patient_id FROM v_patients")] == [stated[0]]


def test_versions_that_take_turns_are_each_kept_once(root: Root) -> None:
    root.ingest.overwrite_policy = "replace"
    first, second = two_versions()
    for version in (first, second, first, second, first):
        root.take(version)
    assert current(root)[0] == digest(first)
    assert set(kept_aside(root)) == {digest(first), digest(second)}
    assert len(list(root.folder.glob("quarantine/*"))) == 2
    assert len(list(root.folder.glob("objects/*/*.dcm"))) == 1


@pytest.mark.parametrize(
    ("attributes", "reported"),
    [
        ({"PatientName": "Voxel^Test^"}, []),
        ({"PatientName": "VOXEL^TEST"}, []),
        ({"PatientName": ""}, []),
        ({"PatientName": "Other^Person"}, ["shared-patient-id"]),
        ({"PatientSex": "F"}, ["shared-patient-id"]),
        ({"PatientID": ""}, ["no-patient-id"]),
    ],
)
def test_a_patient_id_that_two_persons_share_or_that_is_empty_is_reported(
    root: Root, attributes: dict[str, str], reported: list[str]
) -> None:
    root.take(make.ct_series(1)[0])
    root.take(make.ct_series(1, **attributes)[0])
    assert [row["kind"] for row in root.rows("SELECT kind FROM v_conflicts")] == reported
    assert len(root.rows("SELECT 1 FROM v_images")) == 2


def test_a_study_has_the_name_birth_date_and_sex_of_its_own_files_where_people_share_a_patient_id(root: Root) -> None:
    people = [
        {"PatientName": "Anonymous", "PatientBirthDate": "20060101", "PatientSex": "M"},
        {"PatientName": "Dog^AVeryGood", "PatientBirthDate": "20140422", "PatientSex": "F"},
        {"PatientName": "", "PatientBirthDate": "", "PatientSex": ""},
        {"PatientName": "Twin^A", "PatientBirthDate": "20140422", "PatientSex": "F"},
        {"PatientName": "Twin^A", "PatientBirthDate": "20140422", "PatientSex": "M"},
        {"PatientName": "=山田^太郎", "PatientBirthDate": "20140422", "PatientSex": "M"},
    ]
    for person in people * 2:  # a second study of each finds the same person
        root.take(make.ct_series(1, **person, SpecificCharacterSet="ISO_IR 192")[0])
    listed = root.rows(
        "SELECT patient_name, patient_birth_date, patient_sex, count(*) AS studies, count(DISTINCT patient) AS people"
        " FROM v_studies GROUP BY patient_name, patient_birth_date, patient_sex"
    )
    assert {(row["studies"], row["people"]) for row in listed} == {(2, 1)}
    assert {row["patient_name"] for row in listed} == {person["PatientName"] or None for person in people}
    assert len(listed) == len(people)
    assert len(root.rows("SELECT 1 FROM v_conflicts WHERE kind = 'shared-patient-id'")) == 4  # the nameless is nobody


@pytest.mark.slow
def test_what_a_study_lacks_of_a_known_person_is_added_and_one_that_could_be_two_people_is_neither(root: Root) -> None:
    def studies_of(**person: str) -> list[tuple[str | None, str | None]]:
        root.take(make.ct_series(1, PatientName="Doe^Jo", **person)[0])
        found = root.rows("SELECT patient_birth_date, patient_sex FROM v_patients ORDER BY id")
        return [(row["patient_birth_date"], row["patient_sex"]) for row in found]

    assert studies_of(PatientBirthDate="", PatientSex="") == [(None, None)]
    assert studies_of(PatientBirthDate="19500101", PatientSex="") == [("1950-01-01", None)]
    assert studies_of(PatientBirthDate="19500101", PatientSex="F") == [("1950-01-01", "F")]
    both = [("1950-01-01", "F"), ("1960-01-01", None)]
    assert studies_of(PatientBirthDate="19600101", PatientSex="") == both
    assert studies_of(PatientBirthDate="", PatientSex="") == [*both, (None, None)]
    assert studies_of(PatientBirthDate="", PatientSex="") == [*both, (None, None)]


def test_a_person_merged_into_another_of_the_same_patient_id_stays_merged(root: Root) -> None:
    for name in ("Doe^Jo", "Doe^Joe"):
        root.take(make.ct_series(1, PatientName=name)[0])
    first, second = (row["id"] for row in root.rows("SELECT id FROM v_patients ORDER BY id"))
    root.index.repository(PersonRepository).merge(second, first, dt.datetime.now(dt.UTC))
    root.take(make.ct_series(1, PatientName="Doe^Joe")[0])
    assert [row["patient"] for row in root.rows("SELECT patient FROM v_studies")] == [first] * 3
    assert len(root.rows("SELECT 1 FROM v_conflicts")) == 1


def received(root: Root, ds: FileDataset, folder: Path, lost: int = 0) -> Outcome:
    """Bring in an instance as a file has it, without its last bytes."""
    [path] = make.saved([ds], folder)
    data = after_file_meta(path.read_bytes())
    return root.take_bytes(announced(ds), data[: len(data) - lost])


def cut_instance(*, compressed: bool) -> FileDataset:
    [ds] = make.ct_series(1)
    if compressed:
        ds.compress(RLELossless, generate_instance_uid=False)
    return ds


BEFORE_PIXELS = 2 * make.ROWS * make.COLUMNS + 12
"""Bytes that an image of `cut_instance` loses with the whole element of its pixels."""


@pytest.mark.diagonal
@pytest.mark.parametrize(
    ("compressed", "lost"),
    [(False, 100), (True, 100), (False, BEFORE_PIXELS), (False, BEFORE_PIXELS + 3)],
    ids=["native", "compressed", "before its pixels", "within an element"],
)
@pytest.mark.parametrize("policy", ["never", "keep_both", "replace"])
def test_a_version_that_lacks_pixels_yields_to_the_whole_one_and_never_takes_its_place(
    root: Root, tmp_path: Path, policy: Any, compressed: bool, lost: int
) -> None:
    root.ingest.overwrite_policy = policy
    ds = cut_instance(compressed=compressed)
    ds.IconImageSequence = [make.dataset(Rows=1)]  # behind the last element that is indexed
    assert received(root, ds, tmp_path / "a", lost) is Outcome.STORED
    [cut] = root.rows("SELECT sha256 FROM v_images")
    assert received(root, ds, tmp_path / "b") is Outcome.REPLACED
    [whole] = root.rows("SELECT sha256, file_missing FROM v_images")
    assert whole["sha256"] != cut["sha256"]
    assert kept_aside(root).keys() == {cut["sha256"]}
    [conflict] = root.rows("SELECT kind, detail, decision, decided_by FROM v_conflicts")
    assert conflict["kind"] == "instance-replaced"
    assert conflict["detail"] == "the instance came again whole; the first lacks pixels"
    assert conflict["decided_by"] == "the first lacks pixels"
    assert received(root, ds, tmp_path / "c", lost) is Outcome.KNOWN_VERSION
    assert received(root, ds, tmp_path / "d", lost=50) is Outcome.OTHER_BYTES
    assert root.rows("SELECT sha256, file_missing FROM v_images") == [whole]
    assert len(kept_aside(root)) == 2
    assert [row["decision"] for row in root.rows("SELECT decision FROM v_conflicts ORDER BY id")] == [
        "accepted",
        "kept",
    ]


@pytest.mark.diagonal
@pytest.mark.parametrize("order", [(100, 0), (0, 100), (BEFORE_PIXELS, 0), (0, BEFORE_PIXELS)])
@pytest.mark.parametrize("policy", ["never", "keep_both", "replace"])
def test_the_whole_one_of_two_versions_that_are_indexed_together_counts(
    root: Root, tmp_path: Path, policy: Any, order: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    root.ingest.overwrite_policy = policy
    ds = cut_instance(compressed=False)
    [path] = make.saved([ds], tmp_path)
    data = after_file_meta(path.read_bytes())
    outcomes: list[Future[Outcome]] = [Future(), Future()]
    with monkeypatch.context() as unapplied:
        unapplied.setattr(root.ingest.applier, "wake", lambda *_: None)
        for lost, outcome in zip(order, outcomes, strict=True):
            incoming = root.ingest.begin(announced(ds), Origin("dicom", "MODALITY", "VOXELNODE", "127.0.0.1:1"))
            incoming.take_fragment(data[: len(data) - lost])
            incoming.finish(outcome)
    assert root.ingest.applier.catch_up()
    results = [outcome.result(10) for outcome in outcomes]
    assert results == [Outcome.STORED, Outcome.REPLACED if order[1] == 0 else Outcome.OTHER_BYTES]
    assert root.rows("SELECT sha256 FROM v_images") == [{"sha256": hashlib.sha256(data).hexdigest()}]


def implicit(ds: FileDataset) -> tuple[Announced, bytes]:
    """What a sender has that sends an instance in Implicit VR Little Endian."""
    stream = DicomBytesIO()
    stream.is_implicit_VR, stream.is_little_endian = True, True
    write_dataset(stream, Dataset(deepcopy(dict(ds))))
    said = announced(ds)
    return Announced(said.sop_class_uid, said.sop_instance_uid, ImplicitVRLittleEndian), stream.getvalue()


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("change", "decided_by"),
    [
        ({}, "the same data set in another encoding"),
        ({"PatientComments": "other"}, None),
        ({"PixelData": bytes(2 * make.ROWS * make.COLUMNS)}, None),
        ({"SeriesInstanceUID": "1.2.3.4"}, None),
    ],
    ids=["same", "attribute", "pixels", "another series"],
)
@pytest.mark.parametrize("policy", ["never", "keep_both"])
def test_the_same_data_set_in_another_encoding_is_kept_aside_and_leaves_nothing_to_decide(
    root: Root, policy: Any, change: dict[str, Any], decided_by: str | None
) -> None:
    root.ingest.overwrite_policy = policy
    [ds] = make.ct_series(1)
    assert root.take(ds) is Outcome.STORED
    said, data = implicit(make.changed(deepcopy(ds), **change))
    assert root.take_bytes(said, data) is Outcome.OTHER_BYTES
    assert root.take_bytes(said, data) is Outcome.KNOWN_VERSION
    assert current(root) == (digest(ds), data_set_bytes(ds))
    [(sha256, kept)] = kept_aside(root).items()
    assert (sha256, kept[-len(data) :]) == (hashlib.sha256(data).hexdigest(), data)
    [conflict] = root.rows("SELECT decision, decided_by FROM v_conflicts")
    assert conflict == {"decision": "kept" if decided_by else None, "decided_by": decided_by}


def test_both_encodings_of_a_data_set_that_are_indexed_together_leave_nothing_to_decide(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    [ds] = make.ct_series(1)
    with monkeypatch.context() as unapplied:
        unapplied.setattr(root.ingest.applier, "wake", lambda *_: None)
        for said, data in ((announced(ds), data_set_bytes(ds)), implicit(ds)):
            incoming = root.ingest.begin(said, Origin("dicom", "MODALITY", "VOXELNODE", "127.0.0.1:1"))
            incoming.take_fragment(data)
            incoming.finish()
    assert root.ingest.applier.catch_up()
    assert current(root)[0] == digest(ds)
    assert [row["decision"] for row in root.rows("SELECT decision FROM v_conflicts")] == ["kept"]


def test_a_cut_version_of_another_series_stays_current_until_a_person_decides(root: Root, tmp_path: Path) -> None:
    ds = cut_instance(compressed=False)
    received(root, ds, tmp_path / "a", lost=100)
    other = make.changed(ds, SeriesInstanceUID=generate_uid())
    assert received(root, other, tmp_path / "b") is Outcome.OTHER_BYTES


def test_a_conflict_shows_which_version_is_cut(root: Root, tmp_path: Path) -> None:
    ds = cut_instance(compressed=False)
    received(root, ds, tmp_path / "a")
    received(root, ds, tmp_path / "b", lost=100)
    [row] = root.rows("SELECT id FROM v_conflicts")
    with root.index.reading() as index:
        found = compared(root.folder, index, row["id"], root.archive.local)
    stated = len(ds.PixelData)
    assert found.problem is None
    cut = f"cut within its pixels: {stated - 100} of {stated} bytes"
    assert found.differences == [Difference("pixels", "whole", cut)]


@pytest.mark.slow
@pytest.mark.parametrize("place", [2, 5])
@pytest.mark.parametrize("compressed", [False, True], ids=["native", "compressed"])
def test_a_slice_that_is_cut_is_excluded_for_that_and_its_series_is_incomplete(
    root: Root, tmp_path: Path, place: int, compressed: bool
) -> None:
    series = make.ct_series(6)
    for number, ds in enumerate(series):
        if compressed:
            ds.compress(RLELossless, generate_instance_uid=False)
        received(root, ds, tmp_path / str(number), lost=100 if number == place else 0)
    root.convert_due()
    [excluded] = root.rows("SELECT sop_instance_uid, reason, detail FROM v_exclusions")
    assert (excluded["sop_instance_uid"], excluded["reason"]) == (series[place].SOPInstanceUID, "cut")
    assert excluded["detail"].startswith("cut within its pixels: ")
    assert root.rows("SELECT verdict FROM v_series") == [{"verdict": "incomplete"}]
    received(root, series[place], tmp_path / "whole")
    root.convert_due()
    assert root.rows("SELECT shape FROM v_volumes WHERE kind = 'volume' AND NOT superseded") == [
        {"shape": "[12, 16, 6]"}
    ]
    assert root.rows("SELECT verdict FROM v_series") == [{"verdict": "complete"}]


@pytest.mark.parametrize("compressed", [False, True], ids=["native", "compressed"])
def test_a_series_of_cut_instances_is_refused_with_a_remedy(root: Root, tmp_path: Path, compressed: bool) -> None:
    received(root, cut_instance(compressed=compressed), tmp_path, lost=100)
    root.convert_due()
    [failure] = root.rows("SELECT reason, detail FROM v_failures")
    assert failure["reason"] == "cut"
    assert re.fullmatch(r"cut within its pixels: \d+ of \d+ bytes; send it again", failure["detail"])
