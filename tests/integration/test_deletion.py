"""Deleting: everything that was made of it goes, nothing else does, and a crash in between is made up for."""

import datetime as dt
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from pydicom import FileDataset

from node.api import Settings, UsageError
from node.archive.root import MARKER
from node.audit.audit_log import Audit, AuditFailed
from node.control.repository import Repository
from node.conversion.job import ConversionJob, Converted
from node.conversion.pipeline import convert
from node.index.rows.records import Level, Outcome
from node.lifecycle.deletion import Order, Unsafe, delete, resume_deletions
from node.lifecycle.erasure import certificate_of
from node.settings.section import Convert
from node.writers.options import write_options
from tests import make
from tests.integration.conftest import Root, bring
from tests.rows import read_rows, view_rows, write_rows

OPTIONS = write_options(Convert())


def take_and_convert(root: Root, *series: list[FileDataset]) -> None:
    for instances in series:
        root.take_all(instances)
    root.convert_due()


def files(root: Root) -> set[str]:
    """Every file of instances and volumes, counted from the root, but the markers of the folders."""
    return {
        str(path.relative_to(root.folder))
        for folder in ("objects", "volumes", "quarantine", "incoming")
        for path in (root.folder / folder).rglob("*")
        if path.is_file() and path.name != MARKER
    }


def table_sizes(root: Root) -> dict[str, int]:
    names = ("patients", "studies", "series", "images", "conversions", "volumes", "volume_sources", "exclusions")
    return {name: root.rows(f"SELECT count(*) AS n FROM {name}")[0]["n"] for name in (*names, "failures", "conflicts")}


@pytest.mark.slow
@pytest.mark.parametrize("level", ["study", "series", "instance"])
def test_what_is_deleted_with_all_of_its_study_leaves_no_file_no_folder_and_no_row(root: Root, level: Level) -> None:
    study = make.ct_series(1 if level == "instance" else 4)
    root.take_all(study)
    root.convert_due(OPTIONS)
    root.take(make.corrected(study[0]))
    assert files(root)
    uid = {"study": study[0].StudyInstanceUID, "series": study[0].SeriesInstanceUID}.get(level, study[0].SOPInstanceUID)
    root.delete(level, uid)
    assert files(root) == set()
    assert list((root.folder / "volumes").glob("*/")) == [], "a folder has the UID of its study"
    assert set(table_sizes(root).values()) == {0}
    [tombstone] = root.rows("SELECT * FROM v_deletions")
    assert (tombstone["level"], tombstone["uid"]) == (level, uid)
    assert tombstone["finished_at"] is not None
    assert [row["kind"] for row in root.rows("SELECT kind FROM v_events ORDER BY id DESC LIMIT 1")] == ["deleted"]


@pytest.mark.slow
def test_a_deleted_series_leaves_the_others_of_its_study_as_they_were(root: Root) -> None:
    first = make.ct_series(3)
    second = make.ct_series(3, study_uid=first[0].StudyInstanceUID)
    take_and_convert(root, first, second)
    before = {path: (root.folder / path).read_bytes() for path in files(root)}
    root.delete("series", first[0].SeriesInstanceUID)
    assert [row["series_instance_uid"] for row in root.rows("SELECT * FROM v_series")] == [second[0].SeriesInstanceUID]
    left = {row["path"] for row in root.rows("SELECT path FROM v_images UNION SELECT path FROM v_volumes")}
    assert all(Path(path).is_file() for path in left)
    assert all((root.folder / path).read_bytes() == before[path] for path in files(root))
    assert not any(first[0].SeriesInstanceUID in path for path in files(root))
    assert len(list((root.folder / "objects").rglob("*.dcm"))) == 3


@pytest.mark.slow
def test_a_deleted_instance_takes_its_volumes_along_and_the_series_is_converted_without_it(root: Root) -> None:
    instances = make.ct_series(5)
    take_and_convert(root, instances)
    [before] = root.rows("SELECT path FROM v_volumes WHERE kind = 'volume' AND format = 'nifti'")
    root.delete("instance", instances[-1].SOPInstanceUID)
    assert not Path(before["path"]).exists()
    assert root.rows("SELECT 1 FROM v_volumes WHERE NOT superseded") == []
    [series] = root.rows("SELECT * FROM v_series")
    assert (series["state"], series["instances"]) == ("receiving", 4)
    take_and_convert(root)
    [after] = root.rows("SELECT * FROM v_volumes WHERE kind = 'volume' AND format = 'nifti' AND NOT superseded")
    assert (after["revision"], after["instances"], json.loads(after["shape"])[2]) == (2, 4, 4)
    kinds = [row["kind"] for row in root.rows("SELECT kind FROM v_events ORDER BY id")]
    assert kinds.index("series-reopened") < kinds.index("deleted") < len(kinds) - 1


