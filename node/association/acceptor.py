"""The service user of an accepted association, on one thread from accept to close.

The invariant: one thread reads, decides, serves and answers, so the state of an association has one owner and no lock.
Only `drain` and `hang_up` may be called from other threads; they set a flag that this thread reads. The connection, its
PDUs and the protocol machine are those of `upper_layer`.

C-STORE is served while it arrives (`association.messages`). Every other request is served when it is whole, and the
function that serves it looks at the connection between its steps (`is_cancelled`, `answer_to`): a C-CANCEL, an abort, a
release or the loss of the connection ends it there.
"""

from __future__ import annotations

import datetime as dt
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any, Literal

import structlog

from node.association import framing
from node.association.admission import Admission, Rejection
from node.association.association import Association, DimseMessage, UndecodablePdu
from node.association.framing import Piece, Violation
from node.association.messages import Messages
from node.association.request import MalformedRequest, ReceivedRequest
from node.association.services.c_store import StoreService
from node.association.transport import Overdue, Transport
from node.association.upper_layer import (
    SERVICE_PROVIDER,
    SERVICE_USER,
    TRANSITIONS,
    Accepted,
    Ending,
    Event,
    PeerGone,
    State,
    UpperLayer,
)
from node.dicom.command import CommandSet, MalformedCommand
from node.errors import VoxelnodeError
from node.index.rows.records import Refused
from node.runtime.budget import Claim
from node.runtime.metrics import Metrics
from node.runtime.tls import failure_reason
from node.settings.peers import Dicom

SILENT_SECONDS = 1.0
"""Silence after which an association is not waited for when the node stops."""

TICK_SECONDS = 2.0
"""Longest wait before the deadlines are checked again."""

MAX_KEPT_ANSWERS = 8
"""Answers kept until the operation asks for them; it waits for one at a time."""

MAX_PIECES_PER_LOOK = 64
"""Pieces read at one look for C-CANCEL, so that a peer that never stops sending is answered all the same."""


@dataclass(frozen=True, slots=True)
class Admitted(Accepted):
    """An association that may open: its contexts, and the service that stores its instances."""

    store_service: StoreService
    serve: Callable[[AcceptedAssociation, DimseMessage], bool]
    """Serves any request but C-STORE; returns False if there is no service for it."""


