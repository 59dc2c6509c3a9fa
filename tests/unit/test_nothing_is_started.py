"""`conftest.py` of this folder refuses what starts a process or opens a socket."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import socket
import subprocess
from collections.abc import Callable

import pytest


@pytest.mark.parametrize(
    "start",
    [
        lambda: subprocess.run(["true"], check=False),
        lambda: os.system("true"),
        lambda: os.fork() or os._exit(0),
        lambda: multiprocessing.get_context("fork").Process(target=int).start(),
        lambda: multiprocessing.get_context("spawn").Process(target=int).start(),
        lambda: socket.socket(),
        lambda: socket.create_server(("127.0.0.1", 0)),
        lambda: socket.socketpair()[0].connect("/nowhere"),
    ],
)
def test_a_unit_test_is_refused_processes_and_sockets(start: Callable[[], object]) -> None:
    with pytest.raises(RuntimeError, match="move the test elsewhere"):
        start()


def test_a_loop_of_asyncio_is_within_this_process() -> None:
    async def answer() -> int:
        return 42

    assert asyncio.run(answer()) == 42
