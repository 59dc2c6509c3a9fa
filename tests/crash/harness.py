"""Cycles of receiving, dying, and starting again on one root.

Each cycle starts a node, has senders send to it, and kills it: at a named step of the code, or at a random moment. Each
restart is checked before anything is sent; what was not acknowledged is sent again, as a real sender would. In the end
everything must be converted.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from node.failpoints import CONVERTING, RECEIVING, RECOVERING, VARIABLE
from tests.acceptance.served import READY
from tests.crash.checker import Checker
from tests.crash.journal import Journal, Sender, Sent, new_series
from tests.crash.mutants import VARIABLE as VARIABLE_OF_MUTANT
from tests.crash.small_journal import SINGLE_SYNCS
from tests.crash.small_journal import VARIABLE as VARIABLE_OF_JOURNAL
from tests.preloaded import Process

SETTINGS = {
    "VOXELNODE_SERIES__QUIET_SECONDS": "1",
    "VOXELNODE_SERIES__ABORTED_GRACE_SECONDS": "1",
    "VOXELNODE_STORAGE__RESERVE_BYTES": "0",
    "VOXELNODE_JOURNAL__ACKNOWLEDGE_SECONDS": "600",
    "VOXELNODE_CONVERT__THUMBNAILS": "false",
    "VOXELNODE_WEB__ENABLED": "false",  # half of a start
    "VOXELNODE_CONVERT__FORMATS": '["nifti"]',
    VARIABLE_OF_JOURNAL: SINGLE_SYNCS,
}

STOP_SECONDS = 120.0
"""How long a node may take to end, on a machine with much other work."""

ONCE = (
    "folder-made",
    "rows-written",
    "rows-committed",
    "batch-settled",
    "ledger-written",
    "ledger-synced",
    "journal-freed",
    "release-recorded",
    "release-answered",
    *CONVERTING,
    *RECOVERING,
)
"""Steps that are not reached for each instance: the node dies at the first time."""


BEHIND_THE_ANSWER = frozenset(ONCE) - frozenset(RECOVERING)
"""Steps that every cycle reaches, some time after the last answer."""


class Node:
    """A `voxelnode serve` process, or a mutant of it, that is expected to die and is started again and again.

    Parameters
    ----------
    root : Path
    mutant : str, optional
        See `tests.crash.mutants`.
    environment : mapping, optional
        Of every start.
    """

    def __init__(self, root: Path, mutant: str | None = None, environment: Mapping[str, str] | None = None) -> None:
        self.root, self.host, self.port = root, "127.0.0.1", 0
        self.log = root.parent / "serve.log"
        self._environment = {**SETTINGS, **({VARIABLE_OF_MUTANT: mutant} if mutant else {}), **(environment or {})}
        self._process: Process | None = None

    @property
    def process(self) -> int:
        """The number of the process; 0 when none runs."""
        return 0 if self._process is None else self._process.pid

    def start(self, environment: Mapping[str, str] | None = None) -> bool:
        """Start it; False when it dies before it listens."""
        arguments = ["serve", "--create", "--root", str(self.root), "--port", "0", "--web-port", "0"]
        with self.log.open("a") as log:
            self._process = Process(arguments, {**self._environment, **(environment or {})}, log)
        ready = READY.fullmatch(self._process.stdout.readline().strip())
        if ready is None:
            self.end()
            return False
        self.port = int(ready[3])
        return True

    def kill(self) -> int:
        """End it as a power cut would, unless it has died already; returns its exit status."""
        return self.end(signal.SIGKILL)

    def end(self, number: signal.Signals | None = None) -> int:
        """Return its exit status when it has ended, after a signal if one is given."""
        process, self._process = self._process, None
        if process is None:
            return 0
        if number is not None:
            process.send_signal(number)
        with process.stdout:
            try:
                return process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGABRT)
                process.wait()
                raise AssertionError(f"the node did not end:\n{self.log.read_text()[-20_000:]}") from None

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


@dataclass(slots=True)
class Result:
    """What a run came to."""

    cycles: int = 0
    died_at: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0
    refused: int = 0
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0


def beside_random_moments(points: Iterable[str]) -> list[str | None]:
    """Return names of steps, each with a random moment (None) after it."""
    return [moment for point in points for moment in (point, None)]


@dataclass(slots=True)
class Run:
    """Cycles on one root below `folder`.

    Parameters
    ----------
    senders : int
        Associations at once.
    mutant : str, optional
        See `tests.crash.mutants`.
    moments : sequence of str or None
        When the node is killed, in turn: names of steps, and None for a random moment.
    settle_seconds : float
        How long everything may take to be converted in the end; a fifth of a second is added for each data set.
    node : callable
        Makes what is killed.
    """

    folder: Path
    senders: int = 4
    slices: int = 8
    seed: int = 0
    mutant: str | None = None
    moments: Sequence[str | None] = tuple(beside_random_moments(RECEIVING + CONVERTING + RECOVERING))
    settle_seconds: float = 300.0
    node: Callable[[Path, str | None], Node] = Node

    def run(self, cycles: int) -> Result:
        """Go through the moments in turn; stop at a problem."""
        began, result, random_ = time.monotonic(), Result(), random.Random(self.seed)
        root = self.folder / "root"
        checker = Checker(root)
        waiting: list[list[Sent]] = [[] for _ in range(self.senders)]
        with closing(Journal(self.folder / "journal")) as journal, self.node(root, self.mutant) as node:
            for cycle in range(cycles):
                point = self.moments[cycle % len(self.moments)]
                self._cycle(node, point, waiting, journal, checker, random_, result)
                result.cycles += 1
                if result.problems:
                    break
            else:
                self._settle(node, waiting, journal, checker, result)
        result.acknowledged, result.refused = len(journal.acknowledged()), sum(s != 0 for s in journal.statuses)
        result.seconds = time.monotonic() - began
        return result

    def _cycle(
        self,
        node: Node,
        point: str | None,
        waiting: list[list[Sent]],
        journal: Journal,
        checker: Checker,
        random_: random.Random,
        result: Result,
    ) -> None:
        environment = {}
        if point is not None:
            # The number of the time at which it dies: early or late in the cycle.
            environment = {VARIABLE: f"{point}:{1 if point in ONCE else random_.randint(1, 6)}"}
        if not node.start(environment):
            result.died_at[point or "start"] += 1
            if not node.start():
                result.problems.append("the node does not start again")
                return
            point = None  # reached already
        result.problems += checker.problems(journal)
        if result.problems:
            return
        senders = self._send(node, waiting, journal, random_)
        if point is None:
            _wait_for_some(senders, random_.randint(0, 30), random_.random() * 0.02)
        else:
            for sender in senders:
                sender.join()
        died = point is not None and gone(node.process, 20 if point in BEHIND_THE_ANSWER else 1)
        result.died_at[point if died and point is not None else "a random moment"] += 1
        node.kill()
        for sender in senders:
            sender.join()

    def _send(self, node: Node, waiting: list[list[Sent]], journal: Journal, random_: random.Random) -> list[Sender]:
        """Each sender: what it still has, a new series, here and there again what it sent, or that with other bytes."""
        senders = []
        for number, still in enumerate(waiting):
            acknowledged = set(journal.acknowledged())
            still[:] = [one for one in still if (one.sop_instance_uid, one.sha256) not in acknowledged]
            still += new_series(self.slices, large=number == 0)
            known = list(journal.sent.values())
            again = random_.sample(known, min(2, len(known)))
            still += [one.altered() if random_.random() < 0.5 else one for one in again]
            senders.append(Sender(node.port, list(still), journal, f"SENDER{number}"))
        for sender in senders:
            sender.start()
        return senders

    def _settle(
        self, node: Node, waiting: list[list[Sent]], journal: Journal, checker: Checker, result: Result
    ) -> None:
        """Without a kill, everything is taken and converted."""
        if not node.start():
            result.problems.append("the node does not start again")
            return
        checker.from_scratch()
        result.problems += checker.problems(journal)
        for still in waiting:
            send(node, still, journal)
            lost = [one for one in still if (one.sop_instance_uid, one.sha256) not in journal.answered_at]
            result.problems += [f"not taken in the end: {one.sop_instance_uid}" for one in lost]
        if not within(self.settle_seconds + 0.2 * len(journal.sent), lambda: not checker.unsettled()):
            result.problems += checker.unsettled()
        if node.end(signal.SIGTERM) != 0:
            result.problems.append("the node does not stop in good order")
        result.problems += checker.problems(journal)


def gone(process: int, seconds: float) -> bool:
    """Whether a process ends by itself in time; it is a zombie then."""
    return within(seconds, lambda: Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z")


def within(seconds: float, condition: Callable[[], object]) -> bool:
    """Whether something comes true in time."""
    deadline, pause, wait = time.monotonic() + seconds, threading.Event(), 0.02
    while not condition():
        if time.monotonic() > deadline:
            return False
        pause.wait(wait)
        wait = min(wait * 1.5, 0.1)  # to look at a root takes a hundredth of a second of a processor
    return True


def send(node: Node, instances: Iterable[Sent], journal: Journal) -> list[int]:
    """Send over one association; return the statuses, as far as the node answered."""
    before = len(journal.statuses)
    sender = Sender(node.port, instances, journal)
    sender.start()
    sender.join()
    return journal.statuses[before:]


def _wait_for_some(senders: Sequence[Sender], count: int, seconds: float) -> None:
    """Return a moment after so many answers, or when all senders are done."""
    pause = threading.Event()
    while sum(sender.answered for sender in senders) < count and any(sender.is_alive() for sender in senders):
        pause.wait(0.001)
    pause.wait(seconds)


@dataclass(slots=True)
class Campaign:
    """A run below `folder`: `done` counts what happened, `problems` says what was wrong."""

    folder: Path
    seed: int = field(default=0, kw_only=True)
    done: Counter[str] = field(default_factory=Counter, init=False)
    problems: list[str] = field(default_factory=list, init=False)


def arguments(document: str | None, cycles: int | None = None) -> argparse.ArgumentParser:
    """Return the parser of a campaign, with ``--seed`` and, where it has cycles, ``--cycles``."""
    parser = argparse.ArgumentParser(description=document, formatter_class=argparse.RawDescriptionHelpFormatter)
    if cycles is not None:
        parser.add_argument("--cycles", type=int, default=cycles)
    parser.add_argument("--seed", type=int, default=0)
    return parser


def report(campaign: str, began: float, done: Mapping[str, int], problems: Sequence[str], sound: str) -> int:
    """Print what a campaign did and for how long, and its problems, or `sound` without any; return its exit code."""
    counts = (f"{count} x {what}" for what, count in sorted(done.items()))
    print(f"{campaign}: {time.monotonic() - began:.0f} s", *counts, sep=", ")
    print(*(problems or [sound]), sep="\n")
    return 1 if problems else 0
