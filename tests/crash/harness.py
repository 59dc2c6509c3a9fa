"""Cycles of receiving, dying, and starting again on one root.

Each cycle starts a node, has senders send to it, and kills it: at a named step of the code, or at a random moment. Each
restart is checked before anything is sent; what was not acknowledged is sent again, as a real sender would. In the end
everything must be converted.
"""

from __future__ import annotations

import argparse
import random
import signal
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from node.runtime.failpoints import CONVERTING, RECEIVING, RECOVERING, VARIABLE
from node.settings.core import OverwritePolicy
from tests.acceptance.served import READY
from tests.crash.checker import Checker, opened
from tests.crash.journal import Journal, Sender, Sent, new_series
from tests.crash.mutants import VARIABLE as VARIABLE_OF_MUTANT
from tests.crash.small_disk import link_to_another_disk
from tests.crash.small_journal import SINGLE_SYNCS
from tests.crash.small_journal import VARIABLE as VARIABLE_OF_JOURNAL
from tests.preloaded import Process
from tests.waiting import within

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
    "batch-cleared",
    "ledger-written",
    "ledger-synced",
    "journal-freed",
    "release-recorded",
    "release-answered",
    *CONVERTING,
    *RECOVERING,
)
"""Steps that are not reached for each instance: the node dies at the first time."""


AFTER_RELEASE = (0.0, 0.001, 0.005, 0.05)
"""Seconds after A-RELEASE-RP, for `Run.moments`."""

KILLED = "this node, not the sender, ended the association"
"""How the reason of a verdict begins if a node died before it knew of a release."""

Moment = str | float | None
"""When a node is killed: at a named step, so many seconds after the last A-RELEASE-RP, or at a random moment (None)."""

BEHIND_THE_ANSWER = frozenset(ONCE) - frozenset(RECOVERING)
"""Steps that every cycle reaches, some time after the last answer."""


class Node:
    """A `voxelnode serve` process, or a mutant of it, that is expected to die and is started again and again.

    `mutant`: see `tests.crash.mutants`.
    `environment`: of every start.
    `port`: where it listens; 0: where there is none yet, each time.
    `releases_after_answer`: a release is recorded only behind its answer, and so lost with a process that dies between.
    """

    releases_after_answer = False

    def __init__(
        self, root: Path, mutant: str | None = None, environment: Mapping[str, str] | None = None, port: int = 0
    ) -> None:
        self.root, self.host, self.port, self._given_port = root, "127.0.0.1", port, port
        self.log = root.parent / "serve.log"
        self._environment = {**SETTINGS, **({VARIABLE_OF_MUTANT: mutant} if mutant else {}), **(environment or {})}
        self._process: Process | None = None
        self.ended: list[int] = []  # exit statuses

    @property
    def process(self) -> int:
        """The number of the process; 0 when none runs."""
        return 0 if self._process is None else self._process.pid

    def start(self, environment: Mapping[str, str] | None = None) -> bool:
        """Start it; False when it dies before it listens."""
        arguments = ["serve", "--create", "--root", str(self.root), "--port", str(self._given_port), "--web-port", "0"]
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
                self.ended.append(process.wait(STOP_SECONDS))
                return self.ended[-1]
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
    """What a run came to.

    `released` counts the series that came whole over one association whose release was answered: each is complete.
    """

    cycles: int = 0
    died_at: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0
    refused: int = 0
    released: int = 0
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0


def beside_random_moments(points: Iterable[str]) -> list[str | None]:
    """Return names of steps, each with a random moment (None) after it."""
    return [moment for point in points for moment in (point, None)]