class AcceptedAssociation(Association):
    """One connection, from accept to close. `address`: that of the peer; `judge`: decides on the association."""

    def __init__(
        self,
        transport: Transport,
        address: str,
        dicom: Dicom,
        admission: Admission,
        metrics: Metrics,
        judge: Callable[[Claim, ReceivedRequest], Rejection | Admitted],
    ) -> None:
        super().__init__()
        self._dicom, self._admission, self._judge = dicom, admission, judge
        self._layer = UpperLayer(transport, dicom.idle_seconds, self)
        self._drain_at: float | None = None  # when the association ends at the next boundary between messages
        self._messages: Messages | None = None  # while the association is open
        self._cancelled: set[int] = set()
        self._answers: deque[CommandSet] = deque(maxlen=MAX_KEPT_ANSWERS)
        self._admitted: Admitted | None = None
        self.extended_negotiation: Mapping[str, bytes] = {}
        """The peer's SOP Class Extended Negotiation: application information by SOP class UID (PS3.7 D.3.3.5)."""
        self._is_taking = False
        self.connection: Claim = admission.connected(self, address)
        self._reports = Reports(admission, metrics, self.connection)

    # For other threads

    def drain(self, finish_seconds: float = 0.0) -> None:
        """End at the next boundary between messages; an instance that is arriving is still answered.

        `finish_seconds`: go on for this long, unless the peer sends nothing for `SILENT_SECONDS`.
        """
        self._drain_at = monotonic() + finish_seconds

    def hang_up(self) -> None:
        """End at once; nothing more is read or sent."""
        self._layer.hang_up()

    @property
    def is_served(self) -> bool:
        """Whether it is the node's turn: a piece is being taken, or a request served, and nothing is being sent."""
        messages = self._messages
        is_busy = self._is_taking or (messages is not None and messages.is_serving)
        return is_busy and not self._layer.is_sending

    @property
    def is_under_way(self) -> bool:
        """Whether a message has begun and is incomplete, or a request is being served."""
        messages = self._messages
        return messages is not None and (messages.under_way or messages.is_serving)

    # For the functions that serve requests

    @property
    def is_draining(self) -> bool:
        """Whether the association ends at the next boundary between messages."""
        return self._drain_at is not None and monotonic() >= self._drain_at

    @property
    def is_open(self) -> bool:
        """Whether the association is open, as far as this side knows."""
        return self._layer.is_open

    @property
    def is_next_waiting(self) -> bool:
        """Whether the peer has sent a further request; nothing more is read until the present one is served."""
        return self._messages is not None and self._messages.is_holding

    def is_cancelled(self, message_id: int) -> bool:
        """Read what has arrived; return whether to end: it is cancelled, the peer is gone, or the node drains."""
        for _ in range(MAX_PIECES_PER_LOOK):
            if not self.listen(0.0):
                break
        return message_id in self._cancelled or self.is_draining or not self.is_open

    def answer_to(self, message_id: int, seconds: float) -> CommandSet | None:
        """Return the answer to a request that we sent on this association, or None if it does not come in time."""
        deadline = monotonic() + seconds
        while self.is_open:
            while self._answers:
                answer = self._answers.popleft()
                if answer.responded_to == message_id:
                    return answer
            if (left := deadline - monotonic()) <= 0:
                return None
            self.listen(min(left, TICK_SECONDS))
        return None

    def listen(self, seconds: float) -> bool:
        """Process the next piece from the peer while one of its requests is served; False if none came in time.

        A further request waits until this request is served: then only the loss of the connection is noticed.
        """
        if not self.is_open:
            return False
        if not self.is_next_waiting:
            return self._process_next(seconds)
        if self._layer.is_abandoned(seconds):
            self._layer.happens(Event.CONNECTION_CLOSED)
        return False

    def give_up(self, reason: str) -> None:
        """Abort the association, because it cannot go on."""
        self._reports.log.warning("association_given_up", reason=reason)
        if self.is_open:
            self._layer.happens(Event.ABORT, Ending("given up", SERVICE_USER))

    def send_pdus(self, *parts: bytes | memoryview) -> None:
        """Send encoded P-DATA-TF PDUs, given in parts that follow each other.

        Raises PeerGone: the association is not open any more.
        """
        if not self.is_open:
            raise PeerGone
        self._layer.happens(Event.SEND_DATA, parts)

    # The thread

    def run(self) -> None:
        """Serve the connection until it closes, and release everything whatever happens."""
        try:
            self._layer.connect()
            while self._layer.state is not State.IDLE:
                self._step()
        except OSError as error:
            self._reports.failed_connection(error)
        except Exception as error:
            self._reports.failed(error)
        finally:
            self.abandon()
            self._layer.close()
            self._reports.ended(self._layer.outcome, is_agreed=self._layer.is_agreed)
            self._admission.budget.remove(self.connection)

    def _step(self) -> None:
        """Do one thing: act on a deadline, process bytes from the buffer, or read."""
        try:
            if self._is_due():
                return
            if self._layer.state is State.CLOSING:
                self._layer.discard()
            elif self._layer.state in (State.RELEASING, State.BOTH_RELEASING):
                self._layer.happens(Event.ANSWER_RELEASE)
            else:
                self._process_next()
        except PeerGone:
            pass  # the state says so
        except Exception as error:
            self._fail(error)

    def _is_due(self) -> bool:
        """Act on the deadline or the wish of another thread that is due; False if there is none."""
        if self._layer.hung_up:
            self._layer.happens(Event.CONNECTION_CLOSED)
            return True
        match self._layer.overdue():
            case Overdue.TIMER:
                return True
            case Overdue.PDU:
                self._violated(Violation("a PDU took too long", framing.NOT_SPECIFIED))
            case Overdue.IDLE:
                self._let_go(Ending("idle", SERVICE_PROVIDER))
            case None if self._drain_at is not None and self._layer.state is State.AWAITING_REQUEST:
                self._layer.happens(Event.CONNECTION_CLOSED)
            case None if self._is_to_drain() and self._is_between_messages:
                self._let_go(Ending("drained", SERVICE_USER))
            case None:
                return False
        return True

    @property
    def _is_between_messages(self) -> bool:
        return self._messages is not None and not self._messages.under_way

    def _is_to_drain(self) -> bool:
        return self.is_draining or (self._drain_at is not None and self._layer.silent_seconds >= SILENT_SECONDS)

    def _let_go(self, ending: Ending) -> None:
        """End the association for a reason of the node: by release if the peer is silent between two messages."""
        if self._admitted is not None:
            self._admitted.store_service.ending()
        is_silent = self._layer.silent_seconds >= min(SILENT_SECONDS, self._dicom.idle_seconds)
        self._layer.happens(Event.ASK_RELEASE if is_silent and self._is_between_messages else Event.ABORT, ending)

    def _process_next(self, seconds: float | None = None) -> bool:
        """Process the request that waits, or the next piece or PDU, or read more; False if nothing came in time."""
        try:
            if self.is_next_waiting:
                self._resume()
                return True
            is_within_message = self._messages is not None and self._messages.under_way
            return self._layer.receive(seconds, is_within_message=is_within_message)
        except (Violation, MalformedCommand, UndecodablePdu) as violation:
            self._violated(violation)
        return True

    def _violated(self, violation: VoxelnodeError) -> None:
        """Report a violation by the peer, and abort."""
        if self._layer.state is State.AWAITING_REQUEST:
            self._reports.not_understood(violation, self._layer.other_protocol)
        else:
            self._reports.violated(violation)
        self._layer.violated(violation)

    def _fail(self, error: Exception) -> None:
        """Abort after an error of the node."""
        self._reports.failed(error)
        try:
            if (self._layer.state, Event.ABORT) in TRANSITIONS:
                self._layer.happens(Event.ABORT, Ending("given up", SERVICE_PROVIDER))
                return
        except PeerGone:
            return
        except Exception as again:
            self._reports.failed(again)
        self._layer.state = State.IDLE

    # What the upper layer indicates

    def indicate_request(self, request: ReceivedRequest) -> Rejection | Accepted:
        """Decide on the association."""
        decision = self._judge(self.connection, request)
        if isinstance(decision, Admitted):
            self._admitted, self.extended_negotiation = decision, request.extended_negotiation
            self._reports.store_service = decision.store_service
        return decision

    def opened(self, request: ReceivedRequest) -> None:
        """Take messages from now on."""
        assert self._admitted is not None
        self.agree(self._admitted.answers.accepted(), request.maximum_pdu_bytes)
        store_service = self._admitted.store_service
        self._messages = Messages(self, store_service, self._answers.append, self._cancelled.add)

    def indicate_data(self, piece: Piece) -> None:
        """Process a piece of a message, and serve the message if it is whole."""
        if self._messages is None:
            return
        self._is_taking = True
        try:
            message = self._messages.take(piece)
            if message is not None:
                self._serve(message)
        finally:
            self._is_taking = False
        if piece.last and not piece.is_command:  # a C-ECHO is no work
            self.connection.worked()

    def abandon(self, *, is_cut: bool = False) -> None:
        """Drop the message that is arriving; no more follow."""
        if is_cut and self._admitted is not None:
            self._admitted.store_service.is_cut = True
        messages, self._messages = self._messages, None
        if messages is not None:
            messages.abandon()

    def releasing(self) -> None:
        """Make the end of the association durable."""
        if self._admitted is not None:
            self._admitted.store_service.ended(self._layer.outcome)

    def ending(self) -> None:
        """Let others have the place of the connection, which is about to close."""
        self._admission.budget.leave(self.connection)

    # Requests

    def _serve(self, message: DimseMessage) -> None:
        """Serve a request from its beginning to its last answer."""
        messages = self._messages
        self._cancelled.clear()
        self._answers.clear()
        try:
            if messages is not None:
                messages.is_serving = True
            if self._admitted is None or not self._admitted.serve(self, message):
                self.give_up(f"there is no service for the request 0x{message.command.field:04x}")
        except (PeerGone, MalformedCommand):
            raise
        except Exception as error:
            self._reports.log.error("operation_failed", exc_info=error)
            self.give_up("an error of the node")
        finally:
            if messages is not None:
                messages.is_serving = False
            if self.is_open:
                self._layer.start_idling()

    def _resume(self) -> None:
        """Continue with the request that came while another one was served."""
        message = self._messages.resume() if self._messages is not None else None
        if message is not None:
            self._serve(message)


