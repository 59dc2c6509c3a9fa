"""What `node.association` expects of pynetdicom. If one of these fails, read its message first."""

from __future__ import annotations

import ast
from pathlib import Path

import pynetdicom
import pytest
from pynetdicom import fsm
from pynetdicom.pdu import (
    A_ASSOCIATE_AC,
    A_ASSOCIATE_RJ,
    A_ASSOCIATE_RQ,
    A_RELEASE_RP,
    A_RELEASE_RQ,
)

from node.association import state_table
from node.association.admission import Rejection
from node.association.contexts import abort_pdu, rejection_pdu, release_answer_pdu
from node.association.state_table import TRANSITIONS, Event, State

PACKAGE = Path(state_table.__file__).parent


def test_the_version_is_one_that_this_was_written_for() -> None:
    assert pynetdicom.__version__.startswith("3.0."), "run tests/protocol with it, then widen the pin"


def imported_from_pynetdicom(path: Path) -> set[str]:
    """The names of pynetdicom that a module imports, with their modules."""
    names = set()
    for found in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(found, ast.ImportFrom) and (found.module or "").partition(".")[0] == "pynetdicom":
            names |= {f"{found.module}.{name.name}" for name in found.names}
        elif isinstance(found, ast.Import):
            names |= {name.name for name in found.names if name.name.partition(".")[0] == "pynetdicom"}
    return names


def test_only_public_names_of_pynetdicom_and_none_of_its_threads_are_used() -> None:
    used = set().union(*map(imported_from_pynetdicom, PACKAGE.rglob("*.py")))
    assert used
    assert not {name for name in used if "._" in name}
    modules = {".".join(name.split(".")[:2]) for name in used}
    assert modules <= {f"pynetdicom.{name}" for name in ("dsutils", "pdu", "pdu_primitives", "presentation")}


def of_the_standard() -> dict[tuple[str, str], str]:
    """The rows of the standard's table for the states of `State`: (state, event) -> action."""
    states = {state.value for state in State}
    return {(state, event): action for (event, state), action in fsm.TRANSITION_TABLE.items() if state in states}


def test_the_state_table_is_that_of_the_standard() -> None:
    # pynetdicom's table is public, and was written from PS3.8 table 9-10 by others.
    ours = {(state.value, event.value): action.value for (state, event), (action, _) in TRANSITIONS.items()}
    standard = of_the_standard()
    assert ours == {key: action for key, action in standard.items() if key in ours}


def test_the_states_after_each_action_are_those_of_the_standard() -> None:
    for (state, event), (action, after) in TRANSITIONS.items():
        _, _, expected = fsm.ACTIONS[action.value]
        told = [expected] if isinstance(expected, str) else list(expected)
        assert after.value in told, (state, event)


PDUS = {"Evt3", "Evt4", "Evt6", "Evt10", "Evt12", "Evt13", "Evt16", "Evt19"}
REQUESTS_OF_OUR_OWN = {"Evt1", "Evt11"}
"""To associate and to release: the acceptor does neither."""


def test_what_the_state_table_leaves_out_is_what_its_module_says() -> None:
    ours = {(state.value, event.value) for state, event in TRANSITIONS}
    for (state, event), action in of_the_standard().items():
        if (state, event) in ours or event in REQUESTS_OF_OUR_OWN:
            continue
        if state in (State.AWAITING_REQUEST.value, State.OPEN.value):  # reported as an invalid PDU
            invalid, _ = TRANSITIONS[State(state), Event.INVALID_PDU]
            assert action == invalid.value, (state, event)
        elif state in (State.DECIDING.value, State.RELEASING.value):  # nothing is read
            assert event in PDUS or (state, event) == ("Sta8", "Evt9"), (state, event)
        else:
            assert (state, event) == ("Sta1", "Evt5") or (state == State.CLOSING.value and event in PDUS)


@pytest.mark.parametrize("pdu", [A_ASSOCIATE_RQ, A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_RELEASE_RQ, A_RELEASE_RP])
def test_primitives_and_pdus_are_still_made_of_each_other(pdu: type) -> None:
    for name in ("from_primitive", "to_primitive", "encode", "decode"):
        assert callable(getattr(pdu(), name))


def test_short_pdus_are_still_encoded_as_they_must_be() -> None:
    assert abort_pdu(2, 6) == b"\x07\x00\x00\x00\x00\x04\x00\x00\x02\x06"
    assert rejection_pdu(Rejection(1, 2, 3, "", "")) == b"\x03\x00\x00\x00\x00\x04\x00\x01\x02\x03"
    assert release_answer_pdu() == b"\x06\x00\x00\x00\x00\x04\x00\x00\x00\x00"
