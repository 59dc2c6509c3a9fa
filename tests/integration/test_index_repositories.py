"""Where the repositories of an index run: writes share the writer's commits, reads go beside it."""

import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from pydicom import Dataset
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from node.dicom.matching import Options, read_query
from node.errors import OutOfResources, UsageError
from node.extensions.peers.asking import QuestionRepository
from node.extensions.results.listed import JobViews
from node.index.look.study_search import StudyFilter
from node.index.look.views import ReadIndex
from node.index.looking import looking, the_named
from node.index.reading import other_host_of, reading
from node.index.rows.place import IndexUnusable
from node.index.rows.records import Level
from node.index.rows.repositories import set_about
from node.index.rows.view_rows import Queries, Row, queries_of_file
from node.index.rules.work import jobs
from tests import make
from tests.integration.conftest import Root
from tests.made_once import IN_POSTGRESQL
from tests.rows import executed, read_rows, write_rows
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


@pytest.mark.skipif(IN_POSTGRESQL, reason="about SQLite: its plan of a query")
def test_one_study_and_one_job_are_found_without_reading_all_rows(root: Root) -> None:
    with explained(root) as (queries, steps):
        assert ReadIndex(queries).studies.stored("1.2.3") is None
        assert JobViews(queries).newest(1, job_id="1") == []
    assert len(steps) > 4
    assert [step for step in steps if step.startswith("SCAN")] == ["SCAN w"]  # of what the limit has left


