"""Backups that a real node's root is made into while it receives, killed in every step, and restored."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from node.extensions.backup.making import COPIED
from node.failpoints import BACKING_UP, VARIABLE
from tests.acceptance.served import Served, until
from tests.crash.journal import Journal, Sender, new_series
from tests.crash.small_journal import SINGLE_SYNCS
from tests.crash.small_journal import VARIABLE as SMALL_JOURNAL
from tests.ingest import served
from tests.preloaded import run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.sqlite("a backup copies an index in SQLite only, and says so"),
]

SETTLING = BACKING_UP[BACKING_UP.index("backup-renamed") :]
POINTS = [*BACKING_UP[:2], "backup-file-copied:7", *BACKING_UP[2:], "backup-moving:9"]
SHORT = ["backup-file-copied:7", "backup-moving:9", "backup-settled"]
"""The backup before is whole, is completed from what was copied, and is the new one."""

SMALL = {SMALL_JOURNAL: SINGLE_SYNCS}


@contextmanager
def sending(node: Served, journal: Journal) -> Iterator[None]:
    """Send series after series, small instances and large ones, each over an association of its own."""
    ended = threading.Event()

    def send() -> None:
        while not ended.wait(0.1):  # converted as well, which takes a processor
            Sender(node.port, [*new_series(2), *new_series(1, large=True)], journal).run()

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(60)


def backup(root: Path, folder: Path, *options: str, point: str | None = None) -> tuple[int, dict[str, Any]]:
    environment = SMALL if point is None else {**SMALL, VARIABLE: point}
    done = run("backup", folder, "--root", root, "--json", *options, environment=environment)
    return done.returncode, json.loads(done.stdout) if done.stdout else {"said": done.stderr}


def require(folder: Path, acknowledged: list[tuple[str, str]], target: Path) -> None:
    """The backup can be restored, and has every instance as it was sent."""
    done = run("restore", folder, "--root", target, "--json", environment=SMALL)
    assert json.loads(done.stdout)["ok"], done.stdout
    there = served(target)
    assert [uid for uid, digest in acknowledged if there.get(uid) != digest] == []


@pytest.mark.parametrize("points", [SHORT, pytest.param(POINTS, marks=pytest.mark.long)], ids=len)
def test_a_backup_killed_in_any_step_is_the_one_before_or_the_new_one(tmp_path: Path, points: list[str]) -> None:
    root, folder = tmp_path / "root", tmp_path / "backup"
    with (
        closing(Journal(tmp_path / "sent")) as journal,
        Served(root, **SMALL) as node,
        sending(node, journal),
    ):
        until(lambda: len(journal.acknowledged()) > 6, 60, "instances")
        kept = journal.acknowledged()
        assert backup(root, folder, "--no-prove")[0] == 0
        for number, point in enumerate(points):
            since = len(journal.acknowledged())
            until(lambda since=since: len(journal.acknowledged()) > since + 6, 60, "more instances")  # type: ignore[misc]
            before, is_settled = journal.acknowledged(), not (folder / COPIED).exists()
            assert backup(root, folder, point=point)[0] == -9, point
            if is_settled and point.partition(":")[0] in SETTLING:  # else it was killed before it began to copy
                kept = before
            require(folder, kept, tmp_path / f"restored-{number}")
        before = journal.acknowledged()
        status, made = backup(root, folder)
        assert (status, made["differences"]) == (0, []), made
        assert not list(folder.glob(".*")), "nothing of the runs that were killed is left"
        require(folder, before, tmp_path / "restored")


def test_backups_of_a_receiving_node_are_proved_again_and_again(tmp_path: Path) -> None:
    root, folder = tmp_path / "root", tmp_path / "backup"
    with closing(Journal(tmp_path / "sent")) as journal, Served(root, **SMALL) as node, sending(node, journal):
        for number in range(2):
            since = len(journal.acknowledged())
            until(lambda since=since: len(journal.acknowledged()) > since + 6, 60, "more instances")  # type: ignore[misc]
            before = journal.acknowledged()
            status, made = backup(root, folder)
            assert (status, made.get("differences")) == (0, []), made
            require(folder, before, tmp_path / f"restored-{number}")
