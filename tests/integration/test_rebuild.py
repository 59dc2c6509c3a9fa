"""A rebuilt index takes over what files cannot tell, names what it could not read, and brings nothing deleted back."""

import datetime as dt
import errno
import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from node.api import PersonRepository, Settings
from node.archive.filesystem import Archive
from node.control.care import check_repository, rebuild_index
from node.control.repository import Repository
from node.conversion.pipeline import convert
from node.index.rows.backend import FOLLOWS, backend_at
from node.index.rows.extension_tables import every_table
from node.index.rows.place import FILE_NAME, IndexUnusable, place_of
from node.index.rows.records import Lane
from node.index.rules.custody.salvage import HISTORY, WORK
from node.index.rules.intake import received as batches
from node.index.rules.people.person_plans import PatientLink, Person
from node.lifecycle.retention import Retention
from node.settings.core import RetentionSettings
from node.writers.options import WriteOptions
from tests import make
from tests.converting import convert_series
from tests.crash.journal import Sent, new_series
from tests.ingest import received, settings_of, take
from tests.integration.conftest import bring
from tests.made_once import IN_POSTGRESQL, copy_root, lose_index
from tests.preloaded import run
from tests.rows import read_rows, view_rows, write_rows
from tests.trash import delete

FAR = dt.datetime(2100, 1, 1, tzinfo=dt.UTC)


def convert_due(repository: Repository) -> int:
    done = 0
    while claimed := repository.index.series.claim_due(FAR):
        convert_series(claimed, repository.archive, repository.index, WriteOptions(), convert, lambda: FAR)
        done += 1
    return done


def contents(root: Path, *, but: frozenset[str] = frozenset()) -> dict[str, list[tuple[object, ...]]]:
    """The rows of every table, without the columns that a rebuild need not keep."""
    return {
        table: sorted((tuple(row.values()) for row in read_rows(root, f'SELECT * FROM "{table}"')), key=repr)
        for table in every_table()
        if table not in but
    }


def previous_indexes(root: Path) -> int:
    """How many indexes of a root were set aside."""
    if IN_POSTGRESQL:
        return len(read_rows(root, "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'index%'"))
    return len(list(root.glob("index-*.sqlite")))


def study_of(root: Path, one: Sent) -> str:
    query = "SELECT study_instance_uid AS uid FROM v_images WHERE sop_instance_uid = :uid"
    [row] = view_rows(root, query, uid=one.sop_instance_uid)
    return str(row["uid"])


def patient_ids(root: Path) -> list[tuple[object, ...]]:
    query = "SELECT id, merged_into, studies FROM v_patients ORDER BY id"
    return [tuple(row.values()) for row in view_rows(root, query)]


