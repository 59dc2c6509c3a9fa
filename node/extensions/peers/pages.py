"""The page that queries a peer and retrieves from it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, Field

from node.dicom.attributes import is_identifier
from node.errors import VoxelnodeError
from node.extensions.peers import requests
from node.web.access import WRITERS, Call, CurrentCall
from node.web.errors import ResourceNotFound
from node.web.pages.rendering import SEE_OTHER, fragment, page

router = APIRouter(include_in_schema=False, dependencies=WRITERS)


class SearchForm(requests.PeerSearch):
    """The fields of the search form, sent in a request body to keep names out of the logs of proxies."""

    peer: Annotated[str, Field(max_length=64)]


class WantedForm(BaseModel):
    """The form that retrieves: studies by UID, and series by the UIDs of their study and their own."""

    peer: Annotated[str, Field(max_length=64)]
    study: Annotated[list[requests.Uid], Field(max_length=requests.MAX_WANTED)] = []
    series: Annotated[list[Annotated[str, Field(max_length=129)]], Field(max_length=requests.MAX_WANTED)] = []

    def wanted(self) -> list[requests.WantedStudy]:
        """Return what is wanted: a series only if its study is not wanted as a whole."""
        pairs = (text.partition(" ")[::2] for text in self.series)
        series = [
            requests.WantedStudy(study_instance_uid=study, series_instance_uid=uid)
            for study, uid in pairs
            if is_identifier(study) and is_identifier(uid)
        ]
        studies = [requests.WantedStudy(study_instance_uid=study) for study in self.study]
        return [*studies, *(one for one in series if one.study_instance_uid not in self.study)]


@router.get("/peers")
def query_form(call: CurrentCall) -> Response:
    """The form of a search."""
    return _page(call, None)


@router.post("/peers")
def found(call: CurrentCall, form: Annotated[SearchForm, Form()]) -> Response:
    """The answers of a peer: only these for htmx, else the whole page."""
    answers = {**_answers(call, form), "peer": form.peer}
    if "hx-request" in call.request.headers:
        return fragment(call, "peer_answers.html", **answers)
    return _page(call, form, **answers)


@router.get("/peers/series")
def series(
    call: CurrentCall, peer: Annotated[str, Query(max_length=64)], study: Annotated[str, Query(max_length=64)]
) -> Response:
    """The series of a study at a peer, as a row below that of the study."""
    shown: dict[str, Any] = {"items": [], "note": None, "problem": "", "study": study}
    try:
        shown |= requests.find_series(call, peer, study)
    except ResourceNotFound:
        raise
    except VoxelnodeError as error:
        shown["problem"] = str(error)
    return fragment(call, "peer_series.html", **shown)


@router.post("/peers/retrieve")
def retrieve(call: CurrentCall, form: Annotated[WantedForm, Form()]) -> Response:
    """Retrieve the selected studies and series, and go to the page *Work*, which shows the retrievals."""
    wanted = form.wanted()
    if wanted:
        requests.retrieve(call, form.peer, wanted)
    return RedirectResponse("/work?kind=retrieval", SEE_OTHER)


def _page(call: Call, form: SearchForm | None, **answers: Any) -> Response:
    names = call.node.settings.called_peers
    return page(call, "peers.html", names=names, search=form or requests.PeerSearch(), **answers)


def _answers(call: Call, form: SearchForm) -> dict[str, Any]:
    """Return the answers, or the problem of a peer, which is an answer as well for people."""
    try:
        return {**requests.find_studies(call, form.peer, form), "problem": ""}
    except ResourceNotFound:
        raise
    except VoxelnodeError as error:
        return {"items": [], "note": None, "problem": str(error)}
