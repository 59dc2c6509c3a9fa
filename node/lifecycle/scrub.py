"""Compare files in the background: all with their digests, again and again, and versions in different encodings.

A pass takes `[storage] scrub_days`: bytes are read as its time passes, in the order of the keys, on a thread of the
lowest priority. Files are read from the disk, not from the memory of the system. The position is a row, so that a pass
goes on where a restart interrupted it.

A version that came again in another lossless transfer syntax counts as kept at once, until both are decoded in a child
(`node.children.decoding.recoded`). If they differ, or it cannot be said, the conflict is open again, and a
person decides. What a crash leaves is compared after the next start.
"""

import datetime as dt
import json
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any, Self

import structlog

from node.archive.filesystem import Archive
from node.archive.intact import MISSING
from node.children.decoder import Decoder, NotDecoded, NotDecodedNow
from node.children.decoding import SAME, recoded
from node.errors import OutOfResources
from node.files.acknowledged import problems
from node.files.durable import NO_ROOM
from node.index.database import Index
from node.index.rows.about_keys import SCRUB
from node.index.rows.files import HeldFile, VolumeFile
from node.index.rows.records import InstanceFile
from node.index.rules.intake.received import NOT_COMPARED
from node.index.work_loop import IndexFollower
from node.lifecycle.fsck import is_here
from node.receive.accounting import note_lost
from node.receive.stored_files import problem_of, report_damage
from node.runtime.background import MAX_PAUSE_SECONDS
from node.runtime.metrics import Metrics

log = structlog.get_logger()

MAX_FILES_PER_STEP = 256
STEP_SECONDS = 1.0
"""Longest work of one step; after it, the position is recorded."""

REST = 4.0
"""A pass that is late rests this many times as long as it works."""

MIN_SLEEP_SECONDS, MAX_SLEEP_SECONDS = 10.0, 3600.0
"""Bounds of the sleep between two steps; the pass of an archive that was empty begins the shorter one after its first
commit."""

IDLE_NICENESS = 19
UNREADABLE = "cannot be read"


@dataclass(frozen=True, slots=True)
class ScrubPass:
    """One pass over the archive, under way or ended; `key` is the last one that was compared.

    That `unreadable` files could not be read says nothing about their bytes.
    """

    began_at: dt.datetime
    ended_at: dt.datetime | None = None
    key: str = ""
    files: int = 0
    bytes: int = 0
    damaged: int = 0
    unreadable: int = 0

    def counting(self, problem: str | None, length: int = 0) -> Self:
        """Return the pass with one more file, and its problem."""
        return replace(
            self,
            files=self.files + 1,
            bytes=self.bytes + length,
            damaged=self.damaged + (problem is not None and problem != UNREADABLE),
            unreadable=self.unreadable + (problem == UNREADABLE),
        )


@dataclass(frozen=True, slots=True)
class ScrubState:
    """The pass under way, and the last one that ended; None if there is none."""

    current: ScrubPass | None = None
    last: ScrubPass | None = None

    def encoded(self) -> str:
        """Return the state as text for the index."""
        return json.dumps(asdict(self), default=dt.datetime.isoformat)


def scrub_state(text: str | None) -> ScrubState:
    """Return the state that a text of the index holds."""
    content = json.loads(text or "{}")
    return ScrubState(_pass(content.get("current")), _pass(content.get("last")))


def _pass(fields: dict[str, Any] | None) -> ScrubPass | None:
    if fields is None:
        return None
    ended_at = fields["ended_at"] and dt.datetime.fromisoformat(fields["ended_at"])
    return ScrubPass(**{**fields, "began_at": dt.datetime.fromisoformat(fields["began_at"]), "ended_at": ended_at})


