"""Peers: list, search for studies and series, retrieve them; retrievals: list, show, cancel."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from node.index.database.reading import ReadIndex
from node.index.nouns.terms import Terms
from node.web import peers
from node.web.access import Reader, RequestAudit, Writer
from node.web.api import models
from node.web.api.changes import Change, tagged
from node.web.api.paging import AuditedPage, OptionalSeriesUid, OptionalStudyUid, Page, only_row
from node.web.api.routing import OF_CHANGES, api_router, problems, single
from node.web.problem_types import CONFLICT, INVALID_REQUEST, NOT_FOUND, PEER_FAILED, WRONG_CURSOR
from node.web.services import Node

router = api_router("peers")

PeerName = Annotated[str, Path(max_length=64, description="name of the peer in [peers]")]
StudyUid = Annotated[str, Path(max_length=64, description="Study Instance UID")]
RetrievalId = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="id of the retrieval")]

OF_PEERS = (NOT_FOUND, INVALID_REQUEST, PEER_FAILED)


class WantedObjects(BaseModel):
    """Studies and series to retrieve."""

    model_config = ConfigDict(extra="forbid")

    items: Annotated[list[peers.Wanted], Field(min_length=1, max_length=peers.MAX_WANTED)]


@router.get("/peers")
def list_peers(account: Reader, node: Node) -> Page[models.PeerResource]:
    """The peers that the node can call: those with a host."""
    named = ((name, node.settings.peers[name]) for name in node.settings.called_peers)
    return Page(
        items=[
            models.PeerResource(name=name, ae_title=peer.ae_title, host=peer.host or "", port=peer.port)
            for name, peer in named
        ]
    )


@router.post("/peers/{peer}/search", responses=problems(*OF_CHANGES, PEER_FAILED))
def search_peer(
    account: Writer, node: Node, audit: RequestAudit, peer: PeerName, search: peers.PeerSearch
) -> models.PeerStudies:
    """Search for studies at a peer (C-FIND), and say how much of each is here.

    There are at most 500 answers within 30 s. A POST, because the keys name patients.
    """
    return models.PeerStudies.of(peers.find_studies(node, audit, peer, search))


@router.get("/peers/{peer}/studies/{study_instance_uid}/series", responses=problems(*OF_PEERS))
def list_series_at_peer(
    account: Writer, node: Node, audit: RequestAudit, peer: PeerName, study_instance_uid: StudyUid
) -> models.PeerSeries:
    """The series of a study at a peer (C-FIND), by their numbers."""
    return models.PeerSeries.of(peers.find_series(node, audit, peer, study_instance_uid))


@router.post("/peers/{peer}/retrievals", status_code=202, responses=problems(*OF_CHANGES))
def retrieve_from_peer(
    account: Writer, node: Node, audit: RequestAudit, change: Change, peer: PeerName, wanted: WantedObjects
) -> models.Retrievals:
    """Retrieve studies and series from a peer (C-GET), in the background."""

    def add(_: Terms) -> models.Retrievals:
        ids = peers.retrieve(node, account, audit, peer, wanted.items)
        with node.index.reading(wait=False) as index:
            return models.Retrievals(items=[_retrieval(index, retrieval) for retrieval in ids])

    return change.make(models.Retrievals, lambda index: models.Retrievals(items=[]), add)


@router.get("/retrievals", responses=problems(WRONG_CURSOR))
def list_retrievals(
    account: Reader,
    page: AuditedPage,
    peer: Annotated[str | None, Query(max_length=64, description="name of the peer")] = None,
    state: Annotated[models.RetrievalState | None, Query(description="state of the retrieval")] = None,
    study_instance_uid: OptionalStudyUid = None,
    series_instance_uid: OptionalSeriesUid = None,
) -> Page[models.RetrievalResource]:
    """Retrievals from peers, newest first."""
    wanted = {"kind": "retrieval", "name": peer, "state": state}
    wanted |= {"study_instance_uid": study_instance_uid, "series_instance_uid": series_instance_uid}
    return page.read("retrievals", models.RetrievalResource, lambda index: index.work, **wanted)


@router.get("/retrievals/{retrieval}", responses=single())
def show_retrieval(
    account: Reader, node: Node, audit: RequestAudit, response: Response, retrieval: RetrievalId
) -> models.RetrievalResource:
    """A retrieval, and what came of it."""
    with node.index.reading(wait=False) as index:
        resource = _retrieval(index, retrieval)
    audit.queried(f"retrieval {retrieval}", 1)
    return tagged(response, resource)


@router.post("/retrievals/{retrieval}/cancel", responses=problems(*OF_CHANGES, CONFLICT))
def cancel_retrieval(
    account: Writer, node: Node, audit: RequestAudit, change: Change, retrieval: RetrievalId
) -> models.RetrievalResource:
    """Cancel a retrieval. One that is under way ends within seconds; what it brought stays."""

    def cancel(_: Terms) -> models.RetrievalResource:
        peers.cancel_retrieval(node, account, audit, retrieval)
        with node.index.reading(wait=False) as index:
            return _retrieval(index, retrieval)

    return change.make(models.RetrievalResource, lambda index: _retrieval(index, retrieval), cancel)


def _retrieval(index: ReadIndex, retrieval: str) -> models.RetrievalResource:
    return models.RetrievalResource.of(only_row(index.work, "retrieval", kind="retrieval", key=retrieval))
