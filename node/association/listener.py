"""The DICOM listener: it binds, accepts and drains.

Each association has two threads: pynetdicom's and our `UpperLayer`.
"""

from __future__ import annotations

import errno
import gc
import socket
import socketserver
import ssl
import threading
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import structlog
from pynetdicom import AE, evt
from pynetdicom.dimse_primitives import C_FIND, C_GET, C_MOVE, N_ACTION
from pynetdicom.events import Event
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.transport import AssociationServer, RequestHandler

from node.association.addresses import peer_addresses
from node.association.admission import MAX_PENDING_CONNECTIONS, Admission, AssociationRequest, Rejection
from node.association.contexts import Acceptance, count_contexts, proposal_of, refused_contexts
from node.association.operation import Operation
from node.association.services.c_echo import handle_c_echo
from node.association.services.c_find import FindService, negotiate, serve_c_find
from node.association.services.c_get import serve_c_get
from node.association.services.c_move import serve_c_move
from node.association.services.c_store import StoreService
from node.association.services.commitment import CommitmentService, serve_n_action
from node.association.services.commitment_results import Committer
from node.association.services.retrieve import RetrieveService
from node.association.services.stored import Transcoder
from node.association.tls import tls_context
from node.association.upper_layer import UpperLayer
from node.audit import Audit
from node.conversion.decoder import Decoder
from node.dicom.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from node.dicom.uids import VERIFICATION
from node.errors import UsageError
from node.index.records import Refused
from node.metrics import Metrics
from node.receive.ingest import Ingest, Origin
from node.settings.model import Settings

logger = structlog.get_logger()

BACKLOG = 128
COLLECT_SECONDS = 60.0
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
EXHAUSTED_SECONDS = 0.1


class Listener:
    """The node's side of every association.

    Parameters
    ----------
    settings : Settings
        The sections ``dicom`` and ``peers``.
    ingest : Ingest
        Stores the received instances.
    metrics : Metrics
    on_refusal : callable (Refused)
        Called for each refused connection, association, presentation context and instance; must not block.
    audit : Audit or None
        Records queries and retrieves.

    Raises
    ------
    UsageError
        The TLS files of the configuration cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        ingest: Ingest,
        metrics: Metrics,
        on_refusal: Callable[[Refused], None] = lambda refused: None,
        audit: Audit | None = None,
    ) -> None:
        self._settings, self.ingest, self.metrics, self.on_refusal = settings, ingest, metrics, on_refusal
        self.dicom = settings.dicom
        self.find_service = FindService(
            ingest.index, settings.dicom.ae_title, settings.dicom.maximum_query_results, metrics, audit
        )
        self._decoder = Decoder()
        addresses = peer_addresses(settings)
        self.commitment_service = CommitmentService(
            ingest.index, ingest.archive, settings.dicom.ae_title, addresses, settings.dicom.response_seconds, metrics
        )
        self.committer = Committer(self.commitment_service, on_refusal)
        self.retrieve_service = RetrieveService(
            ingest.index,
            ingest.archive,
            Transcoder(self._decoder, ingest.archive.root),
            settings.dicom.ae_title,
            addresses,
            threading.BoundedSemaphore(settings.dicom.maximum_retrieves),
            settings.dicom.response_seconds,
            metrics,
            audit,
            on_refusal,
        )
        self.admission = Admission(settings.dicom, settings.peers, metrics, ingest.refusal, on_refusal)
        self.tls: ssl.SSLContext | None = tls_context(settings.dicom)
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> tuple[str, int]:
        """Bind and accept; return address and port. With port 0 the kernel chooses the port.

        Raises
        ------
        UsageError
            The address cannot be bound.
        """
        ae = AE(self.dicom.ae_title)
        ae.implementation_class_uid, ae.implementation_version_name = (
            IMPLEMENTATION_CLASS_UID,
            IMPLEMENTATION_VERSION_NAME,
        )
        ae.maximum_pdu_size = self.dicom.maximum_pdu_bytes
        ae.maximum_associations = self.dicom.maximum_associations + MAX_PENDING_CONNECTIONS + 1
        ae.add_supported_context(VERIFICATION)
        address = (self._settings.bind_host, self.dicom.port)
        try:
            server: Any = ae.make_server(
                address,
                evt_handlers=[
                    (evt.EVT_REQUESTED, _judge, [self]),
                    (evt.EVT_ACCEPTED, _report_refused_contexts, [self]),
                    (evt.EVT_ASYNC_OPS, _one_operation_at_a_time),
                    (evt.EVT_C_ECHO, handle_c_echo),
                    (evt.EVT_SOP_EXTENDED, _agree_on_matching),
                ],
                server_class=_Server,
                request_handler=_Handler,
            )
        except OSError as error:
            raise UsageError(
                f"cannot listen on {address[0]} port {address[1]}: {error.strerror or error}; "
                "set [dicom] host and port to an address of this machine that is free"
            ) from error
        server.listener = self
        self._server = server
        self._thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.2}, name="dicom-accept", daemon=True
        )
        self._thread.start()
        self.committer.start()
        host, port = server.server_address[:2]
        return str(host), int(port)

    @property
    def is_listening(self) -> bool:
        """Whether the listener accepts connections."""
        return self._server is not None and self._thread is not None and self._thread.is_alive()

    def drain(self, seconds: float) -> None:
        """Stop accepting, let each association finish its current instance, and return when none is left.

        After `seconds` the rest is cut off; their instances were not acknowledged.
        """
        self._stop_accepting()
        self.admission.drain()
        self.admission.wait_until_empty(seconds)
        self.stop_now()

    def stop_now(self) -> None:
        """Stop accepting and hang up; return when the connections are gone, after a second at most."""
        self._stop_accepting()
        self.admission.hang_up()
        self.admission.wait_until_empty(1.0)
        self.committer.stop(1.0)
        self._decoder.close()

    def _stop_accepting(self) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        server.stop()
        if self._thread is not None:
            self._thread.join()


class _Server(AssociationServer):
    """Accepts TCP connections; everything that can block runs on the connection's own thread."""

    request_queue_size = BACKLOG
    listener: Listener

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._collected_at = time.monotonic()

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return cast(socket.socket, self.socket).accept()
        except OSError as error:
            if error.errno in EXHAUSTED:
                logger.error("accept_failed", error=error.strerror)
                time.sleep(EXHAUSTED_SECONDS)  # the connection stays queued, so this loop would spin
            raise

    def handle_error(self, request: Any, client_address: Any) -> None:
        logger.exception("connection_refused", address=str(client_address[0]))

    def service_actions(self) -> None:
        # Associations are reference cycles. pynetdicom collects garbage at every connection, which a flood would abuse.
        if time.monotonic() - self._collected_at > COLLECT_SECONDS:
            gc.collect()
            self._collected_at = time.monotonic()

    def stop(self) -> None:
        """Stop accepting and close the port (pynetdicom's `shutdown` expects a server that its AE started)."""
        socketserver.BaseServer.shutdown(self)
        self.server_close()


