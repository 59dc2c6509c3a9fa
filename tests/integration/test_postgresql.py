"""The index in PostgreSQL: the same schema and answers as in SQLite, one node at a time, nothing lost."""

import datetime as dt
import json
import os
import random
import shutil
import socket
import sqlite3
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from string import ascii_letters
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
from pydicom import Dataset
from sqlalchemy import Connection, Engine, event, inspect, make_url, select, text
from sqlalchemy.exc import DBAPIError, OperationalError

from node.api import ImageRow, Index, OutOfResources, PersonRepository, Settings
from node.control.care import rebuild_index
from node.dicom.matching import Options, read_query
from node.extensions.postgresql import copying
from node.extensions.postgresql.copying import copy_index
from node.extensions.projects.export import KEPT_TABLES, export
from node.extensions.projects.rows import ProjectRepository
from node.extensions.worklist.performed_steps import ListedSeries, PerformedStep, PerformedStepRepository
from node.index.look.finder import QueryRefused, QueryStopped
from node.index.look.study_search import StudyFilter
from node.index.look.views import ReadIndex
from node.index.reading import checked, reading
from node.index.rows import writer
from node.index.rows.about_keys import REVISION
from node.index.rows.backend import IndexUnusable, ServerPlace, backend_of
from node.index.rows.extension_tables import every_table
from node.index.rows.grams import NAME
from node.index.rows.place import FILE_NAME, check, open_engine, upgrade
from node.index.rows.records import AssociationEnd, Indexed, Outcome, Received
from node.index.rows.repositories import set_about
from node.index.rows.sql import listed_in
from node.index.rules.custody import deletions
from node.index.rules.intake import received as intake
from node.index.rules.intake.instances import NotIndexable
from node.index.rules.people import persons
from node.index.rules.people.accounts import Content
from node.index.rules.series import association_ends, verdicts
from node.runtime.metrics import Metrics
from node.settings.core import IndexSettings, JournalSettings, Storage
from node.settings.section import Convert
from node.writers.options import write_options
from tests import make, several_writers
from tests.acceptance.test_cluster_deployment import CHART
from tests.helm import template
from tests.ingest import settings_of
from tests.integration.conftest import Root, doctor_finds
from tests.made_once import dump
from tests.postgresql import Server, programs, start
from tests.rows import view_rows
from tests.several_writers import INSTANCES, SERIES, received
from tests.sql_words import CONDITIONS, ROWS, C, T
from tests.waiting import until

pytest.importorskip("psycopg", reason="psycopg is not installed")

import psycopg

from node.extensions.postgresql import engine as postgresql
from node.extensions.postgresql import servers as postgresql_servers
from node.extensions.postgresql.servers import servers_of
from node.extensions.postgresql.several import CommittedNumbers

pytestmark = pytest.mark.sqlite("starts from SQLite")

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
One, Other = TypeVar("One"), TypeVar("Other")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with start() as server:
        yield server


@pytest.fixture(scope="module")
def place(server: Server, tmp_path_factory: pytest.TempPathFactory) -> ServerPlace:
    """A database with the newest schema."""
    place = ServerPlace(server.create("migrated"), tmp_path_factory.mktemp("root"))
    assert upgrade(place) == (None, REVISION)
    return place


def schema(place: Path | ServerPlace) -> dict[str, Any]:
    engine = open_engine(place, read_only=True)
    with engine.connect() as connection:
        of = inspect(connection)
        tables = {
            table: (
                [(column["name"], column["nullable"]) for column in of.get_columns(table)],
                of.get_pk_constraint(table)["constrained_columns"],
                {index["name"] for index in of.get_indexes(table) if not index["unique"]},
                sorted(unique["column_names"] for unique in of.get_unique_constraints(table)),
                sorted((key["constrained_columns"], key["referred_table"]) for key in of.get_foreign_keys(table)),
            )
            for table in of.get_table_names()
            if not table.startswith(NAME)
        }
        views = {view: [column["name"] for column in of.get_columns(view)] for view in of.get_view_names()}
    engine.dispose()
    return {**tables, **views}


@pytest.mark.slow
def test_tables_and_views_are_those_of_sqlite(place: ServerPlace, tmp_path: Path) -> None:
    upgrade(tmp_path / FILE_NAME)
    assert schema(place) == schema(tmp_path / FILE_NAME)
    assert check(place) == []


@pytest.mark.slow
def test_a_construct_finds_what_it_finds_in_sqlite(server: Server, tmp_path: Path) -> None:
    engine = open_engine(ServerPlace(server.create("words"), tmp_path), alone=True)
    with engine.begin() as connection:
        T.create(connection)
        connection.execute(T.insert(), ROWS)
        found = [list(connection.scalars(select(C.id).where(each).order_by(C.id))) for each, _ in CONDITIONS]
    engine.dispose()
    assert found == [ids for _, ids in CONDITIONS]


@pytest.mark.slow
@pytest.mark.usefixtures("place")
def test_an_index_puts_null_where_orders_do(server: Server) -> None:
    """PostgreSQL would use no other one for an order."""
    query = """
        SELECT t.relname, i.relname, a.attname, a.attnotnull, x.indoption[n] & 2 <> 0
        FROM pg_index x JOIN pg_class t ON t.oid = x.indrelid JOIN pg_class i ON i.oid = x.indexrelid
        CROSS JOIN generate_series(0, x.indnkeyatts - 1) n
        JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = x.indkey[n]
        WHERE NOT x.indisunique AND t.relnamespace = 'public'::regnamespace
    """
    columns = server.run(query, "migrated")
    assert len(columns) > 50
    assert [column for column in columns if column[3] == column[4]] == []


