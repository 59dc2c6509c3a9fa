"""The study or the series that the path of a page names, and those that are selected on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from fastapi import Depends, Request
from pydantic import BaseModel, Field

from node.index.database.reading import ReadIndex
from node.web.access import Call
from node.web.audit_trail import of_study
from node.web.errors import ResourceNotFound
from node.web.pages.rendering import series_url, study_url

STUDY = "/studies/{study_instance_uid}"

SERIES = f"{STUDY}/series/{{series_instance_uid}}"


def study_row(index: ReadIndex, study_instance_uid: str) -> Mapping[str, Any]:
    """Return the row of ``v_studies``, or raise ResourceNotFound."""
    row = index.studies.row(study_instance_uid)
    if row is None:
        raise ResourceNotFound("study")
    return row


def seen_study(call: Call, index: ReadIndex, study_instance_uid: str) -> Mapping[str, Any]:
    """Return the row of a study as `study_row` does, and record access to it in the audit log."""
    row = study_row(index, study_instance_uid)
    call.audit.accessed([of_study(study_instance_uid, row["patient_id"])], "pages")
    return row


def series_row(index: ReadIndex, study: str, series: str) -> dict[str, Any]:
    """Return the row of ``v_series``, or raise ResourceNotFound."""
    row = index.series.row(study, series)
    if row is None:
        raise ResourceNotFound("series")
    return row


class StudyOrSeries(NamedTuple):
    """The study that a path names, or one of its series."""

    study: str
    series: str | None

    @property
    def url(self) -> str:
        """The URL of its page."""
        return study_url(self.study) if self.series is None else series_url(self.study, self.series)

    @property
    def some(self) -> list[str]:
        """The series, as those of a selection; of a whole study none."""
        return [] if self.series is None else [self.series]

    def rows(self, index: ReadIndex) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
        """Return the rows of the study and of the series, or raise ResourceNotFound."""
        study = study_row(index, self.study)
        return study, None if self.series is None else series_row(index, self.study, self.series)


def _target(request: Request) -> StudyOrSeries:
    return StudyOrSeries(request.path_params["study_instance_uid"], request.path_params.get("series_instance_uid"))


Wanted = Annotated[StudyOrSeries, Depends(_target)]


MAX_SELECTED = 1000


class SelectedStudies(BaseModel):
    """The studies that are selected, by Study Instance UID."""

    study: Annotated[list[Annotated[str, Field(max_length=64)]], Field(min_length=1, max_length=MAX_SELECTED)]

    @property
    def uids(self) -> list[str]:
        """Each of them once."""
        return list(dict.fromkeys(self.study))


class SelectedSeries(BaseModel):
    """The series of a study that are selected, by Series Instance UID."""

    series: Annotated[list[Annotated[str, Field(max_length=64)]], Field(min_length=1, max_length=MAX_SELECTED)]

    @property
    def uids(self) -> list[str]:
        """Each of them once."""
        return list(dict.fromkeys(self.series))

    def there(self, index: ReadIndex, study_instance_uid: str) -> list[str]:
        """Return those that are still in the study; raise ResourceNotFound if none is."""
        there = {row["series_instance_uid"] for row in index.series.of_study(study_instance_uid)}
        if not (found := [uid for uid in self.uids if uid in there]):
            raise ResourceNotFound("series")
        return found
