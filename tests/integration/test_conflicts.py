"""Conflicts are decided by a person: either version becomes current, in its own series, and nothing is lost."""

import hashlib
import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from pydicom import FileDataset

from node.api import Audit, reading
from node.files.acknowledged import write_offs
from node.index.rows.about_keys import AppliedPosition
from node.lifecycle.deletion import resume_deletions
from node.lifecycle.fsck import examine
from node.receive.custody import (
    Compared,
    Conflicts,
    NoSuchConflict,
    NotDecidable,
    NotInQuarantine,
    NotReleased,
    Quarantine,
    QuarantinedFile,
    compared,
    examined,
    quarantined,
)
from tests import make
from tests.integration.conftest import Root, data_set_bytes, flip
from tests.integration.test_deletion import take_and_convert
from tests.preloaded import run
from tests.rows import write_rows

UNDECIDED = "SELECT * FROM v_conflicts WHERE decision IS NULL ORDER BY id"


def conflicts(root: Root) -> Conflicts:
    audit = Audit(root.folder, "VOXELNODE")
    return Conflicts(root.ingest, audit, Quarantine(root.ingest, audit))


def accept(root: Root, *, alike: bool = False) -> None:
    """Accept the first undecided conflict, as the node does."""
    conflicts(root).accept(root.rows(UNDECIDED)[0]["id"], "someone", alike=alike)
    resume_deletions(root.archive, root.index, root.clock())


def compare(root: Root, conflict: int) -> Compared:
    with reading(root.folder) as index:
        return compared(root.folder, index, conflict, root.archive.local)


def corrected(series: list[FileDataset], **changed: Any) -> list[FileDataset]:
    """The same instances with other attributes, as a corrected study comes."""
    others = deepcopy(series)
    for ds in others:
        for name, value in changed.items():
            setattr(ds, name, value)
    return others


def current(root: Root) -> dict[str, bytes]:
    """The data set of each instance that is current."""
    found = root.rows("SELECT sop_instance_uid, path, data_set_offset FROM v_images")
    return {row["sop_instance_uid"]: Path(row["path"]).read_bytes()[row["data_set_offset"] :] for row in found}


def bytes_of(series: list[FileDataset]) -> dict[str, bytes]:
    return {str(ds.SOPInstanceUID): data_set_bytes(ds) for ds in series}


def assert_sound(root: Root) -> None:
    with reading(root.folder) as index:
        assert list(examine(root.folder, index, digests=True, serving=True)) == []


def aside(root: Root) -> set[bytes]:
    return {path.read_bytes()[-4000:] for path in (root.folder / "quarantine").glob("*.*")}


OTHER_STUDY = {"StudyInstanceUID": "1.2.3.4", "SeriesInstanceUID": "1.2.3.4.1", "PatientID": "P-2", "PatientName": "B"}


@pytest.mark.slow
@pytest.mark.sqlite("starts a command that looks for the index in the root")
def test_conflicts_that_are_decided_together_are_listed_as_one_with_what_differs(root: Root) -> None:
    for count, name in ((3, "T1"), (1, "T2")):
        series = make.ct_series(count, SeriesDescription=name, PatientName="Doe^Jane")
        root.take_all([*series, *corrected(series, SeriesDescription=f"{name} corrected")])
    said = " ".join(run("conflicts", "--root", root.folder, check=True).stdout.split())
    assert said.startswith("2 decisions about 4 instances")
    assert "3 instances, such as: DOE JANE" in said.replace("Doe Jane", "DOE JANE")
    for name in ("T1", "T2"):
        assert said.count(f"series_description: {name}, now {name} corrected") == 1
    assert len(json.loads(run("conflicts", "--root", root.folder, "--json").stdout)) == 4


@pytest.mark.slow
def test_a_study_that_comes_again_corrected_takes_the_place_of_the_first_when_it_is_accepted(root: Root) -> None:
    first = make.ct_series(4, PatientID="P-1", PatientName="A")
    take_and_convert(root, first)
    second = corrected(first, **OTHER_STUDY)
    root.take_all(second)
    assert [row["study_instance_uid"] for row in root.rows(UNDECIDED)] == ["1.2.3.4"] * 4
    assert all("in another study" in row["detail"] for row in root.rows(UNDECIDED))
    before = aside(root)
    accept(root, alike=True)
    assert current(root) == bytes_of(second)
    assert root.rows(UNDECIDED) == []
    assert [row["study_instance_uid"] for row in root.rows("SELECT * FROM v_studies")] == ["1.2.3.4"]
    assert [row["patient_id"] for row in root.rows("SELECT * FROM v_patients")] == ["P-2"]
    assert list((root.folder / "volumes").rglob("*.nii*")) == [], "volumes of the wrong patient are gone"
    assert len(aside(root)) == 4
    assert not aside(root) & before, "the first versions are kept"
    assert_sound(root)
    take_and_convert(root)
    [series] = root.rows("SELECT state, instances, series_instance_uid FROM v_series")
    assert series == {"state": "converted", "instances": 4, "series_instance_uid": "1.2.3.4.1"}


