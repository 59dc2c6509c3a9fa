"""How many series converters convert that share an index in PostgreSQL: 1, 2 and 4 of them on the same queue.

    python -m benchmarks.converters [--hosts N ...] [--series N] [--slices N] [--bucket] [--waiting N]
    python -m benchmarks.converters --kill [--series N] [--slices N] [--bucket]

Each host is `voxelnode serve --roles convert` with one worker. All series become due at the same time, once every host
has converted some. Hosts, their children, the server and the bucket share the processors of this machine, so the rate
can grow only up to the number of processors divided by the processor time of a series. That time, and how long the
server and its locks keep a series waiting, say how many converters one server bears.

`--bucket`: a server of S3 (moto) instead of a folder. `--waiting`: so many more series are due behind these. `--kill`:
one of two hosts ends as in a power cut when half of the series are converted, and each series must be converted once.

The server needs pg_stat_statements, as in Debian: TESTS_POSTGRESQL_BIN=/usr/lib/postgresql/15/bin
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import psycopg

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import processor  # noqa: E402
from benchmarks.scale import take  # noqa: E402
from node.control.repository import open_for_import  # noqa: E402
from node.extensions.object_store.kind import copy_archive  # noqa: E402
from node.index.rows.backend import ServerPlace  # noqa: E402
from node.index.rows.place import upgrade  # noqa: E402
from node.receive.ingest import Announced  # noqa: E402
from node.settings.model import Settings  # noqa: E402
from tests import make  # noqa: E402
from tests.acceptance.test_cluster import Host, in_folder, store_of  # noqa: E402
from tests.integration.conftest import data_set_bytes  # noqa: E402
from tests.object_store import ObjectStore, object_store  # noqa: E402
from tests.postgresql import Server, start  # noqa: E402

SIDE = 128
THREADS = 8
TOOK_SECONDS = 1200.0
PREFIX = "1.2.826.0.1.3680043.8.498."
MEASURED = f"series_instance_uid LIKE '{PREFIX}2.%'"
WAITS = "due_at = '9999-01-01'"
DUE = "due_at = timezone('utc', now())"
UNDER_WAY = (
    f"state = 'converting' AND {MEASURED} "
    "OR state = 'receiving' AND due_at < timezone('utc', now()) - interval '2 hours'"
)
"""By an index: a look at each series that waits would take more of the server than all hosts."""
LOOK_SECONDS = 0.2
COMPUTE_SECONDS = 2.0
REST_SECONDS = 15.0
FIRST = 4
"""Series for each host that are not measured."""
LEASE_SECONDS = {"measured": "120", "killed": "4"}

STATISTICS = "-c", "shared_preload_libraries=pg_stat_statements", "-c", "pg_stat_statements.max=10000"
CLAIM = "query LIKE 'UPDATE series SET state=%SKIP LOCKED%'"
IN_SERVER = f"""
SELECT sum(total_exec_time) FILTER (WHERE {CLAIM}), sum(calls) FILTER (WHERE {CLAIM}),
    sum(total_exec_time)
FROM pg_stat_statements WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
SAMPLE_SECONDS = 0.05
WAITING = """
SELECT count(*) FILTER (WHERE wait_event_type = 'Lock'), count(*) FILTER (WHERE wait_event IN ('WALSync', 'WALWrite'))
FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
"""Sessions that wait for a row, a transaction or an advisory lock, and for the sync of a commit."""
TOLD = """
SELECT count(*) AS series, count(*) FILTER (WHERE state = 'converted' AND revision = 1) AS converted,
    (SELECT count(*) FROM conversions) AS conversions,
    (SELECT count(*) FROM events WHERE kind = 'series-converted') AS told
