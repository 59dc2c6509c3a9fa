"""Peers that administrators add, beside those of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from node.association.tls import peer_tls_context, tls_context
from node.counted import counted
from node.errors import UsageError
from node.extensions.administration.additions import Changes, keys_of
from node.index.work.routes import outstanding
from node.settings.model import Peer


class PeerChanges(Changes[Peer]):
    """The actions about peers."""

    table, what, model = "peers", "peer", Peer
    maximum = 1000

    def set_peer(self, name: str, who: str, peer: Mapping[str, Any], seen: str | None = None) -> Mapping[str, Any]:
        """Add a peer, or change one that was added; `peer` has the keys of ``[peers.NAME]``."""
        wanted = self._parsed(peer)
        with self._additions.changing:
            self._require_changeable(name)
            self._additions.require_seen(self.table, name, self.what, seen)
            self._require_room(name)
            if wanted.host is None:
                self._require_unused(name)
            tls_context(self._settings.dicom, {name: wanted})
            peer_tls_context(wanted, self._settings.dicom)
            self._having(name, wanted)
            what = f"peer {name}: {wanted.ae_title}, may {', '.join(wanted.may)}"
            self._additions.set(self.table, name, keys_of(wanted), who, what)
        return {"peer": name}

    def remove_peer(self, name: str, who: str, seen: str | None = None) -> Mapping[str, Any]:
        """Remove a peer that was added. The last of all peers stays: without any, every sender would be accepted."""
        with self._additions.changing:
            if self._removed_beside(name, who):
                return {"removed": name}
            self._require_changeable(name)
            self._require_known(name)
            self._additions.require_seen(self.table, name, self.what, seen)
            if len(self._settings.peers) == 1:
                raise UsageError(
                    "this is the last peer: without any, the node accepts every sender. Add another one first"
                )
            self._require_unused(name)
            self._additions.remove(self.table, name, who, f"peer {name}: removed")
        return {"removed": name}

    def _require_changeable(self, name: str) -> None:
        super()._require_changeable(name)
        if name in self._settings.destinations:
            raise UsageError(f"[destinations.{name}] has the same name: choose another one")

    def _require_unused(self, name: str) -> None:
        """Refuse to take the address of a peer away to which something is sent."""
        if routes := [route for route, rules in self._settings.routes.items() if name in rules.to]:
            raise UsageError(f"the route {routes[0]} sends to {name}: change or remove the route first")
        with self._index.reading() as index:
            waiting = sum(outstanding(row) for row in index.routes.destinations() if row["destination"] == name)
        if waiting:
            wait = counted(waiting, "message waits", "messages wait")
            raise UsageError(f"{wait} to be sent to {name}: let it go, or cancel it under Work")
