"""The upper layer of an accepted connection: its PDUs, its protocol machine and its deadlines (PS3.8 7, 9).

What happens is an event, and `TRANSITIONS` says what to do about it; `_ACTIONS` lists the methods. The
service user (`acceptor.AcceptedAssociation`) hears of requests, data and ends, and asks for the rest. One thread owns
both; only `hang_up` may be called from others.

Every wait is bounded: for the connection, TLS, a request, a PDU, the next message, and for a peer that does not read.
The thread waits in `recv`, into one buffer that never grows, whatever length a PDU or an instance claims.

The state table is pynetdicom's, for the states that occur (PS3.8 9.2, tables 9-1 to 9-10), with the names of the
standard. Sta9 and Sta11 are of requestors only, and do not occur. Three rules keep the rest short:

* `Framing` expects the PDUs of the state only. It reports every other PDU as invalid, for which the standard has the
  same action: AA-1 in Sta2, AA-8 later.
* Nothing is read in Sta3, Sta8 and Sta12, which last only until the node's own answer is sent.
* In Sta13 the node discards what arrives until the peer closes the connection (AA-6). The bytes are not decoded: after
  a violation nobody knows where the next PDU begins.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from pynetdicom.fsm import ACTIONS, TRANSITION_TABLE

from node.association import framing
from node.association.admission import Rejection
from node.association.contexts import Negotiated, acceptance_pdu
from node.association.framing import MAXIMUM_PDU_BYTES, Framing, OtherPdu, Piece, Violation, short_pdu
from node.association.request import ReceivedRequest, decoded_request
from node.association.transport import RELEASE_SECONDS, REQUEST_SECONDS, Deadlines, Overdue, Transport
from node.errors import VoxelnodeError
from node.runtime.budget import Claim
from node.runtime.failpoints import reached

BUFFER_BYTES = 262144
"""Size of the receive buffer of one association."""

ANSWER_TICK_SECONDS = 0.25
"""Longest wait before the deadlines are checked again, while the node waits for the answer to its A-RELEASE-RQ."""

SERVICE_USER, SERVICE_PROVIDER = 0, 2
"""Sources of an A-ABORT, PS3.8 table 9-26."""


class State(StrEnum):
    """States of the protocol machine, PS3.8 tables 9-1 to 9-5."""

    IDLE = "Sta1"
    AWAITING_REQUEST = "Sta2"
    DECIDING = "Sta3"
    OPEN = "Sta6"
    RELEASE_ASKED = "Sta7"
    """The node has asked for the release."""
    RELEASING = "Sta8"
    BOTH_ASKED = "Sta10"
    BOTH_RELEASING = "Sta12"
    CLOSING = "Sta13"


class Event(StrEnum):
    """Events of the protocol machine, PS3.8 table 9-10."""

    CONNECTED = "Evt5"
    """The transport connection is open; with TLS, the handshake is done."""
    REQUEST_RECEIVED = "Evt6"
    ACCEPT = "Evt7"
    REJECT = "Evt8"
    SEND_DATA = "Evt9"
    DATA_RECEIVED = "Evt10"
    ASK_RELEASE = "Evt11"
    RELEASE_RECEIVED = "Evt12"
    RELEASE_ANSWERED = "Evt13"
    ANSWER_RELEASE = "Evt14"
    ABORT = "Evt15"
    """The node aborts, as the service user."""
    ABORT_RECEIVED = "Evt16"
    CONNECTION_CLOSED = "Evt17"
    TIMER_EXPIRED = "Evt18"
    INVALID_PDU = "Evt19"
    """An unrecognized, unexpected or invalid PDU, or a message that breaks PS3.7."""


def _transitions() -> Iterator[tuple[tuple[State, Event], tuple[str, State]]]:
    states, events = {state.value for state in State}, {event.value for event in Event}
    for (event, state), action in TRANSITION_TABLE.items():
        if event in events and state in states:
            _, _, after = ACTIONS[action]
            # AE-6 leads to two states: the node decides (Sta3) before it rejects. Of AR-8, one is of a requestor.
            afters = [after] if isinstance(after, str) else [name for name in after if name in states]
            yield (State(state), Event(event)), (action, State(afters[0]))


TRANSITIONS: Mapping[tuple[State, Event], tuple[str, State]] = dict(_transitions())
"""The action on an event in a state, as PS3.8 tables 9-6 to 9-9 name it, and the state after it."""

_EVENTS = {
    framing.RELEASE_RQ: Event.RELEASE_RECEIVED,
    framing.RELEASE_RP: Event.RELEASE_ANSWERED,
    framing.ABORT: Event.ABORT_RECEIVED,
}
"""The events of PDUs that end an association."""


class PeerGone(VoxelnodeError):
    """The association ended while a request was served."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How the node ends an association: the outcome in the metrics, and the A-ABORT (PS3.8 table 9-26).

    A silent peer is asked for the release first, and the A-ABORT is for one that does not answer.
    """

    outcome: str
    source: int
    reason: int = framing.NOT_SPECIFIED


@dataclass(frozen=True, slots=True)
class Accepted:
    """The answers to an A-ASSOCIATE-RQ: of its contexts, and of its SOP Class Extended Negotiation (PS3.7 D.3.3.5)."""

    answers: Negotiated
    extended: Mapping[str, bytes]


class ServiceUser(Protocol):
    """Who uses an upper layer: it decides on the association, and serves its messages."""

    connection: Claim

    def indicate_request(self, request: ReceivedRequest) -> Rejection | Accepted:
        """Accept or reject an A-ASSOCIATE-RQ."""

    def opened(self, request: ReceivedRequest) -> None:
        """Begin: the acceptance was sent."""

    def indicate_data(self, piece: Piece) -> None:
        """Process a piece of a message."""

    def abandon(self, *, is_cut: bool = False) -> None:
        """Drop the message that is arriving: no more pieces follow. `is_cut`: the peer sent one it may not send."""

    def releasing(self) -> None:
        """Make the end durable, which is answered next."""

    def ending(self) -> None:
        """Note that the connection is about to close."""


class UpperLayer:
    """One connection. `outcome`: how it ended, as far as is known; `is_agreed`: the peer answered our A-RELEASE-RQ."""

    def __init__(self, transport: Transport, idle_seconds: float, user: ServiceUser) -> None:
        self._transport, self._user = transport, user
        buffer_bytes = max(BUFFER_BYTES, framing.MAX_REQUEST_BYTES + 6)
        self._framing = Framing(buffer_bytes, MAXIMUM_PDU_BYTES, framing.MAX_REQUEST_BYTES)
        self._deadlines = Deadlines(idle_seconds)
        self.state = State.IDLE
        self.hung_up = False
        self.outcome = "lost"
        self.is_agreed = False
        self.is_sending = False

    @property
    def is_open(self) -> bool:
        """Whether the association is open, as far as this side knows."""
        return self.state is State.OPEN and not self.hung_up

    @property
    def has_asked(self) -> bool:
        """Whether the node has asked for the release."""
        return self.state in (State.RELEASE_ASKED, State.BOTH_ASKED)

    @property
    def silent_seconds(self) -> float:
        """For how long no bytes have arrived since the last request was served."""
        return self._deadlines.silent_seconds

    @property
    def other_protocol(self) -> tuple[str, str] | None:
        """Which other protocol the peer speaks, and the remedy; None: nobody knows."""
        return self._framing.other_protocol()

    # For the service user

    def hang_up(self) -> None:
        """End at once; nothing more is read or sent. From any thread."""
        self.hung_up = True
        self._transport.hang_up()

    def connect(self) -> None:
        """Finish the handshake of TLS, and wait for a request. Raises OSError."""
        self._transport.open(REQUEST_SECONDS)
        self.happens(Event.CONNECTED)

    def overdue(self) -> Overdue | None:
        """Act on the deadline of an A-RELEASE-RQ, of ARTIM or of the connection; return another one that has passed."""
        overdue = self._deadlines.overdue()
        if overdue is not Overdue.TIMER:
            return overdue
        if self.has_asked:
            outcome = self.outcome if self._transport.is_heard else "lost"
            self.happens(Event.ABORT, Ending(outcome, SERVICE_PROVIDER))
        else:
            self.happens(Event.TIMER_EXPIRED)
        return overdue

    def start_idling(self) -> None:
        """Start the deadlines of an open association again: a request was served."""
        self._deadlines.start_idling()

    def is_abandoned(self, seconds: float) -> bool:
        """Return whether the peer closes the connection within a time, without reading what it sends."""
        return self._transport.is_abandoned(seconds)

    def receive(self, seconds: float | None, *, is_within_message: bool) -> bool:
        """Process the next piece or PDU, or read more; return False if nothing came in time.

        Raises Violation and UndecodablePdu.
        """
        unit = self._framing.next()
        if unit is None:
            return self._read(seconds, is_within_message)
        if isinstance(unit, Piece):
            self.happens(Event.DATA_RECEIVED, unit)
        elif unit.kind == framing.ASSOCIATE_RQ:
            self.happens(Event.REQUEST_RECEIVED, decoded_request(unit.encoded, self._transport.certificate))
        else:
            self.happens(_EVENTS[unit.kind], unit)
        return True

    def _read(self, seconds: float | None, is_within_message: bool) -> bool:
        is_within_pdu = self._deadlines.before_read(self._framing)
        if is_within_pdu or is_within_message:
            self._transport.acknowledge()
        count = self._transport.receive(self._framing.space(), ANSWER_TICK_SECONDS if self.has_asked else seconds)
        if count is None:
            self.happens(Event.CONNECTION_CLOSED)
        elif count:
            self._deadlines.after_read()
            self._framing.filled(count)
        return count != 0

    def discard(self) -> None:
        """Read and discard until the peer closes: a reset by the kernel could destroy our last PDU."""
        self._framing.clear()
        if self._transport.receive(self._framing.space()) is None:
            self.happens(Event.CONNECTION_CLOSED)

    def violated(self, violation: VoxelnodeError) -> None:
        """Abort after a violation by the peer: action AA-8, with the reason of PS3.8 9.3.8; AA-1 before a request."""
        if self.state is State.AWAITING_REQUEST:
            self.happens(Event.INVALID_PDU, Ending("violated", SERVICE_USER))
        elif self.state is State.OPEN or self.has_asked:
            code = violation.reason if isinstance(violation, Violation) else framing.INVALID_PARAMETER
            self.happens(Event.INVALID_PDU, Ending("violated", SERVICE_PROVIDER, code))

    def close(self) -> None:
        """Close the connection, and give back the buffer."""
        self._transport.close()
        self._framing.close()

    # The state machine

    def happens(self, event: Event, argument: Any = None) -> None:
        """Enter the state after an event and take its action. The action may cause further events."""
        action, self.state = TRANSITIONS[self.state, event]
        _ACTIONS[action](self, argument)

    def _indicate_request(self, request: ReceivedRequest) -> None:
        self._deadlines.stop_timer()
        decision = self._user.indicate_request(request)
        if isinstance(decision, Rejection):
            self.happens(Event.REJECT, decision)
        else:
            self.happens(Event.ACCEPT, (request, decision))

    def _send_acceptance(self, accepted: tuple[ReceivedRequest, Accepted]) -> None:
        request, decision = accepted
        self._send(acceptance_pdu(request, decision.answers, decision.extended, MAXIMUM_PDU_BYTES))
        self._user.opened(request)
        self._framing.expect_data()
        self._deadlines.start_idling()

    def _send_rejection(self, rejection: Rejection) -> None:
        self._deadlines.start_timer()
        self._send(short_pdu(framing.ASSOCIATE_RJ, rejection.result, rejection.source, rejection.diagnostic))
        self._over()

    def _indicate_data(self, piece: Piece) -> None:
        self._user.connection.moved(len(piece.data))
        self._user.indicate_data(piece)

    def _indicate_release(self, _: OtherPdu) -> None:
        """The answer follows when the functions that serve requests have returned."""
        self.outcome = "released"
        self._abandon()

    def _request_release(self, ending: Ending) -> None:
        self.outcome = ending.outcome
        self._abandon()
        self._deadlines.start_timer(RELEASE_SECONDS)
        self._framing.expect_data(asks_release=True)
        self._send(short_pdu(framing.RELEASE_RQ))

    def _confirm_release(self, _: OtherPdu) -> None:
        self.is_agreed = True
        self._deadlines.stop_timer()
        self._over()

    def _indicate_collision(self, _: OtherPdu) -> None:
        """Both sides have asked: the answer of the requestor comes first."""
        self.outcome = "released"
        self._framing.expect_release_answer()

    def _refuse_data(self, _: Piece) -> None:
        """Abort: the peer goes on, and nothing may be answered between the two PDUs of a release (PS3.8 7.2.2)."""
        self._user.abandon(is_cut=True)
        self.happens(Event.ABORT, Ending("given up", SERVICE_USER))

    def _send_release_answer(self, _: None = None) -> None:
        """Answer once the end is durable: if the process dies after this, nobody counts the association as cut off."""
        self._user.releasing()
        self._deadlines.start_timer()
        self._send(short_pdu(framing.RELEASE_RP))
        reached("release-answered")
        self._over()

    def _abort(self, ending: Ending) -> None:
        self.outcome = ending.outcome
        self._deadlines.start_timer()
        self._abandon()
        self._send(short_pdu(framing.ABORT, 0, ending.source, ending.reason))
        self._over()

    def _indicate_abort(self, _: OtherPdu) -> None:
        if self.outcome == "lost":  # else it answers our A-RELEASE-RQ
            self.outcome = "aborted"
        self._over()

    def _indicate_loss(self, _: None = None) -> None:
        if self.hung_up:
            self.outcome = "cut off"
        elif self._transport.was_reset:
            self.outcome = "lost"
        elif self.outcome == "lost":
            self.outcome = "closed"
        self._over()

    def _close(self, pdu: OtherPdu | None = None) -> None:
        """Forget the connection: the timer expired, or the peer aborted before it asked for an association."""
        if pdu is not None:
            self.outcome = "aborted"
        self._deadlines.stop_timer()

    def _over(self) -> None:
        """Close our half of the connection: no more messages follow."""
        self._abandon()
        self._user.ending()
        if self.state is State.CLOSING:
            self._transport.end_sending()

    def _abandon(self) -> None:
        self._deadlines.stop_idling()
        self._user.abandon()

    def _send(self, *parts: bytes | memoryview) -> None:
        self.is_sending = True
        try:
            self._transport.send(*parts)
        except OSError as error:
            self.happens(Event.CONNECTION_CLOSED)
            raise PeerGone from error
        finally:
            self.is_sending = False
        self._user.connection.moved(sum(map(len, parts)))


_ACTIONS: Mapping[str, Callable[[UpperLayer, Any], None]] = {
    "AE-5": lambda layer, _: layer._deadlines.start_timer(),
    "AE-6": UpperLayer._indicate_request,
    "AE-7": UpperLayer._send_acceptance,
    "AE-8": UpperLayer._send_rejection,
    "DT-1": lambda layer, parts: layer._send(*parts),
    "DT-2": UpperLayer._indicate_data,
    "AR-1": UpperLayer._request_release,
    "AR-2": UpperLayer._indicate_release,
    "AR-3": UpperLayer._confirm_release,
    "AR-4": UpperLayer._send_release_answer,
    "AR-5": lambda layer, _: layer._deadlines.stop_timer(),
    "AR-6": UpperLayer._refuse_data,
    "AR-8": UpperLayer._indicate_collision,
    "AR-10": lambda layer, _: None,
    "AA-1": UpperLayer._abort,
    "AA-2": UpperLayer._close,
    "AA-3": UpperLayer._indicate_abort,
    "AA-4": UpperLayer._indicate_loss,
    "AA-5": lambda layer, _: layer._deadlines.stop_timer(),
    "AA-8": UpperLayer._abort,
}
"""What each action does, by its name in PS3.8 tables 9-6 to 9-9."""
