"""The upper layer of an accepted association (PS3.8), and its service user, on one thread from accept to close.

The invariant: one thread reads, decides, serves and answers, so the state of an association has one owner and no lock.
Only `drain` and `hang_up` may be called from other threads; they set a flag that this thread reads. What happens is an
event, and `state_table.TRANSITIONS` says what to do about it; `_ACTIONS` lists the methods.

* Every wait is bounded: for the connection, TLS, a request, a PDU, the next message, and for a peer that does not read.
* The thread waits in `recv`, into one buffer that never grows, whatever length a PDU or an instance claims.
* C-STORE is served while it arrives (`association.messages`). Every other request is served when it is whole, and the
  function that serves it looks at the connection between its steps (`is_cancelled`, `answer_to`): a C-CANCEL, an abort,
  a release or the loss of the connection ends it there.
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
from node.association.association import Association, Message
from node.association.contexts import (
    Negotiated,
    ReceivedRequest,
    abort_pdu,
    acceptance_pdu,
    decoded_request,
    rejection_pdu,
    release_answer_pdu,
    release_request_pdu,
)
from node.association.framing import Framing, OtherPdu, Piece, Violation
from node.association.messages import Messages
from node.association.outgoing import MAXIMUM_PDU_BYTES
from node.association.primitives import UndecodablePdu
from node.association.services.c_store import StoreService
from node.association.state_table import TRANSITIONS, Event, State
from node.association.tls import PeerCertificate
from node.association.transport import RELEASE_SECONDS, REQUEST_SECONDS, Deadlines, Overdue, Transport
from node.budget import Claim
from node.dicom.command import Command, MalformedCommand
from node.errors import VoxelnodeError
from node.failpoints import reached
from node.index.nouns.records import Refused
from node.metrics import Metrics
from node.settings.peers import Dicom
from node.tls import failure_reason

logger = structlog.get_logger()

BUFFER_BYTES = 262144
"""Size of the receive buffer of one association."""

SILENT_SECONDS = 1.0
"""Silence after which an association is not waited for when the node stops."""

TICK_SECONDS = 2.0
"""Longest wait before the deadlines are checked again."""

ANSWER_TICK_SECONDS = 0.25
"""The same while the node waits for the answer to its A-RELEASE-RQ."""

MAX_KEPT_ANSWERS = 8
"""Answers kept until the operation asks for them; it waits for one at a time."""

MAX_PIECES_PER_LOOK = 64
"""Pieces read at one look for C-CANCEL, so that a peer that never stops sending is answered all the same."""

_SERVICE_USER, _SERVICE_PROVIDER = 0, 2
"""Sources of an A-ABORT, PS3.8 table 9-26."""

_OTHER_VERSION = Rejection(1, 2, 2, "protocol version", "use protocol version 1 (PS3.8 9.3.2)")

_EVENTS = {
    framing.RELEASE_RQ: Event.RELEASE_RECEIVED,
    framing.RELEASE_RP: Event.RELEASE_ANSWERED,
    framing.ABORT: Event.ABORT_RECEIVED,
}
"""The events of PDUs that end an association."""


class PeerGone(VoxelnodeError):
    """The association ended while a request was served."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """An association that may open: its contexts, and the service that stores its instances."""

    answers: Negotiated
    store_service: StoreService
    extended: Mapping[str, bytes]
    """The answers to SOP Class Extended Negotiation (PS3.7 D.3.3.5)."""
    serve: Callable[[AcceptedAssociation, Message], bool]
    """Serves any request but C-STORE; returns False if there is no service for it."""


@dataclass(frozen=True, slots=True)
class _Ending:
    """How the node ends an association: the outcome in the metrics, and the A-ABORT (PS3.8 table 9-26).

    A silent peer is asked for the release first, and the A-ABORT is for one that does not answer.
    """

    outcome: str
    source: int
    reason: int = framing.NOT_SPECIFIED


class AcceptedAssociation(Association):
    """One accepted connection, from accept to close.

    `address`: IP address of the peer; `judge`: decides on the association.
    """

    def __init__(
        self,
        transport: Transport,
        address: str,
        dicom: Dicom,
        admission: Admission,
        metrics: Metrics,
        judge: Callable[[AcceptedAssociation, ReceivedRequest], Rejection | Admitted],
    ) -> None:
        super().__init__()
        self._transport, self._dicom, self._admission, self._metrics = transport, dicom, admission, metrics
        self._judge = judge
        buffer_bytes = max(BUFFER_BYTES, framing.MAX_REQUEST_BYTES + 6)
        self._framing = Framing(buffer_bytes, MAXIMUM_PDU_BYTES, framing.MAX_REQUEST_BYTES)
        self._state = State.IDLE
        self._hung_up = False
        self._drain_at: float | None = None  # when the association ends at the next boundary between messages
        self._deadlines = Deadlines(dicom.idle_seconds)
        self._messages: Messages | None = None  # while the association is open
        self._cancelled: set[int] = set()
        self._answers: deque[Command] = deque(maxlen=MAX_KEPT_ANSWERS)
        self._admitted: Admitted | None = None
        self.extended_negotiation: Mapping[str, bytes] = {}
        """The peer's SOP Class Extended Negotiation: application information by SOP class UID (PS3.7 D.3.3.5)."""
        self._outcome = "lost"
        self._is_agreed = False  # the peer has answered the A-RELEASE-RQ of the node
        self._is_taking = self._is_sending = False
        self.connection: Claim = admission.connected(self, address)

    @property
    def certificate(self) -> PeerCertificate | None:
        """The certificate that the peer has shown, if TLS asked for one."""
        return self._transport.certificate

    # For other threads

    def drain(self, finish_seconds: float = 0.0) -> None:
        """End at the next boundary between messages; an instance that is arriving is still answered.

        `finish_seconds`: go on for this long, unless the peer sends nothing for `SILENT_SECONDS`.
        """
        self._drain_at = monotonic() + finish_seconds

    def hang_up(self) -> None:
        """End at once; nothing more is read or sent."""
        self._hung_up = True
        self._transport.hang_up()

    @property
    def is_served(self) -> bool:
        """Whether it is the node's turn: a piece is being taken, or a request served, and nothing is being sent."""
        messages = self._messages
        is_busy = self._is_taking or (messages is not None and messages.is_serving)
        return is_busy and not self._is_sending

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
        return self._state is State.OPEN and not self._hung_up

    @property
    def is_next_waiting(self) -> bool:
        """Whether the peer has sent a further request; nothing more is read until the present one is served."""
        return self._messages is not None and self._messages.is_holding

    def is_cancelled(self, message_id: int) -> bool:
        """Whether the operation should end: the peer cancelled it, the peer is gone, or the node drains.

        Reads what has arrived in the meantime.
        """
        for _ in range(MAX_PIECES_PER_LOOK):
            if not self.listen(0.0):
                break
        return message_id in self._cancelled or self.is_draining or not self.is_open

    def answer_to(self, message_id: int, seconds: float) -> Command | None:
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
        if self._transport.is_abandoned(seconds):
            self._happens(Event.CONNECTION_CLOSED)
        return False

    def give_up(self, reason: str) -> None:
        """Abort the association, because it cannot go on."""
        self._log().warning("association_given_up", reason=reason)
        if self.is_open:
            self._happens(Event.ABORT, _Ending("given up", _SERVICE_USER))

    def send_pdus(self, *parts: bytes | memoryview) -> None:
        """Send encoded P-DATA-TF PDUs, given in parts that follow each other.

        Raises PeerGone: the association is not open any more.
        """
        if not self.is_open:
            raise PeerGone
        self._happens(Event.SEND_DATA, parts)

    # The thread

    def run(self) -> None:
        """Serve the connection until it closes, and release everything whatever happens."""
        try:
            self._transport.open(REQUEST_SECONDS)
            self._happens(Event.CONNECTED)
            while self._state is not State.IDLE:
                self._turn()
        except OSError as error:
            self._report_failed_connection(error)
        except Exception as error:
            self._log().error("association_failed", address=self.connection.address, exc_info=error)
        finally:
            self._end()

    def _turn(self) -> None:
        """Do one thing: act on a deadline, process bytes from the buffer, or read."""
        try:
            if self._is_due():
                return
            if self._state is State.CLOSING:
                self._discard()
            elif self._state in (State.RELEASING, State.BOTH_RELEASING):
                self._happens(Event.ANSWER_RELEASE)
            else:
                self._process_next(ANSWER_TICK_SECONDS if self._has_asked else None)
        except PeerGone:
            pass  # the state says so
        except Exception as error:
            self._fail(error)

    def _is_due(self) -> bool:
        """Act on the deadline or the wish of another thread that is due; False if there is none."""
        overdue = self._deadlines.overdue()
        if self._hung_up:
            self._happens(Event.CONNECTION_CLOSED)
        elif overdue is not None:
            self._act_on(overdue)
        elif self._drain_at is not None and self._state is State.AWAITING_REQUEST:
            self._happens(Event.CONNECTION_CLOSED)
        elif self._is_to_drain() and self._is_between_messages:
            self._let_go(_Ending("drained", _SERVICE_USER))
        else:
            return False
        return True

    @property
    def _is_between_messages(self) -> bool:
        return self._messages is not None and not self._messages.under_way

    @property
    def _has_asked(self) -> bool:
        return self._state in (State.RELEASE_ASKED, State.BOTH_ASKED)

    def _let_go(self, ending: _Ending) -> None:
        """End the association for a reason of the node: by release if the peer is silent between two messages."""
        if self._admitted is not None:
            self._admitted.store_service.ending()
        is_silent = self._deadlines.silent_seconds >= min(SILENT_SECONDS, self._dicom.idle_seconds)
        self._happens(Event.ASK_RELEASE if is_silent and self._is_between_messages else Event.ABORT, ending)

    def _is_to_drain(self) -> bool:
        return self.is_draining or (self._drain_at is not None and self._deadlines.silent_seconds >= SILENT_SECONDS)

    def _act_on(self, overdue: Overdue) -> None:
        match overdue:
            case Overdue.TIMER if self._has_asked:
                outcome = self._outcome if self._transport.is_heard else "lost"
                self._happens(Event.ABORT, _Ending(outcome, _SERVICE_PROVIDER))
            case Overdue.TIMER:
                self._happens(Event.TIMER_EXPIRED)
            case Overdue.PDU:
                self._violated(Violation("a PDU took too long", framing.NOT_SPECIFIED))
            case Overdue.IDLE:
                self._let_go(_Ending("idle", _SERVICE_PROVIDER))

    def _process_next(self, seconds: float | None = None) -> bool:
        """Process the request that waits, or the next piece or PDU, or read more; False if nothing came in time."""
        try:
            if self.is_next_waiting:
                self._resume()
            elif (unit := self._framing.next()) is None:
                return self._read(seconds)
            elif isinstance(unit, Piece):
                self._happens(Event.DATA_RECEIVED, unit)
            elif unit.kind == framing.ASSOCIATE_RQ:
                self._happens(Event.REQUEST_RECEIVED, decoded_request(unit.encoded))
            else:
                self._happens(_EVENTS[unit.kind], unit)
        except (Violation, MalformedCommand, UndecodablePdu) as violation:
            self._violated(violation)
        return True

    def _read(self, seconds: float | None) -> bool:
        is_within_pdu = self._deadlines.before_read(self._framing)
        if is_within_pdu or (self._messages is not None and self._messages.under_way):
            self._transport.acknowledge()
        count = self._transport.receive(self._framing.space(), seconds)
        if count is None:
            self._happens(Event.CONNECTION_CLOSED)
        elif count:
            self._deadlines.after_read()
            self._framing.filled(count)
        return count != 0

    def _discard(self) -> None:
        """Read and discard until the peer closes: a reset by the kernel could destroy our last PDU."""
        self._framing.clear()
        if self._transport.receive(self._framing.space()) is None:
            self._happens(Event.CONNECTION_CLOSED)

    # The state machine

    def _happens(self, event: Event, argument: Any = None) -> None:
        """Enter the state after an event and take its action. The action may cause further events."""
        action, self._state = TRANSITIONS[self._state, event]
        _ACTIONS[action](self, argument)

    def _start_timer(self, _: None) -> None:
        self._deadlines.start_timer()

    def _stop_timer(self, _: None) -> None:
        self._deadlines.stop_timer()

    def _indicate_request(self, request: ReceivedRequest) -> None:
        self._deadlines.stop_timer()
        decision = self._judge(self, request) if request.is_of_known_version else _OTHER_VERSION
        if isinstance(decision, Rejection):
            self._happens(Event.REJECT, decision)
        else:
            self._happens(Event.ACCEPT, (request, decision))

    def _send_acceptance(self, accepted: tuple[ReceivedRequest, Admitted]) -> None:
        request, admitted = accepted
        self._admitted, self.extended_negotiation = admitted, request.extended_negotiation
        self._send(acceptance_pdu(request, admitted.answers, admitted.extended, MAXIMUM_PDU_BYTES))
        self.agree(admitted.answers.contexts, request.maximum_pdu_bytes)
        self._messages = Messages(self, admitted.store_service, self._answers.append, self._cancelled.add)
        self._framing.expect_data()
        self._deadlines.start_idling()

    def _send_rejection(self, rejection: Rejection) -> None:
        self._deadlines.start_timer()
        self._send(rejection_pdu(rejection))
        self._over()

    def _send_data(self, parts: tuple[bytes | memoryview, ...]) -> None:
        self._send(*parts)

    def _indicate_data(self, piece: Piece) -> None:
        self.connection.moved(len(piece.data))
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

    def _indicate_release(self, _: OtherPdu) -> None:
        """The answer follows when the functions that serve requests have returned."""
        self._outcome = "released"
        self._abandon()

    def _request_release(self, ending: _Ending) -> None:
        self._outcome = ending.outcome
        self._abandon()
        self._deadlines.start_timer(RELEASE_SECONDS)
        self._framing.expect_data(asks_release=True)
        self._send(release_request_pdu())

    def _confirm_release(self, _: OtherPdu) -> None:
        self._is_agreed = True
        self._deadlines.stop_timer()
        self._over()

    def _indicate_collision(self, _: OtherPdu) -> None:
        """Both sides have asked: the answer of the requestor comes first."""
        self._outcome = "released"
        self._framing.expect_release_answer()

    def _refuse_data(self, _: Piece) -> None:
        """Abort: the peer goes on, and nothing may be answered between the two PDUs of a release (PS3.8 7.2.2)."""
        if self._admitted is not None:
            self._admitted.store_service.is_cut = True
        self._happens(Event.ABORT, _Ending("given up", _SERVICE_USER))

    def _send_release_answer(self, _: None = None) -> None:
        """Answer once the end is durable: if the process dies after this, nobody counts the association as cut off."""
        if self._admitted is not None:
            self._admitted.store_service.ended(self._outcome)
        self._deadlines.start_timer()
        self._send(release_answer_pdu())
        reached("release-answered")
        self._over()

    def _abort(self, ending: _Ending) -> None:
        self._outcome = ending.outcome
        self._deadlines.start_timer()
        self._abandon()
        self._send(abort_pdu(ending.source, ending.reason))
        self._over()

    def _indicate_abort(self, _: OtherPdu) -> None:
        if self._outcome == "lost":  # else it answers our A-RELEASE-RQ
            self._outcome = "aborted"
        self._over()

    def _indicate_loss(self, _: None = None) -> None:
        if self._hung_up:
            self._outcome = "cut off"
        elif self._transport.was_reset:
            self._outcome = "lost"
        self._over()

    def _close(self, pdu: OtherPdu | None = None) -> None:
        """Forget the connection: the timer expired, or the peer aborted before it asked for an association."""
        if pdu is not None:
            self._outcome = "aborted"
        self._deadlines.stop_timer()

    def _over(self) -> None:
        """Drop the message that was arriving, and close our half of the connection: no more messages follow."""
        self._abandon()
        self._admission.ending(self.connection)
        if self._state is State.CLOSING:
            self._transport.end_sending()

    def _abandon(self) -> None:
        messages, self._messages = self._messages, None
        self._deadlines.stop_idling()
        if messages is not None:
            messages.abandon()

    def _send(self, *parts: bytes | memoryview) -> None:
        self._is_sending = True
        try:
            self._transport.send(*parts)
        except OSError as error:
            self._happens(Event.CONNECTION_CLOSED)
            raise PeerGone from error
        finally:
            self._is_sending = False
        self.connection.moved(sum(map(len, parts)))

    # Requests

    def _serve(self, message: Message) -> None:
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
            self._log().error("operation_failed", exc_info=error)
            self.give_up("an error of the node")
        finally:
            if messages is not None:
                messages.is_serving = False
            if self.is_open:
                self._deadlines.start_idling()

    def _resume(self) -> None:
        """Continue with the request that came while another one was served."""
        message = self._messages.resume() if self._messages is not None else None
        if message is not None:
            self._serve(message)

    # Ends

    def _violated(self, violation: VoxelnodeError) -> None:
        """Abort after a violation by the peer: action AA-8, with the reason of PS3.8 9.3.8; AA-1 before a request."""
        if self._state is State.AWAITING_REQUEST:
            told = str(violation)
            remedy = "check the client: it sends another protocol or invalid DICOM; port scanners do this too"
            if (other := self._framing.other_protocol()) is not None:
                told, remedy = f"this is {other[0]}, not DICOM: {violation}", other[1]
            self._log_of_address("request_not_understood", told)
            self._report_refusal("connection", "request", told, remedy)
            self._happens(Event.INVALID_PDU, _Ending("violated", _SERVICE_USER))
            return
        self._log_of_address("protocol_violated", str(violation))
        remedy = "report this to the vendor of the sender: it violates the protocol"
        self._report_refusal("association", "protocol", str(violation), remedy)
        if self._state is State.OPEN or self._has_asked:
            code = violation.reason if isinstance(violation, Violation) else framing.INVALID_PARAMETER
            self._happens(Event.INVALID_PDU, _Ending("violated", _SERVICE_PROVIDER, code))

    def _fail(self, error: Exception) -> None:
        """Abort after an error of the node."""
        self._log().error("association_failed", address=self.connection.address, exc_info=error)
        try:
            if (self._state, Event.ABORT) in TRANSITIONS:
                self._happens(Event.ABORT, _Ending("given up", _SERVICE_PROVIDER))
                return
        except PeerGone:
            return
        except Exception as again:
            self._log().error("association_failed", address=self.connection.address, exc_info=again)
        self._state = State.IDLE

    def _end(self) -> None:
        """Close the connection, and tell those who count it."""
        self._abandon()
        self._transport.close()
        self._framing.close()
        if self._admitted is not None:
            self._admitted.store_service.ended(self._outcome, is_agreed=self._is_agreed)
            self._metrics.associations.labels(outcome=self._outcome).inc()
            origin = self._admitted.store_service.origin
            word = f"association {self._outcome}"
            now = dt.datetime.now(dt.UTC)
            self._metrics.last_words.heard(origin.calling_ae_title, self.connection.address, word, now)
            self._log().info("association_ended", state=self._outcome)
        self._admission.closed(self.connection)

    def _log_of_address(self, event: str, reason: str) -> None:
        """Log what anybody can cause, unless the address has done so often in this minute."""
        if self._admission.lines.is_due(event, self.connection.address):
            self._log().warning(event, address=self.connection.address, reason=reason)

    def _report_failed_connection(self, error: OSError) -> None:
        reason = failure_reason(error)
        self._log_of_address("connection_failed", reason)
        if isinstance(error, ssl.SSLError):
            remedy = "the sender must use TLS 1.2 or later, and a certificate of [dicom] tls_client_ca if that is set"
            self._report_refusal("connection", "TLS", f"TLS failed: {reason}", remedy)

    def _report_refusal(self, what: Literal["connection", "association"], rule: str, reason: str, remedy: str) -> None:
        origin = self._admitted.store_service.origin if self._admitted is not None else None
        self._admission.on_refusal(
            Refused(
                what,
                rule,
                reason,
                remedy,
                peer=self.connection.address,
                calling_ae_title=origin.calling_ae_title if origin else "",
                called_ae_title=origin.called_ae_title if origin else "",
            )
        )

    def _log(self) -> Any:
        return self._admitted.store_service.log if self._admitted is not None else logger


