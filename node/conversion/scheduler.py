"""Claim due series, convert them in child processes, and record the outcomes."""

import datetime as dt
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from time import monotonic

import structlog

from node.archive.filesystem import Archive
from node.conversion.job import limits
from node.conversion.pool import Converters
from node.conversion.series import Conversions, Crashed, End
from node.conversion.volume_files import Housekeeping
from node.errors import OutOfResources, type_and_location
from node.hookspecs import ObjectKind
from node.index.database import Index
from node.index.look.finder import QueryRefused
from node.index.rows.records import ClaimedSeries
from node.index.work_loop import IndexFollower
from node.settings.core import SeriesSettings
from node.settings.section import Convert
from node.writers.options import write_options

log = structlog.get_logger()

CLOCK_SECONDS = 5.0
"""Interval between checks of the wall clock; a clock step is noticed within this time."""

ROOM_SECONDS = 2.0
"""Interval between checks of a full disk."""

RETRY_SECONDS = 1.0
"""Delay before retrying to record an outcome that the index did not accept."""

LOADING_SECONDS = 5.0
"""How long before the first series is due a child is started: to load its libraries takes half a second of a processor,
and several seconds of a busy machine."""

NICENESS = 5
"""Conversion yields to receiving."""

CLOCK_STEP = dt.timedelta(seconds=2)
"""A larger difference between wall clock and monotonic clock is a step, not slewing."""

_WAITS = SeriesSettings()


