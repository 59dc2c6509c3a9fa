"""The modality worklist: what a query is answered, and the service that keeps the entries up to date."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator

from pydicom.dataset import Dataset

from node.background import BackgroundService
from node.dicom.worklist import WorklistQuery, answer, entry_in_progress, is_match
from node.extensions.worklist.folder import WorklistFolder
from node.extensions.worklist.settings import WorklistSettings
from node.index.nouns.scheduled_steps import IN_PROGRESS, ScheduledStepRepository
from node.index.search.finder import QueryRefused, QueryStopped

LOOK_SECONDS = 60.0
"""Time between two looks at the folder; a query looks as well."""

_COLUMNS = {
    "PatientID": "patient_id",
    "AccessionNumber": "accession_number",
    "StudyInstanceUID": "study_instance_uid",
    "Modality": "modality",
    "ScheduledProcedureStepStartDate": "start_date",
}
"""Keys by which the index finds entries, before all keys are compared."""


class Worklist(BackgroundService):
    """The scheduled procedure steps that are not over. Queries are thread-safe.

    Parameters
    ----------
    steps : ScheduledStepRepository
    settings : WorklistSettings
    """

    def __init__(
        self,
        steps: ScheduledStepRepository,
        settings: WorklistSettings,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        super().__init__("worklist")
        self._steps, self._now = steps, now
        self._folder = WorklistFolder(settings.folder, steps, now) if settings.folder is not None else None
        self._kept = dt.timedelta(days=settings.keep_days)
        self._removed_before: dt.date | None = None

    def step(self) -> float:
        """Look at the folder; once a day, remove what is older than [worklist] keep_days."""
        if self._folder is not None:
            self._folder.refresh()
        before = (self._now() - self._kept).date()
        if before != self._removed_before:
            self._steps.remove_old(before)
            self._removed_before = before
        return LOOK_SECONDS

    def find(self, query: WorklistQuery, maximum: int, stop: Callable[[], bool]) -> Iterator[Dataset]:
        """Yield the answers to a query, by the day of their start.

        Parameters
        ----------
        maximum : int
            Largest number of answers; a query with more is refused.
        stop : callable
            Polled between entries; True ends the query.

        Raises
        ------
        QueryRefused
        QueryStopped
        """
        if self._folder is not None:
            self._folder.refresh()
        wanted = {column: matches for keyword, column in _COLUMNS.items() if (matches := query.matches(keyword))}
        count = 0
        for state, stored in self._steps.candidates(wanted):
            if stop():
                raise QueryStopped
            entry = entry_in_progress(stored) if state == IN_PROGRESS else stored
            if not is_match(query.keys, entry):
                continue
            if (count := count + 1) > maximum:
                raise QueryRefused(f"more than {maximum} answers: narrow the query")
            yield answer(query, entry)