@dataclass(slots=True)
class Run:
    """Cycles on one root below `folder`.

    `senders`: associations at once.
    `mutant`: see `tests.crash.mutants`.
    `moments`: when the node is killed, in turn. Where it is killed after a release, each sender sends one new series.
    `policy`: ``[storage] overwrite_policy``; each restart is checked for which versions are current.
    `has_reader`: somebody holds a transaction on the index from before the senders come until the node has started
        again.
    `has_two_disks`: the folder of instances is a link to another disk.
    `settle_seconds`: how long everything may take to be converted in the end; a fifth of a second is added for each
        data set.
    `node`: makes what is killed.
    """

    folder: Path
    senders: int = 4
    slices: int = 8
    seed: int = 0
    mutant: str | None = None
    moments: Sequence[Moment] = tuple(beside_random_moments(RECEIVING + CONVERTING + RECOVERING))
    policy: OverwritePolicy | None = None
    has_reader: bool = False
    has_two_disks: bool = False
    settle_seconds: float = 300.0
    node: Callable[..., Node] = Node

    def run(self, cycles: int) -> Result:
        """Go through the moments in turn; stop at a problem."""
        root, began, result = self.folder / "root", time.monotonic(), Result()
        settings = {} if self.policy is None else {"VOXELNODE_STORAGE__OVERWRITE_POLICY": self.policy}
        with ExitStack() as stack:
            if self.has_two_disks:
                link_to_another_disk(root / "objects", stack)
            journal = stack.enter_context(closing(Journal(self.folder / "journal")))
            node = stack.enter_context(self.node(root, self.mutant, settings))
            course = _Course(self, node, journal, Checker(root, self.policy), random.Random(self.seed), result)
            for cycle in range(cycles):
                course.cycle(self.moments[cycle % len(self.moments)])
                result.cycles += 1
                if result.problems:
                    break
            else:
                course.settle()
        result.acknowledged, result.refused = len(journal.acknowledged()), sum(s != 0 for s in journal.statuses)
        result.seconds = time.monotonic() - began
        return result


class _Course:
    """One node through all cycles of a run, and what its senders know."""

    def __init__(
        self, run: Run, node: Node, journal: Journal, checker: Checker, random_: random.Random, result: Result
    ) -> None:
        self._run, self._node, self._journal, self._checker = run, node, journal, checker
        self._random, self._result = random_, result
        self._reader = Reader(node.root)
        self._waiting: list[list[Sent]] = [[] for _ in range(run.senders)]
        self._released: set[str] = set()
        self._altered: set[str] = set()  # series of which an instance was sent with other bytes

    def cycle(self, moment: Moment) -> None:
        environment = {}
        if isinstance(moment, str):
            # The number of the time at which it dies: early or late in the cycle.
            environment = {VARIABLE: f"{moment}:{1 if moment in ONCE else self._random.randint(1, 6)}"}
        if not self._node.start(environment):
            self._result.died_at[str(moment or "start")] += 1
            if not self._node.start():
                self._result.problems.append("the node does not start again")
                return
            moment = None  # reached already
        self._check()
        if self._result.problems:
            return
        if self._run.has_reader:
            self._reader.begin()
        senders = self._send(has_news_only=isinstance(moment, float))
        self._kill(moment, senders)
        for sender in senders:
            sender.join()
            if sender.released:
                self._released |= sender.whole(self._run.slices)

    def _check(self) -> None:
        self._result.problems += [*self._checker.problems(self._journal), *self._reader.end()]

    def _kill(self, moment: Moment, senders: Sequence[Sender]) -> None:
        """Kill the node at this moment; note where it died."""
        if moment is None:
            _wait_for_some(senders, self._random.randint(0, 30), self._random.random() * 0.02)
        else:
            for sender in senders:
                sender.join()
        died_at = "a random moment"
        if isinstance(moment, float):
            threading.Event().wait(moment)
            died_at = f"{1000 * moment:.0f} ms after A-RELEASE-RP"
        elif moment is not None and gone(self._node.process, 20 if moment in BEHIND_THE_ANSWER else 1):
            died_at = moment
        self._result.died_at[died_at] += 1
        self._node.kill()

    def _send(self, *, has_news_only: bool) -> list[Sender]:
        """Each sender: what it still has, a new series, here and there again what it sent, or that with other bytes.

        With `has_news_only`, each is a new sender with its new series: one that comes back would tell that its earlier
        series were whole.
        """
        senders = []
        for number, still in enumerate(self._waiting):
            acknowledged = set(self._journal.acknowledged())
            still[:] = [one for one in still if (one.sop_instance_uid, one.sha256) not in acknowledged]
            still += new_series(self._run.slices, large=number == 0)
            known = list(self._journal.sent.values())
            again = [] if has_news_only else self._random.sample(known, min(2, len(known)))
            others = {one: one.altered(self._random.randint(1, 3)) for one in again if self._random.random() < 0.5}
            still += [others.get(one, one) for one in again]
            self._released -= {one.series_instance_uid for one in again}
            self._altered |= {one.series_instance_uid for one in others}
            title = f"SENDER{number}" + (f".{self._result.cycles}" if has_news_only else "")
            senders.append(Sender(self._node.port, list(still), self._journal, title))
        for sender in senders:
            sender.start()
        return senders

    def settle(self) -> None:
        """Without a kill, everything is taken and converted."""
        if not self._node.start():
            self._result.problems.append("the node does not start again")
            return
        self._checker.from_scratch()
        self._check()
        for still in self._waiting:
            answered = self._journal.answered_at
            left = [one for one in still if (one.sop_instance_uid, one.sha256) not in answered]
            send(self._node, left, self._journal)
            lost = [one for one in left if (one.sop_instance_uid, one.sha256) not in answered]
            self._result.problems += [f"not taken in the end: {one.sop_instance_uid}" for one in lost]
        seconds = self._run.settle_seconds + 0.2 * len(self._journal.sent)
        if not within(seconds, lambda: not self._checker.unsettled()):
            self._result.problems += self._checker.unsettled()
        self._judge()
        if self._node.end(signal.SIGTERM) != 0:
            self._result.problems.append("the node does not stop in good order")
        self._check()

    def _judge(self) -> None:
        """Note which series are not complete although all of them came and their associations were released.

        A series that came with other bytes as well may wait for somebody who decides between its versions. Where a
        release is recorded behind its answer, a node may hold its own death against a series, and against nobody else.
        """
        with closing(opened(self._node.root)) as index:
            rows = {row["series_instance_uid"]: row for row in index.execute("SELECT * FROM v_series")}
        self._result.released = len(self._released)
        self._result.problems += [
            f"{uid} is {rows[uid]['verdict']} ({rows[uid]['verdict_rule']}): {rows[uid]['verdict_reason']}"
            for uid in sorted(self._released)
            if rows[uid]["verdict"] != "complete"
            and not (uid in self._altered and rows[uid]["verdict_rule"] == "versions")
            and not (self._node.releases_after_answer and rows[uid]["verdict_reason"].startswith(KILLED))
        ]