@pytest.mark.skipif(IN_POSTGRESQL, reason="about SQLite: its plan of a query")
def test_series_are_listed_and_counted_without_reading_a_table(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[dict[str, Any]] = [
        *({}, {"study": "1.2.3"}, {"patient": "P1"}, {"modality": "CT"}, {"states": ["incomplete", "refused"]}),
        *({"states": [state]} for state in ("converted", "refused", "verified", "incomplete")),
        {"patient": "P1", "modality": "CT", "states": ["converted"]},
    ]
    of_index = "SCAN se USING COVERING INDEX ix_series_listed"
    for wanted in listed:
        with explained(root) as (queries, steps):
            ReadIndex(queries).series.newest(100, **wanted)
        scans = [step for step in steps if step.startswith("SCAN") and step not in ("SCAN k", "SCAN few")]
        is_of_few = {"study", "patient", "modality"} & wanted.keys() or wanted.get("states") == ["refused"]
        assert scans == ([] if is_of_few else [of_index]), (wanted, steps)
    monkeypatch.setattr("node.index.look.series.FEW_SERIES", 0)  # so that each modality is a common one
    with explained(root) as (queries, steps):
        ReadIndex(queries).series.newest(100, modality="CT")
    assert of_index in steps
    with explained(root) as (queries, steps):
        ReadIndex(queries).series.last_received_at()
        ReadIndex(queries).series.next_due_at()
        ReadIndex(queries).series.count_doubted()
        ReadIndex(queries).instances.totals()
        ReadIndex(queries).volumes.count_current()
    assert [step for step in steps if step.startswith("SCAN") and " INDEX " not in step] == ["SCAN v"], steps
    assert not any(step.startswith("SCAN series") for step in steps), steps
    assert not any("SEARCH st" in step for step in steps), steps


@pytest.mark.skipif(IN_POSTGRESQL, reason="about SQLite: its plan of a query")
@pytest.mark.parametrize("with_senders", [False, True])
def test_retention_reads_studies_from_the_oldest_on_and_sorts_none(
    root: Root, monkeypatch: pytest.MonkeyPatch, with_senders: bool
) -> None:
    monkeypatch.setattr("node.index.look.studies.CHUNK_STUDIES", 1)
    for _ in range(2):
        root.take(make.ct_series(1)[0])
    with explained(root) as (queries, steps):
        assert len(list(ReadIndex(queries).studies.by_age(with_senders=with_senders))) == 2
    assert "SCAN se USING INDEX ix_series_listed" in steps
    assert steps.count("SEARCH se USING INDEX ix_series_listed (last_received_at>?)") == 2
    assert not any(step.endswith("FOR ORDER BY") for step in steps), steps


@pytest.mark.skipif(IN_POSTGRESQL, reason="about SQLite: its plan of a query")
def test_what_hooks_and_routes_are_owed_is_read_from_what_waits_and_not_from_the_studies(root: Root) -> None:
    root.take(make.ct_series(1)[0])
    with explained(root) as (queries, steps):
        assert ReadIndex(queries).studies.owed() == set()
        assert not ReadIndex(queries).studies.has_message("1.2")
    assert {step.partition(" USING")[0] for step in steps if step.startswith("SCAN")} <= {"SCAN h", "SCAN o"}, steps


@pytest.mark.skipif(IN_POSTGRESQL, reason="about SQLite: its plan of a query")
@pytest.mark.parametrize("wanted", [{"modality": "CT"}, {"states": ["converted"]}])
def test_a_page_of_series_is_read_in_its_order_if_many_match(
    root: Root, wanted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.index.look.series.FEW_SERIES", 0)
    steps = steps_of(root, lambda index: index.series.page(None, 100, **wanted))
    assert not any("ORDER BY" in step for step in steps), steps


@pytest.mark.skipif(IN_POSTGRESQL, reason="about SQLite: its plan of a query")
def test_the_badge_of_problems_reads_the_series_with_problems_alone(root: Root) -> None:
    steps = steps_of(root, lambda index: (index.problems.count(), index.problems.count_since(0)))
    assert sum("ix_series_doubted" in step for step in steps) == 2, steps
    assert not any("ix_series_listed" in step for step in steps), steps


@pytest.mark.skipif(IN_POSTGRESQL, reason="about SQLite: its plan of a query")
def test_a_description_is_compared_with_those_that_there_are_and_not_with_each_series(root: Root) -> None:
    wanted = StudyFilter(description="qqqq")
    steps = steps_of(
        root, lambda index: (index.studies.matching(wanted).page(), index.studies.matching(wanted).count())
    )
    assert {"SCAN known_series_description", "SCAN known_study_description"} <= set(steps)
    assert not any(step.startswith(("SCAN series", "SCAN studies")) for step in steps), steps


@pytest.mark.skipif(IN_POSTGRESQL, reason="about SQLite: its plan of a query")
@pytest.mark.parametrize("level", ["STUDY", "SERIES"])
@pytest.mark.parametrize(
    ("key", "value"), [("PatientName", "*chmi*"), ("PatientID", "?123*"), ("AccessionNumber", "*A77*")]
)
def test_a_part_of_a_text_is_looked_up_not_compared_with_all_rows(root: Root, level: str, key: str, value: str) -> None:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level
    setattr(identifier, key, value)
    query = read_query(identifier, options=Options(relational=True))
    steps = steps_of(root, lambda _: list(root.index.find(query)))
    assert any("study_grams" in step for step in steps), steps
    assert not any(step.startswith(("SCAN patients", "SCAN studies", "SCAN series")) for step in steps), steps


def steps_of(root: Root, read: Callable[[ReadIndex], object]) -> list[str]:
    """Return the steps of the plans of what is read."""
    with executed() as ran, root.index.reading() as index:
        read(index)
    queries = [(sql, values) for sql, values in ran if sql.lstrip().startswith(("SELECT", "WITH"))]
    assert queries
    with closing(sqlite3.connect(root.index.place)) as connection:
        return [row[3] for sql, values in queries for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)]


@contextmanager
def explained(root: Root) -> Iterator[tuple[Queries, list[str]]]:
    """Run queries on the index, and note the steps of their plans."""
    steps: list[str] = []
    with closing(sqlite3.connect(root.index.place)) as connection:
        queries = queries_of_file(connection)

        def run(query: str, values: Mapping[str, Any]) -> list[Row]:
            steps.extend(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}", values))
            return queries.rows(query, values)

        yield replace(queries, rows=run), steps


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
    root.index._writer.run(lambda connection: jobs.replay(connection, "hook", messages))


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
    write_rows(root.folder, "UPDATE alembic_version SET version_num = '9999' WHERE version_num = '0001'")
    of = (place.parent, None) if isinstance(place, Path) else (place.root, place.url)
    for opened in (looking(place), reading(*of)):
        with pytest.raises(IndexUnusable, match=r"schema is 9999, .* install the newer one"), opened:
            pytest.fail("a newer index was opened")


def test_without_a_name_of_its_own_a_host_asks_no_index_for_others(tmp_path: Path) -> None:
    assert other_host_of(tmp_path / "no root", None, "")("objects/00000000/one.dcm") is None


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
