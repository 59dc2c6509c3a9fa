"""Where the repositories of an index run: writes share the writer's commits, reads go beside it."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from node.errors import OutOfResources, UsageError
from node.extensions.peers.asking import QuestionRepository
from node.index.looking import looking, the_named
from node.index.reading import reading
from node.index.rows.place import IndexUnusable
from node.index.rows.records import Level
from node.index.rows.repositories import set_about
from node.index.rules.work.messages import replay_jobs
from tests import make
from tests.integration.conftest import Root
from tests.made_once import IN_POSTGRESQL
from tests.rows import read_rows, write_rows
from tests.several_writers import received
from tests.waiting import until

pytestmark = pytest.mark.postgresql


@contextmanager
def held_writer(root: Root, pool: ThreadPoolExecutor) -> Iterator[None]:
    """Keep the writer in a piece of work, and so everything that is queued behind it."""
    entered, leave = threading.Event(), threading.Event()

    def hold(connection: Connection) -> None:
        entered.set()
        leave.wait(60)

    holding = pool.submit(root.index._writer.run, hold)
    assert entered.wait(60)
    try:
        yield
    finally:
        leave.set()
        holding.result()


def disk_error(connection: Connection) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR
    raise OperationalError("", {}, error)


def test_reads_do_not_wait_for_the_writer(root: Root) -> None:
    root.take(ds := make.ct_series(1)[0])
    now = root.clock()
    with ThreadPoolExecutor() as pool, held_writer(root, pool):
        assert root.index.deletions.unfinished() == []
        assert root.index.conversions.superseded_before(now) == []
        assert root.index.conversions.live_folders() == set()
        assert root.index.instances.unknown_keys(["objects/none.dcm"]) == ["objects/none.dcm"]
        assert root.index.instances.loser_keys() == set()
        assert len(root.index.instances.files("objects/00000000")) == 1
        assert len(root.index.repository(QuestionRepository).unasked({"MODALITY": "ct"}, ["ct"], now)[0]) == 1
        assert root.index.about.get("closed") == "no"
        assert root.index.deletions.plan("study", str(ds.StudyInstanceUID)).instances == 1


def test_a_read_sees_what_was_written_before_it(root: Root) -> None:
    for number in range(20):
        root.index.about.set("number", str(number))
        assert root.index.about.get("number") == str(number)


def test_a_write_that_fails_undoes_nothing_of_others(root: Root) -> None:
    def fail(connection: Connection) -> None:
        raise ValueError("mine alone")

    with ThreadPoolExecutor() as pool, held_writer(root, pool):
        failing: Future[None] = pool.submit(root.index._writer.run, fail)
        writing = pool.submit(root.index.about.set, "kept", "yes")
    with pytest.raises(ValueError, match="mine alone"):
        failing.result()
    writing.result()
    assert root.index.about.get("kept") == "yes"


def test_one_statement_is_about_any_number_of_rows(root: Root) -> None:
    """SQLite allows 32766 parameters, PostgreSQL 65535."""
    root.take(make.ct_series(1, PatientID="")[0])  # the first conflict
    root.index.conflicts.decide(range(70_000), "kept", "someone", root.clock())
    assert [row["decision"] for row in root.rows("SELECT decision FROM v_conflicts")] == ["kept"]
    messages = [str(number) for number in range(70_000)]
    root.index._writer.run(lambda connection: replay_jobs(connection, "hook", messages))


def test_a_write_that_fails_alone_undoes_what_it_wrote(root: Root) -> None:
    def fail(connection: Connection) -> None:
        set_about(connection, "kept", "no")
        raise ValueError("after a row")

    with pytest.raises(ValueError, match="after a row"):
        root.index._writer.run(fail)
    assert root.index.about.get("kept") is None
    root.index.about.set("kept", "yes")
    assert root.index.about.get("kept") == "yes"


def test_each_series_of_a_batch_grows_by_its_own_instances(root: Root) -> None:
    series = [0, 1, 0, 2, 0, 1]
    batch = [received(0, number, series=of) for number, of in enumerate(series)]
    root.index.instances.add(batch[:3])
    root.index.instances.add([*batch[2:], batch[0]])
    rows = read_rows(root.folder, "SELECT series_instance_uid, receptions, state FROM series ORDER BY 1")
    assert [(row["series_instance_uid"][-1], row["receptions"], row["state"]) for row in rows] == [
        ("0", 3, "receiving"),
        ("1", 2, "receiving"),
        ("2", 1, "receiving"),
    ]
    with root.index.reading() as index:
        assert index.series.modalities() == ["CT"]


def test_a_read_of_a_damaged_index_says_so(root: Root) -> None:
    for damage in ("DROP VIEW v_deletions", "DROP TABLE trash", "DROP TABLE tombstones"):
        write_rows(root.folder, damage)
    with pytest.raises(IndexUnusable, match=r"no such table: tombstones|UndefinedTable"):
        root.index.deletions.unfinished()


def test_a_reader_of_an_index_with_another_schema_says_what_to_do(root: Root) -> None:
    place = root.index.place
    write_rows(root.folder, "DROP VIEW v_studies")
    with pytest.raises(IndexUnusable, match="the views are missing: `voxelnode db upgrade`"), looking(place) as index:
        index.studies.all()
    write_rows(root.folder, "UPDATE alembic_version SET version_num = 'r9999' WHERE version_num = 'r0001'")
    of = (place.parent, None) if isinstance(place, Path) else (place.root, place.url)
    for opened in (looking(place), reading(*of)):
        with pytest.raises(IndexUnusable, match=r"schema is r9999, .* install the newer one"), opened:
            pytest.fail("a newer index was opened")


@pytest.mark.slow
def test_an_index_counts_as_closed_only_after_its_last_commit(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.index.rows.writer.MAX_BATCH", 1)
    with ThreadPoolExecutor() as pool:
        with held_writer(root, pool):
            queued = root.index._writer._queue.qsize
            failing: Future[None] = pool.submit(root.index._writer.run, disk_error)
            until(lambda: queued() == 1, 60, "the write that fails")
            closing = pool.submit(root.index.close)
            until(lambda: queued() == 3, 60, "the close")  # what it commits last, and the end
            with pytest.raises(OutOfResources, match="the index is closed"):
                root.index._writer.run(disk_error)
        closing.result()
        assert failing.exception() is not None
    [closed] = root.rows("SELECT value FROM about WHERE key = 'closed'")
    assert closed["value"] == ("yes" if IN_POSTGRESQL else "no"), "the server looks after its disk"


@pytest.mark.sqlite("the server looks after its disk")
def test_an_index_whose_disk_failed_does_not_count_as_closed(root: Root) -> None:
    with pytest.raises(OutOfResources):
        root.index._writer.run(disk_error)
    root.index.close()
    assert root.rows("SELECT value FROM about WHERE key = 'closed'") == [{"value": "no"}]


def test_closing_an_index_again_leaves_what_another_one_wrote(open_root: Callable[[], Root]) -> None:
    first, second = open_root(), open_root()  # which closes the first
    first.index.close()
    assert second.index.about.get("closed") == "no"


def test_what_a_person_names_is_one_thing_or_is_asked_for(root: Root) -> None:
    [one] = make.ct_series(1, PatientID="P-1", AccessionNumber="A-1")
    others = [make.ct_series(1, PatientID="P-2", AccessionNumber=number)[0] for number in ("A-2", "P-1")]
    root.take_all([one, *others])
    study, series, instance = str(one.StudyInstanceUID), str(one.SeriesInstanceUID), str(one.SOPInstanceUID)
    levels = get_args(Level)

    def meant(text: str, *of: Level) -> str:
        with root.index.reading() as index:
            return the_named(index, text, *of or levels).uid

    assert [meant(uid) for uid in (study, series, instance)] == [study, series, instance]
    assert meant("A-1") == meant(f"..{study[-12:]}") == study
    assert meant(f"..{series[-12:]}", "series") == series
    number = root.rows("SELECT patient FROM v_studies WHERE accession_number = 'A-1'")[0]["patient"]
    assert meant(f"#{number}", "study") == study
    for text, why in (
        ("P-1", "names several: .*"),  # one's Patient ID is the Accession Number of another
        ("P-2", f"names several: .*{others[0].StudyInstanceUID}"),
        (study[-1], "no study or series or instance here"),
        ("", "no study or series or instance here"),
    ):
        with pytest.raises(UsageError, match=why):
            meant(text)
    with pytest.raises(UsageError, match="is a study: give a series"):
        meant("A-1", "series")
