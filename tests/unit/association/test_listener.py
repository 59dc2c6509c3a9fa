"""When the listener is ready, and how long it waits for associations before it stops."""

from types import SimpleNamespace
from typing import Any

import pytest

from node.association.listener import Listener


def listener(**parts: Any) -> Any:
    """One with some of its parts alone, which listens nowhere."""
    made = object.__new__(Listener)
    vars(made).update({"_sockets": [], "_acceptor": None, "threads": {}, "listeners": {}, "services": []} | parts)
    return made


@pytest.mark.parametrize(
    ("alive", "is_open", "is_ready"),
    [([True, True], True, True), ([True, False], True, False), ([], True, False), ([True], False, False)],
)
def test_a_listener_is_ready_while_each_of_its_threads_lives(alive: list[bool], is_open: bool, is_ready: bool) -> None:
    threads = {str(number): SimpleNamespace(is_alive=one) for number, one in enumerate(alive)}
    assert listener(threads=threads, _acceptor=object() if is_open else None).is_listening is is_ready


def test_associations_in_use_have_the_time_to_go_on_and_to_finish() -> None:
    asked: list[tuple[str, float]] = []
    budget = SimpleNamespace(
        wait_until_empty=lambda seconds: asked.append(("wait", seconds)), hang_up=lambda: asked.append(("hang up", 0.0))
    )
    admission = SimpleNamespace(drain=lambda seconds: asked.append(("drain", seconds)), budget=budget)
    listener(admission=admission).drain(5.0, finish_seconds=3.0)
    assert asked == [("drain", 3.0), ("wait", 8.0), ("hang up", 0.0), ("wait", 1.0)]
