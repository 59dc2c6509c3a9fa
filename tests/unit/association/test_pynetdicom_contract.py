"""What `node.association` expects of pynetdicom. If one of these fails, read its message first."""

import ast
import logging
from pathlib import Path

import pynetdicom
import pytest
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ

from node.association import upper_layer
from node.association.framing import ABORT, ASSOCIATE_RJ, RELEASE_RP, RELEASE_RQ, short_pdu
from node.association.upper_layer import TRANSITIONS, Event, State

PACKAGE = Path(upper_layer.__file__).parent


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


MODULES = ("dimse_messages", "dimse_primitives", "dsutils", "fsm", "pdu", "pdu_primitives", "presentation", "status")
"""Data, encoding and decoding: nothing of these starts a thread or opens a socket."""


def test_only_public_names_of_pynetdicom_and_none_of_its_threads_are_used() -> None:
    used = set().union(*map(imported_from_pynetdicom, PACKAGE.rglob("*.py")))
    assert used
    assert not {name for name in used if "._" in name}
    assert {".".join(name.split(".")[:2]) for name in used} <= {f"pynetdicom.{name}" for name in MODULES}


def test_the_log_of_pynetdicom_which_has_identifiers_of_patients_is_off() -> None:
    assert not logging.getLogger("pynetdicom").isEnabledFor(logging.ERROR)


def test_the_state_table_is_that_of_the_standard() -> None:
    # What an acceptor does, written from PS3.8 table 9-10.
    expected = {
        ("Sta1", "Evt5"): ("AE-5", "Sta2"),
        ("Sta2", "Evt6"): ("AE-6", "Sta3"),
        ("Sta2", "Evt16"): ("AA-2", "Sta1"),
        ("Sta2", "Evt17"): ("AA-5", "Sta1"),
        ("Sta2", "Evt18"): ("AA-2", "Sta1"),
        ("Sta2", "Evt19"): ("AA-1", "Sta13"),
        ("Sta3", "Evt7"): ("AE-7", "Sta6"),
        ("Sta3", "Evt8"): ("AE-8", "Sta13"),
        ("Sta3", "Evt15"): ("AA-1", "Sta13"),
        ("Sta3", "Evt17"): ("AA-4", "Sta1"),
        ("Sta6", "Evt9"): ("DT-1", "Sta6"),
        ("Sta6", "Evt10"): ("DT-2", "Sta6"),
        ("Sta6", "Evt11"): ("AR-1", "Sta7"),
        ("Sta6", "Evt12"): ("AR-2", "Sta8"),
        ("Sta6", "Evt15"): ("AA-1", "Sta13"),
        ("Sta6", "Evt16"): ("AA-3", "Sta1"),
        ("Sta6", "Evt17"): ("AA-4", "Sta1"),
        ("Sta6", "Evt19"): ("AA-8", "Sta13"),
        ("Sta7", "Evt10"): ("AR-6", "Sta7"),
        ("Sta7", "Evt12"): ("AR-8", "Sta10"),
        ("Sta7", "Evt13"): ("AR-3", "Sta1"),
        ("Sta7", "Evt15"): ("AA-1", "Sta13"),
        ("Sta7", "Evt16"): ("AA-3", "Sta1"),
        ("Sta7", "Evt17"): ("AA-4", "Sta1"),
        ("Sta7", "Evt19"): ("AA-8", "Sta13"),
        ("Sta8", "Evt14"): ("AR-4", "Sta13"),
        ("Sta8", "Evt15"): ("AA-1", "Sta13"),
        ("Sta8", "Evt17"): ("AA-4", "Sta1"),
        ("Sta10", "Evt13"): ("AR-10", "Sta12"),
        ("Sta10", "Evt15"): ("AA-1", "Sta13"),
        ("Sta12", "Evt14"): ("AR-4", "Sta13"),
        ("Sta13", "Evt17"): ("AR-5", "Sta1"),
        ("Sta13", "Evt18"): ("AA-2", "Sta1"),
    }
    found = {(state.value, event.value): (action, after.value) for (state, event), (action, after) in
             TRANSITIONS.items()}  # fmt: skip
    assert {key: found[key] for key in expected} == expected


def test_the_rest_of_the_table_cannot_occur_as_its_module_says() -> None:
    for (state, event), (action, _) in TRANSITIONS.items():
        invalid = TRANSITIONS.get((state, Event.INVALID_PDU))
        if state is not State.CLOSING and invalid is not None and action == invalid[0]:
            continue  # reported as an invalid PDU
        if action not in upper_layer._ACTIONS:
            assert state in (State.RELEASING, State.BOTH_RELEASING, State.CLOSING), (
                state,
                event,
            )  # nothing is read, or it is discarded


@pytest.mark.parametrize("pdu", [A_ASSOCIATE_RQ, A_ASSOCIATE_AC, A_ASSOCIATE_RJ])
def test_primitives_and_pdus_are_still_made_of_each_other(pdu: type) -> None:
    for name in ("from_primitive", "to_primitive", "encode", "decode"):
        assert callable(getattr(pdu(), name))


def test_short_pdus_are_encoded_as_they_must_be() -> None:
    assert short_pdu(ABORT, 0, 2, 6) == b"\x07\x00\x00\x00\x00\x04\x00\x00\x02\x06"
    assert short_pdu(ASSOCIATE_RJ, 1, 2, 3) == b"\x03\x00\x00\x00\x00\x04\x00\x01\x02\x03"
    assert short_pdu(RELEASE_RQ) == b"\x05\x00\x00\x00\x00\x04\x00\x00\x00\x00"
    assert short_pdu(RELEASE_RP) == b"\x06\x00\x00\x00\x00\x04\x00\x00\x00\x00"
