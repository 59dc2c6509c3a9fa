"""Mark studies that have become quiet, and remove the files of superseded revisions."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from math import inf
from time import monotonic

import structlog

from node.archive.filesystem import Archive
from node.conversion.volume_files import remove_folder
from node.index.database.index import Index

log = structlog.get_logger()

STUDIES_SECONDS = 1.0
FILES_SECONDS = 60.0


class Housekeeping:
    """The tasks of the worker other than conversions; each runs when it is due.

    Parameters
    ----------
    study_quiet : timedelta
        Time from the last conversion of a study until the study is quiet.
    keep_superseded : timedelta
        Time for which the files of a superseded conversion are kept.
    """

    def __init__(
        self,
        archive: Archive,
        index: Index,
        study_quiet: dt.timedelta,
        keep_superseded: dt.timedelta,
        now: Callable[[], dt.datetime],
    ) -> None:
        self._archive, self._index, self._now = archive, index, now
        self._study_quiet, self._keep_superseded = study_quiet, keep_superseded
        self._studies_at = self._files_at = 0.0

    def work(self) -> float:
        """Run the tasks that are due; return the seconds until the next one is."""
        moment = monotonic()
        studies_wait = self._studies_at - moment
        if studies_wait <= 0:
            self.find_quiet_studies()
            self._studies_at = moment + STUDIES_SECONDS
            studies_wait = max(STUDIES_SECONDS, self._seconds_until_quiet())
        if moment >= self._files_at:
            self.remove_superseded()
            self._files_at = moment + FILES_SECONDS
        return min(self._files_at - moment, studies_wait)

    def _seconds_until_quiet(self) -> float:
        quiet_at = self._index.studies.next_quiet_at(self._study_quiet)
        return (quiet_at - self._now()).total_seconds() if quiet_at is not None else inf

    def find_quiet_studies(self) -> None:
        """Mark the studies that have become quiet."""
        if count := self._index.studies.mark_quiet(self._study_quiet, self._now()):
            log.info("studies_quiet", count=count)

    def remove_superseded(self) -> None:
        """Remove the files of superseded revisions, then record it; a crash in between repeats both steps."""
        for conversion in self._index.conversions.superseded_before(self._now() - self._keep_superseded):
            try:
                for folder in conversion.folders:
                    remove_folder(self._archive.root / folder)
            except OSError as error:
                log.error(
                    "revision_not_removed", series_instance_uid=conversion.series_instance_uid,
                    revision=conversion.revision, reason=error.strerror,
                )  # fmt: skip
                continue
            self._index.conversions.record_files_removed(conversion, self._now())
