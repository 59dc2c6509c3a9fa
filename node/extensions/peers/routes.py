"""Peers: searches and retrievals, by REST and on pages."""

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Path, Query, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from node.audit.audit_log import AuditAction, AuditEvent
from node.dicom.attributes import MAX_TEXT_BYTES, is_identifier
from node.errors import VoxelnodeError
from node.index.rows.repositories import Terms
from node.web.access import READERS, WRITERS, Call, CurrentCall
from node.web.api.models import DescribedStudy, Resource, ResourceOfSeries
from node.web.api.routing import OF_CHANGES, Change, Page, api_router, problems
from node.web.api.work import WorkResource, work_resource
from node.web.audit_trail import of_study
from node.web.errors import ResourceNotFound
from node.web.pages.filters import StatusChip
from node.web.pages.rendering import SEE_OTHER, fragment, page
from node.web.problem_types import INVALID_REQUEST, NOT_FOUND, PEER_FAILED
from node.web.services import Services

MAX_WANTED = 500
"""Studies and series in one request to retrieve: as many as a search finds."""

_PLAIN = r"^[^\\\x00-\x1f\x7f]*$"
"""No backslash, which separates values, and no control characters (PS3.5 6.1.3, 6.2)."""

Text = Annotated[str, StringConstraints(strip_whitespace=True, max_length=MAX_TEXT_BYTES, pattern=_PLAIN)]
Day = Annotated[dt.date | None, BeforeValidator(lambda text: text or None)]
"""A date; a field of a form that is left empty is none."""

Uid = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[!-\[\]-~]+$")]


class PeerSearch(BaseModel):
    """A search for studies at a peer; an empty field matches all. `*` and `?` are wildcards, except in dates.

    A name that has none matches those that begin with it: Family, Given.
    """

    model_config = ConfigDict(extra="forbid")

    patient_id: Text = ""
    patient_name: Text = ""
    first_date: Day = None
    last_date: Day = None
    modality: Text = ""
    accession_number: Text = ""

    def keys(self) -> dict[str, str]:
        """Return the matching keys of C-FIND (PS3.4 C.2.2.2)."""
        dates = [f"{date:%Y%m%d}" if date is not None else "" for date in (self.first_date, self.last_date)]
        keys = {
            "PatientID": self.patient_id,
            "PatientName": _name_key(self.patient_name),
            "StudyDate": "-".join(dates) if any(dates) else "",
            "ModalitiesInStudy": self.modality.upper(),
            "AccessionNumber": self.accession_number,
        }
        return {keyword: value for keyword, value in keys.items() if value}


def _name_key(text: str) -> str:
    name = "^".join(part.strip() for part in text.split(","))
    return name if not name or "*" in name or "?" in name else f"{name}*"


class WantedStudy(BaseModel):
    """A study to retrieve, or one of its series."""

    model_config = ConfigDict(extra="forbid")

    study_instance_uid: Uid
    series_instance_uid: Uid | None = None


def require_peer(node: Services, peer: str) -> None:
    """Raise ResourceNotFound for the name of a peer that the node cannot call."""
    if peer not in node.settings.called_peers:
        raise ResourceNotFound("peer with a host in [peers]")


def find_studies(call: Call, peer: str, search: PeerSearch) -> Mapping[str, Any]:
    """Search for studies at a peer, and record it; the result has ``items``, the newest first, and a ``note``."""
    found = _find(call, peer, "study", search.keys())
    with call.node.index.searching() as index:
        here = index.instances.count_by_study([item["study_instance_uid"] for item in found["items"]])
    for item in found["items"]:
        item["stored"] = here.get(item["study_instance_uid"], 0)
    found["items"].sort(key=lambda item: (item["study_date"] or "", item["study_time"] or ""), reverse=True)
    return found


def find_series(call: Call, peer: str, study_instance_uid: str) -> Mapping[str, Any]:
    """Ask a peer for the series of a study, and record it; see `find_studies`. Sorted by their numbers."""
    if not is_identifier(study_instance_uid):
        raise ResourceNotFound("study")
    found = _find(call, peer, "series", {"StudyInstanceUID": study_instance_uid})
    with call.node.index.searching() as index:
        here = index.instances.count_by_series(study_instance_uid)
    items = [
        {**item, "study_instance_uid": study_instance_uid, "stored": here.get(item["series_instance_uid"], 0)}
        for item in found["items"]
        if item["study_instance_uid"] in (None, study_instance_uid)
    ]
    items.sort(key=lambda item: (item["series_number"] is None, item["series_number"], item["series_instance_uid"]))
    return {**found, "items": items}


