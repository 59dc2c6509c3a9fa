"""What `node.association` knows of pynetdicom's inside. If one of these fails, read its message first."""

from __future__ import annotations

import inspect
import queue
import threading

import pynetdicom
import pytest
from pynetdicom import AE, _config, acse, association, dimse, dul, evt, fsm, timer, transport
from pynetdicom.dimse_primitives import C_GET, C_MOVE, N_ACTION
from pynetdicom.pdu import (
    A_ABORT_RQ,
    A_ASSOCIATE_AC,
    A_ASSOCIATE_RJ,
    A_ASSOCIATE_RQ,
    A_RELEASE_RP,
    A_RELEASE_RQ,
)
from pynetdicom.pdu_primitives import A_P_ABORT
from pynetdicom.presentation import PresentationContext


@pytest.fixture
def assoc() -> association.Association:
    return association.Association(AE(), "acceptor")


def source(function: object) -> str:
    return inspect.getsource(function)  # type: ignore[arg-type]


def test_the_version_is_one_that_this_was_written_for() -> None:
    assert pynetdicom.__version__.startswith("3.0."), "read association/upper_layer.py against it, then widen the pin"


@pytest.mark.parametrize("name", ["LOG_HANDLER_LEVEL", "LOG_REQUEST_IDENTIFIERS", "UNRESTRICTED_STORAGE_SERVICE"])
def test_the_settings_still_exist(name: str) -> None:
    assert hasattr(_config, name), f"association/__init__.py sets pynetdicom._config.{name}, which is gone"


def test_an_association_still_has_the_parts_that_the_reader_takes_over(assoc: association.Association) -> None:
    for name, kind in {
        "_dul_ready": threading.Event,
        "_reactor_checkpoint": threading.Event,
        "_started_dul": bool,
        "_is_paused": bool,
        "_accepted_cx": dict,
        "_rejected_cx": list,
    }.items():
        assert isinstance(getattr(assoc, name, None), kind), f"Association.{name} is no {kind.__name__} any more"
    assert callable(assoc._serve_request)
    assert list(inspect.signature(assoc._serve_request).parameters) == ["msg", "context_id"]


def test_the_upper_layer_still_has_the_parts_that_the_reader_uses(assoc: association.Association) -> None:
    upper = assoc.dul
    for name in ("event_queue", "to_provider_queue", "to_user_queue", "_recv_pdu"):
        assert isinstance(getattr(upper, name, None), queue.Queue), f"DULServiceProvider.{name} is no queue any more"
    for name in ("_process_recv_primitive", "_decode_pdu", "run_reactor", "kill_dul", "send_pdu", "stop_dul"):
        assert callable(getattr(upper, name, None)), f"DULServiceProvider.{name} is gone"
    assert upper._kill_thread is False
    assert isinstance(upper.artim_timer, timer.Timer)
    assert isinstance(upper._idle_timer, timer.Timer)
    assert isinstance(assoc.dimse.msg_queue, queue.Queue)
    assert assoc.dimse.msg_queue.unfinished_tasks == 0
    assert "task_done" not in source(dimse), "the reader tells by unfinished_tasks whether a message was put"


def test_the_other_thread_still_waits_where_the_reader_parks_it() -> None:
    text = source(association.Association._run_reactor)
    assert text.index("_reactor_checkpoint.wait()") < text.index("dimse.get_msg(block=False)"), (
        "the association's thread must wait at its checkpoint before it looks for messages"
    )
    assert "_serve_request(msg" in text
    assert "if not self._started_dul" in source(association.Association.run_reactor)


