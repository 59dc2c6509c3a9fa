"""Peers that administrators add: rows of the index beside the peers of the configuration, which keep their names.

A change is in the index before it takes effect. The next association and the next call follow it, and so do the workers
that send. If the process dies in between, the next start has the change.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from node.association.tls import peer_tls_context, tls_context
from node.audit.audit_log import APPLICATION, AuditEvent, AuditMessage, EventType, Participant, Result
from node.audit.audit_log import Action as Audited
from node.control.added_peers import adopt_peers
from node.counted import counted
from node.errors import UsageError, in_plain_words
from node.hookspecs import Action, OpenedRoot
from node.index.nouns.added_peers import AddedPeerRepository
from node.index.work.routes import outstanding
from node.settings.model import Peer

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

MAX_PEERS = 1000
"""Peers that are added on the pages."""


def actions(root: OpenedRoot) -> Mapping[str, Action]:
    """Return the actions by name."""
    changes = _Changes(root)
    return {"set-peer": changes.set_peer, "remove-peer": changes.remove_peer}


class _Changes:
    def __init__(self, root: OpenedRoot) -> None:
        self._settings, self._audit = root.settings, root.audit
        self._index, self._now = root.ingest.index, root.ingest.now
        self._rows = self._index.repository(AddedPeerRepository)
        self._changing = threading.Lock()

    def set_peer(self, name: str, who: str, peer: Mapping[str, Any]) -> Mapping[str, Any]:
        """Add a peer, or change one that was added; `peer` has the keys of ``[peers.NAME]``."""
        if not _NAME.fullmatch(name):
            raise UsageError("the name of a peer has 1 to 64 letters, digits, underscores and hyphens")
        try:
            wanted = Peer.model_validate(peer)
        except ValidationError as error:
            raise UsageError("\n".join(_mistake(one) for one in error.errors())) from error
        with self._changing:
            self._require_changeable(name)
            if len(self._settings.peers) >= MAX_PEERS and name not in self._settings.peers:
                raise UsageError(f"there are {MAX_PEERS} peers already: add further ones to the configuration")
            tls_context(self._settings.dicom, {name: wanted})
            peer_tls_context(wanted, self._settings.dicom)
            content = wanted.model_dump(mode="json", exclude_unset=True)
            what = f"peer {name}: {wanted.ae_title}, may {', '.join(wanted.may)}"
            self._change(who, what, Audited.UPDATE, name, lambda: self._rows.set(name, content, who, self._now()))
        return {"peer": name}

    def remove_peer(self, name: str, who: str) -> Mapping[str, Any]:
        """Remove a peer that was added. The last of all peers stays: without any, every sender would be accepted."""
        with self._changing:
            self._require_changeable(name)
            if name not in self._settings.peers:
                raise UsageError("there is no such peer: somebody has removed it")
            if len(self._settings.peers) == 1:
                raise UsageError(
                    "this is the last peer: without any, the node accepts every sender. Add another one first"
                )
            self._change(who, f"peer {name}: removed", Audited.DELETE, name, lambda: self._rows.remove(name))
        return {"removed": name}

    def _require_changeable(self, name: str) -> None:
        settings = self._settings
        if settings.shares_index:
            raise UsageError("several hosts may share this index: change [peers] in the configuration of each")
        if name in settings.own_peers:
            raise UsageError(f"the peer {name} is in the configuration, and is changed there")
        if name in settings.destinations:
            raise UsageError(f"[destinations.{name}] has the same name: choose another one")
        with self._index.reading() as index:
            waiting = sum(outstanding(row) for row in index.routes.destinations() if row["destination"] == name)
        if waiting:
            wait = counted(waiting, "message waits", "messages wait")
            raise UsageError(f"{wait} to be sent to {name}: let it go, or cancel it under Work")

    def _change(self, who: str, what: str, action: Audited, name: str, make: Callable[[], None]) -> None:
        whom = [Participant(who, APPLICATION, is_requestor=True)]
        kind = EventType.SOFTWARE_CONFIGURATION
        order = AuditMessage(AuditEvent.SECURITY_ALERT, action, Result.SUCCESS, whom, detail=what, type=kind)
        self._audit.change(order, make)
        adopt_peers(self._settings, self._index, frozenset({name}))


def _mistake(error: ErrorDetails) -> str:
    key = str(error["loc"][0]) if error["loc"] else "peer"
    return f"{key}: {in_plain_words(error['msg'])}"