class _Handler(RequestHandler):
    """Creates the association of a new connection and starts its upper layer."""

    server: _Server

    def handle(self) -> None:
        listener = self.server.listener
        assoc = self._create_association()
        assoc.acse = Acceptance(assoc)
        upper_layer = UpperLayer(
            assoc,
            str(self.client_address[0]),
            listener.dicom,
            listener.admission,
            listener.metrics,
            listener.tls,
        )
        try:
            upper_layer.start()
        except RuntimeError:  # the system has no thread left
            listener.admission.closed(upper_layer.connection)
            raise


def _judge(event: Event, listener: Listener) -> None:
    """Accept or reject an association (``evt.EVT_REQUESTED``, before pynetdicom negotiates)."""
    assoc: Any = event.assoc
    upper_layer: UpperLayer = assoc.dul
    request = assoc.requestor.primitive
    host, port = assoc.requestor.address_info.as_tuple[:2]
    requested = AssociationRequest(
        request.calling_ae_title.strip(),
        request.called_ae_title.strip(),
        str(request.application_context_name),
        count_contexts(request.presentation_context_definition_list),
        tuple(str(context.abstract_syntax) for context in request.presentation_context_definition_list),
    )
    association = uuid.uuid4().hex[:12]
    log = logger.bind(
        association=association,
        calling_ae_title=requested.calling_ae_title,
        called_ae_title=requested.called_ae_title,
        peer=f"{host}:{port}",
    )
    rejection = listener.admission.judge(upper_layer.connection, requested)
    if rejection is not None:
        log.warning("association_rejected", reason=rejection.rule, detail=rejection.remedy)
        _reject(assoc, rejection)
        return
    log.info("association_accepted")
    origin = Origin("dicom", requested.calling_ae_title, requested.called_ae_title, f"{host}:{port}", association)
    upper_layer.store_service = StoreService(
        listener.ingest, origin, association, listener.metrics, listener.on_refusal
    )
    upper_layer.serve_operation = partial(_serve, listener, assoc)
    assoc.acse.proposal = proposal_of(request, listener.admission.permitted(host, requested.calling_ae_title))
    # `Acceptance` answers Role Selection, not pynetdicom.
    request.user_information = [
        item for item in request.user_information if not isinstance(item, SCP_SCU_RoleSelectionNegotiation)
    ]


def _report_refused_contexts(event: Event, listener: Listener) -> None:
    """Report the refused presentation contexts (``evt.EVT_ACCEPTED``)."""
    assoc: Any = event.assoc
    request = assoc.requestor.primitive
    peer = Refused(
        "context",
        rule="",
        reason="",
        remedy="",
        peer=str(assoc.requestor.address_info.as_tuple[0]),
        calling_ae_title=request.calling_ae_title.strip(),
        called_ae_title=request.called_ae_title.strip(),
    )
    for refused in refused_contexts(assoc.acse.proposal, peer):
        listener.on_refusal(refused)


def _reject(assoc: Any, rejection: Rejection) -> None:
    assoc.acse.send_reject(rejection.result, rejection.source, rejection.diagnostic)
    assoc.kill()  # returns when the peer has closed the connection, or its time is over


def _one_operation_at_a_time(event: Event) -> tuple[int, int]:
    """Refuse an asynchronous operations window (``evt.EVT_ASYNC_OPS``, PS3.7 D.3.3.3)."""
    return 1, 1


def _agree_on_matching(event: Event) -> dict[str, bytes]:
    """Answer SOP Class Extended Negotiation (``evt.EVT_SOP_EXTENDED``)."""
    negotiation: Any = event
    return negotiate({str(uid): fields for uid, fields in negotiation.app_info.items()})


def _serve(listener: Listener, assoc: Any, message: Any, context_id: int) -> bool:
    """Serve a request on pynetdicom's thread; False for a request that pynetdicom serves itself."""
    match message:
        case C_FIND():
            serve_c_find(Operation(assoc, message, context_id), listener.find_service)
        case C_MOVE():
            serve_c_move(Operation(assoc, message, context_id), listener.retrieve_service)
        case C_GET():
            serve_c_get(Operation(assoc, message, context_id), listener.retrieve_service)
        case N_ACTION():
            serve_n_action(Operation(assoc, message, context_id), listener.commitment_service)
        case _:
            return False
    return True
