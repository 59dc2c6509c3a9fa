"""The list of studies, and the page of a study."""

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Annotated, Any, Literal, cast, get_args

from fastapi import APIRouter, Form, Query, Response
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from node.dicom.attributes import MAX_TEXT_BYTES
from node.extensions.pages.chips import fragment, page, series_chip, study_chip
from node.index.look.studies import ListedStudy
from node.index.look.study_search import StudyCondition, StudyCursor, StudyFilter, StudyOrder
from node.index.look.views import ReadIndex
from node.lifecycle.expired import to_come
from node.receive.aside import strangers_in
from node.registry import LABELS, part_of
from node.web.access import MEMBERS, Call, CurrentCall, background_request
from node.web.audit_trail import of_study
from node.web.errors import ResourceNotFound
from node.web.files import Streamed
from node.web.pages.filters import csv_line
from node.web.pages.rendering import series_url, study_links
from node.web.pages.selected import seen_study
from node.web.problems import learnt, trashed

router = APIRouter(include_in_schema=False, dependencies=MEMBERS)

PAGE_STUDIES = 50

MAX_COUNTED = 1000
"""Most studies that a search counts; beyond, it says that there are more."""

MAX_WRITTEN = 100_000
"""Studies of a CSV file."""

PAGE_WRITTEN = 500
"""Studies of a CSV file that are read at once."""

MAX_WORDS = 200
"""Characters of a search: each word of it is looked for in several columns."""

MAX_MODALITIES = 32
"""Modalities of a search."""

CSV_COLUMNS = (
    "patient_name", "patient_id", "patient_birth_date", "patient_sex", "study_date", "study_time", "accession_number",
    "study_description", "modalities", "series", "instances", "state", "last_received_at", "study_instance_uid",
)  # fmt: skip

Position = TypeAdapter(tuple[Annotated[int, Field(ge=0, lt=1 << 63)], dt.date | None, str | None])
"""A `StudyCursor` as JSON."""


HEADINGS = (
    ("patient", "Patient", "name"),
    ("id", "Patient ID", "patient-id"),
    ("date", "Study date", "date"),
    ("description", "Description", "description"),
    ("accession", "Accession", "accession"),
    ("modality", "Modality", ""),
    ("series", "Series", ""),
    ("instances", "Images", ""),
    ("state", "State", ""),
    ("received", "Received", "received"),
)
"""The columns of the list: class, label, and the order that its header chooses; empty: none."""

CHOSEN_COLUMNS = (("born", "Born, sex"), *((name, label) for name, label, _ in HEADINGS if name != "patient"))
"""Columns that can be left out."""


class StudySearch(BaseModel):
    """The fields of the search form, sent in a request body to keep names out of the logs of proxies."""

    words: Annotated[str, Field(max_length=MAX_WORDS)] = ""
    description: Annotated[str, Field(max_length=MAX_TEXT_BYTES)] = ""
    modalities: Annotated[list[Annotated[str, Field(max_length=MAX_TEXT_BYTES)]], Field(max_length=MAX_MODALITIES)] = []
    label: Annotated[str, Field(max_length=64)] = ""
    first_date: str = ""
    last_date: str = ""
    condition: str = ""
    order: str = "received"
    reverse: str = ""
    after: str = ""

    def filter(self) -> StudyFilter:
        """Return the filter; invalid fields are ignored."""
        known = self.condition in get_args(StudyCondition)
        return StudyFilter(
            self.words.strip(),
            self.description.strip(),
            "",
            _date(self.first_date),
            _date(self.last_date),
            cast(StudyCondition, self.condition) if known else None,
            modalities=tuple(self.modalities),
            label=self.label,
        )

    @property
    def study_order(self) -> StudyOrder:
        """The order; an invalid value means by time received."""
        return cast(StudyOrder, self.order) if self.order in get_args(StudyOrder) else "received"

    def cursor(self) -> StudyCursor | None:
        """Return the end of the previous page, or None for the first page."""
        try:
            number, date, text = Position.validate_json(self.after)
        except ValidationError:
            return None
        return StudyCursor(number, date, text)

    def cursor_after(self, study: ListedStudy) -> str:
        """Return `after` for the page that begins after a study."""
        return Position.dump_json((study.cursor.id, study.cursor.study_date, study.cursor.text)).decode()