_ACTIONS: Mapping[str, Callable[[AcceptedAssociation, Any], None]] = {
    "AE-5": AcceptedAssociation._start_timer,
    "AE-6": AcceptedAssociation._indicate_request,
    "AE-7": AcceptedAssociation._send_acceptance,
    "AE-8": AcceptedAssociation._send_rejection,
    "DT-1": AcceptedAssociation._send_data,
    "DT-2": AcceptedAssociation._indicate_data,
    "AR-1": AcceptedAssociation._request_release,
    "AR-2": AcceptedAssociation._indicate_release,
    "AR-3": AcceptedAssociation._confirm_release,
    "AR-4": AcceptedAssociation._send_release_answer,
    "AR-5": AcceptedAssociation._stop_timer,
    "AR-6": AcceptedAssociation._refuse_data,
    "AR-8": AcceptedAssociation._indicate_collision,
    "AR-10": lambda association, _: None,
    "AA-1": AcceptedAssociation._abort,
    "AA-2": AcceptedAssociation._close,
    "AA-3": AcceptedAssociation._indicate_abort,
    "AA-4": AcceptedAssociation._indicate_loss,
    "AA-5": AcceptedAssociation._stop_timer,
    "AA-8": AcceptedAssociation._abort,
}
"""What each action does, by its name in PS3.8 tables 9-6 to 9-9."""
