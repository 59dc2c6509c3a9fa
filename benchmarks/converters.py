"""How many series hosts convert that share an index in PostgreSQL: 1, 2 and 4 of them on the same queue.

    python benchmarks/converters.py [--hosts N ...] [--series N] [--slices N]

Each host is `voxelnode serve --roles convert` with one worker. All series become due at the same time, once every host
has converted one. Hosts, their children and the server share the processors of this machine, so the rate can grow only
up to the number of processors divided by the processor time of a series.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from multiprocessing.queues import Queue
from pathlib import Path

import psycopg

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import processor  # noqa: E402
from benchmarks.growth import take  # noqa: E402
from node.control.repository import open_for_import  # noqa: E402
from node.extensions.object_store.copying import copy_archive  # noqa: E402
from node.index.engine.backend import ServerPlace  # noqa: E402
from node.index.engine.place import upgrade  # noqa: E402
from node.receive.ingest import Announced  # noqa: E402
from node.settings.cluster import ClusterSettings, IndexSettings  # noqa: E402
from node.settings.model import Settings  # noqa: E402
from node.settings.storage import Storage  # noqa: E402
from tests import make  # noqa: E402
from tests.acceptance.test_cluster import Host, in_folder, store_of  # noqa: E402
from tests.integration.conftest import data_set_bytes  # noqa: E402
from tests.postgresql import Server, start  # noqa: E402

SIDE = 128
THREADS = 8
TOOK_SECONDS = 600.0
PREFIX = "1.2.826.0.1.3680043.8.498."
WAITS = "due_at = '9999-01-01'"
DUE = "due_at = timezone('utc', now())"
UNDER_WAY = "SELECT 1 FROM series WHERE state = 'converting' OR state = 'receiving' AND due_at < '9999-01-01' LIMIT 1"
LOOK_SECONDS = 0.2
COMPUTE_SECONDS = 2.0
FIRST = 4
"""Series for each host that are not measured."""


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


def fill(folder: Path, url: str, series: int, slices: int) -> None:
    """Import series into the object store of the hosts; none of them is due."""
    settings = Settings(
        storage=Storage(root=folder / "import", url=in_folder(folder)["URL"], reserve_bytes=0),
        index=IndexSettings(url=url),
        cluster=ClusterSettings(host="import"),
    )
    with open_for_import(settings) as ingest, ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(lambda one: take(ingest, *one), data_sets(series, slices)))
        if not ingest.applier.catch_up(TOOK_SECONDS):
            raise SystemExit("the index does not follow")
    copy_archive(settings, "store")


def await_converted(server: Server, database: str) -> int:
    """Return how many series are converted, once none of them is due or under conversion."""
    deadline = time.monotonic() + TOOK_SECONDS
    with psycopg.connect(host=str(server.folder), user="voxelnode", dbname=database, autocommit=True) as connection:
        while connection.execute(UNDER_WAY).fetchone() is not None:
            if time.monotonic() > deadline:
                raise SystemExit("not all series were converted")
            time.sleep(LOOK_SECONDS)
        counts = dict(connection.execute("SELECT state, count(*) FROM series GROUP BY state").fetchall())
    if set(counts) - {"receiving", "converted"}:
        raise SystemExit(f"series are {counts}")
    return int(counts["converted"])


def convert(folder: Path, server: Server, filled: str, hosts: int) -> tuple[int, float, float, float]:
    """Convert a queue; return its length, seconds, and seconds of a processor: of the hosts, of the server."""
    database = f"{filled}_{hosts}"
    url = server.create(database, filled)
    with ExitStack() as opened:
        served = [
            opened.enter_context(
                Host(
                    folder,
                    url,
                    f"c{number}of{hosts}",
                    '["convert"]',
                    VOXELNODE_CLUSTER__LEASE_SECONDS="120",
                    VOXELNODE_STORAGE__RESERVE_BYTES="0",
                    VOXELNODE_CONVERT__WORKERS="1",
                    VOXELNODE_LOG__LEVEL="warning",
                )
            )
            for number in range(hosts)
        ]
        first = f"UPDATE series SET {DUE} WHERE id IN (SELECT id FROM series LIMIT {FIRST * hosts})"
        server.run(first, database)  # they load their modules, each for one series at least
        loaded = await_converted(server, database)
        processes = [host.process.pid for host in served if host.process is not None]
        before, server_before = sum(map(processor.seconds, processes)), processor.seconds(server.process)
        began = time.perf_counter()
        server.run(f"UPDATE series SET {DUE} WHERE state = 'receiving'", database)
        series = await_converted(server, database) - loaded
        seconds = time.perf_counter() - began
        used = sum(map(processor.seconds, processes)) - before
        server_used = processor.seconds(server.process) - server_before
    shutil.rmtree(store_of(folder) / "volumes")
    return series, seconds, used, server_used


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
    options = parser.parse_args()
    processors = len(os.sched_getaffinity(0))
    print(f"{processors} processes compute {computed(processors) / computed(1):.2f} times as much as one")
    with tempfile.TemporaryDirectory(prefix="voxelnode-converters-") as temporary, start() as server:
        folder = Path(temporary)
        url = server.create("queue")
        upgrade(ServerPlace(url, folder))
        fill(folder, url, options.series, options.slices)
        server.run(f"UPDATE series SET {WAITS}", "queue")
        server.run("VACUUM ANALYZE", "queue")
        print(
            f"{'hosts':>5} {'series/s':>9} {'of linear':>10} {'ms of processor':>16} {'of the server':>14} {'cores':>6}"
        )
        rates: dict[int, float] = {}
        for hosts in options.hosts:
            series, seconds, used, server_used = convert(folder, server, "queue", hosts)
            rates[hosts] = series / seconds
            first = next(iter(rates))
            cores = (used + server_used) / seconds
            linear = rates[hosts] / (rates[first] / first * min(hosts, processors))
            print(
                f"{hosts:5} {rates[hosts]:9.2f} {linear:10.2f} {1000 * used / series:16.0f} "
                f"{1000 * server_used / series:14.1f} {cores:6.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
