"""The state table of an accepted association, as data (PS3.8 9.2, tables 9-1 to 9-10).

The names are those of the standard. The node never requests a release of an association that it accepted, so Sta7 and
Sta9 to Sta12 do not occur. Three rules keep the table short:

* `Framing` expects the PDUs of the state only. It reports every other PDU as invalid, for which the standard has the
  same action: AA-1 in Sta2, AA-8 later.
* Nothing is read in Sta3 and Sta8, which last only until the node's own answer is sent.
* In Sta13 the node discards what arrives until the peer closes the connection (AA-6). The bytes are not decoded: after
  a violation nobody knows where the next PDU begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class State(Enum):
    """States of the protocol machine, PS3.8 tables 9-1 to 9-5."""

    IDLE = "Sta1"
    AWAITING_REQUEST = "Sta2"
    DECIDING = "Sta3"
    OPEN = "Sta6"
    RELEASING = "Sta8"
    CLOSING = "Sta13"


class Event(Enum):
    """Events of the protocol machine, PS3.8 table 9-10."""

    CONNECTED = "Evt5"
    """The transport connection is open; with TLS, the handshake is done."""
    REQUEST_RECEIVED = "Evt6"
    ACCEPT = "Evt7"
    REJECT = "Evt8"
    SEND_DATA = "Evt9"
    DATA_RECEIVED = "Evt10"
    RELEASE_RECEIVED = "Evt12"
    ANSWER_RELEASE = "Evt14"
    ABORT = "Evt15"
    """The node aborts, as the service user."""
    ABORT_RECEIVED = "Evt16"
    CONNECTION_CLOSED = "Evt17"
    TIMER_EXPIRED = "Evt18"
    INVALID_PDU = "Evt19"
    """An unrecognized, unexpected or invalid PDU, or a message that breaks PS3.7."""


class TransitionAction(Enum):
    """Actions of the protocol machine, PS3.8 tables 9-6 to 9-9."""

    START_TIMER = "AE-5"
    INDICATE_REQUEST = "AE-6"
    SEND_ACCEPTANCE = "AE-7"
    SEND_REJECTION = "AE-8"
    SEND_DATA = "DT-1"
    INDICATE_DATA = "DT-2"
    INDICATE_RELEASE = "AR-2"
    SEND_RELEASE_ANSWER = "AR-4"
    STOP_TIMER = "AR-5"
    ABORT_AS_USER = "AA-1"
    CLOSE = "AA-2"
    INDICATE_ABORT = "AA-3"
    INDICATE_LOSS = "AA-4"
    FORGET = "AA-5"
    ABORT_AS_PROVIDER = "AA-8"


TRANSITIONS: Mapping[tuple[State, Event], tuple[TransitionAction, State]] = {
    (State.IDLE, Event.CONNECTED): (TransitionAction.START_TIMER, State.AWAITING_REQUEST),
    (State.AWAITING_REQUEST, Event.REQUEST_RECEIVED): (TransitionAction.INDICATE_REQUEST, State.DECIDING),
    (State.AWAITING_REQUEST, Event.ABORT_RECEIVED): (TransitionAction.CLOSE, State.IDLE),
    (State.AWAITING_REQUEST, Event.CONNECTION_CLOSED): (TransitionAction.FORGET, State.IDLE),
    (State.AWAITING_REQUEST, Event.TIMER_EXPIRED): (TransitionAction.CLOSE, State.IDLE),
    (State.AWAITING_REQUEST, Event.INVALID_PDU): (TransitionAction.ABORT_AS_USER, State.CLOSING),
    (State.DECIDING, Event.ACCEPT): (TransitionAction.SEND_ACCEPTANCE, State.OPEN),
    (State.DECIDING, Event.REJECT): (TransitionAction.SEND_REJECTION, State.CLOSING),
    (State.DECIDING, Event.ABORT): (TransitionAction.ABORT_AS_USER, State.CLOSING),
    (State.DECIDING, Event.CONNECTION_CLOSED): (TransitionAction.INDICATE_LOSS, State.IDLE),
    (State.OPEN, Event.SEND_DATA): (TransitionAction.SEND_DATA, State.OPEN),
    (State.OPEN, Event.DATA_RECEIVED): (TransitionAction.INDICATE_DATA, State.OPEN),
    (State.OPEN, Event.RELEASE_RECEIVED): (TransitionAction.INDICATE_RELEASE, State.RELEASING),
    (State.OPEN, Event.ABORT): (TransitionAction.ABORT_AS_USER, State.CLOSING),
    (State.OPEN, Event.ABORT_RECEIVED): (TransitionAction.INDICATE_ABORT, State.IDLE),
    (State.OPEN, Event.CONNECTION_CLOSED): (TransitionAction.INDICATE_LOSS, State.IDLE),
    (State.OPEN, Event.INVALID_PDU): (TransitionAction.ABORT_AS_PROVIDER, State.CLOSING),
    (State.RELEASING, Event.ANSWER_RELEASE): (TransitionAction.SEND_RELEASE_ANSWER, State.CLOSING),
    (State.RELEASING, Event.ABORT): (TransitionAction.ABORT_AS_USER, State.CLOSING),
    (State.RELEASING, Event.CONNECTION_CLOSED): (TransitionAction.INDICATE_LOSS, State.IDLE),
    (State.CLOSING, Event.CONNECTION_CLOSED): (TransitionAction.STOP_TIMER, State.IDLE),
    (State.CLOSING, Event.TIMER_EXPIRED): (TransitionAction.CLOSE, State.IDLE),
}
"""The action on an event in a state, and the state after it."""