def test_the_audit_log_has_the_patient_of_what_was_decided(root: Root) -> None:
    first = make.ct_series(2, PatientID="P-1")
    root.take_all([*first, *corrected(first, PatientID="P-2")])
    conflicts(root).keep(root.rows(UNDECIDED)[1]["id"], "someone")
    accept(root)
    lines = [json.loads(line) for line in (root.folder / "audit.jsonl").read_text().splitlines()]
    named = {line["detail"]: line["objects"][0]["patient_id"] for line in lines}
    assert named == {
        "conflict decided: the current version stays": "P-1",
        "ordered: make a version current": "P-2",
        "done: make a version current": "P-2",
    }


def test_one_instance_leaves_its_series_which_is_converted_without_it(root: Root) -> None:
    first = make.ct_series(4)
    take_and_convert(root, first)
    second = corrected(first[:1], **OTHER_STUDY)
    root.take(second[0])
    accept(root)
    assert current(root) == bytes_of(first[1:]) | bytes_of(second)
    assert root.rows("SELECT path FROM v_volumes WHERE NOT superseded AND files_removed_at IS NULL") == []
    assert list((root.folder / "volumes").rglob("*.nii*")) == []
    take_and_convert(root)
    states = {row["series_instance_uid"]: row["instances"] for row in root.rows("SELECT * FROM v_series")}
    assert states == {str(first[0].SeriesInstanceUID): 3, "1.2.3.4.1": 1}
    assert_sound(root)


@pytest.mark.parametrize("patient_id", ["P-2", "P-1"], ids=["another patient", "the same patient"])
def test_a_patient_that_was_corrected_gets_the_study(root: Root, patient_id: str) -> None:
    first = make.ct_series(2, PatientID="P-1", PatientName="A", StudyDescription="wrong")
    second = corrected(first, PatientID=patient_id, PatientName="B", StudyDescription="right")
    root.take_all([*first, *second])
    accept(root, alike=True)
    [study] = root.rows("SELECT patient_id, patient_name, study_description FROM v_studies")
    assert study == {"patient_id": patient_id, "patient_name": "B", "study_description": "right"}
    assert [row["patient_id"] for row in root.rows("SELECT * FROM v_patients")] == [patient_id]
    assert root.rows(UNDECIDED) == []
    assert current(root) == bytes_of(second)
    assert_sound(root)


def test_the_first_version_can_be_accepted_again(root: Root) -> None:
    first = make.ct_series(2)
    second = corrected(first, **OTHER_STUDY)
    root.take_all([*first, *second])
    accept(root, alike=True)
    for row in root.rows("SELECT id FROM v_conflicts WHERE path IS NOT NULL ORDER BY id"):
        conflicts(root).accept(row["id"], "someone")
    assert current(root) == bytes_of(first)
    assert [row["study_instance_uid"] for row in root.rows("SELECT * FROM v_studies")] == [first[0].StudyInstanceUID]
    assert_sound(root)


def test_under_keep_both_the_second_version_is_accepted_from_the_archive(root: Root) -> None:
    first = make.ct_series(2)
    second = corrected(first, SeriesDescription="corrected")
    root.ingest.overwrite_policy = "keep_both"
    root.take_all([*first, *second])
    accept(root, alike=True)
    assert current(root) == bytes_of(second)
    assert_sound(root)


def test_what_is_kept_is_listed_no_more_and_stays_aside(root: Root) -> None:
    first = make.ct_series(2)
    root.take_all([*first, *corrected(first, **OTHER_STUDY)])
    number = root.rows(UNDECIDED)[0]["id"]
    assert len(conflicts(root).keep(number, "someone", alike=True)["kept"]) == 2
    assert root.rows(UNDECIDED) == []
    assert current(root) == bytes_of(first)
    assert len(aside(root)) == 2
    assert {row["decided_by"] for row in root.rows("SELECT decided_by FROM v_conflicts")} == {"someone"}
    conflicts(root).accept(number, "someone else")  # minds may be changed
    assert len(current(root)) == 2
    [row] = root.rows(f"SELECT decision, decided_by FROM v_conflicts WHERE id = {number}")
    assert row == {"decision": "accepted", "decided_by": "someone else"}


def test_only_conflicts_of_the_same_study_and_sender_are_alike(root: Root) -> None:
    first = make.ct_series(2)
    root.take_all([*first, *corrected(first, **OTHER_STUDY), *corrected(first, StudyInstanceUID="1.2.9")])
    accept(root, alike=True)
    assert {row["study_instance_uid"] for row in root.rows(UNDECIDED)} == {"1.2.9"}


