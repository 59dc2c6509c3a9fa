"""pynetdicom accepts: its threads negotiate, read and answer; admission, limits and the services are those of the node.

    connection -> A-ASSOCIATE-RQ judged by the listener -> contexts given to pynetdicom -> its events served

What pynetdicom gives no event for is looked at every `WATCH_SECONDS`: associations whose thread has ended, those that
must give way, and those that end because they are idle or the node stops.
"""

import datetime as dt
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from socketserver import BaseServer
from time import monotonic
from typing import Any

from pydicom.uid import UID
from pynetdicom import AE, _config
from pynetdicom.events import EVT_ABORTED, EVT_CONN_OPEN, EVT_DATA_RECV, EVT_RELEASED, EVT_REQUESTED, Event
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.service_class import ServiceClass, StorageServiceClass
from pynetdicom.sop_class import register_uid, uid_to_service_class
from pynetdicom.transport import ThreadedAssociationServer

from node.association.acceptor import Admitted
from node.association.admission import Rejection
from node.association.association import peer_maximum_bytes, roles_of
from node.association.contexts import Negotiated
from node.association.framing import MAXIMUM_PDU_BYTES
from node.association.listener import Listener
from node.association.request import ProposedContext, ReceivedRequest
from node.association.services.c_store import StoreService
from node.association.transport import REQUEST_SECONDS
from node.dicom.encoding import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from node.dicom.uids import VERIFICATION, is_storage_class
from node.errors import UsageError
from node.extensions.pynetdicom_acceptor.handlers import AcceptorHandlers, event_handlers
from node.runtime.background import SupervisedThread
from node.runtime.budget import Claim

WATCH_SECONDS = 0.1

SILENT_SECONDS = 0.5
"""A node that stops ends an association between two messages, once its time is over or it has been silent this long."""

_RELEASE_RQ = 0x05
"""Type of the PDU A-RELEASE-RQ (PS3.8 9.3.6)."""

MAX_REGISTERED = 1000
"""Private and new storage classes that pynetdicom gets from us; contexts of further ones are not accepted."""


