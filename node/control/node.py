"""The node as a whole. Only this module assembles the concrete parts.

association -> archive -> index -> quiet -> volume -> writers
"""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import structlog

from node.archive.base import Uploads
from node.association.client.addresses import Address
from node.association.listener import Listener
from node.audit.audit_log import (
    APPLICATION,
    SOURCE,
    AuditAction,
    AuditEvent,
    AuditMessage,
    EventType,
    Participant,
    Result,
)
from node.children.confinement import described, offered
from node.children.decoder import Decoder
from node.control.checks import before_root, require_account, warn
from node.control.control_socket import ControlServer
from node.control.repository import Repository
from node.control.root import require_barrier, require_root
from node.control.web import WebParts, WebProcess, is_apart, listening, served_here
from node.conversion.scheduler import Worker
from node.conversion.volume_files import sweep
from node.errors import UsageError, VoxelnodeError, is_out_of_memory
from node.index.database import Index
from node.index.rows.place import IndexUnusable
from node.index.rows.records import Refused
from node.lifecycle.retention import Retention
from node.lifecycle.scrub import Comparisons, Scrub
from node.notify.notifier import Notifier
from node.receive.readiness import reasons_not_ready, remove_counters, write_counters
from node.receive.senders import Rejections
from node.registry import MEMBERSHIP, enabled, objects_of, resolve, store_kind
from node.routing.router import RouteWorkers
from node.runtime import logs
from node.runtime.background import BackgroundService, SupervisedThread
from node.runtime.metrics import Metrics
from node.settings.model import Settings
from node.version import __version__

