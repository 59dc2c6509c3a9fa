"""Peers of the index join those of the configuration, whether the pages that add them are on or off."""

from __future__ import annotations

import structlog
from pydantic import ValidationError

from node.errors import UsageError
from node.index.database.index import Index
from node.index.nouns.added_peers import AddedPeerRepository
from node.settings.model import Peer, Settings

log = structlog.get_logger()


def adopt_peers(settings: Settings, index: Index, changed: frozenset[str] = frozenset()) -> None:
    """Have the settings know the peers that were added; see `node.settings.model.Settings.add_peers`.

    Hosts that may share the index have none. Raises UsageError if no peer that was added can be used and there is no
    other: without peers, every sender would be accepted.
    """
    peers: dict[str, Peer] = {}
    rows = [] if settings.shares_index else index.repository(AddedPeerRepository).listed()
    for row in rows:
        if row.name in settings.destinations:
            log.warning("added_peer_unused", peer=row.name, reason="a destination has the same name")
            continue
        try:
            peers[row.name] = Peer.model_validate(row.settings)
        except ValidationError:
            log.warning("added_peer_unused", peer=row.name, reason="this version does not accept its settings")
    if rows and not peers and not settings.own_peers:
        raise UsageError(
            f"no peer that was added on the pages can be used ({', '.join(row.name for row in rows)}), and without "
            "peers every sender is accepted: list one under [peers], or rename the destinations of these names"
        )
    settings.add_peers(peers, changed)