@pytest.fixture(scope="module")
def lived_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with everything that only rows know: senders, revisions, versions, deletions and accounts."""
    root = tmp_path_factory.mktemp("lived") / "root"
    with Repository(settings_of(root)) as repository:
        first, second, third = new_series(2), new_series(2), new_series(1)
        for series in (first, second, third):
            take(repository.ingest, series)
        take(repository.ingest, [first[0].altered()])
        convert_due(repository)
        index, actions = repository.index, repository.actions.by_name
        index.series.reopen([(study_of(root, first[0]), first[0].series_instance_uid)], FAR)
        convert_due(repository)
        actions["set-account"](name="ann", role="admin", password_hash="$argon2$", who="test")
        actions["add-token"](name="ann", label="script", sha256="0" * 64, expires_at=None, who="test")
        actions["delete"](level="study", uid=study_of(root, third[0]), study_instance_uid=None, who="test", erase=True)
        index.deliveries.begin("hook", {Lane("hook", "archive"): ("instance-stored",)})
        index.work.add_commitment("1.2.3", "CT1", "127.0.0.1", [("1.2", "1.2.3")], FAR, FAR)
    return root


@pytest.fixture
def lived(settings: Settings, lived_once: Path) -> Path:
    """A copy of that root; its journal had nothing that is not elsewhere."""
    copy_root(lived_once, settings.storage.root, "journal")
    return settings.storage.root


@pytest.mark.slow
def test_everything_that_can_be_read_is_taken_over(settings: Settings, lived: Path) -> None:
    but = frozenset({"about", "patients", "studies", "series", "images"})
    before, images = contents(lived, but=but), view_rows(lived, "SELECT * FROM v_images ORDER BY sop_instance_uid")
    series = view_rows(lived, "SELECT * FROM v_series ORDER BY series_instance_uid")
    rebuilt = rebuild_index(settings)
    assert rebuilt.salvaged.unread == {}
    assert rebuilt.salvaged.altered == []
    after = contents(lived, but=but)
    for table, rows in before.items():
        if table == "conflicts":
            continue
        assert after[table] == rows, table
    assert view_rows(lived, "SELECT * FROM v_images ORDER BY sop_instance_uid") == images
    assert view_rows(lived, "SELECT * FROM v_series ORDER BY series_instance_uid") == series
    conflicts = "SELECT kind, study_instance_uid, path, sha256 FROM v_conflicts ORDER BY kind, study_instance_uid"
    assert len(view_rows(lived, conflicts)) == len(before["conflicts"])
    with Repository(settings) as repository:
        assert convert_due(repository) == 0, "nothing has to be converted again"
    assert check_repository(settings, digests=True, repair=False) == []


def merge_two_patients(settings: Settings) -> None:
    """Receive two patients with a study each, and merge the first into the second."""
    with Repository(settings) as repository:
        bring(repository.ingest, *(ds for name in ("A", "B") for ds in make.ct_series(1, PatientID=name)))
        [one, other] = [row["id"] for row in view_rows(settings.storage.root, "SELECT id FROM v_patients ORDER BY id")]
        repository.actions.by_name["merge-patients"](source=one, target=other, who="test")


def test_a_merge_of_patients_outlives_a_rebuild(settings: Settings) -> None:
    root = settings.storage.root
    merge_two_patients(settings)
    unknown = (Person(name, "", "", None, "") for name in ("C", "D"))
    with Repository(settings) as repository:  # of whom no image is here yet
        repository.index.repository(PersonRepository).link([PatientLink(True, *unknown)], repository.index.now())
    before = patient_ids(root)
    rebuild_index(settings)
    assert patient_ids(root) == before
    assert len(view_rows(root, "SELECT DISTINCT patient_id FROM v_studies")) == 1


@pytest.mark.slow
def test_corrections_of_a_patient_and_of_one_study_outlive_a_rebuild(settings: Settings) -> None:
    root, name = settings.storage.root, {"patient_name": "Right^Name"}
    with Repository(settings) as repository:
        series = [ds for patient in ("A", "B", "B") for ds in make.ct_series(1, PatientID=patient)]
        bring(repository.ingest, *series)
        [one, other] = [row["id"] for row in view_rows(root, "SELECT id FROM v_patients ORDER BY id")]
        correct = repository.actions.by_name["correct-patient"]
        correct(patient=one, who="test", correction={"patient_id": "C"} | name)
        correct(patient=other, who="test", correction={"patient_id": "D"}, study=str(series[1].StudyInstanceUID))

    def found() -> list[Any]:
        with Repository(settings) as repository, repository.index.reading() as index:
            stored = sorted(index.files.stored(), key=lambda one: one.sop_instance_uid)
            return [one.identity for one in stored]

    studies = "SELECT study_instance_uid, patient_id FROM v_studies ORDER BY 1"
    before, identities = view_rows(root, studies), found()
    assert sum(one is not None for one in identities) == 2
    rebuild_index(settings)
    assert (view_rows(root, studies), found()) == (before, identities)
    with Repository(settings) as repository:
        separate = repository.actions.by_name["separate-patient"]
        [patient] = [row["id"] for row in view_rows(root, "SELECT id FROM v_patients WHERE patient_id = 'D'")]
        separate(patient=patient, who="test", study=str(series[1].StudyInstanceUID))
    assert {row["patient_id"] for row in view_rows(root, studies)} == {"B", "C"}


@pytest.mark.parametrize("is_decided", [False, True])
def test_a_conflict_of_a_study_is_there_once_after_a_rebuild_as_decided(settings: Settings, is_decided: bool) -> None:
    """It names one of the instances that were received at once: not always the one that a rebuild reads first."""
    root = settings.storage.root
    first = make.ct_series(2, PatientID="7", PatientName="A")
    second, nameless = make.ct_series(3, PatientID="7", PatientName="B"), make.ct_series(3, PatientID="")
    with Repository(settings) as repository:
        bring(repository.ingest, *first, *second, *nameless)
    uids = {"uid": str(second[2].SOPInstanceUID), "study": str(second[2].StudyInstanceUID)}
    write_rows(root, "UPDATE conflicts SET sop_instance_uid = :uid WHERE study_instance_uid = :study", **uids)
    if is_decided:
        write_rows(root, "UPDATE conflicts SET decision = 'kept', decided_by = 'ann', decided_at = found_at")
    query = "SELECT kind, study_instance_uid, sop_instance_uid, decision FROM v_conflicts ORDER BY kind"
    before = view_rows(root, query)
    assert [row["kind"] for row in before] == ["no-patient-id", "shared-patient-id"]
    rebuild_index(settings)
    assert view_rows(root, query) == before


@pytest.mark.slow
def test_a_merge_of_patients_outlives_a_rebuild_during_which_no_file_can_be_read(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge_two_patients(settings)

    def unreadable(*arguments: object) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("node.receive.recovery.stored_instance", unreadable)
        assert len(rebuild_index(settings).unread) == 2
    with Repository(settings):
        pass  # indexes them
    assert view_rows(settings.storage.root, "SELECT DISTINCT patient_id FROM v_studies") == [{"patient_id": "B"}]


@pytest.mark.slow
def test_a_deletion_that_was_killed_after_its_order_is_not_undone(
    settings: Settings, lived: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [row] = view_rows(lived, "SELECT study_instance_uid AS uid FROM v_studies ORDER BY instances LIMIT 1")
    before = set(lived.glob("objects/*/*.dcm"))

    class Killed(BaseException):
        pass

    with monkeypatch.context() as patch, Repository(settings) as repository:
        patch.setattr("node.lifecycle.deletion.finish", Mock(side_effect=Killed))
        with pytest.raises(Killed):
            delete(repository, row["uid"], erases=True)
    assert set(lived.glob("objects/*/*.dcm")) == before
    rebuild_index(settings)
    assert view_rows(lived, "SELECT 1 FROM v_studies WHERE study_instance_uid = :uid", uid=row["uid"]) == []
    assert set(lived.glob("objects/*/*.dcm")) < before
    assert view_rows(lived, "SELECT 1 FROM v_deletions WHERE finished_at IS NULL") == []


@pytest.mark.parametrize("harm", ["sound", "gone"])
def test_after_a_rebuild_a_deletion_finds_what_lies_in_quarantine(settings: Settings, lived: Path, harm: str) -> None:
    assert len(list(lived.glob("quarantine/*.dcm"))) == 1
    if harm == "gone":
        lose_index(lived)
    rebuild_index(settings)
    [conflict] = view_rows(lived, "SELECT * FROM v_conflicts WHERE path IS NOT NULL")
    assert conflict["kind"] == ("instance-bytes" if harm == "sound" else "instance-quarantined")
    with Repository(settings) as repository:
        for row in view_rows(lived, "SELECT study_instance_uid AS uid FROM v_studies"):
            delete(repository, row["uid"], erases=True)
    assert [path for folder in ("objects", "quarantine") for path in lived.glob(f"{folder}/**/*.dcm")] == []


@pytest.mark.slow
@pytest.mark.parametrize("index", ["kept", "gone"])
def test_an_instance_that_only_quarantine_has_is_taken_back(settings: Settings, index: str) -> None:
    root, [one, other] = settings.storage.root, new_series(2)
    received(settings, [one, other])
    for path in root.glob("objects/*/*.dcm"):
        if path.read_bytes().endswith(one.data):
            path.rename(root / "quarantine" / path.name)
    (root / "quarantine" / "cut.dcm").write_bytes(next(root.glob("objects/*/*.dcm")).read_bytes()[:-10])
    (root / "quarantine" / "other.dcm").write_bytes(b"no DICOM")
    if index == "gone":
        lose_index(root)
    rebuilt = rebuild_index(settings)
    assert len(rebuilt.taken_back) == 1
    assert rebuilt.salvaged.gone == []
    rows = view_rows(root, "SELECT sop_instance_uid AS uid, sha256, source FROM v_images")
    assert {row["uid"]: row["sha256"] for row in rows} == {sent.sop_instance_uid: sent.sha256 for sent in (one, other)}
    assert {row["source"] for row in rows} == {"dicom" if index == "kept" else "recovered"}
    assert {path.name for path in root.glob("quarantine/*.*")} == {"cut.dcm", "other.dcm"}
    assert check_repository(settings, digests=True, repair=False) == []


def test_an_instance_without_a_file_is_named(settings: Settings) -> None:
    root, [one, other] = settings.storage.root, new_series(2)
    received(settings, [one, other])
    write_rows(root, "UPDATE series SET state = 'converted', due_at = NULL")
    for path in root.glob("objects/*/*.dcm"):
        if path.read_bytes().endswith(one.data):
            path.unlink()
    rebuilt = rebuild_index(settings)
    assert ([gone.sop_instance_uid for gone in rebuilt.salvaged.gone], rebuilt.lost) == ([one.sop_instance_uid], 1)
    assert view_rows(root, "SELECT state FROM v_series") == [{"state": "receiving"}], "its volumes are of both"


def test_a_series_with_an_instance_that_the_old_index_lacks_is_converted_again(settings: Settings) -> None:
    root, [one, other] = settings.storage.root, new_series(2)
    received(settings, [one, other])
    write_rows(root, "UPDATE series SET state = 'converted', due_at = NULL")
    write_rows(root, f"DELETE FROM images WHERE sop_instance_uid = '{one.sop_instance_uid}'")
    assert rebuild_index(settings).lost == 0
    assert view_rows(root, "SELECT instances, state FROM v_series") == [{"instances": 2, "state": "receiving"}]


def test_a_file_whose_rows_cannot_be_written_stops_nothing(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    root, sent = settings.storage.root, new_series(3)
    received(settings, sent)
    real = batches.add_instances

    def refusing(connection: Any, batch: Any, *more: Any, **named: Any) -> Any:
        if any(one.attributes.sop_instance_uid == sent[1].sop_instance_uid for one in batch):
            raise OverflowError("Python int too large to convert to SQLite INTEGER")
        return real(connection, batch, *more, **named)

    monkeypatch.setattr("node.index.rules.intake.instances.add_instances", refusing)
    recovered = rebuild_index(settings).recovered
    assert (recovered.adopted, recovered.quarantined) == (2, 1)
    assert len(view_rows(root, "SELECT 1 FROM v_images")) == 2
    assert len(list(root.glob("quarantine/*.dcm"))) == 1


def damage(path: Path, table: str) -> None:
    """Overwrite the pages of a table."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        [size] = connection.execute("PRAGMA page_size").fetchone()
        [root] = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    with path.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xa5" * size)


