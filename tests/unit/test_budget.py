"""Who gets a place, and who gives way."""

import threading
from contextlib import suppress
from typing import Any

import pytest

from node.runtime import budget
from node.runtime.budget import Budget, Caller, Claim, Limits, Stage, Standing, Turns, decide, first_pending
from node.runtime.metrics import Metrics
from tests.waiting import until

NOW = 1000.0
LIMITS = Limits(places=4, per_address=3, per_caller=3, pending=3)
RESERVING = Limits(places=4, per_address=4, per_caller=4, pending=3, reserved=1)
PROVEN, ADMINISTRATOR = Standing.PROVEN, Standing.ADMINISTRATOR


class Connection:
    """A connection in the state that a test gives it."""

    def __init__(self, served: bool = False, under_way: bool = False) -> None:
        self.is_served, self.is_under_way, self.is_closed = served, under_way, False

    def hang_up(self) -> None:
        self.is_closed = True


def claim(
    address: str = "10.0.0.1", age: float = 2.0, standing: Standing = Standing.STRANGER, caller: str = "",
    worked: float | None = None, moved: float | None = None, **state: Any,
) -> Claim:  # fmt: skip
    """A claim whose place is `age` seconds old, and which worked or moved bytes so many seconds ago."""
    made = Claim(Connection(**state), address, standing, caller, since=NOW - age)
    made.worked_at = NOW - worked if worked is not None else budget.NEVER
    made.moved_at = NOW - moved if moved is not None else budget.NEVER
    return made


def served(count: int, **options: Any) -> list[Claim]:
    return [claim(served=True, **options) for _ in range(count)]


@pytest.mark.parametrize(
    ("newcomer", "placed", "limits", "expected"),
    [
        pytest.param(claim(), served(2), LIMITS, None, id="a place is free"),
        pytest.param(claim(), served(3), LIMITS, "address", id="the share of its address is used up"),
        pytest.param(claim("fd00::1"), served(3, address="fd00::2"), LIMITS, "address", id="a /64 is one address"),
        pytest.param(claim(""), served(3, address=""), LIMITS, None, id="a proxy has no share"),
        pytest.param(
            claim(standing=PROVEN), served(3), LIMITS, None, id="strangers at its address do not count against a peer"
        ),
        pytest.param(
            claim("10.0.0.9", caller="a", standing=PROVEN), served(3, caller="a", standing=PROVEN), LIMITS, "caller",
            id="the share of its account is used up",
        ),
        pytest.param(
            claim("10.0.0.9", caller="a", standing=ADMINISTRATOR), served(3, caller="a", standing=ADMINISTRATOR),
            LIMITS, None, id="administrators have no share",
        ),
        pytest.param(claim("10.0.0.9"), served(4), LIMITS, "places", id="all are served"),
        pytest.param(claim("10.0.0.9"), served(3), RESERVING, "places", id="the last place is reserved"),
        pytest.param(claim("10.0.0.9", standing=PROVEN), served(3), RESERVING, None, id="for a peer"),
        pytest.param(
            claim("10.0.0.9", standing=PROVEN), served(4, standing=PROVEN), RESERVING, "places", id="peers took it"
        ),
        pytest.param(claim("10.0.0.9"), [claim(age=6), *served(3)], LIMITS, 0, id="who does nothing gives way"),
        pytest.param(
            claim("10.0.0.9"), [claim(age=6, standing=PROVEN), *served(3)], LIMITS, "places", id="but not to a stranger"
        ),
        pytest.param(
            claim("10.0.0.1"), [claim(age=6), *served(2)], LIMITS, 0, id="also within the share of an address"
        ),
        pytest.param(
            claim("10.0.0.2"), [claim("10.0.0.2", age=6), claim(age=1), *served(2)], LIMITS, 1,
            id="the greedy address gives first",
        ),
        pytest.param(
            claim("10.0.0.9"), [claim("10.0.0.2", age=6, worked=10), claim("10.0.0.3", age=6), *served(2)], LIMITS, 1,
            id="who has worked in the last minute stays before who has not",
        ),
        pytest.param(
            claim("10.0.0.9"), [claim("10.0.0.2", age=90, worked=80), claim("10.0.0.3", age=70), *served(2)], LIMITS, 0,
            id="to have worked once is not for ever",
        ),
        pytest.param(
            claim("10.0.0.9"), [claim("10.0.0.2", age=90), *[claim(age=6) for _ in range(3)]], LIMITS, 1,
            id="the address that has most, the oldest",
        ),
        pytest.param(
            claim("10.0.0.9"), [claim(worked=0.1), claim("10.0.0.2", worked=3), *served(2)], LIMITS, 0,
            id="an address with more than its even part gives a place at once to one with less",
        ),
        pytest.param(
            claim("10.0.0.9"), [claim(f"10.0.0.{number}", worked=0.1) for number in range(4)], LIMITS, "places",
            id="nobody has more than the even part",
        ),
        pytest.param(
            claim("10.0.0.9"), [claim(moved=1, under_way=True), *served(3)], LIMITS, "places",
            id="who receives with progress stays",
        ),
        pytest.param(
            claim("10.0.0.9"), [claim(under_way=True), *served(3)], LIMITS, 0, id="a message that does not come on"
        ),
        pytest.param(
            claim("10.0.0.9"), [claim(age=60, moved=7, under_way=True), *served(3)], LIMITS, 0, id="nor any more"
        ),
        pytest.param(
            claim("10.0.0.9", standing=PROVEN), [claim(f"10.0.0.{number}", worked=0.1) for number in range(4)],
            LIMITS, 0, id="strangers give way to a peer at once",
        ),
        pytest.param(
            claim("10.0.0.9", standing=ADMINISTRATOR), served(4, standing=PROVEN), LIMITS, "places",
            id="but not those that are being served",
        ),
    ],
)  # fmt: skip
def test_who_gets_a_place(newcomer: Claim, placed: list[Claim], limits: Limits, expected: Any) -> None:
    decision = decide(newcomer, placed, limits, NOW)
    assert (placed.index(decision) if isinstance(decision, Claim) else decision) == expected