FROM series
"""


def data_sets(series: int, slices: int) -> Iterator[tuple[Announced, bytes]]:
    """Series of CT slices, each of a study and a patient of its own, that differ in what identifies them."""
    made = make.ct_series(slices, rows=SIDE, columns=SIDE, PatientID="P100000000")
    for number, ds in enumerate(made):
        ds.SOPInstanceUID = f"{PREFIX}1.{number}.100000000"
        ds.SeriesInstanceUID, ds.StudyInstanceUID = f"{PREFIX}2.100000000", f"{PREFIX}3.100000000"
    templates = [(ds, data_set_bytes(ds)) for ds in made]
    for number in range(100_000_000, 100_000_000 + series):
        for ds, data in templates:
            uid = str(ds.SOPInstanceUID).replace("100000000", str(number))
            syntax = str(ds.file_meta.TransferSyntaxUID)
            yield Announced(str(ds.SOPClassUID), uid, syntax), data.replace(b"100000000", str(number).encode())


def in_bucket(store: ObjectStore, folder: Path) -> dict[str, str]:
    """Make a bucket; return the settings of hosts that share it, with copies of few files only."""
    store.ask("PUT", "/archive")
    keys = folder / "keys"
    keys.write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n")
    place = {"URL": "s3://archive/one", "ENDPOINT": store.url, "REGION": "us-east-1"}
    return place | {"CREDENTIALS_FILE": str(keys), "CACHE_BYTES": "1000000"}


def fill(folder: Path, url: str, storage: Mapping[str, str], series: int, slices: int) -> None:
    """Import series into the object store of the hosts; none of them is due."""
    shared = {key.lower(): value for key, value in storage.items()}
    settings = Settings.model_validate(
        {
            "storage": {**shared, "root": folder / "import", "reserve_bytes": 0},
            "index": {"url": url},
            "cluster": {"host": "import"},
        }
    )
    with open_for_import(settings) as ingest, ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(lambda one: take(ingest, *one), data_sets(series, slices)))
        if not ingest.applier.catch_up(TOOK_SECONDS):
            raise SystemExit("the index does not follow")
    copy_archive(settings, "store")


def add_waiting(server: Server, count: int) -> None:
    """Add copies of a series to the queue, each with a UID of its own and without instances."""
    columns = ", ".join(
        f'"{name}"'
        for (name,) in server.run(
            "SELECT column_name FROM information_schema.columns WHERE table_name = 'series'", "queue"
        )
        if name not in ("id", "series_instance_uid")
    )
    server.run(
        f"INSERT INTO series (series_instance_uid, {columns}) SELECT '{PREFIX}4.' || number, {columns} "
        f"FROM (SELECT * FROM series LIMIT 1) one, generate_series(1, {count}) number",
        "queue",
    )


class Waits(threading.Thread):
    """Looks again and again how many sessions of a database wait: `seconds` of all together, for locks and commits."""

    def __init__(self, server: Server, database: str) -> None:
        super().__init__(daemon=True)
        self._server, self._database = server, database
        self._ended = threading.Event()
        self.seconds = [0.0, 0.0]

    def run(self) -> None:
        with connected(self._server, self._database) as connection:
            before = time.perf_counter()
            while not self._ended.wait(SAMPLE_SECONDS):
                waiting = connection.execute(WAITING).fetchone() or (0, 0)
                now = time.perf_counter()
                self.seconds = [all_ + some * (now - before) for all_, some in zip(self.seconds, waiting, strict=True)]
                before = now

    def __enter__(self) -> Waits:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()


def connected(server: Server, database: str) -> psycopg.Connection[Any]:
    return psycopg.connect(host=str(server.folder), user="voxelnode", dbname=database, autocommit=True)


@dataclass
class Queued:
    """A copy of the queue, and the hosts that convert it."""

    server: Server
    database: str
    hosts: list[Host]
    connection: psycopg.Connection[Any]

    def ask(self, query: str) -> tuple[Any, ...]:
        """Return the one row that a query finds."""
        row: tuple[Any, ...]
        [row] = self.connection.execute(query.encode())
        return row

    def converted(self) -> int:
        return int(self.ask(f"SELECT count(*) FROM series WHERE state = 'converted' AND {MEASURED}")[0])

    def await_converted(self, enough: int = sys.maxsize) -> int:
        """Return how many series are converted, once these are enough, or none is due or under conversion."""
        deadline = time.monotonic() + TOOK_SECONDS
        while self.ask(f"SELECT count(*) FROM series WHERE {UNDER_WAY}") != (0,) and self.converted() < enough:
            if time.monotonic() > deadline:
                raise SystemExit("not all series were converted")
            time.sleep(LOOK_SECONDS)
        return self.converted()

    def make_due(self) -> None:
        """Make the measured series due, and then all others."""
        for which, when in (("", "1 day"), ("NOT ", "1 hour")):
            where = f"WHERE state = 'receiving' AND {which}{MEASURED}"
            self.connection.execute(f"UPDATE series SET {DUE} - interval '{when}' {where}".encode())

    def used(self) -> float:
        """Return the processor time of the hosts in seconds."""
        return sum(processor.seconds(host.process.pid) for host in self.hosts if host.process is not None)


@contextmanager
def serving(
    folder: Path, server: Server, storage: Mapping[str, str], hosts: int, lease_seconds: str
) -> Iterator[Queued]:
    """Run hosts on a copy of the queue, each of which has converted something: they have loaded their modules."""
    database = f"queue_{hosts}"
    url = server.create(database, "queue")
    server.run("CREATE EXTENSION pg_stat_statements", database)
    settings = {
        "VOXELNODE_CLUSTER__LEASE_SECONDS": lease_seconds,
        "VOXELNODE_STORAGE__RESERVE_BYTES": "0",
        "VOXELNODE_CONVERT__WORKERS": "1",
        "VOXELNODE_LOG__LEVEL": "warning",
    }
    with ExitStack() as opened:
        names = [f"c{number}of{hosts}" for number in range(hosts)]
        served = [Host(folder, url, name, '["convert"]', storage, **settings) for name in names]
        connection = opened.enter_context(connected(server, database))
        queued = Queued(server, database, [opened.enter_context(host) for host in served], connection)
        few = f"SELECT id FROM series WHERE {MEASURED} LIMIT {FIRST * hosts}"
        server.run(f"UPDATE series SET {DUE} - interval '1 day' WHERE id IN ({few})", database)
        queued.await_converted()
        yield queued


def measure(queued: Queued, store: int | None) -> dict[str, float]:
    """Convert a queue; return its series a second, and milliseconds a series by where they were spent.

    Hosts that have nothing to do take time of processors, too, as what looks for waits does: it is subtracted.
    """
    before = queued.converted()

    def seconds() -> tuple[float, ...]:
        return queued.used(), processor.seconds(queued.server.process), processor.seconds(store) if store else 0.0

    with Waits(queued.server, queued.database) as waits:
        resting, began = seconds(), time.perf_counter()
        time.sleep(REST_SECONDS)
        used, rested = seconds(), time.perf_counter() - began
        rest = [(after - then) / rested for after, then in zip(used, resting, strict=True)]
        waits.seconds = [0.0, 0.0]
        queued.make_due()
        queued.ask("SELECT pg_stat_statements_reset()")
        used, began = seconds(), time.perf_counter()
        series = queued.await_converted() - before
        took = time.perf_counter() - began
    hosts, server, of_store = (
        after - then - took * idle for after, then, idle in zip(seconds(), used, rest, strict=True)
    )
    claim, claims, statements = map(float, queued.ask(IN_SERVER))
    return {
        "series/s": series / took,
        "hosts": 1000 * hosts / series,
        "server": 1000 * server / series,
        "store": 1000 * of_store / series,
        "cores": (hosts + server + of_store) / took,
        "cores at rest": sum(rest),
        "statements": statements / series,
        "claim": claim / claims,
        "claims": claims / series,
        "locks": 1000 * waits.seconds[0] / series,
        "commits": 1000 * waits.seconds[1] / series,
    }


def kill(queued: Queued) -> None:
    """Kill one host of two when half of the series are converted; tell what becomes of those that it has claimed."""
    queued.make_due()
    [total] = queued.ask(f"SELECT count(*) FROM series WHERE {MEASURED}")
    queued.await_converted(total // 2)
    dead = queued.hosts[0]
    held = f"SELECT count(*) FROM series WHERE state = 'converting' AND claimed_by = '{dead.name}'"
    while queued.ask(held) == (0,):
        time.sleep(LOOK_SECONDS / 100)
    dead.kill()
    began, [claimed] = time.perf_counter(), queued.ask(held)
    while queued.ask(held) != (0,):
        time.sleep(LOOK_SECONDS / 10)
    print(
        f"{dead.name} is killed with {claimed} series, which are taken over {time.perf_counter() - began:.1f} s later"
    )
    queued.await_converted()
    print("{} series: {} converted in revision 1, {} conversions, {} events".format(*queued.ask(TOLD)))


def turns(seconds: float, queue: Queue[int]) -> None:
    """Compute for some seconds."""
    until, count = time.perf_counter() + seconds, 0
    while time.perf_counter() < until:
        hashlib.sha256(bytes(100_000)).digest()
        count += 1
    queue.put(count)


def computed(processes: int) -> int:
    """Return how much so many processes compute at the same time."""
    context = get_context("fork")
    queue: Queue[int] = context.Queue()
    started = [context.Process(target=turns, args=(COMPUTE_SECONDS, queue)) for _ in range(processes)]
    for process in started:
        process.start()
    total = sum(queue.get() for _ in started)
    for process in started:
        process.join()
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--series", type=int, default=1000)
    parser.add_argument("--slices", type=int, default=20)
    parser.add_argument("--bucket", action="store_true")
    parser.add_argument("--waiting", type=int, default=0)
    parser.add_argument("--kill", action="store_true")
    options = parser.parse_args()
    processors = len(os.sched_getaffinity(0))
    print(f"{processors} processes compute {computed(processors) / computed(1):.2f} times as much as one")
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="voxelnode-converters-")))
        server = opened.enter_context(start(*STATISTICS))
        bucket = opened.enter_context(object_store()) if options.bucket else None
        storage = in_folder(folder) if bucket is None else in_bucket(bucket, folder)
        url = server.create("queue")
        upgrade(ServerPlace(url, folder))
        fill(folder, url, storage, options.series, options.slices)
        add_waiting(server, options.waiting)
        server.run(f"UPDATE series SET {WAITS}", "queue")
        server.run("VACUUM ANALYZE", "queue")
        if options.kill:
            with serving(folder, server, storage, 2, LEASE_SECONDS["killed"]) as queued:
                kill(queued)
            return
        print("milliseconds a series: of processors (hosts, server, store), and in the server; of a claim: each")
        for hosts in options.hosts:
            with serving(folder, server, storage, hosts, LEASE_SECONDS["measured"]) as queued:
                found = measure(queued, None if bucket is None else bucket.process.pid)
            print(hosts, "; ".join(f"{name} {value:.2f}" for name, value in found.items()), flush=True)
            shutil.rmtree(store_of(folder) / "volumes", ignore_errors=True)


if __name__ == "__main__":
    main()
