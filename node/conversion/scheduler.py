"""Claim due series, convert them in child processes, and record the outcomes."""

from __future__ import annotations

import datetime as dt
import errno
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from math import inf
from time import monotonic

import structlog

from node.archive.base import StoreAway
from node.archive.filesystem import Archive
from node.archive.space import reason_of
from node.children.messages import ChildCancelled
from node.completeness import lost_instances
from node.conversion.housekeeping import Housekeeping
from node.conversion.job import limits
from node.conversion.pool import ConverterDied, Converters, ShortOfResources
from node.conversion.series import ReferencedSeriesOpen, SeriesDamaged, is_unchanged, record_outcome, write_volumes
from node.conversion.volume_files import LostSources, series_folder
from node.errors import OutOfResources, VoxelnodeError, is_out_of_memory, type_and_location
from node.files.durable import NO_ROOM
from node.hookspecs import ObjectKind
from node.index.database.index import Index
from node.index.database.work_loop import IndexFollower
from node.index.engine.place import IndexUnusable
from node.index.nouns.records import ClaimedSeries, SeriesOutcome
from node.index.search.finder import QueryRefused
from node.receive.stored_files import report_damage
from node.runtime.background import wait_seconds
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

SHORTAGES = NO_ROOM | {errno.EAGAIN, errno.ENOTCONN, errno.ESTALE}
"""Errors that are not the fault of a series; EAGAIN: no process or thread can start; the others: it is not mounted."""

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
        self._options, self._limits = write_options(settings), limits(settings)
        self._note_activity = note_activity
        self._longest_wait = dt.timedelta(seconds=waits.force_complete_after_seconds)
        self._housekeeping = Housekeeping(
            archive,
            index,
            dt.timedelta(seconds=waits.study_quiet_seconds),
            dt.timedelta(hours=settings.keep_superseded_hours),
            now,
        )
        self._converters = Converters(NICENESS, objects, self._options)
        self._pool = ThreadPoolExecutor(settings.workers, thread_name_prefix="conversion")
        self._ends = ConversionEnds(archive, index, now)
        self._clock = _Clock(now)
        self._lock = threading.Lock()
        self._under_way: set[str] = set()
        self._interrupts: dict[str, threading.Event] = {}  # of claims whose outcome is not known yet
        self._is_cut_short = False
        self._unrecorded: dict[str, Callable[[], None]] = {}
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
            for interrupted in self._interrupts.values():
                interrupted.set()

    def _cut_short(self) -> None:
        """Interrupt conversions under way, and those that the last step may still begin."""
        self._is_cut_short = True
        self.interrupt()

    def step(self) -> float:
        """Claim due series while a converter is free; return the seconds until the next step."""
        self._follow_clock()
        lack = self._archive.intake.waits_for()
        self._ends.record_lack(lack, self._clock.moment, self._longest_wait)
        if lack is not None:  # no space for volumes: the series stay due
            return ROOM_SECONDS
        self._record_again()
        self._release_stalled()
        self._interrupt_lost()
        self._take_over()
        seconds = CLOCK_SECONDS
        if self._index.sharing.has("housekeeping"):
            seconds = min(seconds, self._housekeeping.work())
        # Use the time of that check: if the clock were set just now, every waiting series would be due.
        moment = self._clock.moment
        while self._is_free():
            claimed = self._claimed(moment)
            if claimed is None:
                return min(seconds, self._seconds_until_due(moment))
            self._submit(claimed)
        return seconds  # the end of a conversion wakes the worker

    def _follow_clock(self) -> None:
        """Move all timers by what the clock was stepped, now or in an earlier step whose commit failed."""
        if step := self._clock.step():
            log.warning("clock_stepped", seconds=step.total_seconds())
            self._unfollowed += step
        if self._unfollowed:
            self._index.timers.shift(self._unfollowed)
            self._unfollowed = dt.timedelta()

    def _claimed(self, moment: dt.datetime) -> ClaimedSeries | None:
        """Claim a series that is quiet also by what is not in the index yet: the journal, and bytes that come in."""
        if not self._index.series.is_due(moment, self._longest_wait):
            return None
        try:
            self._index.ahead.require_caught_up()
        except QueryRefused:
            return None
        if self._index.sharing.must_wait(moment):
            return None
        self._note_activity()
        return self._index.series.claim_due(moment, self._longest_wait)

    def _is_free(self) -> bool:
        with self._lock:
            is_free = len(self._under_way) < self._settings.workers
        return is_free and not self._stopping.is_set() and self._archive.intake.has_room()

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

    def _submit(self, claimed: ClaimedSeries) -> None:
        interrupted = threading.Event()
        with self._lock:
            self._under_way.add(claimed.claim)
            self._interrupts[claimed.claim] = interrupted
            if self._is_cut_short:
                interrupted.set()
        try:
            self._pool.submit(self._convert, claimed, interrupted)
        except RuntimeError:  # the thread could not start; the next step releases the claim
            with self._lock:
                self._under_way.discard(claimed.claim)
                del self._interrupts[claimed.claim]
            raise

    def _convert(self, claimed: ClaimedSeries, interrupted: threading.Event) -> None:
        with self._lock:
            if claimed.claim not in self._under_way:  # queued although its thread could not start
                return
        try:
            record = self._converted(claimed, interrupted)
        except Exception as error:  # any error concerns this series only
            cause = f"{type(error).__name__} while converting"
            if self._is_short(error):
                record = partial(self._ends.postpone, claimed, cause)
            else:
                log.exception("conversion_failed", series_instance_uid=claimed.series_instance_uid)
                record = partial(self._ends.record_crash, claimed, cause)
        with self._lock:
            del self._interrupts[claimed.claim]  # before the claim is ended
        self._record(claimed, record)

    def _converted(self, claimed: ClaimedSeries, interrupted: threading.Event) -> Callable[[], None]:
        """Convert a series; return the function that records the outcome."""
        if claimed.current is not None and claimed.current.holds_lost:
            return partial(self._ends.record_lost, claimed)
        try:
            if (remains := self._ends.made_of_lost(claimed)) is not None:
                return partial(self._ends.record_lost, claimed, f"; {remains} was made of them, and stays")
            if is_unchanged(claimed, self._archive, self._options):
                return partial(self._ends.record_unchanged, claimed)
            outcome = write_volumes(
                claimed,
                self._archive,
                self._index,
                self._options,
                lambda job: self._converters.run(job, self._limits, interrupted),
            )
        except ChildCancelled:
            return partial(self._ends.hand_back, claimed)
        except ShortOfResources as short:
            return partial(self._ends.postpone, claimed, str(short))
        except SeriesDamaged as error:
            return partial(self._ends.record_damaged, claimed, error)
        except ReferencedSeriesOpen as error:
            return partial(self._ends.wait_for, claimed, error)
        except (ConverterDied, OSError, OutOfResources) as error:
            cause = self._cause(error) if isinstance(error, OSError) else str(error)
            if self._is_short(error):
                return partial(self._ends.postpone, claimed, cause)
            return partial(self._ends.record_crash, claimed, cause)
        return partial(self._ends.record_outcome, claimed, outcome)

    def _cause(self, error: OSError) -> str:
        origin = "object store" if isinstance(error, StoreAway) else "disk"
        return f"{origin}: {reason_of(error, self._archive.root)}"

    def _is_short(self, error: Exception) -> bool:
        """Return whether the machine lacks something: then it is not the fault of the series."""
        intake = self._archive.intake
        is_named = isinstance(error, StoreAway | IndexUnusable) or (
            isinstance(error, OSError) and error.errno in SHORTAGES
        )
        return is_named or is_out_of_memory(error) or intake.shortage is not None or not intake.has_room()

    def _record(self, claimed: ClaimedSeries, record: Callable[[], None]) -> None:
        """Record an outcome, or keep it to be recorded later; then free the converter."""
        try:
            record()
        except Exception as error:
            log.warning(
                "outcome_not_recorded", series_instance_uid=claimed.series_instance_uid, revision=claimed.revision,
                reason=type_and_location(error),
            )  # fmt: skip
            with self._lock:
                self._unrecorded[claimed.claim] = record
        with self._lock:
            self._under_way.discard(claimed.claim)
        self.wake()

    def _record_again(self) -> None:
        """Retry the outcomes that the index did not accept; keep those that fail again."""
        for claim, record in tuple(self._unrecorded.items()):
            try:
                record()
            except Exception as error:
                log.debug("outcome_not_recorded", error=type(error).__name__)
            else:
                with self._lock:
                    del self._unrecorded[claim]

    def _release_stalled(self) -> None:
        # Only this thread claims series: a claim that is not held now never will be.
        with self._lock:
            held = [*self._under_way, *self._unrecorded]
        if count := self._index.series.release_stalled_claims(held, self._now()):
            log.warning("stalled_claims_released", claims=count)

    def _interrupt_lost(self) -> None:
        """Interrupt conversions whose outcomes would not be recorded."""
        with self._lock:
            claims = set(self._interrupts)
        lost = claims - self._index.series.held(claims) if claims else set()
        for claim in lost:
            with self._lock:
                interrupted = self._interrupts.get(claim)
            if interrupted is not None and not interrupted.is_set():
                log.warning("claim_lost", detail="its conversion is interrupted")
                interrupted.set()

    def _take_over(self) -> None:
        """Take over the series of hosts whose lease has ended."""
        while (taken := self._index.series.take_over(self._now())) is not None:
            claimed, host = taken
            self._ends.record_crash(claimed, f"host {host} vanished during the conversion")


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


