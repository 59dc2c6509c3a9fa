"""Claim series that are due, have them converted, record what came of it, until told to stop."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import monotonic

import structlog

from node.archive.filesystem import Archive
from node.conversion.cleanup import Housekeeping
from node.conversion.job import limits
from node.conversion.pipeline import convert_series, is_unchanged
from node.conversion.pool import ConversionCancelled, ConverterDied, Converters
from node.errors import VoxelnodeError
from node.index.database import Index
from node.index.records import ClaimedSeries
from node.settings.model import Convert, SeriesSettings
from node.writers.options import write_options

log = structlog.get_logger()

POLL_SECONDS = 0.5
NICENESS = 5
"""Conversion gives way to receiving."""

CLOCK_STEP = dt.timedelta(seconds=2)
"""A difference between wall clock and monotonic clock that slewing does not explain."""


_WAITS = SeriesSettings()


class Worker:
    """Converts due series, up to ``[convert] workers`` at once, each in a child process of its own."""

    def __init__(
        self,
        archive: Archive,
        index: Index,
        settings: Convert,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
        waits: SeriesSettings = _WAITS,
    ) -> None:
        self._archive, self._index, self._settings, self._now = archive, index, settings, now
        self._options, self._limits = write_options(settings), limits(settings)
        self._longest_wait = dt.timedelta(seconds=waits.force_complete_after_seconds)
        self._housekeeping = Housekeeping(
            archive,
            index,
            dt.timedelta(seconds=waits.study_quiet_seconds),
            dt.timedelta(hours=settings.keep_superseded_hours),
            now,
        )
        self._stopping = threading.Event()
        self._cancelled = threading.Event()
        self._converters = Converters(NICENESS)
        self._pool = ThreadPoolExecutor(settings.workers, thread_name_prefix="conversion")
        self._clock = _Clock(now)
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)

    def start(self) -> None:
        """Begin to claim."""
        self._index.series.restart_waits(self._clock.moment)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether series that become due will be claimed."""
        return self._thread.is_alive()

    def stop(self, seconds: float) -> None:
        """Claim no more; what is under way may finish within `seconds`, else it is handed back to be due at once."""
        self._stopping.set()
        cancel = threading.Timer(seconds, self._cancelled.set)
        cancel.start()
        self._thread.join()
        self._pool.shutdown(wait=True)
        cancel.cancel()
        self._converters.close()

    def _run(self) -> None:
        idle = threading.Semaphore(self._settings.workers)
        while not self._stopping.is_set():
            if not self._archive.intake.has_room():  # nothing can be written: what is due stays due
                self._stopping.wait(POLL_SECONDS)
                continue
            try:
                if step := self._clock.step():
                    log.warning("clock_stepped", seconds=step.total_seconds())
                    self._index.series.shift_times(step)
                self._housekeeping.work()
                # By the moment of that look: were the clock set right now, everything that waits would be due.
                claimed = self._claim(idle, self._clock.moment)
            except Exception:  # the index may be back in a moment; a dead worker would convert nothing ever after
                log.exception("claim_failed")
                claimed = None
            if claimed is None:
                self._stopping.wait(POLL_SECONDS)
                continue
            self._pool.submit(self._convert, claimed).add_done_callback(lambda _: idle.release())

    def _claim(self, idle: threading.Semaphore, moment: dt.datetime) -> ClaimedSeries | None:
        if not idle.acquire(timeout=POLL_SECONDS):
            return None
        claimed = None
        try:
            claimed = self._index.series.claim_due(moment, self._longest_wait)
        finally:
            if claimed is None:
                idle.release()
        return claimed

    def _convert(self, claimed: ClaimedSeries) -> None:
        bound = log.bind(series_instance_uid=claimed.series_instance_uid, revision=claimed.revision)
        try:
            if is_unchanged(claimed, self._archive, self._options):
                self._index.series.record_unchanged(claimed, self._now())
                bound.info("series_unchanged", instances=len(claimed.instances))
                return
            recorded = convert_series(
                claimed,
                self._archive,
                self._index,
                self._options,
                lambda job: self._converters.run(job, self._limits, self._cancelled),
                self._now,
            )
            bound.info("series_converted" if recorded else "claim_lost", instances=len(claimed.instances))
        except ConversionCancelled:
            self._index.series.release_claim(claimed, self._now())
            bound.info("conversion_handed_back")
        except (ConverterDied, OSError) as error:
            self._record_crash(claimed, str(error) if isinstance(error, ConverterDied) else f"disk: {error.strerror}")
        except Exception as error:
            bound.exception("conversion_failed")
            self._record_crash(claimed, f"{type(error).__name__} while recording the conversion")

    def _record_crash(self, claimed: ClaimedSeries, detail: str) -> None:
        settings = self._settings
        try:
            again = self._index.series.record_crash(claimed, detail, settings.attempts, self._now())
        except VoxelnodeError:
            log.exception("crash_not_recorded")  # the claim stays; the next start gives it back
            return
        log.warning(
            "conversion_crashed", series_instance_uid=claimed.series_instance_uid, reason=detail, tried_again=again
        )


class _Clock:
    """Notices when the wall clock is set while the node runs; `moment` is what it showed when last looked at."""

    def __init__(self, now: Callable[[], dt.datetime]) -> None:
        self._now = now
        self.moment, self._monotonic = now(), monotonic()

    def step(self) -> dt.timedelta | None:
        """How far the clock was set since the last call, if it was."""
        wall, passed = self._now(), monotonic()
        step = wall - self.moment - dt.timedelta(seconds=passed - self._monotonic)
        self.moment, self._monotonic = wall, passed
        return step if abs(step) > CLOCK_STEP else None