def test_a_deletion_under_a_conversion_lets_none_of_its_results_count(root: Root) -> None:
    instances = make.ct_series(4)
    root.take_all(instances)
    claimed = root.claim()

    def delete_meanwhile(job: Any) -> Any:
        converted = convert(job)
        root.delete("instance", instances[0].SOPInstanceUID)
        return converted

    assert not root.convert(claimed, delete_meanwhile)
    assert root.rows("SELECT 1 FROM v_volumes") == []
    take_and_convert(root)
    [volume] = root.rows("SELECT * FROM v_volumes WHERE kind = 'volume' AND format = 'nifti'")
    assert (volume["revision"], volume["instances"]) == (1, 3)


@pytest.mark.slow
@pytest.mark.parametrize("rows_after", [0, 1], ids=["the id of the row is used again", "the row has another id"])
@pytest.mark.parametrize("step", ["converting", "publishing"])
def test_a_conversion_that_ends_after_its_series_was_deleted_and_sent_again_changes_nothing(
    step: str, rows_after: int, root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    instances = make.ct_series(4)
    root.take_all(instances)
    claimed = root.claim()
    for _ in range(rows_after):
        root.take(make.ct_series(1)[0])
    overtaken: list[bool] = []

    def overtake() -> None:
        if overtaken:
            return
        overtaken.append(True)
        root.delete("study", instances[0].StudyInstanceUID)
        take_and_convert(root, [make.corrected(ds) for ds in instances[1:]])

    def run(job: ConversionJob) -> Converted:
        converted = convert(job)
        if step == "converting":
            overtake()
        return converted

    sync_folder = root.archive.sync_folder

    def sync(folder: Path) -> None:
        overtake()
        sync_folder(folder)

    if step == "publishing":
        monkeypatch.setattr(root.archive, "sync_folder", sync)
    assert not root.convert(claimed, run)
    assert overtaken
    volumes = root.rows("SELECT * FROM v_volumes WHERE study_instance_uid = :u", u=instances[0].StudyInstanceUID)
    assert {row["instances"] for row in volumes} == {3}
    assert [hashlib.sha256(Path(row["path"]).read_bytes()).hexdigest() for row in volumes] == [
        row["sha256"] for row in volumes
    ]
    folders = {str(Path(row["path"]).parent) for row in root.rows("SELECT path FROM v_volumes")}
    assert {str(folder) for folder in root.folder.glob("volumes/*/*/*")} == folders
    assert list((root.folder / "work").iterdir()) == []


@pytest.mark.slow
def test_a_deletion_takes_no_file_of_a_conversion_after_it(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    instances = make.ct_series(3)
    take_and_convert(root, instances)

    def convert_again(place: str) -> None:
        if place == "deletion-ordered":
            take_and_convert(root, instances)

    monkeypatch.setattr("node.lifecycle.deletion.reached", convert_again)
    root.delete("study", instances[0].StudyInstanceUID)
    volumes = root.rows("SELECT * FROM v_volumes")
    assert volumes
    assert all(Path(row["path"]).is_file() for row in volumes)


def test_an_instance_sent_again_while_its_files_go_is_kept(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows go before the files: were it the other way round, the sender would be told that it is there already."""
    instances = make.ct_series(2)
    take_and_convert(root, instances)
    sync_folder = root.archive.sync_folder
    outcomes: list[Outcome] = []

    def send_meanwhile(folder: Path) -> None:
        if not outcomes:
            outcomes.append(Outcome.STORED)
            outcomes[0] = root.take(instances[0])
        sync_folder(folder)

    monkeypatch.setattr(root.archive, "sync_folder", send_meanwhile)
    root.delete("study", instances[0].StudyInstanceUID)
    assert outcomes == [Outcome.STORED]
    [image] = root.rows("SELECT path FROM v_images")
    assert Path(image["path"]).is_file()


@pytest.mark.slow
def test_a_deletion_that_a_crash_interrupted_is_finished_at_the_next_start(
    open_root: Callable[[], Root], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = open_root()
    instances = make.ct_series(4)
    take_and_convert(root, instances)
    unlink = Path.unlink
    gone: list[Path] = []

    def cut(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".dcm" and gone:
            raise OSError(5, os.strerror(5))
        gone.append(path)
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as crash:
        crash.setattr(Path, "unlink", cut)
        with pytest.raises(OSError, match="Input/output"):
            root.delete("study", instances[0].StudyInstanceUID)
    assert root.rows("SELECT 1 FROM v_images") == []
    assert len(list((root.folder / "objects").rglob("*.dcm"))) == 3
    root = open_root()
    assert resume_deletions(root.archive, root.index, root.clock()) == 1
    assert files(root) == set()
    assert root.rows("SELECT 1 FROM v_deletions WHERE finished_at IS NULL") == []
    assert resume_deletions(root.archive, root.index, root.clock()) == 0


@pytest.mark.slow
def test_a_deletion_finished_late_leaves_what_was_sent_again(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    instances = make.ct_series(3)
    take_and_convert(root, instances)

    with monkeypatch.context() as disk:
        disk.setattr("node.conversion.volume_files.shutil.rmtree", Mock(side_effect=OSError(5, os.strerror(5))))
        with pytest.raises(OSError, match="Input/output"):
            root.delete("study", instances[0].StudyInstanceUID)
    take_and_convert(root, instances)
    assert resume_deletions(root.archive, root.index, root.clock()) == 1
    volumes = root.rows("SELECT path FROM v_volumes")
    assert volumes
    assert all(Path(row["path"]).is_file() for row in volumes)
    assert len(list((root.folder / "objects").rglob("*.dcm"))) == 3


@pytest.mark.slow
def test_nothing_is_deleted_when_the_audit_log_cannot_be_written(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    instances = make.ct_series(3)
    take_and_convert(root, instances)
    before = files(root), table_sizes(root)

    with monkeypatch.context() as disk:
        disk.setattr("node.audit.audit_log.os.write", Mock(side_effect=OSError(28, os.strerror(28))))
        with pytest.raises(AuditFailed, match="nothing is deleted"):
            root.delete("study", instances[0].StudyInstanceUID)
    assert (files(root), table_sizes(root)) == before


def test_a_path_outside_of_the_archive_is_never_deleted(root: Root) -> None:
    [ds] = make.ct_series(1)
    root.take(ds)
    outside = root.folder.parent / "precious"
    outside.write_text("kept")
    root.index._writer.run(lambda connection: connection.exec_driver_sql("UPDATE images SET key = '../precious'"))
    with pytest.raises(Unsafe):
        root.delete("instance", ds.SOPInstanceUID)
    assert outside.read_text() == "kept"


@pytest.mark.slow
def test_a_series_of_two_studies_is_deleted_only_by_name(root: Root) -> None:
    first, second = make.ct_series(2)
    second.StudyInstanceUID = "1.2.3"
    take_and_convert(root, [first, second])
    with pytest.raises(UsageError, match=r"--study: 1\.2\.3"):
        root.index.deletions.plan("series", first.SeriesInstanceUID)
    root.delete("series", first.SeriesInstanceUID, "1.2.3")
    assert [row["study_instance_uid"] for row in root.rows("SELECT * FROM v_studies")] == [first.StudyInstanceUID]


def test_what_is_not_there_cannot_be_deleted(root: Root) -> None:
    with pytest.raises(UsageError, match=r"no study .* in the index"):
        root.index.deletions.plan("study", "1.2.3")


def test_the_audit_log_tells_who_deleted_what(root: Root) -> None:
    instances = make.ct_series(2, PatientID="P-77")
    take_and_convert(root, instances)
    root.delete("study", instances[0].StudyInstanceUID)
    ordered, done = (json.loads(line) for line in (root.folder / "audit.jsonl").read_text().splitlines())
    assert ordered["event"] == {"code": "110105", "scheme": "DCM", "meaning": "DICOM Study Deleted"}
    assert (ordered["action"], ordered["outcome"], ordered["detail"]) == ("D", 0, "ordered: delete study, by command")
    assert ordered["participants"][0]["user"] == "someone"
    assert ordered["objects"][0]["patient_id"] == "P-77"
    assert done["detail"] == "done: delete study, by command"


def test_the_audit_log_counts_what_was_deleted_and_not_what_was_planned(root: Root, audit: Audit) -> None:
    first, late = make.ct_series(2)
    root.take(first)
    plan = root.index.deletions.plan("study", first.StudyInstanceUID)
    root.take(late)
    delete(root.archive, root.index, audit, plan, Order("someone", "by command"), root.clock())
    ordered, done = (json.loads(line) for line in (root.folder / "audit.jsonl").read_text().splitlines())
    assert (ordered["objects"][0]["instances"], done["objects"][0]["instances"]) == (1, 2)


@pytest.mark.sqlite("the server overwrites deleted rows when it needs their place")
def test_deleted_names_are_not_left_in_the_database_file(root: Root) -> None:
    instances = make.ct_series(3, PatientName="Vanish^Completely")
    take_and_convert(root, instances)
    root.delete("study", instances[0].StudyInstanceUID)
    root.index.close()
    assert b"Vanish" not in (root.folder / "index.sqlite").read_bytes()
    assert not (root.folder / "index.sqlite-wal").exists()


def test_a_deletion_moves_the_due_time_of_no_series_that_still_grows(root: Root) -> None:
    instances = make.ct_series(3)
    root.take_all(instances)
    root.delete("instance", instances[0].SOPInstanceUID)
    assert root.index.series.claim_due(root.clock() + dt.timedelta(seconds=59)) is None


@pytest.mark.sqlite("searches the bytes of the file")
def test_what_is_erased_is_in_no_byte_of_the_root_while_the_node_runs(settings: Settings) -> None:
    """Also if other instances came in between; what stays has the name of its own patient alone."""
    root = settings.storage.root

    def bytes_with(name: bytes) -> set[str]:
        files = (path for path in root.rglob("*") if path.is_file() and name in path.read_bytes())
        return {str(path.relative_to(root)) for path in files}

    def received(repository: Repository, name: str) -> str:
        [ds] = make.ct_series(1)
        ds.PatientName, ds.PatientID = f"{name}^Anna", f"{name}-77"
        bring(repository.ingest, ds)
        return str(ds.StudyInstanceUID)

    with Repository(settings) as repository:
        uid = received(repository, "Zwicklbauer")
        received(repository, "Staying")
        act, other = repository.actions.by_name, received(repository, "Zwicklbauer-Meier")
        ids = [row["id"] for row in view_rows(root, "SELECT id FROM v_patients ORDER BY id")]
        act["merge-patients"](source=ids[2], target=ids[0], who="test")
        act["delete"](level="study", uid=other, study_instance_uid=None, who="test")
        assert {"index.sqlite-wal", "journal/00000000.journal"} <= bytes_with(b"Zwicklbauer")
        [stored] = [path for path in (root / "objects").rglob("*.dcm") if b"Zwicklbauer^" in path.read_bytes()]
        for copy in ("quarantine/aside.dcm", "work/download-1"):  # of no row
            (root / copy).parent.mkdir(exist_ok=True)
            shutil.copy(stored, root / copy)
        (root / "quarantine/torn.dcm").write_bytes(b"Zwicklbauer " + uid.encode())
        (root / "quarantine/other.dcm").write_bytes(uid.encode() + b".1")
        reported = act["erase"](objects=[["study", uid, uid]], trash=[1], who="test")["certificate"]
        counts = {"trash": 1, "quarantined": 1, "downloads": 1, "index_overwritten": True}
        assert {name: reported[name] for name in counts} == counts
        assert [what for what in reported["stays"] if "quarantine" in what] == [
            "quarantine/torn.dcm: it has a UID of what was erased"
        ]
        parts = f"Instances: {reported['instances']}.", "overwritten: yes", "nobody who may", "torn.dcm: it has a UID"
        assert all(part in certificate_of(reported).text for part in parts)
        [row] = read_rows(root, "SELECT outcome, payload FROM work WHERE kind = 'erasure'")
        assert (row["outcome"], json.loads(row["payload"])["certificate"]) == ("succeeded", reported)
        (root / "quarantine/torn.dcm").unlink()
        assert {path for path in bytes_with(b"Zwicklbauer") if not path.startswith("audit")} == set()
        later = received(repository, "Later")
    with Repository(settings) as repository, repository.index.reading() as index:
        assert index.studies.row(later) is not None
        assert index.studies.row(uid) is None


def test_the_deletion_of_an_instance_orders_the_removal_of_its_object_alone(root: Root) -> None:
    series = make.ct_series(3)
    root.take_all(series)
    write_rows(root.folder, "UPDATE images SET place = 'store'")
    [row] = root.rows('SELECT "key" FROM images WHERE sop_instance_uid = :uid', uid=series[1].SOPInstanceUID)
    root.delete("instance", series[1].SOPInstanceUID)
    assert root.rows('SELECT "key" FROM object_removals') == [row]
