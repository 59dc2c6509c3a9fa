"""Tests of this folder start no process and open no socket: whoever tries is refused."""

import socket
import sys
import time
from collections.abc import Generator, Iterator
from typing import Any

import pytest

REFUSED = frozenset(
    [
        *("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.system"),
        *("socket.bind", "socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo"),
    ]
)
"""Audit events of the interpreter."""

_is_unit_test = False


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if _is_unit_test and (event in REFUSED or _is_of_a_network(event, arguments)):
        raise RuntimeError(f"{event}: tests/unit starts no process and opens no socket; move the test elsewhere")


def _is_of_a_network(event: str, arguments: tuple[Any, ...]) -> bool:
    """Not the pairs by which a loop of asyncio wakes itself up."""
    return event == "socket.__new__" and arguments[1] != socket.AF_UNIX


sys.addaudithook(_refuse)


def _refusing() -> Generator[None, Any, Any]:
    global _is_unit_test
    _is_unit_test = True
    try:
        return (yield)
    finally:
        _is_unit_test = False


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, Any, Any]:
    return (yield from _refusing())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, Any, Any]:
    return (yield from _refusing())


@pytest.fixture
def in_tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nine hours from UTC."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()
