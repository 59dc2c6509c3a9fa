"""The list of studies, and the page of a study."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Annotated, Any, cast, get_args

from fastapi import APIRouter, Form, Query, Request, Response
from pydantic import BaseModel

from node.index.read import ReadIndex
from node.index.read.studies import StudyCondition, StudyCursor, StudyFilter, StudyOrder
from node.web.access import Reader, RequestAudit
from node.web.audit_trail import of_study
from node.web.background_requests import background_request
from node.web.errors import ResourceNotFound
from node.web.pages.rendering import fragment, page
from node.web.pages.viewers import ohif_url
from node.web.services import Node

router = APIRouter(include_in_schema=False)

PAGE_STUDIES = 50

CONDITIONS: tuple[tuple[str, str], ...] = (
    ("", "Any state"),
    ("open", "Receiving or converting"),
    ("verified", "Verified"),
    ("no-gap-seen", "No gap seen"),
    ("incomplete", "Suspect or incomplete"),
    ("refused", "Without volume"),
)


class StudySearch(BaseModel):
    """The fields of the search form, sent in a request body to keep names out of the logs of proxies."""

    words: str = ""
    description: str = ""
    modality: str = ""
    first_date: str = ""
    last_date: str = ""
    condition: str = ""
    order: str = "arrival"
    after: str = ""

    def filter(self) -> StudyFilter:
        """Return the filter; invalid fields are ignored."""
        known = self.condition in get_args(StudyCondition)
        return StudyFilter(
            self.words.strip(),
            self.description.strip(),
            self.modality,
            _date(self.first_date),
            _date(self.last_date),
            cast(StudyCondition, self.condition) if known else None,
        )

    @property
    def study_order(self) -> StudyOrder:
        """The order; an invalid value means by time received."""
        return "date" if self.order == "date" else "arrival"

    def cursor(self) -> StudyCursor | None:
        """Return the end of the previous page, or None for the first page."""
        number, _, date = self.after.partition(" ")
        return StudyCursor(int(number), _date(date)) if number.isdecimal() and len(number) < 19 else None


def _date(text: str) -> dt.date | None:
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        return None


@router.get("/")
def studies(request: Request, node: Node, account: Reader, audit: RequestAudit) -> Response:
    """The newest studies, and the search form."""
    return _page(request, node, account, audit, StudySearch())


@router.post("/")
def found_studies(
    request: Request, node: Node, account: Reader, audit: RequestAudit, search: Annotated[StudySearch, Form()]
) -> Response:
    """The matching studies: only the rows for htmx, else the whole page."""
    if "hx-request" not in request.headers:
        return _page(request, node, account, audit, search)
    with node.index.searching() as index:
        return fragment(request, account, "studies_rows.html", **_found(index, audit, search))


def _page(request: Request, node: Node, account: Reader, audit: RequestAudit, search: StudySearch) -> Response:
    with node.index.searching() as index:
        return page(
            request,
            node,
            account,
            "studies.html",
            **_found(index, audit, search),
            modalities=index.series.modalities(),
            conditions=CONDITIONS,
            listener=node.settings.dicom,
            host=node.settings.bind_host,
        )


def _found(index: ReadIndex, audit: RequestAudit, search: StudySearch) -> dict[str, Any]:
    """Search, and record the search in the audit log."""
    rows = index.studies.listed(search.filter(), search.study_order, search.cursor(), PAGE_STUDIES + 1)
    more = len(rows) > PAGE_STUDIES
    rows = rows[:PAGE_STUDIES]
    audit.queried(_search_detail(search), len(rows))
    last = rows[-1].cursor if more else None
    after = f"{last.id} {last.study_date or ''}" if last else ""
    return {
        "studies": rows,
        "after": after,
        "search": search,
        "total": index.studies.count(),
        "newest": index.studies.newest(),
    }


def _search_detail(search: StudySearch) -> str:
    keys = search.model_dump_json(exclude={"after"}, exclude_defaults=True)
    return f"studies: {keys if keys != '{}' else 'the newest'}"


@router.get("/news")
@background_request
def news(
    request: Request, node: Node, account: Reader, audit: RequestAudit, since: Annotated[int, Query(ge=0, le=2**62)]
) -> Response:
    """The number of studies that have arrived since the list was loaded."""
    with node.index.reading() as index:
        arrived = index.studies.count_since(since)
    audit.queried("studies: how many are new", arrived)
    return fragment(request, account, "news.html", newest=since, arrived=arrived, is_oob=False)


@router.get("/studies/{study_instance_uid}")
def study(request: Request, node: Node, account: Reader, audit: RequestAudit, study_instance_uid: str) -> Response:
    """The page of a study."""
    with node.index.reading() as index:
        row = study_row(index, study_instance_uid)
        audit_study_access(audit, row)
        cards = _cards(index, study_instance_uid)
        total = sum(card["bytes"] for card in cards)
        ohif = ohif_url(node, study_instance_uid)
        return page(request, node, account, "study.html", study=row, cards=cards, bytes=total, ohif=ohif, digest="")


@router.get("/studies/{study_instance_uid}/row")
@background_request
def row(request: Request, node: Node, account: Reader, audit: RequestAudit, study_instance_uid: str) -> Response:
    """The row of an open study in the list."""
    with node.index.reading() as index:
        studies = index.studies.listed(StudyFilter(study_instance_uid=study_instance_uid), limit=1)
    if not studies:
        raise ResourceNotFound("study")
    audit.accessed([of_study(study_instance_uid, studies[0].patient_id)], "pages")
    return fragment(request, account, "studies_row.html", study=studies[0], is_watched=True)


@router.get("/studies/{study_instance_uid}/cards")
@background_request
def cards(request: Request, node: Node, account: Reader, audit: RequestAudit, study_instance_uid: str) -> Response:
    """The series of an open study."""
    with node.index.reading() as index:
        row = study_row(index, study_instance_uid)
        audit_study_access(audit, row)
        return fragment(request, account, "study_cards.html", study=row, cards=_cards(index, study_instance_uid))


def study_row(index: ReadIndex, study_instance_uid: str) -> Mapping[str, Any]:
    """Return the row of ``v_studies``.

    Raises
    ------
    ResourceNotFound
        The study does not exist.
    """
    row = index.studies.row(study_instance_uid)
    if row is None:
        raise ResourceNotFound("study")
    return row


def audit_study_access(audit: RequestAudit, study: Mapping[str, Any]) -> None:
    """Record access to a study in the audit log."""
    audit.accessed([of_study(study["study_instance_uid"], study["patient_id"])], "pages")


def _cards(index: ReadIndex, study_instance_uid: str) -> list[dict[str, Any]]:
    """Return the series of a study with the values shown on their cards."""
    bytes_of = index.instances.bytes_by_series(study_instance_uid)
    files = index.volumes.current(study_instance_uid)
    failures = index.failures.of_study(study_instance_uid)
    return [
        {
            **row,
            "bytes": bytes_of.get(row["series_instance_uid"], 0),
            "volumes": _of(row, files, "volume"),
            "thumbnails": _of(row, files, "thumbnail"),
            "failures": [
                failure for failure in failures if failure["series_instance_uid"] == row["series_instance_uid"]
            ],
        }
        for row in index.series.of_study(study_instance_uid)
    ]


def _of(series: Mapping[str, Any], files: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Return the files of one kind of a series, one for each stack."""
    by_stack: dict[int, dict[str, Any]] = {}
    for file in files:
        if file["series_instance_uid"] == series["series_instance_uid"] and file["kind"] == kind:
            by_stack.setdefault(file["stack"], file)
    return [by_stack[stack] for stack in sorted(by_stack)]