class _Accepted:
    """One association of pynetdicom, as admission knows it."""

    def __init__(self, association: Any) -> None:
        self.association = association
        self.admitted: Admitted | None = None
        self.outcome = "lost"
        self.is_agreed = False
        self.heard_at = monotonic()
        self.must_end = False
        self._serving = 0
        self.drain_at: float | None = None

    @property
    def is_served(self) -> bool:
        """Whether a request is being served."""
        return self._serving > 0

    @property
    def is_under_way(self) -> bool:
        """Whether a message has begun and is incomplete, or a request is being served."""
        dimse = self.association.dimse
        return dimse.message is not None or not dimse.msg_queue.empty() or self.is_served

    def hang_up(self) -> None:
        """End at the next look of the watch."""
        self.must_end = True

    def drain(self, finish_seconds: float) -> None:
        """End at the next boundary between messages; `finish_seconds`: a peer that sends more has this long before."""
        self.drain_at = monotonic() + finish_seconds

    def due(self, idle_seconds: float) -> str:
        """Return why the node ends it now, if it does not do so already; empty if it does not."""
        is_silent = self.silent_seconds >= SILENT_SECONDS
        if self.must_end:
            why = "cut off"
        elif self.drain_at is not None and not self.is_under_way and (monotonic() >= self.drain_at or is_silent):
            why = "drained"
        elif self.admitted is not None and not self.is_served and self.silent_seconds >= idle_seconds:
            why = "idle"
        else:
            why = ""
        return why if self.outcome == "lost" or why == "cut off" != self.outcome else ""

    @property
    def silent_seconds(self) -> float:
        """For how long its peer has sent nothing, and was served nothing."""
        return monotonic() - self.heard_at

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Mark that a request is being served."""
        self._serving += 1
        try:
            yield
        finally:
            self._serving -= 1
            self.heard_at = monotonic()


class PynetdicomAcceptor(AcceptorHandlers):
    """Accepts for a listener, by `AE.make_server` of pynetdicom.

    Raises UsageError if the configuration demands TLS.
    """

    def __init__(self, listener: Listener) -> None:
        super().__init__(listener)
        if listener.tls is not None:
            raise UsageError(
                '[dicom] acceptor = "pynetdicom" has no TLS: its acceptor waits for one handshake after the other, so '
                'one silent client would keep all others out; set acceptor = "node", or remove tls_certificate'
            )
        self._accepted: dict[Any, tuple[_Accepted, Claim]] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._server: ThreadedAssociationServer | None = None
        self.thread = SupervisedThread("dicom-accept", self._accept)
        self._watch = SupervisedThread("dicom-watch", self._look)

    def start(self, host: str, port: int) -> tuple[str, int]:
        """Bind and accept; return address and port. Raises OSError if the address cannot be bound."""
        dicom = self._listener.dicom
        ae = AE(dicom.ae_title)
        ae.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
        ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        ae.maximum_pdu_size = MAXIMUM_PDU_BYTES
        ae.maximum_associations = 2 * dicom.maximum_associations  # admission decides
        ae.acse_timeout, ae.network_timeout = REQUEST_SECONDS, None  # the watch ends what is idle
        ae.dimse_timeout = dicom.response_seconds
        _config.LOG_HANDLER_LEVEL = "none"  # it would decode data sets and identifiers for its log
        _config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False
        handlers = [
            *event_handlers(self),
            (EVT_CONN_OPEN, self._connected),
            (EVT_REQUESTED, self._requested),
            (EVT_DATA_RECV, self._heard),
            (EVT_RELEASED, self._ended, ["released"]),
            (EVT_ABORTED, self._ended, ["aborted"]),
        ]
        self._server = ae.make_server(
            (host, port),
            contexts=[build_context(VERIFICATION)],  # each association gets contexts of its own
            evt_handlers=handlers,
            server_class=ThreadedAssociationServer,
        )
        self.thread.start()
        self._watch.start()
        address, bound = self._server.server_address[:2]
        return str(address), int(bound)

    def stop(self) -> None:
        """Accept nothing more; the watch goes on until the last association has ended."""
        if self._server is not None:
            BaseServer.shutdown(self._server)  # its own also wants the AE to know of it
            self._server.server_close()
        self.thread.join()
        self._stopped.set()

    def _accept(self) -> None:
        if self._server is not None:
            self._server.serve_forever()

    # Events

    def _connected(self, event: Any) -> None:
        accepted = _Accepted(event.assoc)
        claim = self._listener.admission.connected(accepted, str(event.address[0]))
        with self._lock:
            self._accepted[event.assoc] = accepted, claim

    def _requested(self, event: Event) -> None:
        """Have the listener judge an A-ASSOCIATE-RQ, and give pynetdicom the contexts that it answers."""
        if event.assoc not in self._accepted:  # it gave way a moment ago
            event.assoc.kill()
            return
        accepted, claim = self._accepted[event.assoc]
        requestor = event.assoc.requestor
        request = _request(requestor.primitive)
        judged = self._listener.judge(f"{requestor.address}:{requestor.port}", claim, request)
        if isinstance(judged, Rejection):
            event.assoc.acse.send_reject(judged.result, judged.source, judged.diagnostic)
            event.assoc.kill()  # waits until it was sent, which pynetdicom does not
            return
        accepted.admitted = judged
        event.assoc.acceptor.supported_contexts = _supported(judged.answers)

    def _heard(self, event: Event) -> None:
        if event.assoc in self._accepted:  # else it was closed
            accepted, claim = self._accepted[event.assoc]
            accepted.heard_at = monotonic()
            claim.moved(len(event.data))
            is_release = event.data[0] == _RELEASE_RQ and accepted.outcome == "lost" and not accepted.is_under_way
            if is_release and accepted.admitted is not None:  # pynetdicom answers when this has returned
                accepted.admitted.store_service.ended("released")

    def _ended(self, event: Event, outcome: str) -> None:
        """Note how an association ended; if the node ended it, by what its peer answered."""
        if event.assoc not in self._accepted:
            return
        one, _ = self._accepted[event.assoc]
        if one.outcome == "lost":
            one.outcome = outcome
        else:
            one.is_agreed = outcome == "released"

    # Requests

    def service(self, event: Event) -> StoreService:
        """Return the service that knows the peer of an association."""
        admitted = self._accepted[event.assoc][0].admitted
        assert admitted is not None
        return admitted.store_service

    @contextmanager
    def serving(self, event: Event, *, is_work: bool = True) -> Iterator[None]:
        """Mark the association of a request as served."""
        accepted, claim = self._accepted[event.assoc]
        with accepted.serving(), super().serving(event):
            yield
        if is_work:
            claim.worked()

    def ended(self, event: Event, outcome: str) -> None:
        """Do nothing: the watch tells the end, also of associations that end without an event."""

    # The watch

    def _look(self) -> None:
        pause = threading.Event()
        while self._accepted or not self._stopped.is_set():
            pause.wait(WATCH_SECONDS)
            with self._lock:
                accepted = list(self._accepted.items())
            for association, (one, claim) in accepted:
                if association.ident is None:  # connected, not started yet
                    continue
                if not association.is_alive():
                    self._forget(association, one, claim)
                elif not (why := one.due(self._listener.dicom.idle_seconds)):
                    continue
                elif one.admitted is None:  # pynetdicom cannot abort what is no association yet
                    association.dul.socket.close()
                    self._forget(association, one, claim)
                else:
                    one.admitted.store_service.ending()
                    is_asked = why != "cut off" and not one.is_under_way and one.silent_seconds >= SILENT_SECONDS
                    one.outcome, end = why, association.release if is_asked else association.abort
                    threading.Thread(target=end, daemon=True).start()  # it waits for the peer's answer

    def _forget(self, association: Any, one: _Accepted, claim: Claim) -> None:
        with self._lock:
            del self._accepted[association]
        listener = self._listener
        listener.admission.budget.leave(claim)
        if one.admitted is not None:
            service = one.admitted.store_service
            service.is_cut |= association.dimse.message is not None
            service.ended(one.outcome, is_agreed=one.is_agreed)
            service.log.info("association_ended", state=one.outcome, is_refusal=one.outcome != "released")
            listener.metrics.associations.labels(outcome=one.outcome).inc()
            title, word = service.origin.calling_ae_title, f"association {one.outcome}"
            listener.metrics.last_words.heard(title, claim.address, word, dt.datetime.now(dt.UTC))
        listener.admission.budget.remove(claim)


def _request(primitive: Any) -> ReceivedRequest:
    """Return the request that pynetdicom has decoded."""
    contexts = primitive.presentation_context_definition_list
    return ReceivedRequest(
        primitive.calling_ae_title.strip(),
        primitive.called_ae_title.strip(),
        tuple(
            ProposedContext(one.context_id, str(one.abstract_syntax or ""), tuple(map(str, one.transfer_syntax)))
            for one in contexts
        ),
        str(primitive.application_context_name),
        maximum_pdu_bytes=peer_maximum_bytes(primitive),
        roles={str(syntax): (bool(scu), bool(scp)) for syntax, (scu, scp) in roles_of(primitive).items()},
        extended_negotiation={
            str(item.sop_class_uid): item.service_class_application_information or b""
            for item in primitive.user_information
            if isinstance(item, SOPClassExtendedNegotiation)
        },
    )


def _supported(answers: Negotiated) -> list[PresentationContext]:
    """Return contexts by which pynetdicom comes to the answers of the node, by abstract syntax."""
    contexts: dict[str, PresentationContext] = {}
    for answer in answers.accepted():
        syntax = answer.abstract_syntax
        if not _is_served(syntax):
            continue
        context = contexts.setdefault(syntax, PresentationContext())
        context.abstract_syntax = UID(syntax)
        context.add_transfer_syntax(answer.transfer_syntax_uid)
        if syntax in answers.roles:
            context.scu_role, context.scp_role = answers.roles[syntax]
    return list(contexts.values())


_registered: set[str] = set()


def _is_served(syntax: str) -> bool:
    """Whether pynetdicom has a service for an abstract syntax; a storage class that it does not know is registered."""
    if uid_to_service_class(syntax) is not ServiceClass or not is_storage_class(syntax):
        return True
    if len(_registered) < MAX_REGISTERED:
        register_uid(syntax, f"Storage_{syntax.replace('.', '_')}", StorageServiceClass)
        _registered.add(syntax)
        return True
    return False