def test_the_state_machine_still_speaks_as_the_standard_does() -> None:
    table = fsm.TRANSITION_TABLE
    expected = {
        ("Evt5", "Sta1"): "AE-5", ("Evt6", "Sta2"): "AE-6", ("Evt19", "Sta2"): "AA-1", ("Evt18", "Sta2"): "AA-2",
        ("Evt17", "Sta2"): "AA-5", ("Evt7", "Sta3"): "AE-7", ("Evt8", "Sta3"): "AE-8", ("Evt10", "Sta6"): "DT-2",
        ("Evt9", "Sta6"): "DT-1", ("Evt12", "Sta6"): "AR-2", ("Evt16", "Sta6"): "AA-3", ("Evt17", "Sta6"): "AA-4",
        ("Evt14", "Sta8"): "AR-4", ("Evt17", "Sta13"): "AR-5", ("Evt18", "Sta13"): "AA-2",
    }  # fmt: skip
    assert {key: table.get(key) for key in expected} == expected


def test_waiting_messages_still_go_through_the_queue_that_the_reader_watches() -> None:
    assert "self.msg_queue.put(" in source(dimse.DIMSEServiceProvider.receive_primitive)


def test_admission_still_comes_before_negotiation() -> None:
    text = source(association.Association.run_reactor)
    assert text.index("EVT_REQUESTED") < text.index("not self.is_rejected") < text.index("negotiate_association()")


def test_acceptance_still_sends_what_the_association_holds() -> None:
    text = source(acse.ACSE.send_accept)
    assert "self.assoc.accepted_contexts + self.assoc.rejected_contexts" in text
    assert "self.send_accept()" in source(acse.ACSE._negotiate_as_acceptor)


def test_the_server_still_has_the_seams_that_the_listener_uses() -> None:
    assert {"server_class", "kwargs"} <= set(inspect.signature(AE.make_server).parameters)
    assert callable(transport.RequestHandler._create_association)
    assert "self.finish_request(" in source(transport.AssociationServer.process_request)
    assert callable(transport.AssociationSocket.send)


def test_events_and_primitives_still_carry_their_names() -> None:
    for name in ("EVT_REQUESTED", "EVT_ASYNC_OPS", "EVT_C_ECHO", "EVT_C_STORE"):
        assert hasattr(evt, name)
    abort, lost = A_ABORT_RQ(), A_P_ABORT()
    abort.source, abort.reason_diagnostic = 2, 6
    lost.provider_reason = 0
    assert abort.encode() == b"\x07\x00\x00\x00\x00\x04\x00\x00\x02\x06"


def test_accepted_contexts_still_tell_our_roles() -> None:
    answer = PresentationContext()
    answer._as_scp, answer._as_scu = True, False
    assert (answer.as_scp, answer.as_scu) == (True, False)
    assert callable(association.ServiceUser.add_negotiation_item)


def test_requests_still_carry_what_our_own_services_read() -> None:
    for primitive, names in {
        C_MOVE: ("MessageID", "MoveDestination", "Identifier"),
        C_GET: ("MessageID", "Identifier"),
        N_ACTION: ("MessageID", "RequestedSOPInstanceUID", "ActionTypeID", "ActionInformation"),
    }.items():
        assert all(hasattr(primitive(), name) for name in names), primitive
    text = source(association.Association._run_reactor)
    assert "self._serve_request(msg, " in text, "`Reader` serves C-MOVE, C-GET and N-ACTION in its place"


def test_the_negotiation_of_a_requestor_is_still_encoded_from_primitives() -> None:
    for pdu in (A_ASSOCIATE_RQ(), A_RELEASE_RQ(), A_RELEASE_RP()):
        assert callable(pdu.from_primitive)
        assert callable(pdu.encode)
    for pdu in (A_ASSOCIATE_AC(), A_ASSOCIATE_RJ()):
        assert callable(pdu.decode)
        assert callable(pdu.to_primitive)


def test_the_timer_still_has_the_methods_that_ours_replaces() -> None:
    for name in ("start", "stop", "restart"):
        assert callable(getattr(timer.Timer, name))
    assert isinstance(inspect.getattr_static(timer.Timer, "expired"), property)
    assert "self.start()" in source(timer.Timer.restart)
    assert "artim_timer" in source(dul.DULServiceProvider.__init__)
