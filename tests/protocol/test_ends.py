"""Associations that the node ends: it asks for the release first, and what it ends is not held against the sender."""

import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from node.association.client.association import verify
from node.errors import VoxelnodeError
from node.settings.peers import Peer
from tests.make import ct_series, instance
from tests.pace import idle_seconds, now
from tests.protocol.conftest import (
    DEADLINE_SECONDS,
    Raw,
    Running,
    StartNode,
    associate,
    associate_rq,
    c_store_rq,
    data_set_bytes,
    p_data,
    pdu,
    pdv,
    status_of,
)
from tests.waiting import until

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


Store = Callable[..., Stored]


@pytest.fixture
def stored(start_node: StartNode) -> Store:
    def store(node: Running | None = None, **options: object) -> Stored:
        node = node or start_node(**{"request_seconds": 0.4, "idle_seconds": 0.6, "release_seconds": 1.0} | options)
        [ds] = ct_series(1)
        peer = Raw(node).associate(associate_rq(calling="RAW"))
        assert peer.store(ds.SOPInstanceUID, data_set_bytes(ds)) == 0
        return Stored(node, peer, ds.SeriesInstanceUID)

    return store


def answering(stored: Store, answers: dict[str, bytes]) -> dict[str, Stored]:
    """Peers of one node that answer when it asks them for the release, after they were idle."""
    first = stored()
    peers = dict(zip(answers, [first, *(stored(first.node) for _ in range(len(answers) - 1))], strict=True))
    for name, sent in answers.items():
        assert peers[name].peer.receive() == ASKED, name
        peers[name].peer.send(sent)
    return peers


def test_an_idle_association_is_released_and_whoever_ends_otherwise_was_ended_by_the_node(stored: Store) -> None:
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
def test_what_comes_behind_the_request_of_the_node_is_answered_or_ends_the_association(stored: Store) -> None:
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
def test_an_association_that_stalls_within_an_instance_is_aborted_and_its_sender_named(stored: Store) -> None:
    one = stored()
    one.begin_another()
    assert one.peer.aborted() is not None
    [(kind, detail)] = one.events()
    assert (kind, detail.endswith("in the middle of an instance")) == ("sender-aborted", True)


@pytest.mark.own_acceptor
def test_each_way_to_end_without_a_release_has_a_word_of_its_own(stored: Store) -> None:
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
def test_a_silent_association_is_released_when_the_node_stops(stored: Store) -> None:
    one = stored(idle_seconds=300)
    thread = threading.Thread(target=one.node.listener.drain, args=[20, 10])
    thread.start()
    assert one.peer.receive() == ASKED
    one.peer.send(RELEASE_RP)
    assert one.peer.receive() is None
    assert one.events() == []
    thread.join(DEADLINE_SECONDS)
    assert one.node.count("associations_total{outcome=drained}") == 1


def test_an_association_that_the_node_cuts_off_is_not_held_against_its_sender(stored: Store) -> None:
    one = stored(idle_seconds=300)
    one.node.listener.stop_now()
    assert one.peer.closed()
    assert one.events() == [("node-ended", "the node ended the association: cut off")]


NEVER = {"us": Peer(ae_title="RAW", releases=False)}


def test_the_end_of_a_peer_that_is_said_never_to_release_says_nothing(stored: Store) -> None:
    one = stored(peers=NEVER)
    one.peer.send(ABORT)
    assert one.events() == []


@pytest.mark.own_acceptor
def test_such_a_peer_has_more_to_send_if_it_ends_within_an_instance(stored: Store) -> None:
    one = stored(peers=NEVER)
    begun = one.node.beginning()
    one.begin_another()
    assert begun.wait(DEADLINE_SECONDS)
    one.peer.send(ABORT)
    [(kind, _)] = one.events()
    assert kind == "sender-aborted"


# Stopping: what is under way is answered, nothing acknowledged is lost, nobody is waited for too long.


def draining(node: Running, seconds: float) -> threading.Thread:
    thread = threading.Thread(target=node.listener.drain, args=[seconds])
    thread.start()
    return thread


