"""The trash: what was deleted comes back whole, or goes at its time, whatever happens in between."""

import datetime as dt
import errno
import hashlib
from pathlib import Path
from random import Random
from typing import Any

import pytest
from pydicom import FileDataset
from sqlalchemy import Connection, insert, select

from node.api import Audit, SeriesRow, Utc
from node.archive.intake import RESUME_FACTOR
from node.errors import UsageError
from node.extensions.projects.rows import ProjectRepository
from node.index.rows.extension_tables import LEVELS, every_table
from node.index.rows.records import Lane
from node.index.rows.states import Assignment
from node.index.rules.people.accounts import Content
from node.index.rules.work.ledger import add
from node.lifecycle.deletion import Restored, empty, empty_due, restore, resume_restores
from node.lifecycle.fsck import Finding, examine
from node.receive import stored_files
from node.receive.accounting import unaccounted
from node.receive.ingest import Origin
from node.receive.recovery import recover
from tests import make
from tests.integration.conftest import Root, data_set_bytes
from tests.rows import write_rows

pytestmark = pytest.mark.postgresql


DAY = 86400


def take(root: Root, instances: list[FileDataset]) -> None:
    root.take_all(instances, Origin("dicom", "CT1", "VOXELNODE", "127.0.0.1:1"))


def trash(root: Root, level: Any, uid: str, days: float = 7) -> int:
    """Delete something into the trash; its number."""
    root.delete(level, uid, trash_until=root.clock() + dt.timedelta(days=days))
    with root.index.reading() as index:
        return int(index.trash.all()[0]["number"])


def bring_back(root: Root, audit: Audit, number: int) -> Restored:
    return restore(root.archive, root.index, audit, number, "someone", lambda title: 60.0, root.clock())


def files(root: Root) -> set[str]:
    return {str(path.relative_to(root.folder)) for path in (root.folder / "objects").rglob("*.dcm")}


def everything(root: Root) -> dict[str, bytes]:
    folders = ("objects", "quarantine", "volumes")
    paths = [path for folder in folders for path in (root.folder / folder).rglob("*") if path.is_file()]
    return {str(path.relative_to(root.folder)): path.read_bytes() for path in paths}


def images(root: Root) -> dict[str, tuple[str, str]]:
    query = "SELECT sop_instance_uid, sha256, calling_ae_title FROM v_images"
    return {row["sop_instance_uid"]: (row["sha256"], row["calling_ae_title"]) for row in root.rows(query)}


def in_trash(root: Root) -> list[dict[str, Any]]:
    with root.index.reading() as index:
        return index.trash.all()


KEPT_OF_THE_UNDO = {"tombstones", "events", "trash", "about", "open_associations"}