def _find(call: Call, peer: str, level: Literal["study", "series"], keys: Mapping[str, str]) -> dict[str, Any]:
    require_peer(call.node, peer)
    asked = f"C-FIND at {peer}: {level} {json.dumps(keys, ensure_ascii=False)}"
    try:
        found = call.node.actions["search-peer"](peer=peer, level=level, keys=dict(keys))
    except VoxelnodeError:
        call.audit.queried(f"{asked}; no answer")  # the keys may have been sent
        raise
    call.audit.queried(asked, len(found["answers"]))
    return {"items": [dict(answer) for answer in found["answers"]], "note": found["note"] or None}


def retrieve(call: Call, peer: str, wanted: Sequence[WantedStudy]) -> Sequence[str]:
    """Have studies and series retrieved from a peer in the background, and record it; return the retrievals' ids."""
    require_peer(call.node, peer)
    pairs = [(each.study_instance_uid, each.series_instance_uid) for each in wanted]
    ids: Sequence[str] = call.act("retrieve", peer=peer, wanted=pairs)["retrievals"]
    objects = [of_study(study, None) for study in dict.fromkeys(each.study_instance_uid for each in wanted)]
    detail = f"retrieval of {len(ids)} studies and series from {peer} requested"
    call.audit.changed(AuditEvent.BEGIN_TRANSFERRING, AuditAction.EXECUTE, objects, detail)
    return ids


router = api_router(READERS, "peers")

PeerName = Annotated[str, Path(max_length=64, description="name of the peer in [peers]")]
StudyUid = Annotated[str, Path(max_length=64, description="Study Instance UID")]

OF_PEERS = (NOT_FOUND, INVALID_REQUEST, PEER_FAILED)


class PeerResource(Resource):
    """A peer that the node can call."""

    name: str
    ae_title: str
    host: str
    port: int


class PeerStudyResource(DescribedStudy):
    """A study that a peer has, as the peer describes it; it may not count its series and instances.

    `stored` is the number of its instances that this node has.
    """

    series: int | None
    instances: int | None
    stored: int


class PeerSeriesResource(ResourceOfSeries):
    """A series that a peer has, as the peer describes it."""

    modality: str | None
    series_number: int | None
    series_description: str | None
    instances: int | None
    stored: int


class PeerStudies(Resource):
    """The answers of a peer to a search, the newest study first; `note` says why some are missing, else it is null."""

    items: list[PeerStudyResource]
    note: str | None


class PeerSeries(Resource):
    """The series of a study at a peer; `note` says why some are missing, else it is null."""

    items: list[PeerSeriesResource]
    note: str | None


class Retrievals(Resource):
    """The retrievals that were requested; what waited or ran already is not requested again."""

    items: list[WorkResource]


class WantedObjects(BaseModel):
    """Studies and series to retrieve."""

    model_config = ConfigDict(extra="forbid")

    items: Annotated[list[WantedStudy], Field(min_length=1, max_length=MAX_WANTED)]


@router.get("/peers")
def list_peers(call: CurrentCall) -> Page[PeerResource]:
    """The peers that the node can call: those with a host."""
    named = ((name, call.node.settings.peers[name]) for name in call.node.settings.called_peers)
    return Page(
        items=[
            PeerResource(name=name, ae_title=peer.ae_title, host=peer.host or "", port=peer.port)
            for name, peer in named
        ]
    )


@router.post("/peers/{peer}/search", responses=problems(*OF_CHANGES, PEER_FAILED), dependencies=WRITERS)
def search_peer(call: CurrentCall, peer: PeerName, search: PeerSearch) -> PeerStudies:
    """Search for studies at a peer (C-FIND), and say how much of each is here.

    There are at most 500 answers within 30 s. A POST, because the keys name patients.
    """
    return PeerStudies.of(find_studies(call, peer, search))


@router.get("/peers/{peer}/studies/{study_instance_uid}/series", responses=problems(*OF_PEERS), dependencies=WRITERS)
def list_series_at_peer(call: CurrentCall, peer: PeerName, study_instance_uid: StudyUid) -> PeerSeries:
    """The series of a study at a peer (C-FIND), by their numbers."""
    return PeerSeries.of(find_series(call, peer, study_instance_uid))


