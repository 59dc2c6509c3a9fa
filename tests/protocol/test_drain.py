"""Stopping: what is under way is answered, nothing acknowledged is lost, nobody is waited for too long."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from node.association.client.association import verify
from node.errors import VoxelnodeError
from tests.make import instance
from tests.pace import idle_seconds, now
from tests.protocol.conftest import (
    DEADLINE_SECONDS,
    Raw,
    Running,
    associate,
    c_store_rq,
    data_set_bytes,
    p_data,
    pdv,
    status_of,
    until,
)


def draining(node: Running, seconds: float) -> threading.Thread:
    thread = threading.Thread(target=node.listener.drain, args=[seconds])
    thread.start()
    return thread


@pytest.mark.slow
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
        assert until(lambda: not node.listener.is_listening)
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
    assert until(lambda: node.count("connections") == 2)
    began = now()
    node.listener.drain(8)
    assert idle_seconds(began, 4) < 4
    assert until(lambda: not assoc.is_established)
    silent.socket.close()


def test_after_a_drain_nobody_is_accepted(node: Running) -> None:
    node.listener.drain(5)
    with pytest.raises(VoxelnodeError):
        verify(node.address, "SENDER", 2)


@pytest.mark.slow
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
def test_stopping_at_once_loses_nothing_that_was_acknowledged(start_node: Callable[..., Running]) -> None:
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


def test_a_listener_can_be_stopped_twice_and_before_it_starts(start_node: Callable[..., Running]) -> None:
    node = start_node()
    node.listener.drain(1)
    node.listener.drain(1)
    node.listener.stop_now()
