"""The DICOM listener: it binds, accepts and drains, and starts a thread for each connection.

The thread owns the connection from accept to close (`association.acceptor`).
"""

import errno
import socket
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import structlog

from node.association.acceptor import TICK_SECONDS, AcceptedAssociation, Admitted
from node.association.added import Find, Listening, Operate, Parts, Running
from node.association.admission import Admission, Rejection
from node.association.association import DimseMessage
from node.association.contexts import Proposal, extended_answers, negotiated, refused_contexts, served
from node.association.operation import Operation
from node.association.request import ReceivedRequest
from node.association.services.c_find import FindService, serve_c_find
from node.association.services.c_store import StoreService
from node.association.services.commitment import CommitmentService, reports_owed, serve_n_action, serve_n_event_report
from node.association.services.retrieve import GET_MODELS, MOVE_MODELS, RetrieveService, serve_c_get, serve_c_move
from node.association.tls import tls_context
from node.association.transport import PDU_SECONDS, Transport
from node.audit.audit_log import Audit
from node.children.decoder import Decoder
from node.dicom import command
from node.dicom.command import C_GET_RQ, C_MOVE_RQ, N_ACTION_RQ, N_EVENT_REPORT_RQ
from node.dicom.status import SOP_CLASS_NOT_SUPPORTED, SUCCESS
from node.dicom.uids import STORAGE_COMMITMENT
from node.errors import UsageError
from node.index.rows.records import Refused
from node.index.rows.scope import Scope, within
from node.receive.ingest import Ingest, Origin
from node.registry import ACCEPTOR, enabled, required
from node.runtime.background import BackgroundService, SupervisedThread
from node.runtime.budget import Caller, Claim, calling
from node.settings.model import Settings

logger = structlog.get_logger()

BACKLOG = 128
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
EXHAUSTED_SECONDS = 0.1