def test_an_acceptance_that_was_cut_short_is_finished_by_the_next(root: Root) -> None:
    first = make.ct_series(1)
    second = corrected(first, **OTHER_STUDY)
    root.take_all([*first, *second])
    [conflict] = root.rows(UNDECIDED)
    path = Path(conflict["path"])
    content = path.read_bytes()
    root.ingest.overwrite_policy = "accept"  # the process dies after the version was taken in
    root.take(second[0])
    assert path.read_bytes() == content
    accept(root)
    assert current(root) == bytes_of(second)
    assert not path.exists()
    assert root.rows(UNDECIDED) == []
    assert_sound(root)


def test_what_cannot_be_decided_is_reported_with_the_remedy(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make.ct_series(1)
    root.take_all([*first, *corrected(first, **OTHER_STUDY)])
    [conflict] = root.rows(UNDECIDED)
    Path(conflict["path"]).unlink()
    write_rows(root.folder, "UPDATE conflicts SET host = 'there'")
    with monkeypatch.context() as patch:
        patch.setattr(root.index.sharing, "is_away", lambda holder: holder == "there")
        with pytest.raises(NotDecidable, match="in the quarantine of there: decide there"):
            conflicts(root).accept(conflict["id"], "someone")
    with pytest.raises(NotDecidable, match="again"):
        conflicts(root).accept(conflict["id"], "someone")
    with pytest.raises(NoSuchConflict):
        conflicts(root).accept(99, "someone")
    root.take(make.ct_series(1, PatientID="")[0])
    [other] = root.rows("SELECT id FROM v_conflicts WHERE kind = 'no-patient-id'")
    with pytest.raises(NotDecidable, match="keep"):
        conflicts(root).accept(other["id"], "someone")
    assert conflicts(root).keep(other["id"], "someone") == {"kept": [other["id"]]}


def test_the_versions_are_compared_attribute_by_attribute(root: Root) -> None:
    first = make.ct_series(1, PatientID="P-1")
    root.take_all([*first, *corrected(first, PatientID="P-2")])
    [conflict] = root.rows(UNDECIDED)
    found = compare(root, conflict["id"])
    assert found.problem is None
    assert [(one.attribute, one.current, one.other) for one in found.differences] == [("patient_id", "P-1", "P-2")]
    with pytest.raises(NoSuchConflict):
        compare(root, 99)


@pytest.mark.parametrize("harm", ["missing", "flipped"])
def test_a_version_of_another_series_never_takes_the_place_of_a_flawed_file_by_itself(root: Root, harm: str) -> None:
    first = make.ct_series(1)
    root.take(first[0])
    [row] = root.rows("SELECT path FROM v_images")
    path = Path(row["path"])
    if harm == "missing":
        path.unlink()
    else:
        flip(path)
    second = corrected(first, **OTHER_STUDY)
    root.take(second[0])
    assert [row["study_instance_uid"] for row in root.rows("SELECT * FROM v_images")] == [first[0].StudyInstanceUID]
    accept(root)
    assert current(root) == bytes_of(second)
    assert [row["study_instance_uid"] for row in root.rows("SELECT * FROM v_studies")] == ["1.2.3.4"]


# What is in quarantine can be looked at, released and purged, and nothing is lost by it.


def two_versions() -> tuple[FileDataset, FileDataset]:
    [first] = make.ct_series(1)
    return first, make.corrected(first)


def files(root: Root) -> list[QuarantinedFile]:
    with reading(root.folder) as index:
        return quarantined(root.folder, index)


def quarantine(root: Root) -> Quarantine:
    return Quarantine(root.ingest, Audit(root.folder, "VOXELNODE"))


def only_current(root: Root) -> bytes:
    [row] = root.rows("SELECT path, sha256, data_set_offset FROM v_images")
    data = Path(row["path"]).read_bytes()[row["data_set_offset"] :]
    assert hashlib.sha256(data).hexdigest() == row["sha256"]
    return data


def events(root: Root) -> list[str]:
    return [row["kind"] for row in root.rows("SELECT kind FROM v_events WHERE kind LIKE 'quarantine-%'")]


def test_each_file_is_listed_with_its_reason_and_compared_with_the_current_instance(root: Root) -> None:
    first, second = two_versions()
    root.take_all([first, second])
    (root.folder / "quarantine" / "stray.dcm").write_bytes(b"no DICOM")
    loser, stray = sorted(files(root), key=lambda file: file.name == "stray.dcm")
    assert (loser.reason, loser.sop_instance_uid) == ("instance-bytes", first.SOPInstanceUID)
    assert (stray.reason, stray.sop_instance_uid) == ("file-unknown", None)
    with reading(root.folder) as index:
        found = examined(root.folder, index, loser.name)
        assert found.sha256 == hashlib.sha256(data_set_bytes(second)).hexdigest()
        assert found.current_sha256 == hashlib.sha256(data_set_bytes(first)).hexdigest()
        assert found.problem is None
        assert examined(root.folder, index, "stray.dcm").problem is not None
        for name in ("missing.dcm", "../index.sqlite", ""):
            with pytest.raises(NotInQuarantine):
                examined(root.folder, index, name)


@pytest.mark.parametrize("series", [None, "1.2.3.4"], ids=["of its series", "of another series"])
def test_another_version_is_made_current_only_if_asked_and_the_first_is_kept(root: Root, series: str | None) -> None:
    first, second = two_versions()
    second.SeriesInstanceUID = series or second.SeriesInstanceUID
    root.take_all([first, second])
    [loser] = files(root)
    with pytest.raises(NotReleased, match="another version"):
        quarantine(root).release(loser.name, "someone")
    assert (files(root), only_current(root)) == ([loser], data_set_bytes(first))
    quarantine(root).release(loser.name, "someone", replace=True)
    assert only_current(root) == data_set_bytes(second)
    [row] = root.rows("SELECT series_instance_uid FROM v_series")
    assert row["series_instance_uid"] == second.SeriesInstanceUID
    [kept] = files(root)
    assert (root.folder / "quarantine" / kept.name).read_bytes().endswith(data_set_bytes(first))
    assert events(root) == ["quarantine-released"]
    quarantine(root).release(kept.name, "someone", replace=True)
    assert only_current(root) == data_set_bytes(first)


def test_a_version_of_another_series_waits_for_a_decision_if_the_current_file_is_gone(root: Root) -> None:
    first, second = two_versions()
    second.SeriesInstanceUID = "1.2.3.4"
    root.take_all([first, second])
    [row] = root.rows("SELECT path FROM v_images")
    Path(row["path"]).unlink()
    [loser] = files(root)
    with pytest.raises(NotReleased, match="another series"):
        quarantine(root).release(loser.name, "someone")
    assert files(root) == [loser]


@pytest.mark.parametrize("state", ["deleted", "gone"])
def test_the_only_copy_is_released_into_the_archive(root: Root, state: str) -> None:
    [ds] = make.ct_series(1)
    root.take(ds)
    [row] = root.rows("SELECT path FROM v_images")
    path = Path(row["path"])
    path.rename(root.folder / "quarantine" / path.name)
    if state == "deleted":
        plan = root.index.deletions.plan("instance", str(ds.SOPInstanceUID))
        root.index.deletions.order(plan, "test", root.clock())
    assert quarantine(root).release(path.name, "someone")["sop_instance_uid"] == ds.SOPInstanceUID
    assert only_current(root) == data_set_bytes(ds)
    assert files(root) == []


def test_what_is_no_dicom_is_not_released_and_can_be_purged(root: Root) -> None:
    stray = root.folder / "quarantine" / "stray.dcm"
    stray.write_bytes(b"no DICOM")
    with pytest.raises(NotReleased):
        quarantine(root).release("stray.dcm", "someone")
    quarantine(root).purge("stray.dcm", "someone")
    assert not stray.exists()
    assert events(root) == ["quarantine-purged"]
    lines = [json.loads(line) for line in (root.folder / "audit.jsonl").read_text().splitlines()]
    ordered = [line for line in lines if line["action"] == "D"]
    assert [line["detail"] for line in ordered] == ["ordered: purge from quarantine", "done: purge from quarantine"]
    with pytest.raises(NotInQuarantine):
        quarantine(root).purge("stray.dcm", "someone")


@pytest.mark.parametrize("is_current", [True, False])
def test_a_purged_version_is_owed_no_more_unless_it_is_current(root: Root, is_current: bool) -> None:
    first, second = two_versions()
    root.take_all([first, second])
    [loser] = files(root)
    if is_current:
        write_rows(root.folder, "UPDATE images SET sha256 = (SELECT sha256 FROM conflicts)")
    quarantine(root).purge(loser.name, "someone")
    assert bool(write_offs(root.folder)) is not is_current


def test_a_purged_version_is_kept_again_when_it_comes_again(root: Root) -> None:
    first, second = two_versions()
    root.take_all([first, second])
    [loser] = files(root)
    quarantine(root).purge(loser.name, "someone")
    assert files(root) == []
    root.take(second)
    [again] = files(root)
    assert (root.folder / "quarantine" / again.name).read_bytes().endswith(data_set_bytes(second))


def test_an_instance_that_was_set_aside_from_the_journal_has_its_reason(root: Root) -> None:
    root.archive.path("quarantine/x.dcm").write_bytes(b"")
    applied = AppliedPosition("a journal", 0)
    root.index.instances.set_aside("its record cannot be read", "quarantine/x.dcm", applied, root.clock())
    [file] = files(root)
    assert file.reason == "instance-set-aside"
