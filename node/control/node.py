"""The composition root: the only place that puts concrete parts together.

association -> archive -> index -> quiet -> volume -> writers
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from node import __version__
from node.association.addresses import peer_addresses
from node.association.client.find import FindFailed, find_instance_count
from node.association.listener import Listener
from node.audit import APPLICATION, SOURCE, Action, AuditEvent, AuditFailed, Participant, Result
from node.control.control_socket import RequestDesk
from node.control.repository import Store
from node.conversion.confirm_counts import Confirmer
from node.conversion.scheduler import Worker
from node.conversion.volume_files import sweep
from node.errors import UsageError
from node.index.database import Index
from node.index.records import Refused, SeriesPlace
from node.lifecycle.retention import Retention
from node.metrics import publish, withdraw
from node.notify.notifier import Notifier, outlet_of
from node.receive.refusals import Rejections
from node.settings.model import Settings, Web
from node.web.application import application
from node.web.server import WebServer
from node.web.services import Services

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Address:
    """Where a started node accepts associations."""

    host: str
    port: int
    ae_title: str
    web: str | None = None
    """The URL of the pages, if they are served."""


STRANGERS = frozenset({"calling AE title", "called AE title", "peer address", "TLS"})
"""Rules of refusals that say: this one may not talk to us."""


PUBLISH_SECONDS = 3.0
"""How old the counters that `voxelnode status` shows may be."""


class Node:
    """The whole node: listener and worker on one root."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        outlets = {name: outlet_of(name, hook) for name, hook in settings.hooks.items()}  # what is wrong is told first
        self._store = Store(settings)
        _require_account(settings.web, self._store)
        sweep(self._store.archive, self._store.index)
        self._rejections = Rejections(self._store.index, self._alert)
        self._listener = Listener(
            settings, self._store.ingest, self._store.metrics, self._rejections.record, self._store.audit
        )
        self._retention = Retention(self._store.archive, self._store.index, self._store.audit, settings.retention)
        self._worker = Worker(self._store.archive, self._store.index, settings.convert, waits=settings.series)
        self._confirmer = _confirmer(settings, self._store.index)
        self._requests = RequestDesk(settings.storage.root, self._store.actions)
        self._web = self._web_server(settings)
        self._notifier = Notifier(
            settings.hooks,
            outlets,
            self._store.index,
            self._store.metrics,
            self._store.audit,
            settings.dicom.ae_title,
        )

    def start(self) -> Address:
        """Accept associations and convert what is due; returns where."""
        self._notifier.start()  # before anything happens that a new hook is to be told
        host, port = self._listener.start()
        self._worker.start()
        self._confirmer.start()
        self._requests.start()
        self._retention.start()
        web = None
        if self._web is not None:
            web_host, web_port = self._web.start()
            web = f"{self._web.scheme}://{f'[{web_host}]' if ':' in web_host else web_host}:{web_port}/"
        address = Address(host, port, self._settings.dicom.ae_title, web)
        self._tell_activity("started")
        log.info("ready", host=host, port=port, ae_title=address.ae_title)
        return address

    def serve_until(self, stop: threading.Event, tell_alive: Callable[[], None] = lambda: None) -> None:
        """Tell the counters every few seconds (see `voxelnode status`); return when `stop` is set.

        `tell_alive` is called as often, as long as associations are accepted, rows written and series claimed.
        """
        publish(self._store.metrics, self._store.archive.root)
        while not stop.wait(PUBLISH_SECONDS):
            if self._listener.is_listening and self._store.index.is_alive and self._worker.is_alive:
                tell_alive()
            publish(self._store.metrics, self._store.archive.root)

    def stop(self, drain_seconds: float) -> None:
        """End in good order: no new associations, the instances and conversions under way finish or are handed back."""
        if self._web is not None:
            self._web.stop(drain_seconds)
        self._listener.drain(drain_seconds)
        self._requests.stop()
        self._retention.stop()
        self._confirmer.stop()
        self._worker.stop(drain_seconds)
        self._notifier.stop(drain_seconds)
        self._rejections.close()
        withdraw(self._store.archive.root)
        self._tell_activity("stopped")
        self._store.close()
        log.info("stopped")

    def _web_server(self, settings: Settings) -> WebServer | None:
        if not settings.web.enabled:
            return None
        store = self._store
        parts = {"listener": lambda: self._listener.is_listening, "worker": lambda: self._worker.is_alive}
        services = Services(
            settings,
            store.archive,
            store.index,
            store.ingest,
            store.metrics,
            store.audit,
            store.actions,
            parts=parts,
            on_refusal=self._rejections.record,
        )
        return WebServer(settings.web, application(services))

    def _tell_activity(self, what: str) -> None:
        participants = [Participant(self._settings.dicom.ae_title, APPLICATION)]
        self._audited(AuditEvent.APPLICATION_ACTIVITY, Result.SUCCESS, participants, f"voxelnode {__version__} {what}")

    def _alert(self, refused: Refused) -> None:
        """Tell the audit log who was kept out (PS3.15 A.5.3.11)."""
        if refused.rule in STRANGERS:
            who = Participant(refused.calling_ae_title, SOURCE, refused.peer, is_requestor=True)
            self._audited(AuditEvent.SECURITY_ALERT, Result.MINOR_FAILURE, [who], f"{refused.rule}: {refused.reason}")

    def _audited(self, event: AuditEvent, result: Result, participants: Sequence[Participant], detail: str) -> None:
        try:
            self._store.audit.record(event, Action.EXECUTE, result, participants, detail=detail)
        except AuditFailed:
            log.exception("not_audited")  # nothing is destroyed by it; what destroys waits for the audit log


def _require_account(web: Web, store: Store) -> None:
    """Return unless requests over HTTP need an account and there is none: the store is closed then."""
    if web.enabled and web.needs_account and not store.index.accounts.any():
        store.close()
        raise UsageError(
            f"[web] host = {web.host}, authentication = {web.authentication}: requests need an account, and there is "
            "none. Make one by `voxelnode account add NAME --role admin`, or set [web] enabled = false"
        )


CONFIRM_SECONDS = 10.0
"""Longest wait for an answer of a sender that is asked for its counts."""


def _confirmer(settings: Settings, index: Index) -> Confirmer:
    """What asks the senders that may be asked (``[peers.NAME] confirm_by_find``)."""
    addresses = peer_addresses(settings)
    peers = {peer.ae_title: addresses[peer.ae_title] for peer in settings.peers.values() if peer.confirm_by_find}

    def ask_sender(calling_ae_title: str, place: SeriesPlace) -> int | None:
        peer, ours = peers[calling_ae_title], settings.dicom.ae_title
        try:
            return find_instance_count(
                peer.host, peer.port, ours, peer.ae_title, *place, timeout=CONFIRM_SECONDS, tls=peer.tls
            )
        except FindFailed as error:
            log.warning("series_not_confirmed", series_instance_uid=place[1], reason=str(error))
            return None

    return Confirmer(index, peers.keys(), ask_sender)