@router.post("/peers/{peer}/retrievals", status_code=202, responses=problems(*OF_CHANGES), dependencies=WRITERS)
def retrieve_from_peer(call: CurrentCall, change: Change, peer: PeerName, wanted: WantedObjects) -> Retrievals:
    """Retrieve studies and series from a peer (C-GET), in the background."""

    def add(_: Terms) -> Retrievals:
        ids = retrieve(call, peer, wanted.items)
        with call.node.index.reading(wait=False) as index:
            return Retrievals(items=[work_resource(index, kind="retrieval", key=key) for key in ids])

    return change.make(Retrievals, lambda index: Retrievals(items=[]), add)


pages_router = APIRouter(include_in_schema=False, dependencies=WRITERS)


class SearchForm(PeerSearch):
    """The fields of the search form, sent in a request body to keep names out of the logs of proxies."""

    peer: Annotated[str, Field(max_length=64)]


class WantedForm(BaseModel):
    """The form that retrieves: studies by UID, and series by the UIDs of their study and their own."""

    peer: Annotated[str, Field(max_length=64)]
    study: Annotated[list[Uid], Field(max_length=MAX_WANTED)] = []
    series: Annotated[list[Annotated[str, Field(max_length=129)]], Field(max_length=MAX_WANTED)] = []

    def wanted(self) -> list[WantedStudy]:
        """Return what is wanted: a series only if its study is not wanted as a whole."""
        pairs = (text.partition(" ")[::2] for text in self.series)
        series = [
            WantedStudy(study_instance_uid=study, series_instance_uid=uid)
            for study, uid in pairs
            if is_identifier(study) and is_identifier(uid)
        ]
        studies = [WantedStudy(study_instance_uid=study) for study in self.study]
        return [*studies, *(one for one in series if one.study_instance_uid not in self.study)]


@pages_router.get("/peers")
def query_form(call: CurrentCall) -> Response:
    """The form of a search."""
    return _page(call, None)


@pages_router.post("/peers")
def found(call: CurrentCall, form: Annotated[SearchForm, Form()]) -> Response:
    """The answers of a peer: only these for htmx, else the whole page."""
    answers = {**_answers(call, form), "peer": form.peer}
    if "hx-request" in call.request.headers:
        return fragment(call, "peer_answers.html", here_chip=here_chip, **answers)
    return _page(call, form, **answers)


@pages_router.get("/peers/series")
def series(
    call: CurrentCall, peer: Annotated[str, Query(max_length=64)], study: Annotated[str, Query(max_length=64)]
) -> Response:
    """The series of a study at a peer, as a row below that of the study."""
    shown: dict[str, Any] = {"items": [], "note": None, "problem": "", "study": study}
    try:
        shown |= find_series(call, peer, study)
    except ResourceNotFound:
        raise
    except VoxelnodeError as error:
        shown["problem"] = str(error)
    return fragment(call, "peer_series.html", here_chip=here_chip, **shown)


@pages_router.post("/peers/retrieve")
def retrieve_selected(call: CurrentCall, form: Annotated[WantedForm, Form()]) -> Response:
    """Retrieve the selected studies and series, and go to the page *Work*, which shows the retrievals."""
    wanted = form.wanted()
    if wanted:
        retrieve(call, form.peer, wanted)
    return RedirectResponse("/work?kind=retrieval", SEE_OTHER)


def here_chip(item: Mapping[str, Any]) -> StatusChip:
    """Return the chip that says how much of a study or a series at a peer is here."""
    here, there = item["stored"], item["instances"]
    if not here:
        return StatusChip("plain", "not here")
    if there is None:
        return StatusChip("good", f"{here} here", "The peer does not say how many instances there are.")
    if here < there:
        return StatusChip("warning", f"{here} of {there} here")
    return StatusChip("good", f"all {there} here" if here == there else f"{here} here", f"The peer has {there}.")


def _page(call: Call, form: SearchForm | None, **answers: Any) -> Response:
    names = call.node.settings.called_peers
    return page(call, "peers.html", names=names, search=form or PeerSearch(), here_chip=here_chip, **answers)


def _answers(call: Call, form: SearchForm) -> dict[str, Any]:
    """Return the answers, or the problem of a peer, which is an answer as well for people."""
    try:
        return {**find_studies(call, form.peer, form), "problem": ""}
    except ResourceNotFound:
        raise
    except VoxelnodeError as error:
        return {"items": [], "note": None, "problem": str(error)}
