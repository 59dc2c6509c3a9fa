"""Peers that administrators add, beside those of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from node.association.tls import peer_tls_context, tls_context
from node.audit.audit_log import Action as Audited
from node.control.additions import mistakes_of
from node.counted import counted
from node.errors import UsageError
from node.extensions.administration.additions import Additions, keys_of, mistake_of, require_name
from node.index.work.routes import outstanding
from node.settings.model import Peer

MAX_PEERS = 1000
"""Peers that are added on the pages."""


class PeerChanges:
    """The actions about peers."""

    def __init__(self, additions: Additions) -> None:
        self._additions, self._settings = additions, additions.settings

    def set_peer(self, name: str, who: str, peer: Mapping[str, Any]) -> Mapping[str, Any]:
        """Add a peer, or change one that was added; `peer` has the keys of ``[peers.NAME]``."""
        require_name(name, "peer")
        try:
            wanted = Peer.model_validate(peer)
        except ValidationError as error:
            raise UsageError("\n".join(mistake_of(one, "peer") for one in error.errors())) from error
        with self._additions.changing:
            self._require_changeable(name)
            if len(self._settings.peers) >= MAX_PEERS and name not in self._settings.peers:
                raise UsageError(f"there are {MAX_PEERS} peers already: add further ones to the configuration")
            if wanted.host is None:
                self._require_unused(name)
            tls_context(self._settings.dicom, {name: wanted})
            peer_tls_context(wanted, self._settings.dicom)
            changed = self._settings.having({**self._additions.peers, name: wanted}, self._additions.routes)
            if mistakes := mistakes_of(changed):
                raise UsageError("\n".join(mistakes))
            rows, now = self._additions.peer_rows, self._additions.now()
            what = f"peer {name}: {wanted.ae_title}, may {', '.join(wanted.may)}"
            self._additions.change(who, what, Audited.UPDATE, lambda: rows.set(name, keys_of(wanted), who, now))
        return {"peer": name}

    def remove_peer(self, name: str, who: str) -> Mapping[str, Any]:
        """Remove a peer that was added. The last of all peers stays: without any, every sender would be accepted."""
        with self._additions.changing:
            self._require_changeable(name)
            if name not in self._settings.peers:
                raise UsageError("there is no such peer: somebody has removed it")
            if len(self._settings.peers) == 1:
                raise UsageError(
                    "this is the last peer: without any, the node accepts every sender. Add another one first"
                )
            self._require_unused(name)
            rows = self._additions.peer_rows
            self._additions.change(who, f"peer {name}: removed", Audited.DELETE, lambda: rows.remove(name))
        return {"removed": name}

    def _require_changeable(self, name: str) -> None:
        self._additions.require_alone("peers")
        if name in self._settings.own_peers:
            raise UsageError(f"the peer {name} is in the configuration, and is changed there")
        if name in self._settings.destinations:
            raise UsageError(f"[destinations.{name}] has the same name: choose another one")

    def _require_unused(self, name: str) -> None:
        """Refuse to take the address of a peer away to which something is sent."""
        if routes := [route for route, rules in self._settings.routes.items() if name in rules.to]:
            raise UsageError(f"the route {routes[0]} sends to {name}: change or remove the route first")
        with self._additions.index.reading() as index:
            waiting = sum(outstanding(row) for row in index.routes.destinations() if row["destination"] == name)
        if waiting:
            wait = counted(waiting, "message waits", "messages wait")
            raise UsageError(f"{wait} to be sent to {name}: let it go, or cancel it under Work")
