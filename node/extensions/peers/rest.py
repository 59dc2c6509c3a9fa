"""Peers: list, search for studies and series, retrieve them."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field

from node.extensions.peers import requests
from node.index.engine.rows import Terms
from node.web.access import READERS, WRITERS, CurrentCall
from node.web.api.changes import Change
from node.web.api.models import DescribedStudy, Resource, ResourceOfSeries, WorkResource
from node.web.api.paging import Page
from node.web.api.routing import OF_CHANGES, api_router, problems
from node.web.api.work import work_resource
from node.web.problem_types import INVALID_REQUEST, NOT_FOUND, PEER_FAILED

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

    items: Annotated[list[requests.WantedStudy], Field(min_length=1, max_length=requests.MAX_WANTED)]


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
def search_peer(call: CurrentCall, peer: PeerName, search: requests.PeerSearch) -> PeerStudies:
    """Search for studies at a peer (C-FIND), and say how much of each is here.

    There are at most 500 answers within 30 s. A POST, because the keys name patients.
    """
    return PeerStudies.of(requests.find_studies(call, peer, search))


@router.get("/peers/{peer}/studies/{study_instance_uid}/series", responses=problems(*OF_PEERS), dependencies=WRITERS)
def list_series_at_peer(call: CurrentCall, peer: PeerName, study_instance_uid: StudyUid) -> PeerSeries:
    """The series of a study at a peer (C-FIND), by their numbers."""
    return PeerSeries.of(requests.find_series(call, peer, study_instance_uid))


@router.post("/peers/{peer}/retrievals", status_code=202, responses=problems(*OF_CHANGES), dependencies=WRITERS)
def retrieve_from_peer(call: CurrentCall, change: Change, peer: PeerName, wanted: WantedObjects) -> Retrievals:
    """Retrieve studies and series from a peer (C-GET), in the background."""

    def add(_: Terms) -> Retrievals:
        ids = requests.retrieve(call, peer, wanted.items)
        with call.node.index.reading(wait=False) as index:
            return Retrievals(items=[work_resource(index, kind="retrieval", key=key) for key in ids])

    return change.make(Retrievals, lambda index: Retrievals(items=[]), add)
