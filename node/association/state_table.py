"""The state table of an accepted association: pynetdicom's, for the states that occur (PS3.8 9.2, tables 9-1 to 9-10).

The names are those of the standard. Sta9 and Sta11 are of requestors only, and do not occur. Three rules keep the rest
short:

* `Framing` expects the PDUs of the state only. It reports every other PDU as invalid, for which the standard has the
  same action: AA-1 in Sta2, AA-8 later.
* Nothing is read in Sta3, Sta8 and Sta12, which last only until the node's own answer is sent.
* In Sta13 the node discards what arrives until the peer closes the connection (AA-6). The bytes are not decoded: after
  a violation nobody knows where the next PDU begins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum

from pynetdicom.fsm import ACTIONS, TRANSITION_TABLE


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