@pytest.mark.slow
def test_a_query_never_compares_each_row_with_each_value_of_a_list(place: ServerPlace) -> None:
    """Peers may send long lists, also of values that have no index."""
    engine = open_engine(place, read_only=True)
    event.listen(engine, "before_cursor_execute", lambda *call: (f"EXPLAIN {call[2]}", call[3]), retval=True)
    query = select(ImageRow.id).where(listed_in(ImageRow.sop_class_uid, ["1.2", "1.3"]))
    with engine.connect() as connection:
        plan = [str(line) for line in connection.scalars(query)]
    engine.dispose()
    assert plan
    assert not [line for line in plan if "ANY" in line]


@pytest.mark.slow
def test_the_newest_series_of_a_common_value_are_read_in_their_order(server: Server, place: ServerPlace) -> None:
    url = server.create("listed", "migrated")
    server.run("INSERT INTO patients (id, identity) VALUES (1, '1')", "listed")
    server.run("INSERT INTO studies (id, patient_id, study_instance_uid) VALUES (1, 1, '1')", "listed")
    server.run(
        "INSERT INTO series (study_id, series_instance_uid, modality, state, verdict, verdict_rule, last_received_at,"
        " receptions, revision, attempts, last_event) SELECT 1, '1.2.' || i, 'CT', 'converted', 'complete', 'headers',"
        " timestamp '2026-01-01' + i * interval '1 s', 1, 1, 0, 0 FROM generate_series(1, 20000) AS i",
        "listed",
    )
    server.run("ANALYZE", "listed")
    plans: list[str] = []

    def explain(connection: Any, cursor: Any, query: str, values: Any, *rest: Any) -> None:
        if "v_series" in query:
            cursor.execute(f"EXPLAIN {query}", values)
            plans.append(" ".join(line for (line,) in cursor.fetchall()))

    event.listen(Engine, "before_cursor_execute", explain)
    try:
        with reading(place.root, url) as index:
            for wanted in ({"states": ["converted"]}, {"modality": "CT"}, {"modality": "CT", "states": ["converted"]}):
                assert len(index.series.newest(100, **wanted)) == 100
    finally:
        event.remove(Engine, "before_cursor_execute", explain)
    assert len(plans) == 3
    assert not [plan for plan in plans if "Backward using ix_series_listed" not in plan], plans


@pytest.mark.slow
@pytest.mark.peer
def test_converters_are_scaled_by_how_long_the_oldest_series_has_been_due(server: Server, place: ServerPlace) -> None:
    autoscaling = ({"enabled": True, "by": by} for by in ("keda", "hpa"))
    rendered = template(CHART, "imaging", [{"convert": {"autoscaling": one}} for one in autoscaling])
    by_query, by_metric = ({one["kind"]: one.get("spec") for one in manifests} for manifests in rendered.manifests)
    [trigger] = by_query["ScaledObject"]["triggers"]
    [metric] = by_metric["HorizontalPodAutoscaler"]["metrics"]
    assert metric["external"]["metric"]["name"] == "voxelnode_oldest_due_seconds"
    assert metric["external"]["target"]["averageValue"] == trigger["metadata"]["targetQueryValue"] == "60"

    url, query = server.create("scaled", "migrated"), trigger["metadata"]["query"]
    assert server.run(query, "scaled") == [(0,)]
    server.run("INSERT INTO patients (id, identity) VALUES (1, '1')", "scaled")
    server.run("INSERT INTO studies (id, patient_id, study_instance_uid) VALUES (1, 1, '1')", "scaled")
    for uid, state, seconds in (("1", "receiving", 90), ("2", "receiving", -9), ("3", "converting", 900)):
        server.run(
            "INSERT INTO series (study_id, series_instance_uid, state, receptions, revision, attempts, last_event,"
            f" last_received_at, due_at) SELECT 1, '{uid}', '{state}', 1, 0, 0, 0, moment, moment"
            f" FROM (SELECT timezone('utc', clock_timestamp()) - interval '{seconds} s') AS t (moment)",
            "scaled",
        )
    [(age,)] = server.run(query, "scaled")
    with reading(place.root, url) as index:
        now = index.hosts.now()
        oldest = index.series.oldest_due(now)
    assert 90 <= age <= (now - oldest).total_seconds() + 1


# One node at a time