@pytest.mark.slow
@pytest.mark.sqlite("damages pages of the file; test_postgresql damages one of the server")
@pytest.mark.parametrize(
    "table",
    [
        *("images", "accounts", "series"),
        *(pytest.param(table, marks=pytest.mark.long) for table in ("conversions", "events", "tombstones", "patients")),
    ],
)
def test_a_table_that_cannot_be_read_is_named_and_others_stay(settings: Settings, lived: Path, table: str) -> None:
    images = view_rows(lived, "SELECT sop_instance_uid, sha256 FROM v_images ORDER BY sop_instance_uid")
    tokens = contents(lived)["tokens"]
    damage(lived / FILE_NAME, table)
    assert table in rebuild_index(settings).salvaged.unread
    assert view_rows(lived, "SELECT sop_instance_uid, sha256 FROM v_images ORDER BY sop_instance_uid") == images
    assert contents(lived)["tokens"] == ([] if table == "accounts" else tokens)
    with Repository(settings) as repository:
        convert_due(repository)
    assert {row["state"] for row in view_rows(lived, "SELECT state FROM v_series")} <= {"converted", "refused"}
    check_repository(settings, digests=True, repair=True)
    assert check_repository(settings, digests=True, repair=False) == []


def label_one(settings: Settings) -> None:
    """Store a study, and label it."""
    [one] = new_series(1)
    with Repository(settings) as repository:
        take(repository.ingest, [one])
        target = [study_of(settings.storage.root, one), ""]
        repository.actions.by_name["change-labels"](targets=[target], who="test", add=["research"])


