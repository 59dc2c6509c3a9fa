"""What members of projects wait for the list of studies, with one project and with a thousand that overlap.

    python -P benchmarks/projects.py [FOLDER]

makes an index of a million instances as `scale.py` does in FOLDER (unless it is there) or in a folder of its own, with
four accounts: one sees the whole node, and three are limited: to one project of 200 series, to ten, and to all.  Each
asks as the page does, while there are ten projects alone, and then with 990 others, in which each study is twice.  Then
the rules of all projects are applied: to one series, and to 2000.
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import httpx2 as httpx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.scale import NUMBERS, Shape, fill, served  # noqa: E402
from benchmarks.studies import asked, processor_ms  # noqa: E402
from node.extensions.projects.rules import apply_rules  # noqa: E402
from node.index.database import Index  # noqa: E402
from node.index.rows.place import FILE_NAME  # noqa: E402
from node.runtime.metrics import Metrics  # noqa: E402
from node.web.credentials import digest  # noqa: E402

SHAPE = Shape(1_000_000, is_single=False)
STUDIES, SERIES = SHAPE.studies, 4 * SHAPE.studies
FIRST, PROJECTS, ROUNDS = 10, 1000, 15
MEMBERS = {"whole": 0, "one": 1, "ten": 10, "all": PROJECTS}
"""Accounts, and of how many projects they are members."""

SEARCHES = {
    "first page": {},
    "a word of a name": {"words": "anna"},
    "a modality": {"modalities": ["PT"]},
    "by name": {"order": "name"},
}
NOW = "2026-01-01 12:00:00.000000"


def add_projects(path: Path, first: int, last: int) -> None:
    """Add projects, each with two thousandths of the studies, the second of which the next project has, too."""
    per_project = SERIES // PROJECTS
    with closing(sqlite3.connect(path, timeout=60)) as connection, connection:
        connection.execute(
            "INSERT OR IGNORE INTO projects (id, name, created_by, created_at) "
            f"{NUMBERS.format(PROJECTS)} SELECT i, 'project ' || i, 'x', ? FROM n WHERE i BETWEEN ? AND ?",
            (NOW, first, last),
        )
        for step in (0, 1):
            connection.execute(
                "INSERT OR IGNORE INTO project_series (series_id, project_id, is_by_rule) "
                f"SELECT id, 1 + ((id - 1) / {per_project} + {step}) % {PROJECTS}, 0 FROM series "
                f"WHERE 1 + ((id - 1) / {per_project} + {step}) % {PROJECTS} BETWEEN ? AND ?",
                (first, last),
            )
        for account, projects in MEMBERS.items():
            connection.execute(
                "INSERT OR IGNORE INTO project_members SELECT id, ?, 'read' FROM projects WHERE id <= ?",
                (account, projects),
            )


def add_accounts(path: Path) -> None:
    with closing(sqlite3.connect(path, timeout=60)) as connection, connection:
        for number, name in enumerate(MEMBERS, 1):
            connection.execute("INSERT OR IGNORE INTO accounts VALUES (?, ?, 'read', NULL, ?, NULL, NULL, NULL)",
                               (number, name, NOW))  # fmt: skip
            connection.execute(
                "INSERT OR IGNORE INTO tokens (account_id, label, sha256, created_at) VALUES (?, 'x', ?, ?)",
                (number, digest(f"vxn_{name}"), NOW),
            )
        connection.executemany("INSERT OR IGNORE INTO limited_accounts VALUES (?)", [("one",), ("ten",), ("all",)])


def filled(path: Path) -> None:
    fill(path, SHAPE)
    add_accounts(path)


def measured(web: str, pid: int) -> dict[tuple[str, str], float]:
    """Print what each search takes, and return the processor time in ms by account and search."""
    found = {}
    for account in MEMBERS:
        headers = {"Authorization": f"Bearer vxn_{account}"}
        with httpx.Client(base_url=web, timeout=60, headers=headers) as client:
            for what, form in SEARCHES.items():
                asked(client, form)
                used = processor_ms(pid)
                times = sorted(asked(client, form) for _ in range(ROUNDS))
                found[account, what] = (processor_ms(pid) - used) / ROUNDS
                print(f"{account:6} {what:18} {times[ROUNDS // 2]:7.0f} ms, processor {found[account, what]:7.1f} ms")
    return found


def apply(path: Path) -> None:
    """Print how long the rules of all projects take."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE projects SET rule = 'study_id == \"' || id || '\" and modality == \"CT\"'")
    with closing(Index(path.parent, Metrics())) as index:
        apply_rules(index, {SERIES})  # compiles the rules, as a node does once
        for count in (1, 2000):
            began = time.perf_counter()
            changed = apply_rules(index, set(range(count, 2 * count)))
            seconds = time.perf_counter() - began
            print(f"{PROJECTS} rules applied to {count} series: {1000 * seconds:.0f} ms, {changed} came or went")


def main(root: Path) -> None:
    path = root / FILE_NAME
    with served(path, filled) as (node, web, _):
        assert node.process is not None
        add_projects(path, 1, FIRST)
        print(f"{STUDIES} studies, {SERIES} series, {FIRST} projects")
        before = measured(web, node.process.pid)
        add_projects(path, FIRST + 1, PROJECTS)
        print(f"{PROJECTS} projects")
        after = measured(web, node.process.pid)
        for account, what in before:
            print(f"{account:6} {what:18} ratio {after[account, what] / before[account, what]:.2f}")
    apply(path)


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    with tempfile.TemporaryDirectory() as temporary:
        main(folder or Path(temporary))