@pytest.mark.slow
@pytest.mark.usefixtures("place")
def test_one_node_writes_and_survives_the_loss_of_its_connections(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.create("one", "migrated")

    def require_refusal() -> None:
        with monkeypatch.context() as impatient:
            impatient.setitem(postgresql_servers._SESSION, "lock_timeout", "200ms")
            with pytest.raises(IndexUnusable, match="in use by another process"):
                Index(tmp_path, Metrics(), url=url)

    with closing(Index(tmp_path, Metrics(), url=url)) as index:
        require_refusal()
        index.about.set("scrub", "1")
        server.run("SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE application_name = 'voxelnode'")
        with pytest.raises(OutOfResources):
            index.about.set("scrub", "2")
        assert index.about.get("scrub") == "1"
        index.about.set("scrub", "3")
        with index.reading() as view:
            assert (view.scrub, view.root) == ("3", str(tmp_path))
        require_refusal()  # the new connection has the lock again


@pytest.mark.slow
@pytest.mark.usefixtures("place")
def test_a_commit_that_no_standby_has_is_none_and_the_administrator_is_reported(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.create("unfollowed", "migrated")
    server.run("ALTER DATABASE unfollowed SET client_min_messages = 'error'")
    monkeypatch.setattr(writer, "STALL_SECONDS", 0.2)
    monkeypatch.setattr(writer, "STEP_SECONDS", 0.1)
    settings = Settings(storage=Storage(root=tmp_path), index=IndexSettings(url=url))
    waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND datname = current_database()"
    with ExitStack() as opened:
        index = opened.enter_context(closing(Index(tmp_path, Metrics(), url=url)))
        threads = opened.enter_context(ThreadPoolExecutor())
        opened.callback(server.run, "SELECT pg_reload_conf()")
        opened.callback(server.run, "ALTER SYSTEM RESET synchronous_standby_names")
        server.run("ALTER SYSTEM SET synchronous_standby_names = 'standby1'")
        server.run("SELECT pg_reload_conf()")
        commits: list[Future[None]] = []

        def is_waiting() -> bool:
            if not commits or commits[-1].done():  # the server takes a moment to know its new settings
                commits.append(threads.submit(index.about.set, "scrub", "1"))
            return bool(server.run(waiting, "unfollowed"))

        until(is_waiting, 30, "a commit that waits")
        reason = "for a standby: synchronous_standby_names is 'standby1', and no standby follows"
        assert postgresql.server(index.place).why_waiting() == f"keeps commits waiting {reason}"
        assert ("broken", f"commits wait {reason}") in doctor_finds(settings, "index")
        with monkeypatch.context() as impatient:
            impatient.setitem(postgresql_servers._SESSION, "lock_timeout", "200ms")
            with pytest.raises(IndexUnusable, match="whose commit waits for a synchronous standby"):
                Index(tmp_path, Metrics(), url=url)
        [(session,)] = server.run(waiting, "unfollowed")
        server.run(f"SELECT pg_cancel_backend({session})")  # the server calls that a success
        with pytest.raises(OutOfResources):
            commits[-1].result(60)
        threads.submit(index.close).result(60)  # its last commit waits for nobody either
    with closing(Index(tmp_path, Metrics(), url=url)) as index:
        index.about.set("scrub", "2")


@contextmanager
def silent(server: Server) -> Iterator[Path]:
    """Yield the folder of a server that greets whoever connects, and then answers nothing."""
    (folder := server.folder / "silent").mkdir()
    lines: list[socket.socket] = []

    def connected(listener: socket.socket) -> None:
        while True:
            line, _ = listener.accept()
            lines.extend((line, server_line := socket.socket(socket.AF_UNIX)))
            server_line.connect(str(server.folder / ".s.PGSQL.5432"))
            server_line.sendall(line.recv(65536))
            greeting = b""
            while not greeting.endswith(b"Z\0\0\0\5I"):
                greeting += server_line.recv(65536)
            line.sendall(greeting)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / ".s.PGSQL.5432"))
        listener.listen()
        threading.Thread(target=connected, args=[listener], daemon=True).start()
        yield folder
    for line in lines:
        line.close()


@contextmanager
def followed(server: Server, folder: Path) -> Iterator[None]:
    """Have commits wait for a standby, which follows."""
    folder.mkdir()
    receive = [programs_of_server() / "pg_receivewal", "--synchronous", "--no-loop"]
    follower = subprocess.Popen([*receive, "-D", folder, "-h", server.folder, "-U", "voxelnode"])
    try:
        until(lambda: bool(server.run("SELECT 1 FROM pg_stat_replication")), 30, "the standby")
        server.run("ALTER SYSTEM SET synchronous_standby_names = '*'")
        server.run("SELECT pg_reload_conf()")
        is_sync = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"
        until(lambda: bool(server.run(is_sync)), 30, "a standby that is waited for")
        yield
    finally:
        server.run("ALTER SYSTEM RESET synchronous_standby_names")
        server.run("SELECT pg_reload_conf()")
        follower.kill()
        follower.wait()


def programs_of_server() -> Path:
    found = programs()
    assert found is not None
    return found