def pass_of_retention(settings: Settings, now: Callable[[], dt.datetime] = lambda: FAR) -> tuple[str | None, int]:
    """Let a node look at the clock and delete what is due; return what it waits for, and how many studies there are."""
    with Repository(settings) as repository:
        audit, metrics = repository.audit, repository.metrics
        Retention(repository.archive, repository.index, audit, metrics, settings, now).step()
        with repository.index.reading() as index:
            return index.retention.waits_for, index.studies.count()


@pytest.mark.slow
@pytest.mark.sqlite("overwrites the beginning of the file")
@pytest.mark.parametrize("damaged", ["first pages", "all", "labels"])
def test_what_is_gone_is_said_and_without_labels_retention_waits(settings: Settings, damaged: str) -> None:
    rules = {"days": 90, "keep_where": {"labels": "research"}, "only_converted": False}
    settings = settings.model_copy(update={"retention": RetentionSettings.model_validate(rules)})
    label_one(settings)
    root, path = settings.storage.root, settings.storage.root / FILE_NAME
    if damaged == "labels":
        damage(path, "labels")
    else:
        size = path.stat().st_size
        path.write_bytes(b"" if damaged == "all" else os.urandom(min(size, 1 << 20)) + path.read_bytes()[1 << 20 :])
    done = run("db", "rebuild", "--root", root)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    [said] = [line for line in done.stdout.splitlines() if "of labels" in line]
    assert "labels are gone; retention deletes nothing until `voxelnode retention confirm`" in said
    assert ("of accounts, " in done.stdout) == (damaged != "labels")
    assert len(done.stdout.splitlines()) < 50
    waits_for, studies = pass_of_retention(settings)
    assert (waits_for is not None and "labels could not be read" in waits_for, studies) == (True, 1)
    assert "labels could not be read" in run("status", "--root", root).stdout
    run("retention", "confirm", "--root", root, check=True)
    assert pass_of_retention(settings, lambda: dt.datetime.now(dt.UTC)) == (None, 1)