logger = structlog.get_logger()


class Reports:
    """The reports of one association. `store_service`: once it is admitted."""

    def __init__(self, admission: Admission, metrics: Metrics, connection: Claim) -> None:
        self._admission, self._metrics, self._connection = admission, metrics, connection
        self.store_service: StoreService | None = None

    @property
    def log(self) -> Any:
        """The log, with the names of the peer if it is admitted."""
        return self.store_service.log if self.store_service is not None else logger

    def failed(self, error: Exception) -> None:
        """Report an error of the node."""
        self.log.error("association_failed", address=self._connection.address, exc_info=error)

    def failed_connection(self, error: OSError) -> None:
        """Report a connection that failed before a request, such as by TLS."""
        reason, remedy = failure_reason(error), self._admission.tls_remedy
        if isinstance(error, ssl.SSLError):
            self._refuse("connection_failed", "connection", "TLS", f"TLS failed: {reason}", remedy)
        else:
            self.log.warning("connection_failed", address=self._connection.address, reason=reason)

    def not_understood(self, violation: VoxelnodeError, other_protocol: tuple[str, str] | None) -> None:
        """Report what came in place of a request; `other_protocol`: its name and the remedy, if it is known."""
        reason = str(violation)
        remedy = "check the client: it sends another protocol or invalid DICOM; port scanners do this too"
        if other_protocol is not None:
            reason, remedy = f"this is {other_protocol[0]}, not DICOM: {violation}", other_protocol[1]
        titles = {}
        if isinstance(violation, MalformedRequest):
            titles = {"calling_ae_title": violation.calling_ae_title, "called_ae_title": violation.called_ae_title}
        self._refuse("request_not_understood", "connection", "request", reason, remedy, **titles)

    def violated(self, violation: VoxelnodeError) -> None:
        """Report a violation of the protocol on an association."""
        remedy = "report this to the vendor of the sender: it violates the protocol"
        self._refuse("protocol_violated", "association", "protocol", str(violation), remedy)

    def ended(self, outcome: str, *, is_agreed: bool) -> None:
        """Report the end of an association, if one was admitted; see `StoreService.ended`."""
        if self.store_service is None:
            return
        self.store_service.ended(outcome, is_agreed=is_agreed)
        self._metrics.associations.labels(outcome=outcome).inc()
        title, now = self.store_service.origin.calling_ae_title, dt.datetime.now(dt.UTC)
        self._metrics.last_words.heard(title, self._connection.address, f"association {outcome}", now)
        self.log.info("association_ended", state=outcome, is_refusal=outcome != "released")

    def _refuse(
        self, event: str, what: Literal["connection", "association"], rule: str, reason: str, remedy: str, **titles: str
    ) -> None:
        """Log that a connection ends, and list it."""
        self.log.warning(event, address=self._connection.address, reason=reason, **titles)
        if self.store_service is not None:
            origin = self.store_service.origin
            titles = {"calling_ae_title": origin.calling_ae_title, "called_ae_title": origin.called_ae_title}
        self._admission.on_refusal(Refused(what, rule, reason, remedy, peer=self._connection.address, **titles))