ATTEMPTS = 3
"""Attempts at a crashing conversion before the series is set aside as failed."""

WHOLE_AGAIN_SECONDS = 2.0
"""Wait of a series that met damaged files which are whole now: they were replaced meanwhile, or read wrongly."""

SHORTAGE_LOG_SECONDS = 60.0

REFERENCE_WAIT = dt.timedelta(seconds=60)
"""Longest time between checks whether a referenced series is still open; usually its end is noticed at once."""


class ConversionEnds:
    """Records what became of conversions, and logs it. If the index does not take it, it may be recorded later.

    The record ends the claim of the series (`node.index.nouns.claim_ends`).
    """

    def __init__(self, archive: Archive, index: Index, now: Callable[[], dt.datetime]) -> None:
        self._archive, self._index, self._now = archive, index, now
        self._shortage_logged_at = -inf
        self._is_lack_recorded = True  # by the process before, for all that is known

    def record_outcome(self, claimed: ClaimedSeries, outcome: SeriesOutcome) -> None:
        """Record volumes or refusals, with their files."""
        try:
            recorded = record_outcome(claimed, outcome, self._archive, self._index, self._now)
        except VoxelnodeError:
            raise
        except Exception as error:  # a retry would fail in the same way
            log.exception("conversion_failed", series_instance_uid=claimed.series_instance_uid)
            self.record_crash(claimed, f"{type(error).__name__} while recording the conversion")
            return
        event = "series_converted" if outcome.state == "converted" else "series_without_volume"
        _log(claimed).info(event if recorded else "claim_lost", state=outcome.state, instances=len(claimed.instances))

    def record_unchanged(self, claimed: ClaimedSeries) -> None:
        """Record that the current volumes stay."""
        self._index.series.record_unchanged(claimed, self._now())
        _log(claimed).info("series_unchanged", instances=len(claimed.instances))

    def postpone(self, claimed: ClaimedSeries, why: str) -> None:
        """Let a series wait, because the machine lacked something."""
        self._index.series.postpone(claimed, why, dt.timedelta(seconds=wait_seconds(1)), self._now())
        self._log_shortage(why)

    def wait_for(self, claimed: ClaimedSeries, error: ReferencedSeriesOpen) -> None:
        """Let a series wait for those to which it refers."""
        self._index.series.wait_for(claimed, error.references, str(error), REFERENCE_WAIT, self._now())
        _log(claimed).info("conversion_waits", reason="a series to which it refers is open")

    def hand_back(self, claimed: ClaimedSeries) -> None:
        """Let a series whose conversion was interrupted be due at once."""
        if self._index.series.release_claim(claimed, self._now()):
            _log(claimed).info("conversion_handed_back")

    def record_damaged(self, claimed: ClaimedSeries, error: SeriesDamaged) -> None:
        """Set a series aside whose files are damaged, unless all of them are whole again."""
        whole = [report_damage(self._archive, self._index, key, problem, self._now()) for key, problem in error.damaged]
        if all(whole):
            wait = dt.timedelta(seconds=WHOLE_AGAIN_SECONDS)
            self._index.series.postpone(claimed, "damaged files are whole again", wait, self._now())
            return
        self._index.series.record_damaged(claimed, str(error), error.references, self._now())

    def made_of_lost(self, claimed: ClaimedSeries) -> str | None:
        """Return the folder of volumes of a series that were made of lost instances, and that the index has forgotten.

        Raises StoreAway if the object store is to tell, and does not answer.
        """
        if claimed.current is not None or not claimed.expectation.lost:
            return None
        key = (claimed.study_instance_uid, claimed.series_instance_uid)
        lost = LostSources({key: self._index.lost.by_series().get(key, set())})
        if folders := lost.folders(self._archive.root):
            return folders[-1]
        remote, folder = self._archive.remote, series_folder(*key)
        return folder if remote is not None and remote.has_any(folder) else None

    def record_lost(self, claimed: ClaimedSeries, kept: str = "") -> None:
        """Set a series aside whose volumes were made of instances that are lost now: none takes their place.

        `kept`: what no row names of them, as the end of a sentence.
        """
        references = [(found.key, found.revision) for found in claimed.referenced]
        detail = f"{lost_instances(claimed.expectation.lost)}: send them again, or write them off{kept}"
        self._index.series.record_damaged(claimed, detail, references, self._now())

    def record_crash(self, claimed: ClaimedSeries, detail: str) -> None:
        """Record that the converter crashed; the series is set aside after `ATTEMPTS`."""
        again = self._index.series.record_crash(claimed, detail, ATTEMPTS, self._now())
        _log(claimed).warning("conversion_crashed", reason=detail, tried_again=again)

    def record_lack(self, lack: str | None, moment: dt.datetime, longest_wait: dt.timedelta) -> None:
        """Record in the due series that they wait for room, or that there is room again.

        Every now and then, their words are renewed, because the room that is left changes.
        """
        if lack is None and not self._is_lack_recorded:
            return
        again = lack is not None and self._log_shortage(lack)
        with suppress(OutOfResources):  # the index lacks room as well; the log has the reason
            self._index.series.record_lack(lack, moment, longest_wait, again=again)
            self._is_lack_recorded = lack is not None

    def _log_shortage(self, why: str) -> bool:
        """Log once in `SHORTAGE_LOG_SECONDS` that conversions wait; return whether that was now."""
        is_now = monotonic() >= self._shortage_logged_at + SHORTAGE_LOG_SECONDS
        if is_now:
            self._shortage_logged_at = monotonic()
            log.warning("conversions_wait", reason=why)
        return is_now


def _log(claimed: ClaimedSeries) -> structlog.stdlib.BoundLogger:
    bound: structlog.stdlib.BoundLogger = log.bind(
        series_instance_uid=claimed.series_instance_uid, revision=claimed.revision
    )
    return bound
