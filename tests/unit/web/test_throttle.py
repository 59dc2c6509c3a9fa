"""Guessing passwords is slowed down."""

from node.web.sessions import FORGET_SECONDS, MAX_KEYS, MAX_WAIT_SECONDS, Throttle

FREE_TRIES = 5


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_each_further_failure_doubles_the_wait() -> None:
    clock = Clock()
    throttle = Throttle(FREE_TRIES, clock)
    waits = []
    for _ in range(20):
        throttle.count("a")
        waits.append(throttle.wait_seconds("a"))
        clock.now += waits[-1]
    assert waits[: FREE_TRIES - 1] == [0] * (FREE_TRIES - 1)
    assert waits[FREE_TRIES - 1 : FREE_TRIES + 3] == [1, 2, 4, 8]
    assert waits[-1] == MAX_WAIT_SECONDS
    assert throttle.wait_seconds("a") == 0


def test_others_do_not_wait() -> None:
    throttle = Throttle(FREE_TRIES, Clock())
    for _ in range(FREE_TRIES):
        throttle.count("a")
    assert throttle.wait_seconds("a") > 0
    assert throttle.wait_seconds("b") == 0


def test_success_and_time_make_forget() -> None:
    clock = Clock()
    throttle = Throttle(FREE_TRIES, clock)
    for _ in range(FREE_TRIES):
        throttle.count("a")
    assert throttle.forgive("a", 2) == 2
    assert throttle.wait_seconds("a") == 0
    assert throttle.forgive("a") == FREE_TRIES - 2
    assert throttle.wait_seconds("a") == 0
    for _ in range(FREE_TRIES):
        throttle.count("a")
    clock.now += FORGET_SECONDS
    throttle.count("a")
    assert throttle.wait_seconds("a") == 0


def test_a_flood_of_keys_costs_no_memory() -> None:
    throttle = Throttle(FREE_TRIES, Clock())
    for number in range(MAX_KEYS + 100):
        throttle.count(str(number))
    assert len(throttle._failures) == MAX_KEYS


def test_days_of_guessing_are_no_error() -> None:
    clock = Clock()
    throttle = Throttle(FREE_TRIES, clock)
    for _ in range(1100):
        assert throttle.wait_seconds("a") == 0
        throttle.count("a")
        clock.now += MAX_WAIT_SECONDS
    assert throttle.wait_seconds("a") == 0