class Scrub(IndexFollower):
    """Compare all files once in `days`. On an empty archive, the commit of the first instances wakes it.

    `days`: duration of a pass.
    """

    def __init__(
        self,
        archive: Archive,
        index: Index,
        metrics: Metrics,
        days: float,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        super().__init__("scrub", index, lease="scrub")
        self._archive, self._now = archive, now
        self._duration = dt.timedelta(days=days)
        self._state = scrub_state(index.about.get(SCRUB))
        self._total: int | None = None
        self._is_idle = self._is_empty = False
        metrics.scrub_last_pass_timestamp_seconds.set_function(self._last_ended)
        metrics.scrub_damaged.set_function(lambda: float(self._state.last.damaged if self._state.last else 0))

    def _follow(self) -> None:
        if self._is_empty:
            self.wake(MIN_SLEEP_SECONDS)

    def _take_up(self) -> None:
        self._state = scrub_state(self._index.about.get(SCRUB))

    def step(self) -> float:
        """Compare the files that are due by now; return the seconds until the next are."""
        self._be_idle()
        began, now = monotonic(), self._now()
        current = self._state.current
        if current is None or current.began_at > now:  # the clock was set back
            last = self._state.last
            if current is None and last is not None and now < last.began_at + self._duration and now >= last.began_at:
                return min((last.began_at + self._duration - now).total_seconds(), MAX_SLEEP_SECONDS)
            current, self._total = ScrubPass(now), None
        if self._total is None:
            self._total = self._index.instances.total_bytes()
        due_bytes = self._total * ((now - current.began_at) / self._duration)
        if current.bytes > due_bytes:
            self._keep(ScrubState(current, self._state.last))
            seconds = (current.bytes - due_bytes) / max(self._total, 1) * self._duration.total_seconds()
            return min(max(seconds, MIN_SLEEP_SECONDS), MAX_SLEEP_SECONDS)
        self._is_empty = not current.files  # before the look, so that no commit is missed
        files: Sequence[InstanceFile | VolumeFile] = self._index.instances.files_after(current.key, MAX_FILES_PER_STEP)
        with self._index.reading(wait=False) as view:
            files = files or list(view.files.of_volumes(current.key, MAX_FILES_PER_STEP))  # these keys are greater
        if not files and not current.files:  # an empty archive: a pass begins when it has files
            return MAX_SLEEP_SECONDS
        if not files:
            self._finish(current)
            return 0.0  # the next step sleeps until the next pass
        self._is_empty = False
        for file in files:
            current = self._compared(current, file)
            if self._stopping.is_set() or current.bytes > due_bytes or monotonic() - began > STEP_SECONDS:
                break
        self._keep(ScrubState(current, self._state.last))
        return REST * (monotonic() - began)

    def _keep(self, state: ScrubState) -> None:
        if state != self._state:
            self._index.about.set(SCRUB, state.encoded())
            self._state = state

    def _finish(self, current: ScrubPass) -> None:
        for loser in self._index.instances.losers():
            if self._index.sharing.is_away(loser.holder):
                continue
            problem = self._problem_of(loser)
            current = current.counting(problem)
            if problem is not None and problem != UNREADABLE:
                gone = problem == MISSING
                self._index.instances.record_loser_damage(loser.key, f"the file {problem}", self._now(), gone=gone)
        self._account()
        ended = replace(current, ended_at=self._now())
        log.info("scrubbed", files=ended.files, bytes=ended.bytes, damaged=ended.damaged, failed=ended.unreadable)
        self._keep(ScrubState(None, ended))

    def _account(self) -> None:
        """Compare the ledger with the index."""
        try:
            for path, problem in problems(self._archive.root):
                log.error("ledger_damaged", path=path.name, reason=problem)
            note_lost(self._archive, self._index, self._now(), stop=self._stopping.is_set)
        except OSError as error:
            log.error("ledger_unreadable", reason=error.strerror)

    def _compared(self, current: ScrubPass, file: InstanceFile | VolumeFile) -> ScrubPass:
        if isinstance(file, VolumeFile):
            return self._volume_compared(current, file)
        problem = self._problem_of(file)
        if problem is not None and file.key not in self._index.instances.named_keys([file.key]):
            problem = None  # deleted or replaced meanwhile
        now = self._now()
        if problem is None and file.file_missing and not self._index.sharing.is_away(file.holder):
            self._index.instances.mark_files([file.key], missing=False, now=now)
        elif problem is not None and problem != UNREADABLE:
            report_damage(self._archive, self._index, file.key, problem, now)
        return replace(current.counting(problem, file.bytes), key=file.key)

    def _volume_compared(self, current: ScrubPass, file: VolumeFile) -> ScrubPass:
        """Compare a file of a revision that is here; if it is damaged or missing, its series is converted again."""
        is_here_now = file.sha256 and not file.superseded and is_here(file, self._index.sharing.holder)
        problem = self._problem_of(file) if is_here_now else None
        if problem not in (None, UNREADABLE):
            log.error("volume_damaged", path=file.key, reason=problem)
            self._archive.remove(file.key)  # a series whose files have their length stays as it is
            self._index.series.reopen([(file.study_instance_uid, file.series_instance_uid)], self._now())
        return replace(current.counting(problem, file.bytes), key=file.key)

    def _problem_of(self, file: InstanceFile | HeldFile | VolumeFile) -> str | None:
        """Compare a file; of an instance that only the object store has, whether the object is there."""
        if self._index.sharing.is_away(file.holder):  # its host reads it when it moves it to the store
            return None
        path = self._archive.path(file.key)
        try:
            _forget_cached(path)
            problem = problem_of(self._archive, file)
            _forget_cached(path)
        except OSError as error:
            if error.errno in NO_ROOM:
                raise OutOfResources(f"a file cannot be compared now: {error.strerror}") from error
            log.error("file_unreadable", path=file.key, reason=error.strerror)
            return UNREADABLE
        return problem

    def _last_ended(self) -> float:
        last = self._state.last
        return last.ended_at.timestamp() if last is not None and last.ended_at is not None else 0.0

    def _be_idle(self) -> None:
        """Give this thread the lowest priority, for the processor and with it for the disk."""
        if not self._is_idle and self._thread.is_current:
            self._is_idle = True
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), IDLE_NICENESS)


def _forget_cached(path: Path) -> None:
    """Have the system drop what it holds of a file in memory: the disk is what is examined."""
    with suppress(FileNotFoundError, AttributeError):  # macOS cannot
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


MOVED_SECONDS = 1.0
"""After the commit, a file is moved into quarantine: that has nearly always happened then."""


class Comparisons(IndexFollower):
    """Makes the comparisons that `ConflictRepository.not_compared` lists; commits that add to the list wake it."""

    notes = (NOT_COMPARED,)

    def __init__(self, archive: Archive, index: Index, decoder: Decoder) -> None:
        super().__init__("comparisons", index, MOVED_SECONDS)
        self._archive, self._decoder = archive, decoder

    def step(self) -> float | None:
        """Compare all that can be compared now."""
        again = None
        for conflict, sop_instance_uid, key in self._index.conflicts.not_compared():
            current, is_same = self._index.instances.current(sop_instance_uid), False
            try:
                if current is not None and key is not None:
                    paths = self._archive.path(key), self._archive.local(current)
                    is_same = self._decoder.run(recoded, *paths) == SAME
            except (NotDecodedNow, FileNotFoundError):  # the node stops, or the file is on its way into quarantine
                again = MAX_PAUSE_SECONDS
                continue
            except (NotDecoded, OSError):
                log.warning("not_compared", sop_instance_uid=sop_instance_uid, detail="a person decides")
            self._index.conflicts.compared(conflict, self._index.now(), is_same=is_same)
        return again
