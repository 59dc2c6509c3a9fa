"""Starts the children of a node quickly: a process that has imported everything forks them."""

import multiprocessing
import os
import socket
from collections.abc import Callable, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection

from node.children import child


def fork_children() -> None:
    """Have the children of this process forked by one that has imported everything, rather than start another Python.

    That process is Python's own server of forks: it ends with the node and its children.
    """
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0voxelnode-tests-{os.getpid()}")
        listener.listen()
        lives, alive = os.pipe()
        server = os.fork()
        if server == 0:
            os.close(alive)
            os.dup2(2, 1)  # who reads the output of the node does not wait for this process
            try:
                forkserver.main(listener.detach(), lives, [])
            finally:
                os._exit(0)
        vars(forkserver._forkserver).update(  # type: ignore[attr-defined]
            _forkserver_address=listener.getsockname(), _forkserver_alive_fd=alive, _forkserver_pid=server
        )
    os.close(lives)
    child.other_python = _ForkedElsewhere  # type: ignore[assignment]


class _ForkedElsewhere:
    """A child of the server of forks, instead of `node.children.child.other_python`."""

    def __init__(
        self, name: str, descriptors: Sequence[int], function: Callable[..., None], *arguments: object
    ) -> None:
        sent = [Connection(os.dup(end)) for end in descriptors]
        self._process = multiprocessing.get_context("forkserver").Process(
            target=_call, args=(sent, function, *arguments), name=name
        )
        self._process.start()
        for end in sent:
            end.close()

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> int | None:
        self._process.join()
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()


def _call(ends: list[Connection], function: Callable[..., None], *arguments: object) -> None:
    descriptors = [os.dup(end.fileno()) for end in ends]
    for end in ends:
        end.close()
    function(descriptors, *arguments)