@pytest.mark.parametrize("keeps", [True, False])
def test_without_an_index_retention_waits_if_it_goes_by_labels(settings: Settings, keeps: bool) -> None:
    rules = RetentionSettings(days=90, keep_where='labels == "research"' if keeps else None, only_converted=False)
    settings = settings.model_copy(update={"retention": rules})
    label_one(settings)
    lose_index(settings.storage.root)
    rebuild_index(settings)
    waits_for, studies = pass_of_retention(settings)
    assert (waits_for is not None, studies) == (keeps, int(keeps))


def test_what_is_gone_is_said_of_every_table() -> None:
    named = {table for tables in FOLLOWS.values() for table in tables}
    assert {*HISTORY, *WORK} <= named <= {*every_table(), "alembic_version"}


@pytest.mark.sqlite("damages pages of the file; test_postgresql damages one of the server")
@pytest.mark.parametrize("table", ["limited_accounts", "project_members"])
def test_nobody_sees_more_after_a_rebuild_that_cannot_read_who_was_limited(settings: Settings, table: str) -> None:
    with Repository(settings) as repository:
        for name, role in (("ann", "read"), ("ben", "write"), ("boss", "admin")):
            repository.actions.by_name["set-account"](name=name, role=role, password_hash=None, who="test")
        repository.actions.by_name["set-project"](name="trial", who="test")
        member = {"name": "trial", "account": "ann", "role": "read", "who": "test"}
        repository.actions.by_name["set-project-member"](**member)
    damage(settings.storage.root / FILE_NAME, table)
    assert table in rebuild_index(settings).salvaged.unread
    rows = read_rows(settings.storage.root, "SELECT account FROM limited_accounts ORDER BY account")
    assert [row["account"] for row in rows] == ["ann", "ben"]