def _date(text: str) -> dt.date | None:
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        return None


@router.get("/")
def studies(call: CurrentCall) -> Response:
    """The newest studies, and the search form."""
    return _page(call, StudySearch())


@router.post("/", dependencies=MEMBERS)
def found_studies(call: CurrentCall, search: Annotated[StudySearch, Form()]) -> Response:
    """The matching studies: only the rows for htmx, else the whole page."""
    if "hx-request" not in call.request.headers:
        return _page(call, search)
    with call.node.index.searching() as index:
        return fragment(call, "studies_rows.html", **_found(index, call, search))


def _page(call: Call, search: StudySearch) -> Response:
    labels = part_of(call.node.settings, LABELS)
    with call.node.index.searching() as index:
        return page(
            call,
            "studies.html",
            **_found(index, call, search),
            all_modalities=index.series.modalities(),
            headings=HEADINGS,
            columns=CHOSEN_COLUMNS,
            all_labels=labels.known_labels(index) if labels is not None else None,
        )


def _found(index: ReadIndex, call: Call, search: StudySearch) -> dict[str, Any]:
    """Search, and record the search in the audit log; ``missing`` is what became of what was not found."""
    total, wanted, order = call.node.index.large_counts.studies(index), search.filter(), search.study_order
    matching = index.studies.matching(wanted)
    ids = matching.page(order, search.cursor(), PAGE_STUDIES + 1, reverse=bool(search.reverse))
    rows, more = index.studies.summaries(ids[:PAGE_STUDIES], order), len(ids) > PAGE_STUDIES
    found = total
    if not search.after and wanted != StudyFilter():
        found = matching.count(MAX_COUNTED + 1) if more else len(ids)
    call.audit.queried(_search_detail(search), len(rows))
    is_sought = bool(wanted.words) and not search.after
    return {
        "missing": learnt(call.request, wanted.words) if is_sought and not rows else None,
        "trashed": trashed(call.request, index, wanted.words) if is_sought and rows else 0,
        "studies": rows,
        "thumbnails": thumbnails(index, [study.cursor.id for study in rows]),
        "after": search.cursor_after(rows[-1]) if more else "",
        "search": search,
        "total": total,
        "found": found,
        "most": MAX_COUNTED,
        "newest": index.studies.newest_number(),
    }


def thumbnails(index: ReadIndex, studies: list[int]) -> dict[int, str]:
    """Return the URLs of the pictures of studies that have one, by the `id` of their cursors."""
    found = index.studies.thumbnails(studies)
    urls = {number: series_url(one["study_instance_uid"], one["series_instance_uid"]) for number, one in found.items()}
    return {
        number: f"{url}/thumbnails/{found[number]['revision']}/{PurePath(found[number]['path']).name}"
        for number, url in urls.items()
    }


def _search_detail(search: StudySearch) -> str:
    keys = search.model_dump_json(exclude={"after", "order", "reverse"}, exclude_defaults=True)
    return f"studies: {keys if keys != '{}' else 'the newest'}"


@router.post("/studies.csv", dependencies=MEMBERS)
def written_studies(call: CurrentCall, search: Annotated[StudySearch, Form()]) -> Response:
    """The matching studies as a CSV file, in the order of the list."""

    def lines() -> Iterator[bytes]:
        yield csv_line(CSV_COLUMNS)
        after, written = None, 0
        while written < MAX_WRITTEN:
            with call.node.index.searching() as index:
                rows = index.studies.listed(
                    search.filter(), search.study_order, after, PAGE_WRITTEN, reverse=bool(search.reverse)
                )
            yield b"".join(csv_line(_csv_cells(study)) for study in rows)
            written += len(rows)
            if len(rows) < PAGE_WRITTEN:
                return
            after = rows[-1].cursor

    call.audit.queried(f"{_search_detail(search)}, as a CSV file")
    disposition = {"Content-Disposition": 'attachment; filename="studies.csv"', "Cache-Control": "no-store"}
    return Streamed(lines(), 200, {"Content-Type": "text/csv; charset=utf-8", **disposition})


