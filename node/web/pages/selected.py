"""The study or the series that the path of a page names, and those that are selected on it."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

from fastapi import Depends, Form, Query, Request
from pydantic import Field

from node.errors import UsageError
from node.index.look.views import ReadIndex
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

    def rows(self, index: ReadIndex) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
        """Return the rows of the study and of the series, or raise ResourceNotFound."""
        study = study_row(index, self.study)
        return study, None if self.series is None else series_row(index, self.study, self.series)


def _target(request: Request) -> StudyOrSeries:
    return StudyOrSeries(request.path_params["study_instance_uid"], request.path_params.get("series_instance_uid"))


Wanted = Annotated[StudyOrSeries, Depends(_target)]


MAX_SELECTED = 1000


_Uids = Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=MAX_SELECTED)]


class Selection(NamedTuple):
    """Studies, or series of one study: those that a path names, or that are selected on a page.

    `series`: empty for whole studies. `url`: of the page on which they are selected, or of their own.
    """

    studies: Sequence[str]
    series: Sequence[str]
    url: str

    @property
    def kind(self) -> str:
        """What is selected, as `ResourceNotFound` names it."""
        return "series" if self.series else "study"

    def there(self, index: ReadIndex) -> dict[str, list[str]]:
        """Return the series that are there, by study; raise ResourceNotFound if none is."""
        found = {}
        for study in self.studies:
            uids = dict.fromkeys(row["series_instance_uid"] for row in index.series.of_study(study))
            if wanted := [uid for uid in self.series or uids if uid in uids]:
                found[study] = wanted
        if not found:
            raise ResourceNotFound(self.kind)
        return found


def _nothing() -> list[str]:
    """Return the default: of `list` itself, `inspect.signature` would copy ``sys.modules`` for each route."""
    return []


def _selection(
    request: Request,
    study: Annotated[_Uids, Query(default_factory=_nothing)],
    series: Annotated[_Uids, Query(default_factory=_nothing)],
    posted_study: Annotated[_Uids, Form(default_factory=_nothing, alias="study")],
    posted_series: Annotated[_Uids, Form(default_factory=_nothing, alias="series")],
) -> Selection:
    of_path = request.path_params
    if (uid := of_path.get("series_instance_uid")) is not None:
        return Selection([of_path["study_instance_uid"]], [uid], series_url(of_path["study_instance_uid"], uid))
    if request.method == "POST":
        study, series = posted_study, posted_series
    whole = of_path.get("study_instance_uid")
    is_named = "/selected/" not in request.url.path
    if not is_named and not (study if whole is None else series):
        raise UsageError("nothing is selected")
    if whole is None:
        return Selection(list(dict.fromkeys(study)), [], "/")
    return Selection([whole], [] if is_named else list(dict.fromkeys(series)), study_url(whole))


Selected = Annotated[Selection, Depends(_selection)]
