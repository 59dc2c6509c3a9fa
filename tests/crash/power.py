"""Power cuts: a session whose syncs are recorded, and what a cut at any of them would have left of its disks.

The node is killed once; the states that a power cut would have left at each of its syncs are made from a record of
what they covered (disk.py), started anew, and compared with what the senders had been told by then.
"""

import os
import shutil
import signal
import subprocess
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from node.api import Settings, VoxelnodeError
from node.archive.root import MARKER
from node.control.repository import Repository
from node.settings.core import Storage
from tests.crash.checker import Checker
from tests.crash.disk import Disk, Sync, built, keep_marks, leave, syncs
from tests.crash.harness import Node, Result, within
from tests.crash.journal import Journal, Sender, new_series
from tests.crash.small_disk import mounted
from tests.crash.small_journal import SINGLE_SYNCS, VARIABLE


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
        keep_marks(place / "root")
        storage = Storage(root=place / "root", reserve_bytes=0)
        try:
            with Repository(Settings(storage=storage)):
                found = Checker(place / "root").problems(self.journal, until)
        except VoxelnodeError as error:
            found = [f"the node does not start: {error}"]
        if not found:  # else the disks of a session would be gigabytes
            shutil.rmtree(place)
        return found


def session(
    disk: Disk,
    mutant: str | None = None,
    *,
    converts: bool = True,
    single_syncs: str = SINGLE_SYNCS,
    is_short: bool = False,
    has_two_disks: bool = False,
) -> Session:
    """Two senders, the same again, other bytes, a late slice, conversions of it all; then the node is killed.

    Some instances are large, and there are enough to fill every segment of the journal more than once.

    `has_two_disks`: the folder of instances is a disk of its own, which is mounted there.
    """
    journal, first, second = Journal(disk.root.parent / "journal"), new_series(6), new_series(6)
    large = new_series(3, large=True)
    environment = {**disk.environment, VARIABLE: single_syncs}
    with ExitStack() as stack, Node(disk.root / "root", mutant, environment) as node:
        assert node.start()
        if has_two_disks:
            assert node.end(signal.SIGTERM) == 0
            stack.enter_context(mounted(node.root / "objects", "size=64m"))
            accept(node.root, "objects", disk)
            assert node.start()
        rounds = [
            [first[:5], second],
            [[*first[:3], first[0].altered(), second[0].altered()]],
            [[first[5]], large[:1]],
            [large[1:2]],
            [large[2:]],
            *([new_series(20)] for _ in range(0 if is_short else 2)),
        ]
        for together in rounds:
            senders = [Sender(node.port, instances, journal) for instances in together]
            for sender in senders:
                sender.start()
            for sender in senders:
                sender.join()
            assert not any(sender.broken for sender in senders)
            within(60, lambda: not [*node.root.glob("incoming/*.part")])  # a part is moved before the next one comes
            if converts:
                _wait_for_conversions(node)
        node.kill()
    journal.close()
    assert set(journal.statuses) == {0x0000}
    return Session(disk, journal, syncs(disk.log))


def accept(root: Path, name: str, disk: Disk) -> None:
    """Do durably what the refusal says to somebody who gives a folder another disk: copy the marker of the root."""
    copied = 'cp "$0" "$1" && sync "$1/$(basename "$0")" "$1"'
    subprocess.run(["sh", "-c", copied, root / MARKER, root / name], env=os.environ | disk.environment, check=True)


def _wait_for_conversions(node: Node) -> None:
    within(60, lambda: not Checker(node.root).unsettled())


def cut_power(cuts: int, folder: Path, *, has_two_disks: bool) -> Result:
    """Cut the power so many times in one session, evenly spread from its first sync to its last."""
    began = time.monotonic()
    disk = Disk(built(folder), folder / "disk", folder / "log", folder / "control")
    disk.root.mkdir()
    seen = session(disk, single_syncs="0" if has_two_disks else SINGLE_SYNCS, has_two_disks=has_two_disks)
    result = Result(acknowledged=len(seen.journal.acknowledged()))
    for number in range(cuts):
        cut = seen.cuts[number * (len(seen.cuts) - 1) // max(1, cuts - 1)]
        result.problems += [f"power cut before sync {cut}: {one}" for one in seen.problems(cut, folder / str(number))]
        result.cycles += 1
    result.seconds = time.monotonic() - began
    return result
