"""How much processor time a start of `voxelnode serve` takes, and how much memory the idle node.

    python benchmarks/start.py [--rounds N]

Processor time is that of the process from its execution until it says that it is ready, and memory is what is resident
two seconds later. The node starts no child before it has work. The first start on a root creates the index and is a row
of its own; the other rows are medians of starts in turns, with the smallest in brackets. README.md has the memory of
the row "with HTTP".

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


def started(root: Path, is_web: bool) -> tuple[float, float, float]:
    """Start a node and stop it; return its seconds of user and of system time, and its resident MB."""
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
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        user, system = (int(ticks) / os.sysconf("SC_CLK_TCK") for ticks in fields[11:13])
        time.sleep(IDLE_SECONDS)
        resident = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
        assert resident is not None
        process.terminate()
        assert process.wait(60) == 0
    return user, system, int(resident[1]) / 1000


def row(title: str, starts: list[tuple[float, float, float]]) -> str:
    """A row of the table: seconds of user and system time together, and megabytes."""
    seconds = [user + system for user, system, _ in starts]
    user = statistics.median(user for user, _, _ in starts)
    resident = statistics.median(resident for _, _, resident in starts)
    return f"| {title} | {statistics.median(seconds):.2f} s ({min(seconds):.2f}) | {user:.2f} s | {resident:.0f} MB |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        first = started(root, True)
        starts: dict[bool, list[tuple[float, float, float]]] = {True: [], False: []}
        for _ in range(rounds):
            for is_web, found in starts.items():
                found.append(started(root, is_web))
    print("| Start | Processor | of it user | Idle |\n|---|---|---|---|")
    print(row("with HTTP, of an empty root", [first]))
    print(row("with HTTP", starts[True]))
    print(row("without HTTP", starts[False]))


if __name__ == "__main__":
    main()