class Listener:
    """The node's side of every association.

    `settings`: the sections ``dicom`` and ``peers``.
    `ingest`: stores the received instances.
    `decoder`: decompresses what a peer does not accept as it is stored.
    `on_refusal`: called for each refused connection, association, presentation context and instance; must not block.
    `audit`: records queries and retrieves.

    Raises UsageError: the TLS files of the configuration cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        ingest: Ingest,
        decoder: Decoder,
        on_refusal: Callable[[Refused], None] = lambda refused: None,
        audit: Audit | None = None,
    ) -> None:
        self._settings, self.ingest, self.metrics, self.on_refusal = settings, ingest, ingest.metrics, on_refusal
        self.dicom = settings.dicom
        self.verbs = served(settings)
        parts = Parts(settings, ingest, ingest.metrics, decoder, on_refusal, audit)
        self._added = _added(parts)
        self.retrieves = RetrieveService(parts)
        commitments = CommitmentService(parts)
        self.services = (reports_owed(commitments), *self._added.services)
        self.listeners = self._added.listeners
        self.operations: Mapping[tuple[int, str], Operate] = {
            **dict.fromkeys(((C_MOVE_RQ, uid) for uid in MOVE_MODELS), partial(serve_c_move, service=self.retrieves)),
            **dict.fromkeys(((C_GET_RQ, uid) for uid in GET_MODELS), partial(serve_c_get, service=self.retrieves)),
            (N_ACTION_RQ, STORAGE_COMMITMENT): partial(serve_n_action, service=commitments),
            (N_EVENT_REPORT_RQ, STORAGE_COMMITMENT): partial(serve_n_event_report, service=commitments),
            **self._added.operations,
        }
        """Handlers of requests other than C-ECHO, C-STORE and C-FIND, by command field and SOP class."""
        self.find_service = FindService(ingest.index, settings.dicom.ae_title, audit, self._added.finds)
        self.admission = Admission(settings.dicom, lambda: settings.peers, ingest.metrics, ingest.refusal, on_refusal)
        self.tls: ssl.SSLContext | None = tls_context(settings.dicom, settings.peers)
        self.port, self.tls_port = settings.dicom.port, settings.dicom.tls_port
        self._sockets: list[socket.socket] = []
        self._acceptor: Any = None
        self.threads: dict[str, SupervisedThread] = {}
        """Threads that accept connections, by name."""

    def start(self) -> tuple[str, int]:
        """Bind and accept; return address and port. With port 0 the kernel chooses the port.

        Raises UsageError: the address cannot be bound.
        """
        address = (self._settings.bind_host, self.dicom.port)
        name = self.dicom.acceptor
        acceptor = required(self._settings, ACCEPTOR, name) if name != "node" else None
        try:
            if acceptor is not None:
                self._acceptor = acceptor(self)
                host, self.port = self._acceptor.start(*address)
                self.threads["listener"] = self._acceptor.thread
                self.start_beside()
                return host, self.port
            self._sockets.append(_listening(*address))
            if self.dicom.tls_port is not None:
                address = (address[0], self.dicom.tls_port)
                self._sockets.append(_listening(*address))
        except OSError as error:
            self._stop_accepting()
            raise UsageError(
                f"cannot listen on {address[0]} port {address[1]}: {error.strerror or error}; "
                "set [dicom] host, port and tls_port to addresses of this machine that are free"
            ) from error
        host, self.port = self._sockets[0].getsockname()[:2]
        if self.dicom.tls_port is None:
            self._accept_on("listener", self._sockets[0], self.tls)
        else:
            self.tls_port = self._sockets[1].getsockname()[1]
            self._accept_on("listener", self._sockets[0], None)
            self._accept_on("tls listener", self._sockets[1], self.tls)
        self.start_beside()
        return str(host), self.port

    def _accept_on(self, name: str, listening: socket.socket, tls: ssl.SSLContext | None) -> None:
        self.threads[name] = SupervisedThread(f"dicom {name}", partial(self._accept, listening, tls))
        self.threads[name].start()

    def start_beside(self) -> None:
        """Start the services beside the listener."""
        for service in self.services:
            service.start()
        for listener in self.listeners.values():
            listener.start()

    @property
    def is_listening(self) -> bool:
        """Whether the listener accepts connections."""
        is_open = bool(self._sockets) or self._acceptor is not None
        return is_open and bool(self.threads) and all(thread.is_alive for thread in self.threads.values())

    def drain(self, seconds: float, finish_seconds: float = 0.0) -> None:
        """Stop accepting, let each association finish its current instance, and return when none is left.

        Associations that are in use go on for `finish_seconds` before. After `seconds` more, the rest is cut off; their
        instances were not acknowledged.
        """
        self._stop_accepting()
        self.admission.drain(finish_seconds)
        self.admission.budget.wait_until_empty(finish_seconds + seconds)
        self.stop_now()

    def stop_now(self) -> None:
        """Stop accepting and hang up; return when the connections are gone, after a second at most."""
        self._stop_accepting()
        self.admission.budget.hang_up()
        self.admission.budget.wait_until_empty(1.0)
        for listener in self.listeners.values():
            listener.stop()
        for service in self.services:
            service.stop(1.0)

    def _stop_accepting(self) -> None:
        acceptor, self._acceptor = self._acceptor, None
        if acceptor is not None:
            acceptor.stop()
        sockets, self._sockets = self._sockets, []
        for listening in sockets:
            listening.shutdown(socket.SHUT_RDWR)  # wakes its thread
        for thread in self.threads.values() if sockets else ():
            thread.join()
        for listening in sockets:
            listening.close()

    def _accept(self, listening: socket.socket, tls: ssl.SSLContext | None) -> None:
        """Accept connections; everything that can block runs on the connection's own thread."""
        while True:
            try:
                accepted, address = listening.accept()
            except OSError as error:
                if not self._sockets:
                    return
                logger.error("accept_failed", error=error.strerror)
                if error.errno in EXHAUSTED:
                    time.sleep(EXHAUSTED_SECONDS)  # the connection stays queued, so this loop would spin
                continue
            try:
                self._begin(accepted, tls, str(address[0]), int(address[1]))
            except Exception as error:  # such as no memory and no thread left
                accepted.close()
                logger.error("connection_refused", address=str(address[0]), exc_info=error)

    def _begin(self, accepted: socket.socket, tls: ssl.SSLContext | None, host: str, port: int) -> None:
        transport = Transport(accepted, tls, TICK_SECONDS, PDU_SECONDS)
        judge = partial(self.judge, f"{host}:{port}")
        association = AcceptedAssociation(transport, host, self.dicom, self.admission, self.metrics, judge)
        # A daemon: a second signal ends the process even while peers are connected.
        thread = threading.Thread(target=association.run, name=f"association-{host}:{port}", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            self.admission.budget.remove(association.connection)
            raise

    def judge(self, peer: str, connection: Claim, request: ReceivedRequest) -> Rejection | Admitted:
        """Accept or reject an association; `peer` is the address and port of its requestor."""
        name = uuid.uuid4().hex[:12]
        calling, called = request.calling_ae_title, request.called_ae_title
        log = logger.bind(association=name, calling_ae_title=calling, called_ae_title=called, peer=peer)
        rejection = self.admission.judge(connection, request)
        if rejection is not None:
            log.warning("association_rejected", reason=rejection.rule, detail=rejection.remedy)
            return rejection
        log.debug("association_accepted")
        rights = self.admission.rights(connection.address, request)
        proposal = Proposal(request.contexts, rights.permitted, self.verbs, request.roles, rights.takes)
        answers = negotiated(proposal)
        for rule, reason, remedy, offered in refused_contexts(proposal, answers.contexts, rights.names):
            self.on_refusal(Refused("context", rule, reason, remedy, connection.address, calling, called, offered))
        shown = str(request.certificate or "")
        origin = Origin("dicom", calling, called, peer, name, shown, releases=rights.releases)
        store_service = StoreService(self.ingest, origin, self.on_refusal)
        serve = partial(self._serve, store_service, rights.scope)
        return Admitted(answers, extended_answers(request.extended_negotiation), store_service, serve)

    def _serve(
        self, store_service: StoreService, scope: Scope | None, association: AcceptedAssociation, message: DimseMessage
    ) -> bool:
        """Serve a request within what its peer sees of the index; False if there is no service for it."""
        operation = Operation(association, message, store_service)
        who = f"{association.connection.caller} at {association.connection.block}"
        with within(scope), calling(Caller(who)):
            match message.command.field:
                case command.C_ECHO_RQ:
                    serve_c_echo(operation)
                case command.C_FIND_RQ:
                    serve_c_find(operation, self.find_service)
                case field:
                    return self.operate(operation, field)
        return True

    def operate(self, operation: Operation, field: int) -> bool:
        """Serve another request, within the scope of its peer; False if no service has such requests."""
        operate = self.operations.get((field, operation.context.abstract_syntax))
        if operate is not None:
            operate(operation)
        elif any(field == known for known, _ in self.operations):
            operation.respond(SOP_CLASS_NOT_SUPPORTED, comment="the presentation context is of another service")
        else:
            return False
        return True


def _added(parts: Parts) -> Running:
    """Return the services of all extensions."""
    services: list[BackgroundService] = []
    listeners: dict[str, Listening] = {}
    finds: dict[str, Find] = {}
    operations: dict[tuple[int, str], Operate] = {}
    for extension in enabled(parts.settings):
        running: Running | None = extension.run(parts)
        if running is None:
            continue
        services += running.services
        listeners |= running.listeners
        finds |= running.finds
        operations |= running.operations
    return Running(services, listeners, finds, operations)


def _listening(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def serve_c_echo(operation: Operation) -> None:
    """Answer a verification request with success (PS3.4 A, PS3.7 9.1.5)."""
    operation.respond(SUCCESS)
