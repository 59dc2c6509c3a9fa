"""Whenever the power goes, what was acknowledged is there: only what was synced is kept, at every sync of a session.

The node is killed once; the states that a power cut would have left at each of its syncs are made from a record of
what they covered (disk.py), started anew, and compared with what the senders had been told by then.
"""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from node.control.repository import Repository
from node.settings.model import Settings, Storage
from tests.crash.checker import Checker
from tests.crash.disk import Disk, Sync, leave, syncs
from tests.crash.harness import Node
from tests.crash.journal import Journal, Sender, new_series

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]


@dataclass
class Session:
    """What a node received, and what its disk was told to keep."""

    disk: Disk
    journal: Journal
    syncs: list[Sync]

    def problems(self, number: int, place: Path) -> list[str]:
        """What is wrong after a power cut just before sync `number` (or in the end, when there is none)."""
        until = self.syncs[number].began if number < len(self.syncs) else float("inf")
        leave(self.syncs[:number], self.disk.root, place)
        storage = Storage(root=place / "root", reserve_bytes=0)
        with Repository(Settings(storage=storage)):
            return Checker(place / "root").problems(self.journal, until)


def session(disk: Disk, mutant: str | None = None, *, converts: bool = True) -> Session:
    """Two senders, the same again, other bytes, a late slice, conversions of it all; then the node is killed."""
    journal, first, second = Journal(disk.root.parent / "journal"), new_series(6), new_series(6)
    with Node(disk.root / "root", mutant, disk.environment) as node:
        assert node.start()
        rounds = [
            [first[:5], second],
            [[*first[:3], first[0].altered(), second[0].altered()]],
            [[first[5]]],
        ]
        for together in rounds:
            senders = [Sender(node.port, instances, journal) for instances in together]
            for sender in senders:
                sender.start()
            for sender in senders:
                sender.join()
            assert not any(sender.broken for sender in senders)
            if converts:
                _wait_for_conversions(node)
        node.kill()
    journal.close()
    assert set(journal.statuses) == {0x0000}
    return Session(disk, journal, syncs(disk.log))


def _wait_for_conversions(node: Node) -> None:
    deadline, pause = time.monotonic() + 60, threading.Event()
    while Checker(node.root).unsettled() and time.monotonic() < deadline:
        pause.wait(0.1)


def test_what_was_acknowledged_survives_a_power_cut_at_any_sync(tmp_path: Path, disk: Disk) -> None:
    seen = session(disk)
    assert sum(not sync.is_folder for sync in seen.syncs) > len(seen.journal.sent)
    for number in range(1, len(seen.syncs) + 1):
        assert seen.problems(number, tmp_path / f"after-{number}") == [], f"power cut before sync {number}"


@pytest.mark.parametrize(
    ("mutant", "found"),
    [
        ("no-file-sync", "the file is not what its row says"),
        ("no-folder-sync", "acknowledged and lost|the file is not what its row says"),
        ("no-new-folder-sync", "acknowledged and lost|the file is not what its row says"),
        ("no-root-sync", "acknowledged and lost"),
        ("no-commit-sync", "acknowledged and lost|not kept"),
        ("no-quarantine-sync", "not kept"),
        ("no-volume-sync", "a volume is not what its row says"),
        ("no-volume-folder-sync", "a volume is not what its row says"),
        ("no-volumes-root-sync", "a volume is not what its row says"),
    ],
)
def test_a_node_that_leaves_out_a_sync_is_found_out(tmp_path: Path, disk: Disk, mutant: str, found: str) -> None:
    seen = session(disk, mutant, converts="volume" in mutant)
    problems: list[str] = []
    for number in range(len(seen.syncs), 0, -1):
        problems += seen.problems(number, tmp_path / f"after-{number}")
        if any(re.search(found, problem) for problem in problems):
            return
    pytest.fail(f"{mutant} was not found out: {problems}")
