"""Associations that the node ends: it asks for the release first, and what it ends is not held against the sender."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from pydicom import FileDataset

from node.settings.peers import Peer
from tests.make import ct_series
from tests.protocol.conftest import (
    DEADLINE_SECONDS,
    Raw,
    Running,
    associate_rq,
    c_store_rq,
    data_set_bytes,
    p_data,
    pdu,
    pdv,
)

ASKED = (5, b"\0\0\0\0")
RELEASE_RQ, RELEASE_RP, ABORT = (pdu(kind, b"\0\0\0\0") for kind in (5, 6, 7))
NODE_ENDED = [("node-ended", "the node ended the association: idle")]


@dataclass
class Stored:
    """A peer that has stored an instance, and the node."""

    node: Running
    peer: Raw
    ds: FileDataset

    def events(self) -> list[tuple[str, str]]:
        """What the node recorded, once no connection is left."""
        self.peer.socket.close()
        assert self.node.settled()
        return [(row["kind"], row["detail"]) for row in self.node.rows("SELECT * FROM v_events ORDER BY id")]

    def begin_another(self) -> None:
        self.peer.send(p_data(pdv(1, 3, c_store_rq("1.2.3"))) + p_data(pdv(1, 0, b"abc")))


@pytest.fixture
def stored(start_node: Callable[..., Running], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Stored]:
    monkeypatch.setattr("node.association.upper_layer.RELEASE_SECONDS", 0.4)

    def store(**options: object) -> Stored:
        node = start_node(**{"request_seconds": 0.4, "idle_seconds": 0.6} | options)
        [ds] = ct_series(1)
        peer = Raw(node).associate(associate_rq(calling="RAW"))
        assert peer.store(ds.SOPInstanceUID, data_set_bytes(ds)) == 0
        return Stored(node, peer, ds)

    return store


def test_an_idle_association_is_released_and_its_series_is_not_doubted(stored: Callable[..., Stored]) -> None:
    one = stored()
    assert one.peer.receive() == ASKED
    one.peer.send(RELEASE_RP)
    assert one.peer.receive() is None
    assert one.events() == []
    assert one.node.count("associations_total{outcome=idle}") == 1


def test_a_peer_that_does_not_answer_the_release_is_aborted_which_is_told_of_the_node(
    stored: Callable[..., Stored],
) -> None:
    one = stored()
    assert one.peer.receive() == ASKED
    assert one.peer.aborted() in ((2, 0), None)  # pynetdicom closes at once
    assert one.events() == NODE_ENDED
    assert one.node.count("associations_total{outcome=idle}") == 1


@pytest.mark.parametrize("answer", [ABORT, b""], ids=["abort", "close"])
def test_a_peer_that_ends_otherwise_when_it_is_asked_was_ended_by_the_node(
    stored: Callable[..., Stored], answer: bytes
) -> None:
    one = stored()
    assert one.peer.receive() == ASKED
    one.peer.send(answer)
    assert one.events() == NODE_ENDED


@pytest.mark.own_acceptor
def test_a_peer_that_goes_on_when_it_is_asked_is_aborted_and_may_have_more_to_send(
    stored: Callable[..., Stored],
) -> None:
    one = stored()
    assert one.peer.receive() == ASKED
    one.begin_another()
    assert one.peer.aborted() == (0, 0)
    assert one.events() == [("node-ended", "the node ended the association: given up")]
    assert len(one.node.rows()) == 1


@pytest.mark.own_acceptor
def test_when_both_sides_ask_for_the_release_each_is_answered(stored: Callable[..., Stored]) -> None:
    one = stored()
    assert one.peer.receive() == ASKED
    one.peer.send(RELEASE_RQ)
    one.peer.send(RELEASE_RP)
    assert one.peer.receive() == (6, b"\0\0\0\0")
    assert one.peer.receive() is None
    assert one.events() == []
    assert one.node.count("associations_total{outcome=released}") == 1


@pytest.mark.own_acceptor
@pytest.mark.parametrize("sent", [RELEASE_RQ + ABORT, RELEASE_RQ + p_data(pdv(1, 0, b"x")), pdu(9, b"\0\0\0\0")])
def test_whatever_follows_the_request_of_the_node_ends_the_association(
    stored: Callable[..., Stored], sent: bytes
) -> None:
    one = stored()
    assert one.peer.receive() == ASKED
    one.peer.send(sent)
    assert one.peer.closed()
    assert one.node.settled()


@pytest.mark.own_acceptor
def test_an_association_that_stalls_within_an_instance_is_aborted_and_its_sender_named(
    stored: Callable[..., Stored],
) -> None:
    one = stored()
    one.begin_another()
    assert one.peer.aborted() is not None
    [(kind, detail)] = one.events()
    assert (kind, detail.endswith("in the middle of an instance")) == ("sender-aborted", True)


@pytest.mark.slow
def test_a_silent_association_is_released_when_the_node_stops(stored: Callable[..., Stored]) -> None:
    one = stored(idle_seconds=300)
    thread = threading.Thread(target=one.node.listener.drain, args=[20, 10])
    thread.start()
    assert one.peer.receive() == ASKED
    one.peer.send(RELEASE_RP)
    assert one.peer.receive() is None
    assert one.events() == []
    thread.join(DEADLINE_SECONDS)
    assert one.node.count("associations_total{outcome=drained}") == 1


def test_an_association_that_the_node_cuts_off_is_not_held_against_its_sender(stored: Callable[..., Stored]) -> None:
    one = stored(idle_seconds=300)
    one.node.listener.stop_now()
    assert one.peer.closed()
    assert one.events() == [("node-ended", "the node ended the association: cut off")]


NEVER = {"us": Peer(ae_title="RAW", releases=False)}


def test_the_end_of_a_peer_that_is_said_never_to_release_says_nothing(stored: Callable[..., Stored]) -> None:
    one = stored(peers=NEVER)
    one.peer.send(ABORT)
    assert one.events() == []


@pytest.mark.own_acceptor
def test_such_a_peer_has_more_to_send_if_it_ends_within_an_instance(stored: Callable[..., Stored]) -> None:
    one = stored(peers=NEVER)
    begun = one.node.beginning()
    one.begin_another()
    assert begun.wait(DEADLINE_SECONDS)
    one.peer.send(ABORT)
    [(kind, _)] = one.events()
    assert kind == "sender-aborted"
