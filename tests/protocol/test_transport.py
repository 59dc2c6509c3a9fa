"""The transport connection of an accepted association: no call waits longer than its bound."""

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from node.association.transport import Transport, send_parts
from tests.protocol.conftest import DEADLINE_SECONDS


@pytest.fixture
def pair() -> Iterator[tuple[Transport, socket.socket]]:
    """A prepared connection with short bounds, and its peer."""
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_connection(listening.getsockname()) as peer:
        accepted, _ = listening.accept()
        connection = Transport(accepted, None, tick_seconds=0.2, send_seconds=0.3)
        connection.open(1)
        yield connection, peer
        connection.close()


def test_a_silent_peer_is_waited_for_no_longer_than_a_tick(pair: tuple[Transport, socket.socket]) -> None:
    connection, _ = pair
    space = memoryview(bytearray(100))
    began = time.monotonic()
    assert connection.receive(space) == 0
    assert connection.receive(space, 0.0) == 0
    assert connection.receive(space, 0.1) == 0
    assert 0.25 < time.monotonic() - began < 5


def test_bytes_and_the_end_are_distinguished(pair: tuple[Transport, socket.socket]) -> None:
    connection, peer = pair
    space = memoryview(bytearray(100))
    peer.sendall(b"abc")
    assert connection.receive(space, DEADLINE_SECONDS) == 3
    assert not connection.is_abandoned(0.0)
    peer.close()
    assert connection.is_abandoned(DEADLINE_SECONDS)
    assert connection.receive(space) is None
    assert connection.receive(space, 0.0) is None


def test_a_peer_that_reads_nothing_is_not_waited_for(pair: tuple[Transport, socket.socket]) -> None:
    connection, _ = pair
    began = time.monotonic()
    with pytest.raises(OSError, match=r"unavailable|too little"):
        connection.send(bytes(64 << 20))
    assert time.monotonic() - began < 10


@pytest.mark.slow
def test_a_peer_that_reads_in_drops_is_not_waited_for(
    pair: tuple[Transport, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each read makes room, so each of many sends is in time; all of them together have a deadline.
    connection, peer = pair
    monkeypatch.setattr("node.association.transport.MIN_BYTES_PER_SECOND", 64 << 20)
    stopping = threading.Event()

    def sip() -> None:
        while not stopping.wait(0.02):
            peer.recv(200_000)

    reader = threading.Thread(target=sip)
    reader.start()
    began = time.monotonic()
    try:
        with pytest.raises(OSError, match=r"unavailable|too little"):
            connection.send(bytes(64 << 20))
    finally:
        stopping.set()
        connection.close()
        reader.join()
    assert time.monotonic() - began < 10


class Short(socket.socket):
    """A socket of which one call sends a part of what it is given, as the kernel may."""

    def sendmsg(self, parts: Any) -> int:  # type: ignore[override]
        return self.send(b"".join(parts)[:1000])


def test_parts_arrive_whole_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.association.transport.MAX_PARTS", 100)
    parts = [bytes([number % 251]) * (number % 31) for number in range(1005)]
    one, peer = socket.socketpair()
    with peer, Short(fileno=one.detach()) as sending:
        send_parts(sending, parts, DEADLINE_SECONDS)
        sending.shutdown(socket.SHUT_WR)
        assert b"".join(iter(lambda: peer.recv(65536), b"")) == b"".join(parts)


def test_another_thread_can_hang_up(pair: tuple[Transport, socket.socket]) -> None:
    connection, _ = pair
    other = threading.Timer(0.05, connection.hang_up)
    other.start()
    space = memoryview(bytearray(100))
    deadline = time.monotonic() + DEADLINE_SECONDS
    while (count := connection.receive(space)) == 0:
        assert time.monotonic() < deadline
    assert count is None
    other.join()