class Reader:
    """Somebody who holds a transaction on the index."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._connection: sqlite3.Connection | None = None
        self._seen = 0

    def begin(self) -> None:
        self._connection = opened(self._root)
        self._connection.execute("BEGIN")
        self._seen = self._count()

    def end(self) -> list[str]:
        """End the transaction, if there is one; say whether it saw what came after its beginning."""
        if self._connection is None:
            return []
        with closing(self._connection):
            seen, self._connection = self._count(), None
        return [] if seen == self._seen else [f"a transaction saw {self._seen} instances, then {seen}"]

    def _count(self) -> int:
        return int(self._connection.execute("SELECT count(*) FROM images").fetchone()[0])


def gone(process: int, seconds: float) -> bool:
    """Whether a process ends by itself in time; it is a zombie then."""
    return within(seconds, lambda: Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z")


def send(node: Node, instances: Sequence[Sent], journal: Journal) -> list[int]:
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


def main_of(campaign: Callable[..., Any], document: str | None, cycles: int, sound: str) -> int:
    """Run the cycles of a campaign as a program says; return its exit code."""
    parser = arguments(document, cycles)
    parser.add_argument("--folder", type=Path, help="keep everything there, for looking into")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="voxelnode-campaign-") as temporary:
        one = campaign(options.folder or Path(temporary), seed=options.seed)
        one.folder.mkdir(parents=True, exist_ok=True)
        one.run(options.cycles)
    return report(f"{options.cycles} cycles, seed {options.seed}", began, one.done, one.problems, sound)


def report(campaign: str, began: float, done: Mapping[str, int], problems: Sequence[str], sound: str) -> int:
    """Print what a campaign did and for how long, and its problems, or `sound` without any; return its exit code."""
    counts = (f"{count} x {what}" for what, count in sorted(done.items()))
    print(f"{campaign}: {time.monotonic() - began:.0f} s", *counts, sep=", ")
    print(*(problems or [sound]), sep="\n")
    return 1 if problems else 0
