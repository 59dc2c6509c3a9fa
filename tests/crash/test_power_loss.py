"""Whenever the power goes, what was acknowledged is there: only what was synced is kept, at every sync of a session.

The node is killed once; the states that a power cut would have left at each of its syncs are made from a record of
what they covered (disk.py), started anew, and compared with what the senders had been told by then.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from node.archive import filesystem
from node.control.repository import Repository
from node.errors import VoxelnodeError
from node.journal import journal as journal_module
from node.journal import segment
from node.receive import ingest
from node.receive.apply import Applier
from node.settings.model import Settings, Storage
from tests.crash.checker import Checker
from tests.crash.disk import Disk, Sync, leave, syncs
from tests.crash.harness import Node, within
from tests.crash.journal import Journal, Sender, new_series
from tests.crash.mutants import MUTANTS
from tests.crash.small_journal import SINGLE_SYNCS, VARIABLE, make_small

pytestmark = pytest.mark.timeout(900)

SHORT = 12
"""Power cuts of the short form, which the gate has time for."""


@pytest.fixture(autouse=True)
def _small_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start after a power cut has the small journal, too."""
    for owner, name in (
        (journal_module.Journal, "__init__"),
        (journal_module, "GROW_BYTES"),
        (segment, "GROW_BYTES"),
        (ingest, "LARGE_BYTES"),
        (filesystem, "MAX_SINGLE_SYNCS"),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))  # undone after the test
    monkeypatch.setenv(VARIABLE, SINGLE_SYNCS)
    make_small()


@dataclass
class Session:
    """What a node received, and what its disk was told to keep."""

    disk: Disk
    journal: Journal
    syncs: list[Sync]

    @property
    def cuts(self) -> list[int]:
        """How many records come before each sync, and how many there are: a sync of a file system has many."""
        began = [sync.began for sync in self.syncs]
        return [number for number in range(1, len(began)) if began[number] != began[number - 1]] + [len(began)]

    def problems(self, number: int, place: Path) -> list[str]:
        """What is wrong after a power cut just before sync `number` (or in the end, when there is none)."""
        until = self.syncs[number].began if number < len(self.syncs) else float("inf")
        leave(self.syncs[:number], self.disk.root, place)
        storage = Storage(root=place / "root", reserve_bytes=0)
        try:
            with Repository(Settings(storage=storage)):
                return Checker(place / "root").problems(self.journal, until)
        except VoxelnodeError as error:
            return [f"the node does not start: {error}"]


def session(
    disk: Disk,
    mutant: str | None = None,
    *,
    converts: bool = True,
    single_syncs: str = SINGLE_SYNCS,
    is_short: bool = False,
) -> Session:
    """Two senders, the same again, other bytes, a late slice, conversions of it all; then the node is killed.

    Some instances are large, and there are enough to fill every segment of the journal more than once.
    """
    journal, first, second = Journal(disk.root.parent / "journal"), new_series(6), new_series(6)
    with Node(disk.root / "root", mutant, {**disk.environment, VARIABLE: single_syncs}) as node:
        assert node.start()
        rounds = [
            [first[:5], second],
            [[*first[:3], first[0].altered(), second[0].altered()]],
            [[first[5]], new_series(3, large=True)],
            *([new_series(20)] for _ in range(0 if is_short else 2)),
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
    within(60, lambda: not Checker(node.root).unsettled())


@pytest.mark.slow
def test_what_was_acknowledged_survives_power_cuts_from_the_first_sync_to_the_last(tmp_path: Path, disk: Disk) -> None:
    seen = session(disk, is_short=True)
    for number in {*seen.cuts[:: len(seen.cuts) // SHORT], seen.cuts[-1]}:
        assert seen.problems(number, tmp_path / f"after-{number}") == [], f"power cut before sync {number}"


@pytest.mark.long
@pytest.mark.parametrize("single_syncs", [SINGLE_SYNCS, "0"])
def test_what_was_acknowledged_survives_a_power_cut_at_any_sync(tmp_path: Path, disk: Disk, single_syncs: str) -> None:
    """Also where checkpoints sync the whole file system, as they do when there are many files."""
    seen = session(disk, single_syncs=single_syncs)
    assert sum(not sync.is_folder for sync in seen.syncs) > len(seen.journal.sent)
    for number in seen.cuts:
        assert seen.problems(number, tmp_path / f"after-{number}") == [], f"power cut before sync {number}"


@pytest.mark.long
@pytest.mark.parametrize(
    ("mutant", "found"),
    [
        ("no-journal-sync", "acknowledged and lost"),
        ("no-part-sync", "the file is not what its row says|instance-set-aside"),
        ("no-part-folder-sync", "acknowledged and lost|instance-set-aside"),
        ("no-file-sync", "the file is not what its row says"),
        ("no-folder-sync", "acknowledged and lost|the file is not what its row says"),
        ("no-new-folder-sync", "acknowledged and lost|the file is not what its row says|does not start"),
        ("no-root-sync", "acknowledged and lost"),
        ("no-new-segment-sync", "acknowledged and lost"),
        ("no-commit-sync", "acknowledged and lost|not kept"),
        ("no-archive-sync", "acknowledged and lost|the file is not what its row says"),
        ("no-durable-checkpoint", "acknowledged and lost|not kept"),
        ("mark-before-sync", "acknowledged and lost|the file is not what its row says"),
        ("reuse-before-checkpoint", "acknowledged and lost|the file is not what its row says"),
        ("old-name-goes-first", "acknowledged and lost|instance-set-aside"),
        ("answer-before-append", "acknowledged and lost"),
        ("applied-before-rows", "acknowledged and lost"),
        ("no-volume-sync", "a volume is not what its row says"),
        ("no-volume-folder-sync", "a volume is not what its row says"),
        ("no-volumes-root-sync", "a volume is not what its row says"),
    ],
)
def test_a_node_that_leaves_out_a_sync_is_found_out(tmp_path: Path, disk: Disk, mutant: str, found: str) -> None:
    seen = session(disk, mutant, converts="volume" in mutant or mutant == "old-name-goes-first")
    require_found(seen, tmp_path, mutant, found)


@pytest.mark.long
@pytest.mark.parametrize(
    ("mutant", "found"),
    [("no-replay", "acknowledged and lost"), ("no-comparison", "the file is not what its row says")],
)
def test_a_start_that_leaves_out_a_step_is_found_out(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, mutant: str, found: str
) -> None:
    seen = session(disk)
    for name in ("replay", "_restore"):
        monkeypatch.setattr(Applier, name, getattr(Applier, name))  # undone after the test
    MUTANTS[mutant]()
    require_found(seen, tmp_path, mutant, found)


def require_found(seen: Session, place: Path, mutant: str, found: str) -> None:
    problems: list[str] = []
    for number in reversed(seen.cuts):
        problems += seen.problems(number, place / f"after-{number}")
        if any(re.search(found, problem) for problem in problems):
            return
    pytest.fail(f"{mutant} was not found out: {problems}")
