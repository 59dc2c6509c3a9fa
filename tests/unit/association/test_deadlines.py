"""Deadlines of an association, on a clock that the tests set."""

import pytest

from node.association import transport as deadlines
from node.association.framing import Framing
from node.association.transport import Deadlines, Overdue
from tests.protocol.conftest import p_data, pdv

PDU = p_data(pdv(1, 0, bytes(100)))


class Clock:
    """A monotonic clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(deadlines, "monotonic", made)
    return made


@pytest.fixture
def running(clock: Clock) -> Deadlines:
    """The deadlines of an open association."""
    made = Deadlines(idle_seconds=300)
    made.start_idling()
    return made


def read(running: Deadlines, framing: Framing, data: bytes) -> None:
    """Read as an association does, and take out what is whole."""
    running.before_read(framing)
    framing.space()[: len(data)] = data
    framing.filled(len(data))
    running.after_read()
    while framing.next() is not None:
        pass


def open_framing() -> Framing:
    made = Framing(4096, 2000, 1024)
    made.expect_data()
    return made


def test_each_pdu_has_its_own_deadline(clock: Clock, running: Deadlines) -> None:
    framing = open_framing()
    stream = PDU * 6
    for at in range(50, len(stream), len(PDU)):  # each read ends within a PDU
        read(running, framing, stream[max(0, at - len(PDU)) : at])
        running.before_read(framing)
        clock.now += 20
        assert running.overdue() is None
    clock.now += 20
    assert running.overdue() is Overdue.PDU


def test_a_pdu_in_drops_is_overdue(clock: Clock, running: Deadlines) -> None:
    framing = open_framing()
    for at in range(40):
        read(running, framing, PDU[at : at + 1])
        running.before_read(framing)
        clock.now += 1
    assert running.overdue() is Overdue.PDU


def test_bytes_keep_an_association_from_being_idle(clock: Clock, running: Deadlines) -> None:
    framing = open_framing()
    for _ in range(3):
        clock.now += 200
        read(running, framing, PDU)
        assert running.overdue() is None
    clock.now += 301
    assert running.overdue() is Overdue.IDLE


def test_only_the_timer_runs_before_an_association_is_open(clock: Clock) -> None:
    fresh = Deadlines(idle_seconds=5)
    fresh.start_timer()
    framing = Framing(4096, 2000, 1024)
    read(fresh, framing, b"\x01\x00\x00\x00\x00\xcd")
    fresh.before_read(framing)
    clock.now += 9
    assert fresh.overdue() is None
    fresh.stop_timer()
    fresh.start_idling()
    assert fresh.overdue() is None  # the deadline of the request is not that of the association
    fresh.start_timer()
    clock.now += 11
    assert fresh.overdue() is Overdue.TIMER