@pytest.mark.slow
def test_a_host_that_starts_beside_another_waits_for_its_migration(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one takes longer than a lock is waited for."""
    monkeypatch.setitem(postgresql_servers._SESSION, "lock_timeout", "200ms")
    place = ServerPlace(server.create("empty"), tmp_path, "b")
    tried = threading.Event()
    lock_alone = postgresql_servers._lock_alone

    def noted(*arguments: Any) -> None:
        try:
            lock_alone(*arguments)
        finally:
            tried.set()

    monkeypatch.setattr(postgresql_servers, "_lock_alone", noted)
    other = open_engine(replace(place, host="a"), alone=True)
    with ThreadPoolExecutor() as threads:
        try:
            other.connect().close()
            tried.clear()
            second = threads.submit(upgrade, place)
            assert tried.wait(10)
            assert not second.done()
        finally:
            other.dispose()
        assert second.result(60) == (None, REVISION)


@pytest.mark.slow
@pytest.mark.usefixtures("place")
def test_of_several_servers_one_that_answers_nothing_hangs_nobody(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.create("beside", "migrated")
    monkeypatch.setattr(postgresql_servers, "_ANSWER_SECONDS", 1)
    with silent(server) as folder, ThreadPoolExecutor() as threads, followed(server, tmp_path / "follower"):
        place = ServerPlace(f"postgresql://voxelnode@/beside?host={folder},{server.folder}", tmp_path)
        try:
            assert threads.submit(postgresql.missing, place).result(30) is None
        finally:
            server.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'beside'")


@pytest.mark.long
@pytest.mark.usefixtures("place")
def test_of_several_servers_one_that_waits_for_no_standby_is_taken_for_a_former_primary(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.create("promoted", "migrated")
    (nowhere := tmp_path / "nowhere").mkdir()
    url = f"postgresql://voxelnode@/promoted?host={nowhere},{server.folder}&target_session_attrs=read-write"
    refused = f"{server.folder} takes commits and waits for no standby, although .* names several servers: stop it"
    with pytest.raises(IndexUnusable, match=refused):
        Index(tmp_path, Metrics(), url=url, host="a")
    with ExitStack() as opened:
        with followed(server, tmp_path / "follower"):
            index = opened.enter_context(closing(Index(tmp_path, Metrics(), url=url, host="a")))
            index.about.set("scrub", "1")
            with index.reading() as view:  # a session of a reader is read-only itself
                assert view.scrub == "1"

            class Ended(psycopg.Connection[Any]):
                """The server ends it before its first statement."""

                def execute(self, *arguments: Any, **keywords: Any) -> Any:
                    server.run(f"SELECT pg_terminate_backend({self.info.backend_pid}, 60000)")
                    return super().execute(*arguments, **keywords)

            with pytest.raises(psycopg.OperationalError, match="terminating connection"):
                servers_of(url).connect(Ended, options="")
        # As a former primary that comes back, and waits for nobody.
        server.run("SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = 'promoted'")
        for _ in range(2):
            with pytest.raises(OutOfResources):
                index.about.set("scrub", "2")
            with pytest.raises(DBAPIError), index.reading() as view:
                view.scrub  # noqa: B018
        with followed(server, tmp_path / "another"):
            index.about.set("scrub", "3")
            with index.reading() as view:
                assert view.scrub == "3"
            opened.close()
    with pytest.raises(IndexUnusable, match="2 of host and 3 of port: give each server one"):
        open_engine(ServerPlace("postgresql://u@a:1,b/x?port=1,2,3", tmp_path))


@pytest.mark.slow
def test_a_number_that_is_given_again_after_a_crash_is_waited_for(server: Server, place: ServerPlace) -> None:
    asked = {"user": "voxelnode", "host": str(server.folder), "dbname": "migrated"}
    engine = open_engine(place, read_only=True)
    settled = CommittedNumbers(engine)

    def insert(connection: psycopg.Connection[Any]) -> int:
        row = connection.execute(f"SELECT {postgresql.next_number('events')}".encode()).fetchone()
        return int(row[0])  # type: ignore[index]

    with psycopg.connect(**asked) as first:
        insert(first)
        first.commit()
        lost = insert(first)
        for _ in range(2):
            assert settled.watermarks()["events"] < lost
        insert(first)
        first.rollback()
        assert settled.watermarks()["events"] == lost + 1  # nothing will have them, but for a crash
    server.run(f"SELECT setval('events_id_seq', {lost - 1})", "migrated")  # as if its log had not been written
    server.run("SELECT pg_stat_reset_shared('bgwriter')")
    with psycopg.connect(**asked) as second:
        assert insert(second) == lost
        for _ in range(2):
            assert settled.watermarks()["events"] < lost
        second.commit()
        assert settled.watermarks()["events"] == lost
    engine.dispose()


@pytest.mark.slow
@pytest.mark.usefixtures("place")
def test_processes_that_add_the_same_instances_add_each_once(server: Server, tmp_path: Path) -> None:
    url = server.create("several", "migrated")
    outcomes = Counter[str]()
    with ExitStack() as started:
        writers = [started.enter_context(several_writers.begin(url, tmp_path, number)) for number in range(3)]
        for writer in writers:
            several_writers.go(writer)
        for writer in writers:
            outcomes += Counter(json.loads(writer.communicate()[0].splitlines()[-1]))  # behind what it logs
    assert outcomes == {"STORED": INSTANCES, "ALREADY_THERE": 2 * INSTANCES}
    with reading(tmp_path, url) as index:
        assert index.count_levels() == {"patients": 1, "studies": 3, "series": SERIES, "instances": INSTANCES}
    awaited = "(SELECT count(*) FROM awaited_senders WHERE series_id = series.id)"
    series = server.run(f"SELECT receptions, {awaited} FROM series", "several")
    assert series == [(INSTANCES // SERIES, 3)] * SERIES
    assert server.run("SELECT kind FROM conflicts", "several") == []
    assert server.run("SELECT deadlocks FROM pg_stat_database WHERE datname = 'several'") == [(0,)]


@pytest.fixture
def hosts(server: Server, place: ServerPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Index]]:
    """Two hosts on one index."""
    monkeypatch.setitem(postgresql_servers._SESSION, "lock_timeout", "60s")
    monkeypatch.setitem(postgresql_servers._WRITERS, "idle_in_transaction_session_timeout", "60s")
    url = server.create(tmp_path.name, "migrated")
    with ExitStack() as opened:
        yield [opened.enter_context(closing(Index(tmp_path, Metrics(), url=url, host=name))) for name in ("a", "b")]


def is_waiting(server: Server, host: Index) -> bool:
    """Whether a connection to an index waits for the lock of another one."""
    waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    return bool(server.run(waits, database_of(host)))


def database_of(host: Index) -> str:
    return make_url(str(host.place)).database or ""


def added_while(server: Server, hosts: list[Index], first: Received, second: Received) -> list[Indexed]:
    """Add an instance on one host, and another on the other host before the first one is committed."""
    written, waiting = threading.Event(), threading.Event()

    def add(connection: Connection) -> list[Indexed]:
        kept = intake.add_instances(connection, [first])
        written.set()
        assert waiting.wait(60)
        return kept

    with ThreadPoolExecutor() as pool:
        one = pool.submit(hosts[0]._writer.run, add)
        assert written.wait(60)
        other = pool.submit(hosts[1].instances.add, [second])
        until(lambda: is_waiting(server, hosts[0]), 60, "the second host")
        waiting.set()
        return [*one.result(), *other.result()]


@pytest.mark.slow
def test_two_hosts_add_one_instance_at_the_same_time(server: Server, hosts: list[Index]) -> None:
    first, second = received(1, 1), received(2, 1)
    assert [kept.outcome for kept in added_while(server, hosts, first, second)] == [
        Outcome.STORED,
        Outcome.ALREADY_THERE,
    ]
    third, fourth = (received(host, 1, sha256=str(host), policy="replace") for host in (1, 2))
    kept = added_while(server, hosts, third, fourth)
    assert [one.outcome for one in kept] == [Outcome.REPLACED] * 2
    assert [one.quarantine for one in kept] == [first.file.key, third.file.key]


@pytest.mark.slow
def test_two_hosts_add_a_series_to_two_studies_at_the_same_time(server: Server, hosts: list[Index]) -> None:
    kept = added_while(server, hosts, received(1, 1), received(2, 1 + SERIES, study=9))
    assert [one.outcome for one in kept] == [Outcome.STORED] * 2
    with hosts[0].reading() as view:
        assert [row["kind"] for row in view.conflicts.all(decided=False)] == ["series-in-two-studies"]


def meanwhile(
    monkeypatch: pytest.MonkeyPatch,
    server: Server,
    hosts: list[Index],
    step: tuple[Any, str],
    first: Callable[[], One],
    second: Callable[[], Other],
) -> tuple[One, Other]:
    """Run `second` while `first`, on the first host, calls a function of a module, before it is committed."""
    module, name = step
    real, reached, go_on = getattr(module, name), threading.Event(), threading.Event()

    def pause(*args: Any, **keywords: Any) -> Any:
        if not reached.is_set():
            reached.set()
            assert go_on.wait(60)
        return real(*args, **keywords)

    monkeypatch.setattr(module, name, pause)
    with ThreadPoolExecutor() as pool:
        one = pool.submit(first)
        assert reached.wait(60)
        other = pool.submit(second)
        until(lambda: other.done() or is_waiting(server, hosts[1]), 60, "the second host")
        go_on.set()
        return one.result(), other.result()


@pytest.mark.slow
def test_what_comes_while_its_series_is_deleted_is_deleted_with_its_file_or_stays(
    server: Server, hosts: list[Index], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If only its row went, the instance would be lost, and its file would stay on the disk."""
    first, second = received(1, 1), received(2, 1 + SERIES)
    hosts[0].instances.add([first])
    uids = first.attributes
    plan = hosts[0].deletions.plan("series", uids.series_instance_uid, uids.study_instance_uid)
    deletion, [kept] = meanwhile(
        monkeypatch, server, hosts, (deletions, "_delete_conflicts"),
        lambda: hosts[0].deletions.order(plan, "a test", NOW), lambda: hosts[1].instances.add([second]),
    )  # fmt: skip
    assert kept.outcome == Outcome.STORED
    with hosts[0].reading() as view:
        assert [file.key for file in view.files.of_instances()] == [second.file.key]
    assert deletion.paths == (first.file.key,)


class Changed(Exception):
    """A resource is not as its client has seen it."""


@pytest.mark.slow
def test_what_a_change_demands_is_still_so_when_it_is_made(
    server: Server, hosts: list[Index], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as If-Match, or that every destination has confirmed what a route deletes."""
    first, second = received(1, 1), received(2, 1 + SERIES)
    uids = first.attributes
    study, uid = uids.study_instance_uid, uids.series_instance_uid
    hosts[0].instances.add([first])
    server.run("UPDATE series SET state = 'converted', due_at = NULL", database_of(hosts[0]))
    demand = SimpleNamespace(has_been_checked=lambda: None)

    def require_converted(view: ReadIndex) -> None:
        [row] = view.series.with_uid(uid)
        if row["state"] != "converted":
            raise Changed
        demand.has_been_checked()

    terms, step = checked(require_converted), (demand, "has_been_checked")

    def reopen_too() -> None:
        with pytest.raises(Changed):
            hosts[1].series.reopen([(study, uid)], NOW, terms)

    reopened, _ = meanwhile(
        monkeypatch, server, hosts, step,
        lambda: hosts[0].series.reopen([(study, uid)], NOW, terms), reopen_too,
    )  # fmt: skip
    assert reopened == 1

    server.run("UPDATE series SET state = 'converted', due_at = NULL", database_of(hosts[0]))
    plan = hosts[0].deletions.plan("series", uid, study)
    deletion, [kept] = meanwhile(
        monkeypatch, server, hosts, step,
        lambda: hosts[0].deletions.order(plan, "a test", NOW, terms), lambda: hosts[1].instances.add([second]),
    )  # fmt: skip
    assert (deletion.paths, kept.outcome) == ((first.file.key,), Outcome.STORED)
    with hosts[0].reading() as view:
        assert [file.key for file in view.files.of_instances()] == [second.file.key]


@pytest.mark.slow
def test_a_sender_that_sends_while_the_association_of_another_breaks_is_waited_for(
    server: Server, hosts: list[Index], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = received(1, 1)
    hosts[0].instances.add([first])
    key = first.attributes.study_instance_uid, first.attributes.series_instance_uid
    end = AssociationEnd("a1", "HOST1", "aborted", NOW, {key: 1}, key, 60.0)
    meanwhile(
        monkeypatch, server, hosts, (association_ends, "after_abort"),
        lambda: hosts[0].instances.add([], ends=[end]),
        lambda: hosts[1].instances.add([received(2, 1 + SERIES)]),
    )  # fmt: skip
    with hosts[0].reading() as view:
        assert {row["calling_ae_title"] for row in view.series.waits(*key)} == {"HOST1", "HOST2"}


@pytest.mark.slow
def test_a_series_whose_last_instance_comes_while_its_step_ends_is_due_at_once(
    server: Server, hosts: list[Index], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, last = received(1, 1), received(2, 1 + SERIES)
    hosts[0].instances.add([first])
    one, other = first.attributes, last.attributes
    listed = ListedSeries(one.series_instance_uid, (one.sop_instance_uid, other.sop_instance_uid))
    step = PerformedStep("1.2.9", "IN PROGRESS", one.study_instance_uid, *[None] * 5, (), (), {})
    steps = hosts[0].repository(PerformedStepRepository)
    steps.create(step, "CT1", NOW)
    ended = replace(step, state="COMPLETED", series=(listed,))
    meanwhile(
        monkeypatch, server, hosts, (verdicts, "verdict_of"),
        lambda: steps.change(ended, NOW, NOW), lambda: hosts[1].instances.add([last]),
    )  # fmt: skip
    assert server.run("SELECT due_at = last_received_at FROM series", database_of(hosts[0])) == [(True,)]


@pytest.mark.slow
def test_a_study_that_comes_while_its_patient_is_merged_is_one_of_the_target(
    server: Server, hosts: list[Index], monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts[0].instances.add([received(1, 1)])
    server.run("INSERT INTO patients (id, identity) VALUES (1000, 'other')", database_of(hosts[0]))
    meanwhile(
        monkeypatch, server, hosts, (persons, "record_event"),
        lambda: hosts[0].repository(PersonRepository).merge(1, 1000, NOW),
        lambda: hosts[1].instances.add([received(2, 2, study=9)]),
    )  # fmt: skip
    assert server.run("SELECT patient_id FROM studies", database_of(hosts[0])) == [(1000,), (1000,)]


@pytest.mark.slow
def test_work_of_two_hosts_that_wait_for_each_other_is_done(hosts: list[Index]) -> None:
    barrier = threading.Barrier(2, timeout=60)
    attempts = []

    def work(mine: str, others: str) -> Callable[[Connection], None]:
        def set_both(connection: Connection) -> None:
            attempts.append(mine)
            set_about(connection, mine, mine)
            if len(attempts) <= 2:
                barrier.wait()
            set_about(connection, others, mine)

        return set_both

    with ThreadPoolExecutor() as pool:
        done = [
            pool.submit(host._writer.run, work(*names))
            for host, names in zip(hosts, (("a", "b"), ("b", "a")), strict=True)
        ]
    assert [one.result() for one in done] == [None, None]
    assert len(attempts) > 2


def test_a_database_on_which_queries_would_answer_otherwise_is_refused(server: Server, tmp_path: Path) -> None:
    server.run("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'")
    with pytest.raises(IndexUnusable, match="encoding of the database is LATIN1"):
        upgrade(ServerPlace(server.url("latin"), tmp_path))
    with pytest.raises(IndexUnusable, match="does not exist; create it"):
        upgrade(ServerPlace(server.url("missing"), tmp_path))


def test_a_query_in_postgresql_ends_when_nobody_waits_for_it(place: ServerPlace) -> None:
    engine = open_engine(place, read_only=True)
    with engine.connect() as connection:
        polled = threading.Event()

        def is_over() -> bool:
            polled.set()
            return True

        with pytest.raises(OperationalError), postgresql.bounded(connection, is_over):
            connection.execute(text("SELECT pg_sleep(60)"))
        assert polled.is_set()
    engine.dispose()


@pytest.mark.slow
def test_instances_are_numbered_in_the_order_of_their_arrival(hosts: list[Index]) -> None:
    """Routes and hooks follow their numbers."""
    came = [received(1, number) for number in (9, 3, 7, 1)]
    hosts[0].instances.add(came)
    with hosts[0].reading() as view:
        rows = view.series._rows("SELECT sop_instance_uid AS uid FROM images ORDER BY id")
    assert [row["uid"] for row in rows] == [one.attributes.sop_instance_uid for one in came]


@pytest.mark.slow
def test_rows_have_numbers_of_more_than_32_bits(server: Server, hosts: list[Index]) -> None:
    """An id is used up by each row, and by each attempt to insert one."""
    for table in ("patients", "studies", "series", "images", "conflicts", "events"):
        server.run(f"ALTER SEQUENCE {table}_id_seq RESTART {3 << 31}", database_of(hosts[0]))
    first, second = received(1, 1), received(1, 1, sha256="1")
    assert [kept.outcome for kept in hosts[0].instances.add([first, second])] == [Outcome.STORED, Outcome.OTHER_BYTES]
    everything = Dataset()
    everything.QueryRetrieveLevel = "IMAGE"
    everything.NumberOfPatientRelatedInstances = None
    assert len(list(hosts[0].find(read_query(everything, options=Options(relational=True))))) == 1
    with hosts[0].reading() as view:
        [conflict] = view.conflicts.all(decided=False)
        [study] = view.studies.listed(StudyFilter(words="SHARED"))
    assert (conflict["id"], study.cursor.id) == (3 << 31, 3 << 31)
    hosts[0].conflicts.decide([conflict["id"]], "kept", "someone", NOW)
    plan = hosts[0].deletions.plan("study", study.study_instance_uid)
    assert len(hosts[0].deletions.order(plan, "a test", NOW).paths) == 2
    with hosts[0].reading() as view:
        assert view.conflicts.all(decided=True) == []


@pytest.mark.slow
def test_a_query_that_is_not_wanted_any_more_or_takes_too_long_ends(
    server: Server, hosts: list[Index], monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = Dataset()
    everything.QueryRetrieveLevel = "STUDY"
    query = read_query(everything)
    assert list(hosts[0].find(query)) == []
    with psycopg.connect(host=str(server.folder), user="voxelnode", dbname=database_of(hosts[0])) as stranger:
        stranger.execute("LOCK TABLE studies IN ACCESS EXCLUSIVE MODE")
        asked_often = iter([False])
        with pytest.raises(QueryStopped):
            list(hosts[0].find(query, stop=lambda: next(asked_often, True)))
        monkeypatch.setattr("node.index.look.finder.MAX_RUN_SECONDS", 0.1)
        with pytest.raises(QueryRefused, match="not found within"):
            list(hosts[0].find(query))
    monkeypatch.undo()
    assert list(hosts[0].find(query)) == []  # on the same connection


@pytest.mark.slow
def test_a_nul_is_replaced_and_what_no_index_takes_refused(server: Server, place: ServerPlace, tmp_path: Path) -> None:
    with closing(Index(tmp_path, Metrics(), url=server.create("nul", "migrated"))) as index:
        assert index.software()[0] == "PostgreSQL"
        index.about.set("a", "b\0c")
        assert index.about.get("a") == "b\ufffdc"
        assert index.instances.held(["1.2\0", "1.3"]) == []
        one = received(1, 1)
        one.attributes.image["sop_instance_uid"] = "1.2\0"  # type: ignore[index]
        assert [kept.outcome for kept in index.instances.add([one])] == [Outcome.STORED]
        with pytest.raises(NotIndexable):
            index.instances.add([replace(one, file=replace(one.file, key="objects/0/other"))])
        other = received(1, 2, study=7)
        name = "".join(
            random.Random(1).choices(ascii_letters, k=5000)
        )  # longer than an entry of an index of PostgreSQL
        patient = {**other.attributes.patient, "patient_id": "long", "patient_name": name}
        with pytest.raises(NotIndexable, match="ProgramLimitExceeded"):
            index.instances.add([replace(other, attributes=replace(other.attributes, patient=patient))])
    assert json.loads(postgresql.to_json(["\0", "\\u0000", "\\\0"])) == ["\ufffd", "\\u0000", "\\\ufffd"]


# Copies


@pytest.fixture
def filled(root: Root) -> Path:
    """The folder of a root that is closed, with rows of most kinds."""
    first, second = make.ct_series(2), make.ct_series(1, PatientID="OTHER")
    root.take_all([*first, *second])
    changed = second[0]
    changed.PatientName = "Other^Bytes"
    root.take(changed)
    assert root.convert(root.claim(), options=write_options(Convert()))
    root.index.repository(PersonRepository).merge(1, 2, root.clock())
    root.index.close()
    with closing(sqlite3.connect(root.folder / FILE_NAME)) as connection, connection:
        connection.execute("INSERT INTO sqlite_sequence VALUES ('projects', 7)")  # of projects that were deleted
    return root.folder


def last_project(place: Path | ServerPlace) -> int:
    engine = open_engine(place, read_only=True)
    with engine.connect() as connection:
        number = backend_of(connection).last_numbers(connection)["projects"]
    engine.dispose()
    return number


def rows_of(place: Path | ServerPlace) -> dict[str, list[tuple[Any, ...]]]:
    engine = open_engine(place, read_only=True)
    with engine.connect() as connection:
        rows = {
            table.name: [tuple(row) for row in connection.execute(select(table).order_by(*table.primary_key))]
            for table in every_table().values()
        }
    engine.dispose()
    rows["about"] = [row for row in rows["about"] if row[0] not in ("root", "moved")]
    return rows


@pytest.mark.slow
def test_an_index_moves_to_postgresql_and_back(filled: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.index.rows.copying.CHUNK_ROWS", 2)
    url, file = server.create("moved"), filled / FILE_NAME
    there = ServerPlace(url, filled)
    of_file = settings_of(filled)
    before = rows_of(file)
    with monkeypatch.context() as interrupted:
        interrupted.setattr(copying, "_compare", lambda *_: (_ for _ in ()).throw(InterruptedError))
        with pytest.raises(InterruptedError):
            copy_index(of_file, url)
    with pytest.raises(IndexUnusable, match="run `voxelnode db copy` again"):
        Index(filled, Metrics(), url=url)
    assert copy_index(of_file, url)["images"] == 3
    assert rows_of(there) == before
    assert last_project(there) == 7
    with pytest.raises(IndexUnusable, match="was moved"):
        Index(filled, Metrics())
    with pytest.raises(IndexUnusable, match="copy that one"):
        copy_index(of_file, server.create("other"))
    with closing(Index(filled, Metrics(), url=url)) as index:  # new rows are numbered after those that are there
        index.lost.note_gap("a record", dt.datetime.now(dt.UTC))
    after = rows_of(there)
    assert len(after["events"]) == len(before["events"]) + 1
    copy_index(of_file.model_copy(update={"index": IndexSettings(url=url)}), None)
    assert rows_of(file) == after
    assert last_project(file) == 7
    assert len(list(filled.glob("index-*.sqlite"))) == 1
    with pytest.raises(IndexUnusable, match="was moved"):
        Index(filled, Metrics(), url=url)


def nulls_of(place: Path | ServerPlace) -> list[tuple[Any, ...]]:
    """What events have in a column of JSON that may be NULL."""
    engine = open_engine(place, read_only=True)
    with engine.connect() as connection:
        stored = text("SELECT detail, CAST(verdict_before AS TEXT) FROM events WHERE kind = 'of nulls' ORDER BY detail")
        rows = [tuple(row) for row in connection.execute(stored)]
    engine.dispose()
    return rows


@pytest.mark.slow
def test_null_and_that_of_json_are_copied_as_is(filled: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    url, file = server.create("nulls"), filled / FILE_NAME
    with closing(sqlite3.connect(file)) as connection, connection:
        for values in (("CT", None), ("MR", "null"), ("XA", '{"a": ["1.2"]}')):
            columns = "kind, happened_at, detail, verdict_before"
            connection.execute(f"INSERT INTO events ({columns}) VALUES ('of nulls', '2026-01-01', ?, ?)", values)
    of_file = settings_of(filled)
    copy_index(of_file, url)
    as_they_were = [("CT", None), ("MR", "null"), ("XA", '{"a": ["1.2"]}')]
    assert nulls_of(ServerPlace(url, filled)) == as_they_were
    copy_index(of_file.model_copy(update={"index": IndexSettings(url=url)}), None)
    assert nulls_of(file) == as_they_were
    real = copying.copy_rows

    def copy_rows(reader: Any, copy: Any, table: Any) -> None:
        real(reader, copy, table)
        if table.name == "events":
            with copy.begin():
                copy.execute(text("UPDATE events SET verdict_before = 'null' WHERE detail = 'CT'"))

    monkeypatch.setattr(copying, "copy_rows", copy_rows)
    with pytest.raises(IndexUnusable, match="a row of events differs"):
        copy_index(of_file, server.create("other_nulls"))


@pytest.mark.slow
@pytest.mark.usefixtures("place")
def test_a_copy_that_differs_is_not_used(filled: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    used = server.create("used", "migrated")
    Index(filled, Metrics(), url=used).close()
    with pytest.raises(IndexUnusable, match="has an index already"):
        copy_index(settings_of(filled), used)
    url = server.create("different")
    real = copying.copy_rows

    def copy_rows(reader: Any, copy: Any, table: Any) -> None:
        real(reader, copy, table)
        if table.name == "images":
            with copy.begin():
                copy.execute(table.update().values(bytes=1))

    monkeypatch.setattr(copying, "copy_rows", copy_rows)
    with pytest.raises(IndexUnusable, match="a row of images differs"):
        copy_index(settings_of(filled), url)
    with pytest.raises(IndexUnusable, match="not finished"):
        Index(filled, Metrics(), url=url)
    Index(filled, Metrics()).close()


# Exports, backups and new indexes


@pytest.fixture
def moved(filled: Path, server: Server, request: pytest.FixtureRequest) -> ServerPlace:
    """A root that is closed, whose index is in a database with the name of the test."""
    url = server.create(request.node.name[-60:])
    copy_index(settings_of(filled), url)
    return ServerPlace(url, filled)


@pytest.mark.long
def test_an_export_of_an_index_in_postgresql_is_one_of_sqlite(moved: ServerPlace, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    done = export(moved.root, folder, url=moved.url)
    assert (done.copied, done.absent) == (1, ())
    before, exported = rows_of(moved), rows_of(folder / FILE_NAME)
    assert {name for name, rows in exported.items() if rows} <= KEPT_TABLES | {"about"}
    for table in KEPT_TABLES:
        assert exported[table] == before[table]
    rows = view_rows(folder, "SELECT path FROM v_volumes")
    assert len(rows) == 3
    assert all(Path(row["path"]).is_relative_to(folder) and Path(row["path"]).is_file() for row in rows)
    assert not list(folder.glob("index.sqlite-*"))
    done = export(moved.root, folder, url=moved.url)
    assert (done.copied, done.unchanged) == (0, 1)
    studies = [row["study_instance_uid"] for row in view_rows(folder, "SELECT study_instance_uid FROM v_studies")]
    with closing(Index(moved.root, Metrics(), url=moved.url)) as index:
        projects, now = index.repository(ProjectRepository), dt.datetime.now(dt.UTC)
        projects.set("trial", "test", now)
        assert export(moved.root, tmp_path / "none", url=moved.url, project="trial").copied == 0
        projects.add("trial", [Content(study) for study in studies], "test", now)
    assert export(moved.root, tmp_path / "trial", url=moved.url, project="trial").copied == 1
    of_project = rows_of(tmp_path / "trial" / FILE_NAME)
    assert [table for table in KEPT_TABLES if of_project[table] != exported[table]] == []
    assert view_rows(tmp_path / "none", "SELECT * FROM v_series") == []


@pytest.mark.slow
def test_a_backup_is_restored_by_pg_restore(
    moved: ServerPlace, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bin_ = programs()
    assert bin_ is not None
    monkeypatch.setenv("PATH", f"{bin_}:{os.environ['PATH']}")
    dump(moved.url, tmp_path / "index.dump")
    restored = ServerPlace(server.create("restored"), moved.root)
    url = restored.url.replace("+psycopg", "")
    subprocess.run(
        ["pg_restore", tmp_path / "index.dump", "--no-owner", "--exit-on-error", f"--dbname={url}"], check=True
    )
    assert rows_of(restored) == rows_of(moved)
    assert check(restored) == []
    assert last_project(restored) == 7


@pytest.mark.slow
def test_a_new_index_takes_over_what_pages_can_be_read(moved: ServerPlace, server: Server, tmp_path: Path) -> None:
    """The server has no page of the copy in its memory yet."""
    database = make_url(moved.url).database or ""
    server.run("INSERT INTO events (kind, detail, happened_at) SELECT 'deleted', repeat('x', 200), '2026-01-01' "
               "FROM generate_series(1, 1000)", database)  # fmt: skip
    before = rows_of(moved)
    [(file,)] = server.run("SELECT relfilenode FROM pg_class WHERE relname = 'events'", database)
    server.run(f'CREATE DATABASE damaged TEMPLATE "{database}" STRATEGY file_copy')
    [(folder,)] = server.run("SELECT oid FROM pg_database WHERE datname = 'damaged'")
    with (server.folder / "data" / "base" / str(folder) / str(file)).open("r+b") as pages:
        pages.seek(2 * 8192)
        pages.write(b"\xa5" * 8192)
    shutil.copytree(moved.root, tmp_path / "copy", ignore=shutil.ignore_patterns("journal"))  # which is still open
    there = ServerPlace(server.url("damaged"), tmp_path / "copy")
    settings = Settings(storage=Storage(root=there.root, reserve_bytes=0), index=IndexSettings(url=there.url))
    done = rebuild_index(settings)
    assert list(done.salvaged.unread) == ["events"]
    assert done.salvaged.gone == done.salvaged.altered == done.unread == []
    after = rows_of(there)
    assert 950 < len(after["events"]) < 1000
    changing = {"about", "awaited_senders", "events", "patients", "studies", "series", "images", "conflicts"}
    assert {table: after[table] for table in after.keys() - changing} == {
        table: before[table] for table in before.keys() - changing
    }
    assert len(after["images"]) == len(before["images"])
    states = "SELECT state FROM {}series ORDER BY series_instance_uid"
    aside = states.format(f"{done.previous_index}.")
    assert server.run(states.format(""), "damaged") == server.run(aside, "damaged")
    assert server.run("SELECT count(*) FROM v_images WHERE path LIKE '%.dcm'", "damaged") == [(3,)]


@pytest.mark.slow
def test_the_doctor_warns_of_a_promise_that_a_failover_may_break(server: Server, tmp_path: Path) -> None:
    url = server.create("followed")
    upgrade(ServerPlace(url, tmp_path))
    settings = Settings(
        storage=Storage(root=tmp_path), index=IndexSettings(url=url), journal=JournalSettings(acknowledge="index")
    )
    assert [state for state, _ in doctor_finds(settings, "acknowledge")] == ["ok"]
    asked = {"user": "voxelnode", "host": str(server.folder), "dbname": "followed"}
    with psycopg.connect(**asked, replication="database", autocommit=True):  # as a standby connects
        [(state, found)] = doctor_finds(settings, "acknowledge")
        assert state == "warning"
        assert "follow asynchronously: 1" in found
        local = settings.model_copy(update={"journal": JournalSettings(acknowledge="local")})
        assert [state for state, _ in doctor_finds(local, "acknowledge")] == ["ok"]
