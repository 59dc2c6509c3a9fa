"""Waiting for what another thread, or another process, does; and a service that runs meanwhile."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

Service = TypeVar("Service", bound=Any)


def within(seconds: float, condition: Callable[[], object]) -> bool:
    """Whether something comes true in time."""
    deadline, pause, wait = time.monotonic() + seconds, threading.Event(), 0.005
    while not condition():
        if time.monotonic() > deadline:
            return False
        pause.wait(wait)
        wait = min(wait * 1.5, 0.1)  # to look at a root takes a hundredth of a second of a processor
    return True


def until(condition: Callable[[], object], seconds: float = 30.0, what: str = "") -> None:
    """Wait for something that another thread or process does, with a deadline."""
    assert within(seconds, condition), f"not within {seconds} s: {what}"


@contextmanager
def running(service: Service, *how: float) -> Iterator[Service]:
    """Start a service, and stop it at the end of the block; `how` is for the stop."""
    service.start()
    try:
        yield service
    finally:
        service.stop(*how)