if TYPE_CHECKING:
    from node.web.server import WebServer

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Addresses at which a running node accepts associations and HTTP requests."""

    dicom: Address | None
    """None: this host does not receive ([cluster] roles, [dicom] enabled)."""
    tls_port: int | None = None
    """The port that takes TLS, beside that of `dicom`; None: there is none."""
    web: str | None = None
    """URL of the pages; None: [web] is disabled."""


STRANGERS = frozenset({"calling AE title", "called AE title", "peer address", "peer certificate", "TLS"})
"""Rules that reject an unauthorized peer; only their refusals are security alerts."""


DRAINING = "this host is stopping and accepts no new work"

HAND_OVER_SECONDS = 0.5
"""Wait for the services of a host that drains to end; the leases of those that take longer are given back later."""

PUBLISH_SECONDS = 3.0
"""Maximum age of the counters shown by `voxelnode status`."""


class Node:
    """All services of a node on one root.

    `listens`: False if others accept the associations (`control.handlers`). `root_maker`: the command that makes a
    root, of a node that refuses a folder that is not one; empty: the node makes it. `keeps`: False if the root goes
    when the node ends.
    """

    def __init__(self, settings: Settings, *, listens: bool = True, root_maker: str = "", keeps: bool = True) -> None:
        if keeps:
            require_barrier()
        self._settings = settings
        self._root = settings.storage.root.absolute()
        self._receives = "receive" in settings.cluster.roles
        self._listens = listens and self._receives and settings.dicom.enabled
        self._is_draining = threading.Event()
        self._ended: list[str] = []
        self._reasons: dict[str, str] = {}
        self._facts: dict[str, Any] = {}
        for check in before_root(settings):
            check()
        if root_maker:
            require_root(self._root, root_maker)
        repository = self._repository = Repository(settings, keeps=keeps)
        archive, index, metrics, audit = repository.archive, repository.index, repository.metrics, repository.audit
        try:
            require_account(settings, index.accounts.any)
        except UsageError:
            repository.close()
            raise
        sweep(archive, index)
        self._rejections = Rejections(index, metrics, self._alert)
        self._decoder = Decoder()
        self.listener = Listener(settings, repository.ingest, self._decoder, self._rejections.record, audit)
        self._worker = None
        if "convert" in settings.cluster.roles:
            self._worker = Worker(
                archive,
                index,
                settings.convert,
                index.now,
                waits=settings.series,
                note_activity=repository.ingest.note_activity,
                objects=objects_of(enabled(settings)),
            )
        of_receiver = (
            _optional_services(settings, repository, self._rejections, self._decoder) if self._receives else ()
        )
        # They move to the object store what this host takes in, by whichever role, and look after its copies.
        self._uploads: tuple[Uploads, ...] = ()
        if (kind := store_kind(settings)) is not None:
            self._uploads = (kind.uploads(settings, archive, index, metrics),)
        self._optional = (*self._uploads, *of_receiver)
        self._control = ControlServer(settings.storage.root, repository.actions.by_name)
        self._notifier = Notifier(
            settings, index, metrics, audit, repository.results, archive.held, is_needed=self._receives
        )
        delete = repository.actions.delete_confirmed
        self._router = RouteWorkers(settings, archive, index, metrics, audit, self._decoder, delete)
        self._membership = self._join(settings, repository)
        self._beside: tuple[BackgroundService, ...] = (
            (*self._membership.beside, _Charts(index, metrics)) if self._membership is not None else ()
        )
        self._web = self._web_server(settings)
        metrics.service_failures.counts = lambda: {name: part.failures for name, part in self._supervised().items()}

    def start(self) -> Endpoints:
        """Start every service of the roles of this host; return the addresses of the listeners."""
        warn(self._settings)
        self._warn_of_standbys()
        if self._membership is not None:
            self._membership.start()
        self._rejections.start()
        dicom = None
        if self._receives:
            self._forget_ends()
            self._settings.follow(self._forget_ends)
            self._notifier.start()  # first: a new hook receives events from here on
            self._router.start()
            if self._listens:
                dicom = Address(self._settings.dicom.ae_title, *self.listener.start())
            else:
                self.listener.start_beside()
        if self._worker is not None:
            self._worker.start()
        for service in (*self._optional, *self._beside):
            service.start()
        self._control.start()
        web = self._start_web() if self._web is not None else None
        self._facts = {
            "port": self.listener.port if self._listens else None,
            "tls_port": self.listener.tls_port if self._listens else None,
            "acknowledge": self._settings.acknowledge,
            "reserve_bytes": self._settings.storage.reserve_bytes,
            "low_bytes": self._settings.storage.low_bytes,
        }
        self._note_activity("started", EventType.APPLICATION_START)
        if offered().landlock and offered().seccomp:
            log.info("decoders_confined", detail=described())
        else:
            log.warning("decoders_not_confined", detail=described())
        tls_port = self.listener.tls_port if dicom is not None else None
        detail = f"TLS on port {tls_port}" if tls_port is not None else ""
        where = {"host": dicom.host, "port": dicom.port, "ae_title": dicom.ae_title} if dicom is not None else {}
        log.info("ready", version=__version__, **where, detail=detail)
        return Endpoints(dicom, tls_port, web)

    def _start_web(self) -> str:
        """Serve HTTP; return the URL."""
        web, bound = self._settings.web, listening(self._settings.web)
        host, port = bound.getsockname()[:2]
        assert self._web is not None
        self._web.start(bound)
        scheme = "https" if web.tls_certificate is not None else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/"

    def _forget_ends(self) -> None:
        """Let what [peers] says of releases now count for what was received before."""
        peers = self._settings.peers.values()
        titles = {peer.ae_title for peer in peers} - {peer.ae_title for peer in peers if peer.releases}
        if not titles:
            return
        index = self._repository.index
        try:
            index.associations.forget_ends(sorted(titles), index.now())
        except VoxelnodeError as error:  # the next reload or start does it
            log.warning("ends_not_forgotten", reason=str(error))

    def _warn_of_standbys(self) -> None:
        """Warn if the index can lose what is acknowledged because it was there."""
        if self._settings.acknowledge != "local":
            with self._repository.index.reading(wait=False) as index:
                if (weakness := index.standbys().weakness) is not None:
                    log.warning("acknowledgement_weak", detail=weakness)

    def reload(self) -> None:
        """Read the configuration again; the log says why it is refused."""
        with suppress(VoxelnodeError):
            self._repository.actions.by_name["reload"](who="SIGHUP")

    def serve_until(self, stop: threading.Event, notify_alive: Callable[[], None] | None = None) -> None:
        """Publish the counters every `PUBLISH_SECONDS` for `voxelnode status`; return when `stop` is set.

        `notify_alive`, if there is one, is called at the same interval while every part of the node is alive; dead
        parts are logged.
        Without memory for this, the next round does it; receiving and converting report the shortage themselves.
        """
        if self._membership is not None:
            self._membership.when_asked_to_drain(stop.set)
        while not stop.is_set():
            try:
                self._notify_if_alive(notify_alive)
                if stop.wait(PUBLISH_SECONDS):
                    return
            except Exception as error:
                if not (is_out_of_memory(error) or isinstance(error, SystemError)):
                    raise
                sleep(PUBLISH_SECONDS)  # takes no memory, unlike an event

    def _notify_if_alive(self, notify_alive: Callable[[], None] | None) -> None:
        ended = [name for name, is_alive in self._alive().items() if not is_alive()]
        if not ended and notify_alive is not None:
            notify_alive()
        elif ended and ended != self._ended:
            log.error("services_ended", detail=", ".join(ended))
        self._ended = ended
        self._publish()

    def stop(self, drain_seconds: float) -> None:
        """Stop accepting work, finish or hand back instances and conversions under way, and close the root.

        A host that shares its index first lets the others take over what it does alone, and fails its readiness for
        ``[cluster] announce_seconds``. Senders have found another host when it accepts no associations any more.
        """
        self._is_draining.set()
        self._repository.index.begin_stop()
        if self._membership is not None:
            self._hand_over(self._membership)
        self._stop_intake(drain_seconds)
        self._decoder.close()
        self._control.stop()
        for service in (*self._optional, *self._beside):
            if service not in self._uploads:
                service.stop()
        if self._worker is not None:
            self._worker.stop(drain_seconds)
        self._notifier.stop(drain_seconds)
        self._rejections.stop()
        left_behind = self._empty_disk(drain_seconds) if self._membership is not None else 0
        for uploads in self._uploads:
            uploads.stop()
        if self._membership is not None:
            with suppress(VoxelnodeError):  # the index is away: the lease ends by itself
                self._membership.leave(left_behind)
        remove_counters(self._root)
        self._note_activity("stopped", EventType.APPLICATION_STOP)
        self._repository.close()
        log.info("stopped")

    def _hand_over(self, membership: Any) -> None:
        """Claim nothing more, and let other hosts do what this one does alone; then wait until balancers know."""
        services = {service.lease: service for service in self.services if service.lease is not None}
        if self._worker is not None:
            services["housekeeping"] = self._worker
        for service in services.values():
            service.begin_stop()
        membership.begin_to_drain()
        deadline = monotonic() + HAND_OVER_SECONDS
        for service in services.values():
            service.join(max(0.0, deadline - monotonic()))
        membership.hand_over(services)
        deadline = monotonic() + self._settings.cluster.announce_seconds
        while (left := deadline - monotonic()) > 0:
            self._publish()
            sleep(min(left, PUBLISH_SECONDS))

    def _stop_intake(self, drain_seconds: float) -> None:
        if self._receives:
            self._router.begin_stop()
            finish_seconds = self._settings.cluster.finish_seconds if self._membership is not None else 0.0
            self.listener.drain(drain_seconds, finish_seconds)
        if self._web is not None:
            self._web.stop(drain_seconds)
        if self._receives:
            self._router.stop(drain_seconds)

    def _empty_disk(self, seconds: float) -> int:
        """Bring what only the disk of this host has to where the other hosts find it; return how much is left."""
        deadline = monotonic() + seconds
        applier = self._repository.applier
        applier.catch_up(seconds)
        left = applier.lag
        for uploads in self._uploads:
            with suppress(VoxelnodeError):  # the index is away
                left += uploads.finish(max(0.0, deadline - monotonic()))
        if left:
            log.warning(
                "drained_in_part",
                count=left,
                detail="instances and files of volumes that only the disk of this host has",
            )
        return left

    @property
    def _serves_web(self) -> bool:
        return self._settings.web.enabled and "web" in self._settings.cluster.roles

    @property
    def services(self) -> tuple[BackgroundService, ...]:
        """All background services required by the configuration."""
        of_receiver = (*self.listener.services, *self._notifier.workers, *self._router.workers)
        services = (
            *(self._repository.applier, self._repository.index.watch, self._rejections, *self._optional, self._worker),
            *self._beside,
            *(self._membership.services if self._membership is not None else ()),
            *(of_receiver if self._receives else ()),
        )
        return tuple(service for service in services if service is not None)

    def _alive(self) -> dict[str, Callable[[], bool]]:
        """The liveness checks of all parts that must run, by name."""
        parts: dict[str, Callable[[], bool]] = {
            name: partial(getattr, part, "is_alive") for name, part in self._supervised().items()
        }
        if self._listens:
            parts["listener"] = lambda: self.listener.is_listening
        if self._serves_web:
            parts["web"] = lambda: self._web is not None and self._web.is_alive
        return parts

    def _supervised(self) -> dict[str, SupervisedThread | BackgroundService]:
        """Everything that runs until the node stops, by name."""
        threads = {
            **(self.listener.threads if self._listens else {}),
            "index": self._repository.index.thread,
            "control socket": self._control.thread,
        }
        if self._receives:
            threads |= {name: listener.thread for name, listener in self.listener.listeners.items()}
        running = {name: thread for name, thread in threads.items() if thread is not None}
        return running | {service.name: service for service in self.services}

    def _troubles(self) -> dict[str, Callable[[], str | None]]:
        """What is wrong with each part, by name."""
        parts = self._supervised()
        troubles: dict[str, Callable[[], str | None]] = {
            name: partial(_trouble, name, is_alive, parts.get(name)) for name, is_alive in self._alive().items()
        }
        return troubles | {"drain": lambda: DRAINING if self._is_draining.is_set() else None}

    def _not_ready(self) -> dict[str, str]:
        """Return why this host is not ready, by role; what it says of itself is no news of the cluster."""
        parts = {name: trouble for name, trouble in self._troubles().items() if name != "cluster"}
        reasons = {
            role: reasons_not_ready(self._repository.ingest, parts, role) for role in self._settings.cluster.roles
        }
        return {role: "; ".join(found.values()) for role, found in reasons.items() if found}

    def _publish(self) -> None:
        """Write for other processes what this one counts, and why it is not ready; intake stops if a file is gone."""
        reasons = reasons_not_ready(self._repository.ingest, self._troubles())
        if reasons.keys() != self._reasons.keys():
            log.warning("not_ready" if reasons else "ready_again", detail="; ".join(reasons.values()))
        self._reasons = reasons
        logs.refusals.report_ended()
        self._repository.audit.refusals.report_ended()
        if self._membership is None:  # else, `_Charts` waits for the server
            _note_open(self._repository.index, self._repository.metrics)
        write_counters(self._repository.metrics.snapshot(), self._root, reasons, self._facts)

    def _web_server(self, settings: Settings) -> WebServer | WebProcess | None:
        if not self._serves_web:
            return None
        not_ready = partial(reasons_not_ready, self._repository.ingest, self._troubles())
        port = self._settings.dicom.port
        parts = WebParts(
            self._decoder, not_ready, lambda: self.listener.port if self._listens else port, self._rejections.record
        )
        return (WebProcess if is_apart(settings) else served_here)(settings, self._repository, parts)

    def _join(self, settings: Settings, repository: Repository) -> Any:
        """Return what makes this host one of several; None: the index has one host."""
        index = repository.index
        if index.sharing.host is None:
            return None
        subscribers = [str(worker.lane) for worker in (*self._notifier.workers, *self._router.workers)]
        interrupt = self._worker.interrupt if self._worker is not None else lambda: None
        return resolve(MEMBERSHIP)(settings, index, repository.ingest, subscribers, interrupt, self._not_ready)

    def _note_activity(self, activity: str, kind: EventType) -> None:
        participants = [Participant(self._settings.dicom.ae_title, APPLICATION)]
        detail = f"voxelnode {__version__} {activity}"
        message = AuditMessage(
            AuditEvent.APPLICATION_ACTIVITY, AuditAction.EXECUTE, Result.SUCCESS, participants, detail=detail, type=kind
        )
        self._repository.audit.note(message)

    def _alert(self, refused: Refused) -> None:
        """Note the refusal of a sender, and record in the audit log who was rejected (PS3.15 A.5.3.11)."""
        if refused.calling_ae_title:
            heard, word = self._repository.metrics.last_words.heard, f"{refused.what} refused: {refused.rule}"
            heard(refused.calling_ae_title, refused.peer, word, dt.datetime.now(dt.UTC))
        if refused.rule in STRANGERS:
            who = Participant(refused.calling_ae_title, SOURCE, refused.peer, is_requestor=True)
            detail = f"{refused.rule}: {refused.reason}"
            event, kind = AuditEvent.SECURITY_ALERT, EventType.NODE_AUTHENTICATION
            message = AuditMessage(event, AuditAction.EXECUTE, Result.MINOR_FAILURE, [who], detail=detail, type=kind)
            self._repository.audit.note(message)


def _note_open(index: Index, metrics: Metrics) -> None:
    """Note for the charts how many series are open."""
    with suppress(IndexUnusable):  # `reasons_not_ready` reports it
        metrics.last_hour.waiting(index.series.count_open())


class _Charts(BackgroundService):
    """Does `_note_open`, which may wait long for a server; the pulse of the node must not."""

    def __init__(self, index: Index, metrics: Metrics) -> None:
        super().__init__("charts")
        self._index, self._metrics = index, metrics

    def step(self) -> float:
        """Count them; return the seconds until the next time."""
        _note_open(self._index, self._metrics)
        return PUBLISH_SECONDS


def _trouble(name: str, is_alive: Callable[[], bool], part: SupervisedThread | BackgroundService | None) -> str | None:
    if part is not None and (trouble := part.trouble) is not None:
        return f"the {name} {trouble}"
    return None if is_alive() else f"the {name} has stopped: see the log"


def _optional_services(
    settings: Settings, repository: Repository, rejections: Rejections, decoder: Decoder
) -> Iterator[BackgroundService]:
    """Yield the services that not every configuration of a receiver needs."""
    now = repository.index.now
    archive, index, audit, metrics = repository.archive, repository.index, repository.audit, repository.metrics
    yield Retention(archive, index, audit, metrics, settings, now)
    yield Comparisons(archive, index, decoder)
    if settings.storage.scrub_days:
        yield Scrub(archive, index, metrics, settings.storage.scrub_days, now)
    yield from repository.results.services(settings)
