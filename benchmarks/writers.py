"""How many rows of instances processes write that share an index in PostgreSQL: 1, 2, 4 and 6 of them.

    python benchmarks/writers.py [--writers N ...] [--batches N ...] [--instances N] [--same RUNS]

Each process adds instances of its own, row by row (batches of 1), and in batches as receivers do. Then, RUNS times, six
processes of four threads each add the same 500 instances, in orders of their own: none may fail, and there may be no
deadlock.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import processor  # noqa: E402
from node.errors import OutOfResources  # noqa: E402
from node.index.database import Index  # noqa: E402
from node.index.rows.backend import ServerPlace  # noqa: E402
from node.index.rows.place import upgrade  # noqa: E402
from node.index.rows.records import Received  # noqa: E402
from node.runtime.metrics import Metrics  # noqa: E402
from tests import several_writers  # noqa: E402
from tests.postgresql import Server, start  # noqa: E402

SERIES = 20
"""Series of each writer, which grow in turns."""

SAME_WRITERS = 6


def write(url: str, root: Path, writer: int, size: int, instances: int) -> None:
    """Add instances of one writer in batches, from the moment at which it gets a line."""
    made = [
        several_writers.received(writer, number, series=writer * SERIES + number % SERIES)
        for number in range(writer * instances, (writer + 1) * instances)
    ]
    metrics = Metrics()
    with closing(Index(root, metrics, url=url, host=f"host{writer}")) as index:
        print("ready", flush=True)
        sys.stdin.readline()
        began, used = time.perf_counter(), time.process_time()
        for at in range(0, instances, size):
            add(index, made[at : at + size])
        print(json.dumps([time.perf_counter() - began, time.process_time() - used]), flush=True)


def add(index: Index, batch: Sequence[Received]) -> None:
    """Add instances, again if the index does not take them, as a receiver does."""
    while True:
        try:
            index.instances.add(batch)
        except OutOfResources as error:
            print(f"again: {error}", file=sys.stderr)
        else:
            return


def begin(url: str, folder: Path, *arguments: int) -> subprocess.Popen[str]:
    """Start this program as one writer, which waits for `several_writers.go`."""
    command = [sys.executable, __file__, "--write", url, str(folder), *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True)


def answer(process: subprocess.Popen[str]) -> str:
    """Return what a writer says in the end."""
    said, _ = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"a writer has failed: {said}")
    return said


def measure(server: Server, folder: Path, writers: int, size: int, instances: int) -> tuple[float, float, float]:
    """Return the rows a second of all writers, and milliseconds of a processor for a row: of them, of the server."""
    url = server.create(f"writers_{writers}_{size}", "migrated")
    started = [begin(url, folder / f"{writers}-{size}", number, size, instances) for number in range(writers)]
    before = processor.seconds(server.process)
    for process in started:
        several_writers.go(process)
    seconds, used = zip(*(json.loads(answer(process)) for process in started), strict=True)
    rows = writers * instances
    return rows / max(seconds), 1000 * sum(used) / rows, 1000 * (processor.seconds(server.process) - before) / rows


def write_the_same(server: Server, folder: Path, run: int) -> tuple[Counter[str], int]:
    """Return the outcomes of what six writers have added at the same time, and how many deadlocks there were."""
    name = f"same_{run}"
    url = server.create(name, "migrated")
    started = [several_writers.begin(url, folder / name, writer) for writer in range(SAME_WRITERS)]
    for process in started:
        several_writers.go(process)
    outcomes: Counter[str] = Counter()
    for process in started:
        outcomes.update(json.loads(answer(process)))
    [[deadlocks]] = server.run(f"SELECT deadlocks FROM pg_stat_database WHERE datname = '{name}'")
    assert isinstance(deadlocks, int)
    return outcomes, deadlocks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--writers", type=int, nargs="*", default=[1, 2, 4, 6])
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 16, 64])
    parser.add_argument("--instances", type=int, default=3000, help="of each writer; a tenth of them row by row")
    parser.add_argument("--same", type=int, default=20, metavar="RUNS")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="voxelnode-writers-") as temporary, start() as server:
        folder = Path(temporary)
        upgrade(ServerPlace(server.create("migrated"), folder))
        if options.writers:
            print(f"{'writers':>8} {'batch':>6} {'rows/s':>8} {'ms of processor a row':>22} {'of the server':>14}")
        for writers in options.writers:
            for size in options.batches:
                instances = options.instances // 10 if size == 1 else options.instances
                rate, used, server_used = measure(server, folder, writers, size, instances)
                print(f"{writers:8} {size:6} {rate:8.0f} {used:22.3f} {server_used:14.3f}", flush=True)
        outcomes: Counter[str] = Counter()
        deadlocks = 0
        for run in range(options.same):
            its_outcomes, its_deadlocks = write_the_same(server, folder, run)
            outcomes += its_outcomes
            deadlocks += its_deadlocks
        if options.same:
            print(f"{options.same} runs of {SAME_WRITERS} writers of the same: {dict(outcomes)}, {deadlocks} deadlocks")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--write"]:
        write(sys.argv[2], Path(sys.argv[3]), *map(int, sys.argv[4:]))
    else:
        main()
