"""How conversions end: what became of each is recorded, which ends the claim of its series.

What ends it in the index is in `node.index.nouns.claim_ends`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from contextlib import suppress
from math import inf
from time import monotonic

import structlog

from node.archive.filesystem import Archive
from node.completeness import lost_instances
from node.conversion.series import ReferencedSeriesOpen, SeriesDamaged, record_outcome
from node.conversion.volume_files import LostSources, series_folder
from node.errors import OutOfResources, VoxelnodeError
from node.index.database.index import Index
from node.index.nouns.records import ClaimedSeries, SeriesOutcome
from node.receive.stored_files import report_damage
from node.retries import wait_seconds

log = structlog.get_logger()

ATTEMPTS = 3
"""Attempts at a crashing conversion before the series is set aside as failed."""

WHOLE_AGAIN_SECONDS = 2.0
"""Wait of a series that met damaged files which are whole now: they were replaced meanwhile, or read wrongly."""

SHORTAGE_LOG_SECONDS = 60.0

REFERENCE_WAIT = dt.timedelta(seconds=60)
"""Longest time between checks whether a referenced series is still open; usually its end is noticed at once."""


class ConversionEnds:
    """Records what became of conversions, and logs it. If the index does not take it, it may be recorded later."""

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
        self._archive.intake.require_here()  # recorded later: they may be whole
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