def _csv_cells(study: ListedStudy) -> list[object]:
    known = {name: getattr(study, name) for name in ListedStudy.__slots__ if name in CSV_COLUMNS}
    known |= {"study_date": study.cursor.study_date, "modalities": " ".join(study.modalities)}
    return [(known | {"state": study_chip(study).label})[name] for name in CSV_COLUMNS]


@router.get("/news")
@background_request
def news(call: CurrentCall, since: Annotated[int, Query(ge=0, le=2**62)]) -> Response:
    """The number of studies that were received since the list was loaded."""
    with call.node.index.reading() as index:
        received = index.studies.count_since(since)
    call.audit.queried("studies: how many are new", received)
    return fragment(call, "news.html", newest=since, received=received, is_oob=False)


MANY = 40
"""A study with more series has a list rather than cards."""

PAGE_SERIES = 100
MAX_SERIES = 10_000


class SeriesSearch(BaseModel):
    """The fields of the filter, sent in a request body to keep descriptions out of the logs of proxies.

    `state` is the label of a chip; `shown` is the number of rows that the browser has, or asks for.
    """

    words: Annotated[str, Field(max_length=MAX_WORDS)] = ""
    modality: Annotated[str, Field(max_length=MAX_TEXT_BYTES)] = ""
    state: Annotated[str, Field(max_length=32)] = ""
    shown: Annotated[int, Field(ge=1, le=MAX_SERIES)] = PAGE_SERIES


def listed_series(cards: Sequence[Mapping[str, Any]], search: SeriesSearch) -> dict[str, Any]:
    """Return the values of the list: the series that fit, as many as are shown, and what there is to choose."""
    words = search.words.casefold().split()
    found = [
        card
        for card in cards
        if search.modality in ("", card["modality"])
        and search.state in ("", series_chip(card).label)
        and all(word in _text(card) for word in words)
    ]
    return {
        "rows": found[: search.shown],
        "found": len(found),
        "more": min(PAGE_SERIES, len(found) - search.shown),
        "next": search.shown + PAGE_SERIES,
        "search": search,
        "all_modalities": sorted({card["modality"] for card in cards if card["modality"]}),
        "all_states": sorted({series_chip(card).label for card in cards}),
    }


def _text(card: Mapping[str, Any]) -> str:
    """Return what the words of a filter are looked for in."""
    names = ("series_number", "series_description", "protocol_name", "body_part_examined", "series_instance_uid")
    return " ".join(str(card[name]) for name in names if card.get(name) is not None).casefold()


@router.get("/studies/{study_instance_uid}")
def study(call: CurrentCall, study_instance_uid: str, view: Literal["list"] | None = None) -> Response:
    """The page of a study: cards of its series, or a list if there are many, or if that is asked for."""
    with call.node.index.reading() as index:
        row = seen_study(call, index, study_instance_uid)
        cards = _cards(call, index, study_instance_uid)
        total = sum(card["bytes"] for card in cards)
        viewers = study_links(call.node, study_instance_uid)
        many = (
            listed_series(cards, SeriesSearch()) | {"may_be_cards": len(cards) <= MANY}
            if view or len(cards) > MANY
            else {}
        )
        labels = part_of(call.node.settings, LABELS)
        marks = labels.marks_of(index, study_instance_uid) if labels is not None else None
        values: dict[str, Any] = {"study": row, "namesake": namesake(index, row)}
        is_whole = call.account.scope is None
        values["to_come"] = to_come(index, call.node.settings, study_instance_uid) if is_whole else []
        values |= {"cards": cards, "bytes": total, "viewers": viewers, "marks": marks, "digest": ""}
        return page(call, "study.html", target=(study_instance_uid,), **values, **many)


@router.post("/studies/{study_instance_uid}/series-list", dependencies=MEMBERS)
@background_request
def filtered_series(call: CurrentCall, study_instance_uid: str, search: Annotated[SeriesSearch, Form()]) -> Response:
    """The list of the series of a study with many of them."""
    with call.node.index.reading() as index:
        row, cards = seen_study(call, index, study_instance_uid), _cards(call, index, study_instance_uid)
        return fragment(call, "study_list.html", study=row, cards=cards, **listed_series(cards, search))