@pytest.mark.slow
@pytest.mark.own_acceptor  # that of pynetdicom tells of an instance once it is whole
def test_the_instance_under_way_is_answered_and_the_association_then_ended(node: Running) -> None:
    ds = instance()
    data = data_set_bytes(ds)
    begun = node.beginning()
    with Raw(node).associate() as peer:
        peer.send(p_data(pdv(1, 3, c_store_rq(ds.SOPInstanceUID))) + p_data(pdv(1, 0, data[:100])))
        assert begun.wait(DEADLINE_SECONDS)
        thread = draining(node, 60)
        thread.join(0.8)
        assert thread.is_alive()
        peer.send(p_data(pdv(1, 2, data[100:])))
        assert status_of(peer.receive()) == 0x0000
        assert peer.aborted() == (0, 0)
        peer.socket.close()
        thread.join(20)
        assert not thread.is_alive()
    assert node.stored_data_sets() == {ds.SOPInstanceUID: data}


@pytest.mark.slow
@pytest.mark.own_acceptor  # that of pynetdicom tells of an instance once it is whole
def test_an_association_in_use_may_go_on_for_a_while_and_ends_once_its_peer_is_silent(node: Running) -> None:
    instances = [instance() for _ in range(3)]
    begins = [p_data(pdv(1, 3, c_store_rq(ds.SOPInstanceUID))) + p_data(pdv(1, 0, b"")) for ds in instances]
    rests = [p_data(pdv(1, 2, data_set_bytes(ds))) for ds in instances]
    begun = node.beginning()
    with Raw(node).associate() as peer:
        peer.send(begins[0])
        assert begun.wait(DEADLINE_SECONDS)
        thread = threading.Thread(target=node.listener.drain, args=[60, 60])
        thread.start()
        until(lambda: not node.listener.is_listening)
        for rest, next_begin in zip(rests, [*begins[1:], b""], strict=True):
            peer.send(rest + next_begin)
            assert status_of(peer.receive()) == 0x0000
        assert peer.receive() == (5, b"\0\0\0\0")
        peer.socket.close()
        thread.join(30)
        assert not thread.is_alive()
    assert node.stored_data_sets().keys() == {ds.SOPInstanceUID for ds in instances}


@pytest.mark.slow
def test_idle_and_silent_peers_are_not_waited_for(node: Running) -> None:
    silent = Raw(node)
    assoc = associate(node)
    until(lambda: node.count("connections") == 2)
    began = now()
    node.listener.drain(8)
    assert idle_seconds(began, 4) < 4
    until(lambda: not assoc.is_established)
    silent.socket.close()


def test_after_a_drain_nobody_is_accepted(node: Running) -> None:
    node.listener.drain(5)
    with pytest.raises(VoxelnodeError):
        verify(node.address, "SENDER", 2)


@pytest.mark.slow
@pytest.mark.own_acceptor  # that of pynetdicom tells of an instance once it is whole
def test_a_peer_that_does_not_finish_is_cut_off_and_leaves_no_file(node: Running) -> None:
    begun = node.beginning()
    with Raw(node).associate() as peer:
        peer.send(p_data(pdv(1, 3, c_store_rq("1.2.3"))) + p_data(pdv(1, 0, bytes(1000))))
        assert begun.wait(DEADLINE_SECONDS)
        began = now()
        node.listener.drain(1.0)
        assert 0.9 < idle_seconds(began, 3) < 3
        assert peer.closed()
    assert node.part_files() == []
    assert node.rows() == []


class Held:
    """An ingest that keeps every instance until it is let go."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.kept = threading.Event()
        self.let_go = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def begin(self, announced: Any, origin: Any) -> Any:
        incoming = self._real.begin(announced, origin)
        finish = incoming.finish

        def held(outcome: Any) -> None:
            finish(outcome)
            self.kept.set()
            self.let_go.wait(10)

        incoming.finish = held
        return incoming


@pytest.mark.slow
def test_stopping_at_once_loses_nothing_that_was_acknowledged(start_node: StartNode) -> None:
    holds: list[Held] = []

    def hold(real: Any) -> Held:
        holds.append(Held(real))
        return holds[0]

    node = start_node(ingest=hold)
    ds = instance()
    with Raw(node).associate() as peer:
        peer.send(p_data(pdv(1, 3, c_store_rq(ds.SOPInstanceUID))) + p_data(pdv(1, 2, data_set_bytes(ds))))
        assert holds[0].kept.wait(10)
        began = now()
        node.listener.stop_now()
        assert idle_seconds(began, 3) < 3
        assert peer.closed()
        holds[0].let_go.set()
    assert [row["sop_instance_uid"] for row in node.rows()] == [ds.SOPInstanceUID]


def test_a_listener_can_be_stopped_twice_and_before_it_starts(start_node: StartNode) -> None:
    node = start_node()
    node.listener.drain(1)
    node.listener.drain(1)
    node.listener.stop_now()