def every_row(root: Root) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables but those that say that something was deleted and came back."""
    assert root.ingest.applier.catch_up()
    with root.index.instances._reading() as connection:
        return {
            name: sorted(map(tuple, connection.execute(select(table))), key=repr)
            for name, table in every_table().items()
            if name not in KEPT_OF_THE_UNDO
        }


def fill(root: Root, series: FileDataset) -> None:
    """Add a row to every empty table that refers to what a deletion removes, whatever its columns are."""
    fillers = {str: "x", int: 1, float: 1.0, bool: True, dt.date: root.clock().date()}
    named = {"state": "sent", "sop_instance_uid": series.SOPInstanceUID, "study_instance_uid": series.StudyInstanceUID}

    def write(connection: Connection) -> None:
        ended = {"state": "ended", "outcome": "succeeded", "happened_at": root.clock(), "requested_by": "hook"}
        add(connection, Lane("job", "hook"), "one", Assignment(), root.clock(), **ended)
        of_series = select(SeriesRow.id).where(SeriesRow.series_instance_uid == series.SeriesInstanceUID)
        ids = {"series": connection.scalar(of_series)}
        for name, table in every_table().items():
            refers = {key.parent.name: key.column.table.name for key in table.foreign_keys}
            goes_with_it = {*LEVELS, "conversions", "work"}.intersection(refers.values())
            if not goes_with_it or name in KEPT_OF_THE_UNDO or connection.execute(select(table)).first():
                continue
            row = {
                one.name: root.clock() if isinstance(one.type, Utc) else fillers.get(one.type.python_type, [])
                for one in table.columns
                if one.name != "id"
            }
            row |= {one: value for one, value in named.items() if one in row}
            for one, target in refers.items():
                found = connection.scalar(select(every_table()[target].c.id).limit(1))
                row[one] = ids.get(target, found)
            connection.execute(insert(table).values(row))

    root.index.trash._writer.run(write)


@pytest.mark.sample(2)
@pytest.mark.parametrize("level", ["study", "series", "instance", "only instance"])
def test_an_undo_leaves_every_row_of_every_table_and_every_file_as_before(root: Root, audit: Audit, level: str) -> None:
    series = make.ct_series(1 if level == "only instance" else 4)
    series[0].SeriesDescription, series[-1].SeriesDescription = "one", "another"  # a conflict without a file
    take(root, [*series, make.corrected(series[0]), *make.ct_series(2)])
    root.index.deliveries.begin("hook", {Lane("hook", "one"): ("instance-stored", "volume-written")})
    take(root, [make.structured_report(StudyInstanceUID=series[0].StudyInstanceUID)])
    root.convert_due()
    projects = root.index.repository(ProjectRepository)
    projects.set("one", "someone", root.clock())
    projects.add("one", [Content(series[0].StudyInstanceUID)], "someone", root.clock())
    fill(root, series[0])
    before, there, differs = every_row(root), everything(root), differences(root)
    assert all(before[name] for name in ("sent_instances", "results", "volume_sources", "owed_images", "owed_events"))
    uid = str({"study": series[0].StudyInstanceUID, "series": series[0].SeriesInstanceUID}.get(
        level, series[-1].SOPInstanceUID))  # fmt: skip
    number = trash(root, level.removeprefix("only "), uid)
    assert everything(root) == there, "files in the trash stay where they are"
    assert [one for one in differences(root) if one not in differs] == []
    assert every_row(root) != before
    [entry] = in_trash(root)
    assert entry["patient_id"] == series[0].PatientID
    assert bring_back(root, audit, number).lost == 0
    after = every_row(root)
    # A series that stayed has other documents meanwhile, and is searched in its files; its instances differ again.
    others = {"series_documents", "image_documents", "conflicts"} if level == "instance" else set()
    assert {name for name, rows in after.items() if rows != before[name]} == others
    assert (everything(root), in_trash(root), root.index.trash.restoring()) == (there, [], [])
    assert root.index.series.claim_due(root.clock()) is None, "nothing is converted again"
    with pytest.raises(UsageError):
        bring_back(root, audit, number)


def test_nobody_finds_what_is_in_the_trash_but_the_trash(root: Root, audit: Audit) -> None:
    series = make.ct_series(3)
    take(root, series)
    number = trash(root, "study", series[0].StudyInstanceUID)
    assert root.index.trash.of("series", series[0].SeriesInstanceUID) == ({number}, set())
    assert root.index.trash.of("instance", series[0].SOPInstanceUID) == (set(), {number}), "it has others as well"
    done = recover(root.archive, root.index, lambda title: 60.0, root.clock())
    assert (done.adopted, done.quarantined, images(root)) == (0, 0, {})
    for view in ("v_studies", "v_series", "v_images", "v_patients"):
        assert root.rows(f"SELECT 1 FROM {view}") == []


def test_the_trash_is_emptied_at_its_time_and_not_by_a_clock_in_doubt(root: Root, audit: Audit) -> None:
    first, second = make.ct_series(2), make.ct_series(2)
    take(root, [*first, *second])
    trash(root, "study", first[0].StudyInstanceUID, days=7)
    trash(root, "study", second[0].StudyInstanceUID, days=9)
    root.clock.move(8 * DAY)
    empty_due(root.archive, root.index, audit, root.clock(), is_clock_right=False)
    assert len(in_trash(root)) == 2
    empty_due(root.archive, root.index, audit, root.clock(), is_clock_right=True)
    assert [entry["uid"] for entry in in_trash(root)] == [second[0].StudyInstanceUID]
    assert len(files(root)) == 2
    [gone] = root.rows("SELECT * FROM v_deletions WHERE trash_until IS NULL")
    assert (gone["uid"], gone["finished_at"] is None) == (first[0].StudyInstanceUID, False)
    [said] = root.rows("SELECT count(content) AS n FROM tombstones")
    assert said["n"] == 1, "nothing that names the patient is left of what is gone"


def test_losers_in_and_out_of_the_trash_are_named_unless_only_another_host_has_them(root: Root) -> None:
    for _ in range(2):
        [first] = make.ct_series(1)
        take(root, [first, make.corrected(first)])
    trash(root, "study", first.StudyInstanceUID)
    write_rows(root.folder, "UPDATE conflicts SET host = 'there'")
    write_rows(root.folder, "UPDATE trash SET holder = 'there'")
    losers = root.index.instances.loser_keys()
    assert len(losers) == 2
    with root.index.reading() as index:
        assert [index.files.loser_keys(host) for host in (None, "there", "here")] == [losers, losers, set()]


DISK_BYTES = 10_000_000


@pytest.mark.parametrize(
    ("lacking", "left"),
    [(0.5, [2, 1]), (1.5, [2]), (3.5, [2, 1, 0])],
    ids=["one is enough", "two are enough", "all are too little"],
)
def test_a_short_disk_empties_the_oldest_first_and_no_more_than_helps(
    root: Root, audit: Audit, monkeypatch: pytest.MonkeyPatch, lacking: float, left: list[int]
) -> None:
    studies = [make.ct_series(1) for _ in range(3)]
    for study in studies:
        take(root, study)
        trash(root, "study", study[0].StudyInstanceUID)

    def used() -> int:
        return sum(path.stat().st_size for path in (root.folder / "objects").rglob("*.dcm"))

    monkeypatch.setattr("node.archive.space.free_bytes", lambda disk: DISK_BYTES - used())
    enough = DISK_BYTES - used() + lacking * used() / 3
    monkeypatch.setattr(root.archive.intake, "_low_bytes", enough / RESUME_FACTOR)
    parts = root.archive, root.index, audit, root.clock()
    assert empty_due(*parts, is_clock_right=True) is not None
    assert len(in_trash(root)) == 3, "nothing goes before its time unless the configuration says so"
    why = [empty_due(*parts, is_clock_right=False, gives_way=True) for _ in range(4)]
    assert [entry["uid"] for entry in in_trash(root)] == [studies[number][0].StudyInstanceUID for number in left]
    is_emptied = "the disk is short of room" in (root.folder / "audit.jsonl").read_text()
    assert is_emptied == (len(left) < 3)
    assert [reason is None for reason in why] == [is_emptied] * 4


def test_a_study_that_was_sent_again_is_a_new_one_that_the_first_does_not_change(root: Root, audit: Audit) -> None:
    series = make.ct_series(3)
    take(root, series)
    number = trash(root, "study", series[0].StudyInstanceUID)
    take(root, series[:2])
    current, kept = images(root), files(root)
    assert len(kept) == 5
    assert bring_back(root, audit, number) == Restored(instances=1, repeated=2)
    assert images(root) == current | {series[2].SOPInstanceUID: images(root)[series[2].SOPInstanceUID]}
    assert len(files(root)) == 3


def test_other_bytes_that_came_meanwhile_stay_current_and_both_are_kept(root: Root, audit: Audit) -> None:
    [first] = make.ct_series(1)
    take(root, [first])
    number = trash(root, "study", first.StudyInstanceUID)
    take(root, [make.corrected(first)])
    current = images(root)
    assert bring_back(root, audit, number) == Restored(conflicts=1)
    assert images(root) == current
    [conflict] = root.rows("SELECT path FROM v_conflicts WHERE kind = 'instance-bytes'")
    assert Path(conflict["path"]).is_file()


def test_emptying_takes_the_files_of_conflicts_along(root: Root, audit: Audit) -> None:
    [first] = make.ct_series(1)
    take(root, [first, make.corrected(first)])
    number = trash(root, "study", first.StudyInstanceUID)
    empty(root.archive, root.index, audit, number, "someone", "by hand", root.clock())
    assert (files(root), list((root.folder / "quarantine").glob("*.*"))) == (set(), [])
    with pytest.raises(UsageError):
        empty(root.archive, root.index, audit, number, "someone", "by hand", root.clock())
    take(root, [first, make.corrected(first)])
    root.delete("study", first.StudyInstanceUID)
    assert (files(root), list((root.folder / "quarantine").glob("*.*"))) == (set(), []), "also without the trash"


def test_a_file_that_is_gone_is_reported_and_keeps_nothing_else_from_coming_back(root: Root, audit: Audit) -> None:
    series = make.ct_series(3)
    take(root, series)
    number = trash(root, "study", series[0].StudyInstanceUID)
    (root.folder / sorted(files(root))[0]).unlink()
    assert bring_back(root, audit, number) == Restored(instances=2, lost=1)
    assert [row["n"] for row in root.rows("SELECT count(*) AS n FROM v_images WHERE file_missing")] == [1]
    assert owed(root) == set()


def test_a_file_that_cannot_be_read_now_stays_in_the_trash_until_it_can(
    root: Root, audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = make.ct_series(3)
    take(root, series)
    number = trash(root, "study", series[0].StudyInstanceUID)
    broken, real = sorted(files(root))[0], stored_files.problem_with

    def failing(path: Path, *rest: Any) -> Any:
        if path == root.folder / broken:
            raise OSError(errno.EIO, "Input/output error")
        return real(path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(stored_files, "problem_with", failing)
        assert bring_back(root, audit, number) == Restored(instances=2, unread=1)
    assert root.index.instances.unknown_keys([broken]) == [], "a row of the trash names it"
    resume_restores(root.archive, root.index, root.ingest.quiet_seconds, root.clock())
    assert len(images(root)) == 3
    assert root.rows("SELECT source FROM v_images WHERE source = 'recovered'") == []
    assert root.index.trash.restoring() == []


def owed(root: Root) -> set[str]:
    """What the ledger says that should be here and is not."""
    root.ingest.applier.checkpoint()
    found = unaccounted(root.folder, root.index.lost.absent)
    return {one.sop_instance_uid for some in found for one in some}


def test_the_ledger_owes_what_came_back_or_was_sent_again_and_nothing_of_the_trash(root: Root, audit: Audit) -> None:
    back, gone = make.ct_series(2), make.ct_series(2)
    take(root, [*back, *gone])
    root.index.ahead = root.ingest.applier
    numbers = [trash(root, "study", series[0].StudyInstanceUID) for series in (back, gone)]
    assert owed(root) == set()
    assert bring_back(root, audit, numbers[0]).instances == 2
    root.clock.move(1)
    take(root, gone)
    empty(root.archive, root.index, audit, numbers[1], "someone", "by hand", root.clock())
    assert (owed(root), len(images(root))) == (set(), 4)
    write_rows(root.folder, "DELETE FROM images")  # an accident, of which the ledger knows
    assert owed(root) == {ds.SOPInstanceUID for ds in (*back, *gone)}


def test_a_version_that_came_in_place_of_a_lost_file_leaves_nothing_owed(root: Root) -> None:
    [first] = make.ct_series(1)
    take(root, [first])
    root.index.ahead = root.ingest.applier
    (root.folder / files(root).pop()).unlink()
    take(root, [make.corrected(first)])
    assert owed(root) == set()


@pytest.mark.parametrize("step", ["begun", "indexed"])
def test_a_restore_that_dies_is_finished_by_the_next_start(
    root: Root, audit: Audit, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    series = make.ct_series(3)
    take(root, [*series, make.corrected(series[0])])
    number = trash(root, "study", series[0].StudyInstanceUID)

    class Died(BaseException):
        pass

    def reached(point: str) -> None:
        if point == f"restore-{step}":
            raise Died

    with monkeypatch.context() as dying:
        dying.setattr("node.lifecycle.deletion.reached", reached)
        with pytest.raises(Died):
            bring_back(root, audit, number)
    resume_restores(root.archive, root.index, lambda title: 60.0, root.clock())
    assert len(images(root)) == 3
    assert len(root.rows("SELECT 1 FROM v_conflicts")) == 1
    assert root.rows("SELECT 1 FROM trash") == []
    assert len(files(root)) == 3


def numbers_given(root: Root) -> list[tuple[Any, ...]]:
    """The revisions that were made, as subscribers have heard of them."""
    made = "kind IN ('series-converted', 'series-refused')"
    return [
        tuple(row.values()) for row in root.rows(f"SELECT series_instance_uid, revision FROM v_events WHERE {made}")
    ]


def test_an_instance_that_comes_back_after_a_conversion_without_it_makes_the_revision_before_current_again(
    root: Root, audit: Audit
) -> None:
    series = make.ct_series(4)
    take(root, series)
    root.convert_due()
    before = root.rows("SELECT path, sha256 FROM v_volumes WHERE NOT superseded")
    number = trash(root, "instance", series[1].SOPInstanceUID)
    root.convert_due()
    assert [row["revision"] for row in root.rows("SELECT revision FROM v_series")] == [2]
    bring_back(root, audit, number)
    assert root.rows("SELECT path, sha256 FROM v_volumes WHERE NOT superseded") == before
    assert root.index.series.claim_due(root.clock()) is None
    take(root, [make.changed(series[0], SOPInstanceUID="1.2.3.4", InstanceNumber=9)])
    root.convert_due()
    assert [row["revision"] for row in root.rows("SELECT revision FROM v_series")] == [3]
    assert [revision for _, revision in numbers_given(root)] == [1, 2, 3]
    number = trash(root, "instance", series[2].SOPInstanceUID)
    take(root, [make.changed(series[0], SOPInstanceUID="1.2.3.5", InstanceNumber=10)])
    root.convert_due()
    bring_back(root, audit, number)
    assert root.index.series.claim_due(root.clock()) is not None, "it has another instance beside that which is back"


def test_a_message_that_was_dropped_meanwhile_waits_again_and_no_other(root: Root, audit: Audit) -> None:
    series = [make.ct_series(1)[0] for _ in range(2)]
    take(root, series)

    def write(connection: Connection) -> None:
        for one in series:
            of = {"happened_at": root.clock(), "requested_by": "hook", "study_instance_uid": one.StudyInstanceUID}
            add(connection, Lane("hook", "one"), one.SOPInstanceUID, Assignment(), root.clock(), **of)

    root.index.trash._writer.run(write)
    number = trash(root, "study", series[0].StudyInstanceUID)
    write_rows(root.folder, "UPDATE work SET state = 'ended', outcome = 'dropped'")
    bring_back(root, audit, number)
    outcomes = {row["study_instance_uid"]: row["outcome"] for row in root.rows("SELECT * FROM work")}
    assert outcomes == {series[0].StudyInstanceUID: None, series[1].StudyInstanceUID: "dropped"}


def test_a_failure_of_a_series_that_came_again_meanwhile_stays_away(root: Root, audit: Audit) -> None:
    report = make.structured_report()
    take(root, [report])
    root.convert_due()
    assert len(root.rows("SELECT 1 FROM failures")) == 1
    number = trash(root, "study", report.StudyInstanceUID)
    take(root, [report])
    bring_back(root, audit, number)
    assert root.rows("SELECT 1 FROM failures") == []


def test_a_row_keeps_its_number_from_those_that_get_another_one(root: Root, audit: Audit) -> None:
    series = [make.ct_series(1, study_uid="1.2.3")[0] for _ in range(3)]
    take(root, series)
    root.convert_due()
    number = trash(root, "study", "1.2.3")
    take(root, series[:2])  # the volumes of these get two of the three numbers
    root.convert_due()
    bring_back(root, audit, number)
    assert differences(root) == []
    assert len(root.rows("SELECT 1 FROM v_volumes")) == 3 + 2


@pytest.mark.sample(3, 3)
@pytest.mark.parametrize("seed", range(60))
def test_whatever_happens_between_deletions_and_undos_nothing_is_lost_and_no_number_is_given_twice(
    root: Root, audit: Audit, seed: int
) -> None:
    root.index.ahead = root.ingest.applier
    random = Random(seed)
    study = "1.2.3" if seed % 2 else None
    series = [make.ct_series(slices, study_uid=study) for slices in (1, 2, 3)]
    everything_sent = [one for of_series in series for one in of_series]
    sent = {}
    for step in range(14):
        root.clock.move(1)
        what = random.choice(["send", "other", "convert", "delete", "delete", "undo"]) if step else "all"
        there = root.rows("SELECT study_instance_uid, series_instance_uid, sop_instance_uid FROM v_images")
        if what == "all":
            sent |= {one.SOPInstanceUID: {sha256_of(one)} for one in everything_sent}
            take(root, everything_sent)
        elif what in ("send", "other"):
            some = random.sample(everything_sent, 2)
            some = [make.corrected(one) for one in some] if what == "other" else some
            for one in some:
                sent[one.SOPInstanceUID].add(sha256_of(one))
            take(root, some)
        elif what == "convert":
            root.convert_due()
        elif what == "delete" and there:
            level, column = random.choice(list(zip(("study", "series", "instance"), there[0], strict=True)))
            trash(root, level, random.choice(there)[column])
        elif what == "undo" and in_trash(root):
            bring_back(root, audit, random.choice(in_trash(root))["number"])
        assert not owed(root), what
    while in_trash(root):
        bring_back(root, audit, random.choice(in_trash(root))["number"])
    root.convert_due()
    kept = {(uid, sha256) for uid, (sha256, _) in images(root).items()}
    kept |= {(row["sop_instance_uid"], row["sha256"]) for row in root.rows("SELECT * FROM v_conflicts") if row["path"]}
    assert kept == {(uid, sha256) for uid, digests in sent.items() for sha256 in digests}
    numbers = numbers_given(root)
    assert len(numbers) == len(set(numbers)), "no revision is told twice"
    assert {row["state"] for row in root.rows("SELECT state FROM v_series")} == {"converted"}
    named = {row["path"] for row in root.rows("SELECT path FROM v_images UNION SELECT path FROM v_conflicts")}
    assert {str(root.folder / name) for name in everything(root) if not name.startswith("volumes/")} == named - {None}
    assert differences(root) == []


def differences(root: Root) -> list[Finding]:
    """What fsck finds, but copies in quarantine of what has come again."""
    with root.index.reading() as index:
        found = list(examine(root.folder, index, digests=True, serving=False))
    return [one for one in found if one.kind != "loser-unknown"]


def sha256_of(ds: FileDataset) -> str:
    return hashlib.sha256(data_set_bytes(ds)).hexdigest()
