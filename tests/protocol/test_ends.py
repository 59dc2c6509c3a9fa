"""Associations that the node ends: it asks for the release first, and what it ends is not held against the sender."""

import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass

import pytest

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
ANOTHER = p_data(pdv(1, 3, c_store_rq("1.2.3"))) + p_data(pdv(1, 0, b"abc"))
NODE_ENDED = [("node-ended", "the node ended the association: idle")]


@dataclass
class Stored:
    """A peer that has stored an instance of a series of its own, and the node."""

    node: Running
    peer: Raw
    series_uid: str

    def events(self) -> list[tuple[str, str]]:
        """What the node recorded of the series, once no connection is left."""
        self.peer.socket.close()
        assert self.node.settled()
        rows = self.node.rows(f"SELECT * FROM v_events WHERE series_instance_uid = '{self.series_uid}' ORDER BY id")
        return [(row["kind"], row["detail"]) for row in rows]

    def begin_another(self) -> None:
        self.peer.send(ANOTHER)


@pytest.fixture
def stored(start_node: Callable[..., Running]) -> Callable[..., Stored]:
    def store(node: Running | None = None, **options: object) -> Stored:
        node = node or start_node(**{"request_seconds": 0.4, "idle_seconds": 0.6, "release_seconds": 1.0} | options)
        [ds] = ct_series(1)
        peer = Raw(node).associate(associate_rq(calling="RAW"))
        assert peer.store(ds.SOPInstanceUID, data_set_bytes(ds)) == 0
        return Stored(node, peer, ds.SeriesInstanceUID)

    return store


def answering(stored: Callable[..., Stored], answers: dict[str, bytes]) -> dict[str, Stored]:
    """Peers of one node that answer when it asks them for the release, after they were idle."""
    first = stored()
    peers = dict(zip(answers, [first, *(stored(first.node) for _ in range(len(answers) - 1))], strict=True))
    for name, sent in answers.items():
        assert peers[name].peer.receive() == ASKED, name
        peers[name].peer.send(sent)
    return peers


def test_an_idle_association_is_released_and_whoever_ends_otherwise_was_ended_by_the_node(
    stored: Callable[..., Stored],
) -> None:
    peers = answering(stored, {"release": RELEASE_RP, "close": b"", "abort": ABORT, "silence": b""})
    peers["close"].peer.socket.close()
    assert peers["release"].peer.receive() is None
    assert peers["silence"].peer.aborted() in ((2, 0), None)  # pynetdicom closes at once
    for one in peers.values():
        one.peer.socket.close()
    assert {way: one.events() for way, one in peers.items()} == {
        "release": [], "close": NODE_ENDED, "abort": NODE_ENDED, "silence": NODE_ENDED
    }  # fmt: skip
    assert peers["release"].node.count("associations_total{outcome=idle}") == len(peers)


@pytest.mark.own_acceptor
def test_what_comes_behind_the_request_of_the_node_is_answered_or_ends_the_association(
    stored: Callable[..., Stored],
) -> None:
    peers = answering(
        stored,
        {
            "both ask": RELEASE_RQ + RELEASE_RP,
            "another instance": ANOTHER,
            "abort": RELEASE_RQ + ABORT,
            "data": RELEASE_RQ + p_data(pdv(1, 0, b"x")),
            "no PDU": pdu(9, b"\0\0\0\0"),
        },
    )
    assert peers["both ask"].peer.receive() == (6, b"\0\0\0\0")
    assert peers["both ask"].peer.receive() is None
    assert peers["another instance"].peer.aborted() == (0, 0)
    assert all(one.peer.closed() for one in peers.values())
    assert peers["both ask"].events() == []
    assert peers["another instance"].events() == [("node-ended", "the node ended the association: given up")]
    node = peers["both ask"].node
    assert len(node.rows()) == len(peers)
    outcomes = {"released": 2, "given up": 1, "violated": 2}
    assert {outcome: node.count(f"associations_total{{outcome={outcome}}}") for outcome in outcomes} == outcomes


@pytest.mark.own_acceptor
def test_an_association_that_stalls_within_an_instance_is_aborted_and_its_sender_named(
    stored: Callable[..., Stored],
) -> None:
    one = stored()
    one.begin_another()
    assert one.peer.aborted() is not None
    [(kind, detail)] = one.events()
    assert (kind, detail.endswith("in the middle of an instance")) == ("sender-aborted", True)


@pytest.mark.own_acceptor
def test_each_way_to_end_without_a_release_has_a_word_of_its_own(stored: Callable[..., Stored]) -> None:
    first = stored(idle_seconds=300)
    ways = dict(
        zip(("closed", "lost", "aborted", "violated"), [first, *(stored(first.node) for _ in "123")], strict=True)
    )
    ways["lost"].peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closes by RST
    ways["aborted"].peer.send(ABORT)
    ways["violated"].peer.send(pdu(9, b"\0\0\0\0"))
    assert ways["violated"].peer.aborted() is not None
    for one in ways.values():
        one.peer.socket.close()
    assert {way: one.events() for way, one in ways.items()} == {
        way: [("sender-aborted", f"the association did not end by release: {way}")] for way in ways
    }


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
