"""What people ask of peers: a search, and retrievals, which are then owed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from node.association.client.association import address_of
from node.errors import UsageError
from node.extensions.peers.search import PeerSearches
from node.hookspecs import Action, OpenedRoot

MAX_PEER = 64
"""Characters of the name or address of a peer in the list of retrievals."""


def actions_of(root: OpenedRoot) -> Mapping[str, Action]:
    """Return ``search-peer`` and ``retrieve`` on an opened root."""
    settings, index = root.settings, root.ingest.index

    def retrieve(peer: str, wanted: list[tuple[str, str | None]], who: str) -> Mapping[str, Any]:
        address_of(peer, settings)
        if len(peer) > MAX_PEER:
            raise UsageError(f"{peer[:32]}... has more than {MAX_PEER} characters: give it a name in [peers]")
        pairs = [(study_instance_uid, series_instance_uid) for study_instance_uid, series_instance_uid in wanted]
        return {"retrievals": index.work.add_retrievals(peer, pairs, who, index.now())}

    return {"search-peer": PeerSearches(settings).find, "retrieve": retrieve}