class Worker(IndexFollower):
    """Convert due series, up to ``[convert] workers`` at once, each in its own child process.

    This process holds a claim in the index while a series is converted and until its outcome is recorded. If the index
    does not accept an outcome, it is kept and recorded later. Any other claim is stalled (its commit was reported as
    failed, or its thread could not start) and is released by the next step. A series is therefore never converted
    twice at the same time, and no claim outlives its conversion. If the process dies, the next start of its host
    releases its claims, or another host takes the series over once the lease of this one has ended; that counts as a
    crash of the converter.

    `note_activity`: notes in the index which associations are sending an instance now.
    `objects`: the instances without pixels that extensions turn into files.
    """

    def __init__(
        self,
        archive: Archive,
        index: Index,
        settings: Convert,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
        waits: SeriesSettings = _WAITS,
        note_activity: Callable[[], None] = lambda: None,
        objects: tuple[ObjectKind, ...] = (),
    ) -> None:
        super().__init__("worker", index)
        self._archive, self._settings, self._now = archive, settings, now
        options, self._limits = write_options(settings), limits(settings)
        self._note_activity = note_activity
        self._longest_wait = dt.timedelta(seconds=waits.force_complete_after_seconds)
        self._housekeeping = Housekeeping(
            archive,
            index,
            dt.timedelta(seconds=waits.study_quiet_seconds),
            dt.timedelta(hours=settings.keep_superseded_hours),
            now,
        )
        self._converters = Converters(NICENESS, objects, options)
        self._pool = ThreadPoolExecutor(settings.workers, thread_name_prefix="conversion")
        self._conversions = Conversions(archive, index, options, now)
        self._clock = _Clock(now)
        self._lock = threading.Lock()
        self._under_way: dict[str, threading.Event | None] = {}  # its interrupt, until the end of a claim is known
        self._is_cut_short = False
        self._unrecorded: dict[str, tuple[ClaimedSeries, End]] = {}
        self._unfollowed = dt.timedelta()

    def start(self) -> None:
        """Start claiming series."""
        self._index.timers.correct(self._clock.moment)
        super().start()

    def stop(self, seconds: float | None = None) -> None:
        """Stop claiming series. Conversions not finished within `seconds` are interrupted; their series stay due."""
        cancel = threading.Timer(seconds if seconds is not None else threading.TIMEOUT_MAX, self._cut_short)
        cancel.start()
        super().stop()
        self._pool.shutdown(wait=True)
        cancel.cancel()
        self._converters.close()
        self._record_again()

    def interrupt(self) -> None:
        """End the children of all conversions under way, and return at once: their series stay due."""
        with self._lock:
            for interrupted in filter(None, self._under_way.values()):
                interrupted.set()

    def _cut_short(self) -> None:
        """Interrupt conversions under way, and those that the last step may still begin."""
        self._is_cut_short = True
        self.interrupt()

    def step(self) -> float:
        """Claim due series while a converter is free; return the seconds until the next step."""
        self._follow_clock()
        lack = self._archive.intake.waits_for()
        self._conversions.record_lack(lack)
        self._record_again()
        self._release_stalled()
        self._interrupt_lost()
        self._take_over()
        seconds = CLOCK_SECONDS if lack is None else ROOM_SECONDS
        if self._index.sharing.has("housekeeping"):
            seconds = min(seconds, self._housekeeping.work(has_room=lack is None))
        # Use the time of that check: if the clock were set just now, every waiting series would be due.
        moment = self._clock.moment
        while self._is_free():
            lack = self._archive.intake.waits_for()  # without room, each series is tried for an outcome without files
            claimed = self._claimed(moment, has_room=lack is None)
            if claimed is None:
                return seconds if lack is not None else min(seconds, self._seconds_until_due(moment))
            self._submit(claimed, lack)
        return seconds  # the end of a conversion wakes the worker

    def _follow_clock(self) -> None:
        """Move all timers by what the clock was stepped, now or in an earlier step whose commit failed."""
        if step := self._clock.step():
            log.warning("clock_stepped", seconds=step.total_seconds())
            self._unfollowed += step
        if self._unfollowed:
            self._index.timers.shift(self._unfollowed)
            self._unfollowed = dt.timedelta()

    def _claimed(self, moment: dt.datetime, *, has_room: bool) -> ClaimedSeries | None:
        """Claim a series that is quiet also by what is not in the index yet: the journal, and bytes that come in."""
        if not self._index.series.is_due(moment, self._longest_wait, has_room=has_room):
            return None
        try:
            self._index.ahead.require_caught_up(reads=False)
        except QueryRefused:
            return None
        if self._index.sharing.must_wait(moment):
            return None
        try:
            self._note_activity()
            return self._index.series.claim_due(moment, self._longest_wait, has_room=has_room)
        except OutOfResources:
            if has_room:
                raise
            return None  # the index lacks room as well

    def _is_free(self) -> bool:
        with self._lock:
            is_free = len(self._under_way) < self._settings.workers
        return is_free and not self._stopping.is_set() and self._archive.intake.stopped is None

    def _seconds_until_due(self, moment: dt.datetime) -> float:
        seconds = RETRY_SECONDS if self._unrecorded else CLOCK_SECONDS
        due_at = self._index.series.next_due_at(self._longest_wait)
        if due_at is None:
            return seconds
        # A series that is due and could not be claimed waits for the journal or for a file, or another host claims it.
        until_due = (due_at - moment).total_seconds()
        if until_due <= 0:
            return min(seconds, RETRY_SECONDS)
        if until_due > LOADING_SECONDS:
            return min(seconds, until_due - LOADING_SECONDS)
        with suppress(OSError):  # the conversion says what is short
            self._converters.start()
        return min(seconds, until_due)

    def _submit(self, claimed: ClaimedSeries, lack: str | None) -> None:
        interrupted = threading.Event()
        with self._lock:
            self._under_way[claimed.claim] = interrupted
            if self._is_cut_short:
                interrupted.set()
        try:
            self._pool.submit(self._convert, claimed, interrupted, lack)
        except RuntimeError:  # the thread could not start; the next step releases the claim
            with self._lock:
                del self._under_way[claimed.claim]
            raise

    def _convert(self, claimed: ClaimedSeries, interrupted: threading.Event, lack: str | None) -> None:
        with self._lock:
            if claimed.claim not in self._under_way:  # queued although its thread could not start
                return
        end = self._conversions.convert(claimed, lambda job: self._converters.run(job, self._limits, interrupted), lack)
        with self._lock:
            self._under_way[claimed.claim] = None  # before the claim is ended
        try:
            self._conversions.record(claimed, end)
        except Exception as error:
            log.warning(
                "outcome_not_recorded", series_instance_uid=claimed.series_instance_uid, revision=claimed.revision,
                reason=type_and_location(error),
            )  # fmt: skip
            with self._lock:
                self._unrecorded[claimed.claim] = claimed, end
        with self._lock:
            del self._under_way[claimed.claim]
        self.wake()

    def _record_again(self) -> None:
        """Retry the outcomes that the index did not accept; keep those that fail again."""
        for claimed, end in tuple(self._unrecorded.values()):
            try:
                self._conversions.record(claimed, end)
            except Exception as error:
                log.debug("outcome_not_recorded", error=type(error).__name__)
            else:
                with self._lock:
                    del self._unrecorded[claimed.claim]

    def _release_stalled(self) -> None:
        # Only this thread claims series: a claim that is not held now never will be.
        with self._lock:
            held = [*self._under_way, *self._unrecorded]
        if count := self._index.series.release_stalled_claims(held, self._now()):
            log.warning("stalled_claims_released", claims=count)

    def _interrupt_lost(self) -> None:
        """Interrupt conversions whose outcomes would not be recorded."""
        with self._lock:
            claims = {claim for claim, interrupted in self._under_way.items() if interrupted is not None}
        for claim in claims - self._index.series.held(claims) if claims else ():
            with self._lock:
                interrupted = self._under_way.get(claim)
            if interrupted is not None and not interrupted.is_set():
                log.warning("claim_lost", detail="its conversion is interrupted")
                interrupted.set()

    def _take_over(self) -> None:
        """Take over the series of hosts whose lease has ended."""
        while (taken := self._index.series.take_over(self._now())) is not None:
            claimed, host = taken
            self._conversions.record(claimed, Crashed(f"host {host} vanished during the conversion"))


class _Clock:
    """Detect steps of the wall clock; `moment` is the time of the last check."""

    def __init__(self, now: Callable[[], dt.datetime]) -> None:
        self._now = now
        self.moment, self._monotonic = now(), monotonic()

    def step(self) -> dt.timedelta | None:
        """Return how far the clock was stepped since the last call, or None if it was not."""
        wall, passed = self._now(), monotonic()
        step = wall - self.moment - dt.timedelta(seconds=passed - self._monotonic)
        self.moment, self._monotonic = wall, passed
        return step if abs(step) > CLOCK_STEP else None