def test_of_pending_connections_the_oldest_of_the_address_that_has_most_gives_way() -> None:
    pending = [claim("10.0.0.2", age=9), claim("10.0.0.1", age=3), claim("10.0.0.1", age=5)]
    assert first_pending(pending) is pending[2]
    pending = [claim("10.0.0.1", age=9, standing=PROVEN), claim("10.0.0.1", age=5, standing=PROVEN), claim("10.0.0.3")]
    assert first_pending(pending) is pending[2]


def test_bytes_are_progress_when_there_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "monotonic", lambda: NOW)
    trickling = claim(age=9)
    for _ in range(budget.PROGRESS_BYTES - 1):
        trickling.moved(1)
    assert trickling.last_at == NOW - 9
    trickling.moved(1)
    assert trickling.last_at == NOW


def test_who_gave_way_gets_no_place_and_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics()
    door = Budget("hl7", Limits(places=1, per_address=1, per_caller=1, pending=2), metrics)
    first, second, third = (Claim(Connection(), f"10.0.0.{number}") for number in range(3))
    door.connect(first)
    assert door.enter(first) is None
    assert door.enter(second) == "places"
    assert metrics.snapshot()["voxelnode_refused_connections_total{port=hl7}{rule=places}"] == 1
    real = budget.monotonic()
    monkeypatch.setattr(budget, "monotonic", lambda: real + budget.IDLE_SECONDS + 1)
    assert door.enter(second) is None
    assert first.stage is Stage.EVICTED
    assert first.holder.is_closed
    assert door.enter(first) == "places"
    assert metrics.snapshot()["voxelnode_evicted_connections_total{port=hl7}{rule=places}"] == 1
    assert door.enter(third) == "places"
    door.leave(second)
    assert door.enter(third) is None


def holding(turns: Turns, caller: Caller, begun: threading.Semaphore, go_on: threading.Event) -> threading.Thread:
    """A thread that takes a turn, and keeps it until `go_on`; one that is refused ends."""

    def hold() -> None:
        with suppress(TimeoutError), turns.turn(caller, 20):
            begun.release()
            go_on.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    return thread


def test_nobody_waits_for_the_work_of_one_caller_however_much_that_is() -> None:
    turns, begun, go_on = Turns(4, 20, TimeoutError), threading.Semaphore(0), threading.Event()
    flood = [holding(turns, Caller("flood"), begun, go_on) for _ in range(50)]
    for _ in range(4):
        assert begun.acquire(timeout=10), "a caller uses every turn that nobody else wants"
    assert not begun.acquire(timeout=0.05), "and no more"
    with turns.turn(Caller("other"), 10), turns.turn(Caller("chief", is_administrator=True), 10):
        assert turns._held["flood"] <= 4 + 10
        with pytest.raises(TimeoutError), turns.turn(Caller("flood"), 0.01):
            pass
    go_on.set()
    for thread in flood:
        thread.join(20)
    assert not turns._held
    assert not turns._running


def test_of_those_that_wait_who_has_fewest_turns_is_next() -> None:
    turns, begun, go_on, later = (
        Turns(2, 20, TimeoutError),
        threading.Semaphore(0),
        threading.Event(),
        threading.Event(),
    )
    order: list[str] = []

    def wait(name: str) -> None:
        with turns.turn(Caller(name), 20):
            order.append(name)

    held = [holding(turns, Caller("one"), begun, later if index else go_on) for index in range(2)]
    beyond = holding(turns, Caller("three"), begun, later)
    for _ in range(3):
        assert begun.acquire(timeout=10)
    waiting = []
    for name in ("one", "one", "two"):
        waiting.append(threading.Thread(target=wait, args=(name,)))
        waiting[-1].start()
        until(lambda: len(turns._queue) == len(waiting), 10, "a place in the queue")
    go_on.set()
    until(lambda: bool(order), 10, "a turn")
    assert order[0] == "two"
    later.set()
    for thread in (*held, beyond, *waiting):
        thread.join(20)
    assert sorted(order) == ["one", "one", "two"]
