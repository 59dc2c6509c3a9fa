"""Peers: list, search for studies and series, retrieve them."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field

from node.index.nouns.terms import Terms
from node.web import peers
from node.web.access import ReaderCall, WriterCall
from node.web.api import models
from node.web.api.changes import Change
from node.web.api.paging import Page
from node.web.api.routing import OF_CHANGES, api_router, problems
from node.web.api.work import work_resource
from node.web.problem_types import INVALID_REQUEST, NOT_FOUND, PEER_FAILED

router = api_router("peers")

PeerName = Annotated[str, Path(max_length=64, description="name of the peer in [peers]")]
StudyUid = Annotated[str, Path(max_length=64, description="Study Instance UID")]

OF_PEERS = (NOT_FOUND, INVALID_REQUEST, PEER_FAILED)


class WantedObjects(BaseModel):
    """Studies and series to retrieve."""

    model_config = ConfigDict(extra="forbid")

    items: Annotated[list[peers.Wanted], Field(min_length=1, max_length=peers.MAX_WANTED)]


@router.get("/peers")
def list_peers(call: ReaderCall) -> Page[models.PeerResource]:
    """The peers that the node can call: those with a host."""
    named = ((name, call.node.settings.peers[name]) for name in call.node.settings.called_peers)
    return Page(
        items=[
            models.PeerResource(name=name, ae_title=peer.ae_title, host=peer.host or "", port=peer.port)
            for name, peer in named
        ]
    )


@router.post("/peers/{peer}/search", responses=problems(*OF_CHANGES, PEER_FAILED))
def search_peer(call: WriterCall, peer: PeerName, search: peers.PeerSearch) -> models.PeerStudies:
    """Search for studies at a peer (C-FIND), and say how much of each is here.

    There are at most 500 answers within 30 s. A POST, because the keys name patients.
    """
    return models.PeerStudies.of(peers.find_studies(call, peer, search))


@router.get("/peers/{peer}/studies/{study_instance_uid}/series", responses=problems(*OF_PEERS))
def list_series_at_peer(call: WriterCall, peer: PeerName, study_instance_uid: StudyUid) -> models.PeerSeries:
    """The series of a study at a peer (C-FIND), by their numbers."""
    return models.PeerSeries.of(peers.find_series(call, peer, study_instance_uid))


@router.post("/peers/{peer}/retrievals", status_code=202, responses=problems(*OF_CHANGES))
def retrieve_from_peer(call: WriterCall, change: Change, peer: PeerName, wanted: WantedObjects) -> models.Retrievals:
    """Retrieve studies and series from a peer (C-GET), in the background."""

    def add(_: Terms) -> models.Retrievals:
        ids = peers.retrieve(call, peer, wanted.items)
        with call.node.index.reading(wait=False) as index:
            return models.Retrievals(items=[work_resource(index, kind="retrieval", key=key) for key in ids])

    return change.make(models.Retrievals, lambda index: models.Retrievals(items=[]), add)
