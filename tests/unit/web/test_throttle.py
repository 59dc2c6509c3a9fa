"""Guessing passwords is slowed down."""

from __future__ import annotations

from node.web.throttle import FORGET_SECONDS, FREE_TRIES, MAX_KEYS, MAX_WAIT_SECONDS, Throttle


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_each_further_failure_doubles_the_wait() -> None:
    clock = Clock()
    throttle = Throttle(clock=clock)
    waits = []
    for _ in range(20):
        assert throttle.begin("a") == 0
        waits.append(throttle.wait_seconds("a"))
        clock.now += waits[-1]
    assert waits[: FREE_TRIES - 1] == [0] * (FREE_TRIES - 1)
    assert waits[FREE_TRIES - 1 : FREE_TRIES + 3] == [1, 2, 4, 8]
    assert waits[-1] == MAX_WAIT_SECONDS
    assert throttle.wait_seconds("a") == 0


def test_tries_that_come_at_once_are_counted_before_any_has_failed() -> None:
    throttle = Throttle(clock=Clock())
    assert [throttle.begin("a") for _ in range(FREE_TRIES + 2)] == [0.0] * FREE_TRIES + [1.0, 1.0]


def test_the_number_of_free_tries_can_be_chosen() -> None:
    throttle = Throttle(100, Clock())
    assert [throttle.begin("a") for _ in range(101)] == [0.0] * 100 + [1.0]


def test_others_do_not_wait() -> None:
    throttle = Throttle(clock=Clock())
    for _ in range(FREE_TRIES):
        throttle.begin("a")
    assert throttle.wait_seconds("a") > 0
    assert throttle.wait_seconds("b") == 0


def test_success_and_time_make_forget() -> None:
    clock = Clock()
    throttle = Throttle(clock=clock)
    for _ in range(FREE_TRIES):
        throttle.begin("a")
    throttle.succeeded("a")
    assert throttle.wait_seconds("a") == 0
    for _ in range(FREE_TRIES):
        throttle.begin("a")
    clock.now += FORGET_SECONDS
    throttle.begin("a")
    assert throttle.wait_seconds("a") == 0


def test_a_flood_of_keys_costs_no_memory() -> None:
    throttle = Throttle(clock=Clock())
    for number in range(MAX_KEYS + 100):
        throttle.begin(str(number))
    assert len(throttle._failures) == MAX_KEYS


def test_days_of_guessing_are_no_error() -> None:
    clock = Clock()
    throttle = Throttle(clock=clock)
    for _ in range(1100):
        assert throttle.begin("a") == 0
        clock.now += MAX_WAIT_SECONDS
    assert throttle.begin("a") == 0
