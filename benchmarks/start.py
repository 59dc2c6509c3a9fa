"""How much processor time a start of `voxelnode serve` takes, and how much memory the idle node.

    python benchmarks/start.py [--rounds N]

Processor time is that of both processes, that which receives and that which serves HTTP, from their execution until the
node says that it is ready. Memory is what of each is resident two seconds later, and what of both is proportional: what
they share counts once. The node starts no other child before it has work. The first start on a root creates the index,
and is a row of its own; the other rows are medians of starts in turns, with the smallest in brackets. README.md has the
memory of the row "with HTTP".

Modules are compiled once, whatever PYTHONDONTWRITEBYTECODE says: a node that compiles all of them at each start takes
several times as long, and more memory.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IDLE_SECONDS = 2.0


def started(root: Path, is_web: bool) -> list[float]:
    """Start a node and stop it; return its seconds of user and of system time, its MB, those of HTTP, and both."""
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
        "VOXELNODE_WEB__ENABLED": str(is_web).lower(),
        "VOXELNODE_WEB__PORT": "0",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "node", "serve", "--create", "--root", str(root), "--port", "0"]
    with subprocess.Popen(
        command, cwd=root.parent, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("voxelnode ready"), line
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        both = [Path(f"/proc/{number}") for number in (process.pid, *children)]
        stats = [(path / "stat").read_text().rpartition(")")[2].split() for path in both]
        user, system = (sum(int(stat[at]) for stat in stats) / os.sysconf("SC_CLK_TCK") for at in (11, 12))
        time.sleep(IDLE_SECONDS)
        rollups = [(path / "smaps_rollup").read_text() for path in both]
        resident, proportional = (
            [int(number) / 1000 for text in rollups for number in re.findall(rf"{name}:\s+(\d+) kB", text)]
            for name in ("Rss", "Pss")
        )
        process.terminate()
        assert process.wait(60) == 0
    return [user, system, resident[0], sum(resident[1:]), sum(proportional)]


def row(title: str, starts: list[list[float]]) -> str:
    """A row of the table: seconds of user and system time together, and megabytes."""
    least = min(user + system for user, system, *_ in starts)
    user, system, *memory = (statistics.median(values) for values in zip(*starts, strict=True))
    megabytes = " | ".join(f"{one:.0f} MB" for one in memory)
    return f"| {title} | {user + system:.2f} s ({least:.2f}) | {user:.2f} s | {megabytes} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        first = started(root, True)
        starts: dict[bool, list[list[float]]] = {True: [], False: []}
        for _ in range(rounds):
            for is_web, found in starts.items():
                found.append(started(root, is_web))
    print("| Start | Processor | of it user | Receiving | HTTP | Proportional, both |\n|---|---|---|---|---|---|")
    print(row("with HTTP, of an empty root", [first]))
    print(row("with HTTP", starts[True]))
    print(row("without HTTP", starts[False]))


if __name__ == "__main__":
    main()