@router.get("/studies/{study_instance_uid}/row")
@background_request
def row(call: CurrentCall, study_instance_uid: str) -> Response:
    """The row of an open study in the list."""
    with call.node.index.reading() as index:
        studies = index.studies.listed(StudyFilter(study_instance_uid=study_instance_uid), limit=1)
        pictures = thumbnails(index, [study.cursor.id for study in studies])
    if not studies:
        raise ResourceNotFound("study")
    call.audit.accessed([of_study(study_instance_uid, studies[0].patient_id)], "pages")
    return fragment(call, "studies_row.html", study=studies[0], thumbnails=pictures, is_watched=True)


@router.get("/studies/{study_instance_uid}/list")
def series_list(call: CurrentCall, study_instance_uid: str) -> Response:
    """The series of a study below its row in the list."""
    with call.node.index.reading() as index:
        row = seen_study(call, index, study_instance_uid)
        return fragment(call, "studies_series.html", study=row, cards=_cards(call, index, study_instance_uid))


@router.get("/studies/{study_instance_uid}/cards")
@background_request
def cards(call: CurrentCall, study_instance_uid: str) -> Response:
    """The series of an open study."""
    with call.node.index.reading() as index:
        row = seen_study(call, index, study_instance_uid)
        return fragment(call, "study_cards.html", study=row, cards=_cards(call, index, study_instance_uid))


def namesake(index: ReadIndex, study: Mapping[str, Any]) -> int | None:
    """Return the `id` of another person with the Patient ID and issuer of a study, or None if there is none."""
    own, rows = study["patient"], index.patients.with_patient_id(study["patient_id"]) if study["patient_id"] else []
    issuers = {row["issuer_of_patient_id"] for row in rows if row["id"] == own}
    others = (row for row in rows if row["id"] != own and row["issuer_of_patient_id"] in issuers)
    return next((row["id"] for row in others if row["merged_into"] is None and row["studies"]), None)


def _cards(call: Call, index: ReadIndex, study_instance_uid: str) -> list[dict[str, Any]]:
    """Return the series of a study with the values shown on their cards."""
    bytes_of = index.instances.bytes_by_series(study_instance_uid)
    files_of = _by_series(index.volumes.current(study_instance_uid))
    failures_of = _by_series(index.failures.of_study(study_instance_uid))
    hooks = {made["series_instance_uid"]: made for made in index.jobs.made(study_instance_uid)}
    labels = part_of(call.node.settings, LABELS)
    labels_of = labels.labels_of_series(index, study_instance_uid) if labels is not None else {}
    strangers = strangers_seen(call, index, study_instance_uid)
    return [
        {
            **row,
            "documents": [
                PurePath(one["path"]).name for one in files_of[row["series_instance_uid"]] if one["format"] == "json"
            ],
            "labels": labels_of.get(row["series_instance_uid"], ()),
            "bytes": bytes_of.get(row["series_instance_uid"], 0),
            "volumes": _one_for_each_stack(files_of[row["series_instance_uid"]], "volume"),
            "thumbnails": _one_for_each_stack(files_of[row["series_instance_uid"]], "thumbnail"),
            "failures": failures_of[row["series_instance_uid"]],
            "hook": hooks.get(row["series_instance_uid"]),
            "stranger": strangers.get(row["series_instance_uid"]),
        }
        for row in index.series.of_study(study_instance_uid)
    ]


def strangers_seen(call: Call, index: ReadIndex, study_instance_uid: str) -> dict[str, dict[str, Any]]:
    """Return the conflicts with another patient in a study, by series; members of projects see none."""
    if call.account.scope is not None:
        return {}
    return strangers_in(study_instance_uid, index, call.node.archive.local)


def _by_series(rows: Iterable[dict[str, Any]]) -> Mapping[str, list[dict[str, Any]]]:
    """Group the rows of a study, which may have hundreds of series, in one pass."""
    grouped: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        grouped[row["series_instance_uid"]].append(row)
    return grouped


def _one_for_each_stack(files: Iterable[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    by_stack: dict[int, dict[str, Any]] = {}
    for file in files:
        if file["kind"] == kind:
            by_stack.setdefault(file["stack"], file)
    return [by_stack[stack] for stack in sorted(by_stack)]