@pytest.mark.sqlite("damages pages of the file; test_postgresql damages one of the server")
def test_a_table_is_read_on_both_sides_of_its_damage(settings: Settings) -> None:
    received(settings, new_series(1))
    root = settings.storage.root
    path = root / FILE_NAME
    with closing(sqlite3.connect(path)) as connection, connection:
        insert = "INSERT INTO events (id, kind, detail, happened_at) VALUES (?, 'deleted', ?, '2026-01-01 00:00:00')"
        connection.executemany(insert, [(number, "x" * 200) for number in range(100, 1100)])
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        [size] = connection.execute("PRAGMA page_size").fetchone()
    content = path.read_bytes()
    holding = [at for at in range(0, len(content), size) if content[at : at + size].count(b"x" * 200) > 5]
    middle = holding[len(holding) // 2]
    with path.open("r+b") as file:
        file.seek(middle)
        file.write(b"\xa5" * size)
    assert "events" in rebuild_index(settings).salvaged.unread
    kept = {row["id"] for row in view_rows(root, "SELECT id FROM v_events")}
    assert {100, 1099} <= kept
    assert 900 < len(kept) < 1000


@pytest.mark.slow
@pytest.mark.parametrize(
    "step", ["aside", "parts-swept", pytest.param("claims-released", marks=pytest.mark.long), "finished"]
)
def test_a_rebuild_that_dies_is_done_again_with_the_same_previous_index(
    settings: Settings, lived: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(lived)["conversions"]
    if step == "aside":
        with monkeypatch.context() as patch:
            patch.setattr(backend_at(place_of(lived, settings.index.url)), "read_aside", None)
            with pytest.raises(TypeError):
                rebuild_index(settings)
    elif step == "finished":
        done = rebuild_index(settings).previous_index
        (lived / "rebuilding.json").write_text(json.dumps({"previous_index": Path(done).name}))
    else:
        assert run("db", "rebuild", "--root", lived, environment={"VOXELNODE_FAILPOINT": step}).returncode != 0
    with pytest.raises(IndexUnusable, match="run `voxelnode db rebuild` again"):
        Repository(settings)
    rebuild_index(settings)
    assert contents(lived)["conversions"] == before
    assert previous_indexes(lived) == 1
    Repository(settings).close()


def test_two_rebuilds_within_a_second_keep_both_previous_indexes(settings: Settings, lived: Path) -> None:
    assert rebuild_index(settings).previous_index != rebuild_index(settings).previous_index
    assert previous_indexes(lived) == 2


def test_a_file_that_is_not_as_the_previous_index_recorded_it_is_named(settings: Settings) -> None:
    root, sent = settings.storage.root, new_series(2)
    received(settings, sent)
    [row] = view_rows(root, "SELECT path FROM v_images WHERE sop_instance_uid = :uid", uid=sent[0].sop_instance_uid)
    path = Path(row["path"])
    path.write_bytes(path.read_bytes()[:-1] + bytes([sent[0].data[-1] ^ 1]))
    assert rebuild_index(settings).salvaged.altered == [str(path.relative_to(root))]
    sources = view_rows(
        root, "SELECT source FROM v_images ORDER BY sop_instance_uid = :uid", uid=sent[0].sop_instance_uid
    )
    assert [row["source"] for row in sources] == ["dicom", "recovered"]


@pytest.mark.slow
@pytest.mark.parametrize("is_converted", [False, True])
def test_after_a_rebuild_an_instance_takes_the_place_of_its_file_that_was_altered_at_rest(
    settings: Settings, is_converted: bool
) -> None:
    root, sent = settings.storage.root, new_series(2)
    with Repository(settings) as repository:
        take(repository.ingest, sent)
        if is_converted:
            assert convert_due(repository) == 1
    query = "SELECT path, file_missing FROM v_images WHERE sop_instance_uid = :uid"
    [row] = view_rows(root, query, uid=sent[0].sop_instance_uid)
    path = Path(row["path"])
    path.write_bytes(path.read_bytes()[:-1] + bytes([sent[0].data[-1] ^ 1]))
    rebuild_index(settings)
    [row] = view_rows(root, query, uid=sent[0].sop_instance_uid)
    assert row["file_missing"] == is_converted, "a file that volumes speak against is believed"
    received(settings, sent)
    [row] = view_rows(root, query, uid=sent[0].sop_instance_uid)
    assert Path(row["path"]).read_bytes().endswith(sent[0].data)
    assert check_repository(settings, digests=True, repair=False) == []


def test_hooks_hear_of_no_instance_twice_and_of_none_never(settings: Settings, lived: Path) -> None:
    def ids() -> list[tuple[object, ...]]:
        rows = read_rows(lived, "SELECT sop_instance_uid, id FROM images ORDER BY id")
        return [tuple(row.values()) for row in rows]

    before = ids()
    stray = next(lived.glob("objects/*/*.dcm")).with_name(f"{'a' * 32}.dcm")
    [one] = new_series(1)
    with Repository(settings) as repository:
        take(repository.ingest, [one])
        [row] = view_rows(lived, "SELECT path FROM v_images WHERE sop_instance_uid = :uid", uid=one.sop_instance_uid)
    Path(row["path"]).rename(stray)  # under a key that the previous index does not know
    rebuild_index(settings)
    assert ids()[:-1] == before
    assert ids()[-1][0] == one.sop_instance_uid
    assert Archive(lived).path(f"objects/{stray.parent.name}/{stray.name}").exists()
