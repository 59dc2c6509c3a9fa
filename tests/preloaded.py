"""Starts processes quickly: one that has imported everything forks each `voxelnode` that tests want.

The start of the command takes more than a second of a processor, and that of a converter half of one, nearly all of it
for imports. That the command itself starts, and ends by itself, is what tests/acceptance/test_cli_serve.py is for; its
converters are other processes of Python.

Where several workers run the tests, they are forks of the same process (`Worker`), and so are the children of their
nodes (`Child`); tests about how children start and end have others (``other_pythons``). A single worker has neither.
"""

import atexit
import faulthandler
import gc
import importlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import IO, Any

from execnet.gateway_base import Popen2IO

from node.children import child
from tests.made_once import IN_POSTGRESQL, migrated, migrated_in_postgresql, share_indexes
from tests.pace import standing_still

PROJECT = Path(__file__).resolve().parents[1]
ORDER_BYTES = 1 << 17

LIKE_MACOS = {"PYTHONPATH": str(PROJECT / "tests/like_macos")}
"""In the environment of a command that starts by itself: it lacks what only Linux has."""

FIRST_WAIT = "TESTS_FIRST_WAIT_SECONDS"
"""Variable of a node that tries again sooner, after these seconds: series, messages, and services that failed."""
LOOKS = "TESTS_LOOKS_SECONDS"
"""Interval at which retention looks at the clock, and whether somebody has confirmed it."""
ORDERS = "TESTS_ORDERS"
"""Descriptor by which a worker has nodes and children forked, by the process of which it is a fork itself."""
other_python = child.other_python
"""Starts a child for tests that are about how it starts."""


_orders: dict[str, socket.socket] = {}
"""Takes orders of this process, by the library that must be there when a process starts (``LD_PRELOAD``), or none."""
_forkers: list[subprocess.Popen[bytes]] = []


def _orders_of(preload: str) -> socket.socket:
    """Where to have processes forked: by one that this process starts first, and that ends with it."""
    if preload not in _orders:
        if IN_POSTGRESQL:
            migrated_in_postgresql()  # processes that are forked have the same server
        orders, its_orders = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its_orders, standing_still():
            _forkers.append(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.preloaded", str(its_orders.fileno())],
                    cwd=PROJECT,
                    env={**os.environ, "LD_PRELOAD": preload},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[its_orders.fileno()],
                )
            )
            its_orders.close()
            orders.recv(1)  # it is ready, or has ended
        _orders[preload] = orders
    return _orders[preload]


def close_forkers() -> None:
    """Fork no more; nodes that run go on."""
    while _orders:
        _orders.popitem()[1].close()
    for forker in _forkers:
        forker.kill()
        forker.wait()


class Process:
    """A `voxelnode` with these arguments and with more in its environment: the part of `Popen` that tests need.

    With the text of a `program` it is that instead, as ``python -c`` runs it. With a `terminal`, it prints to that.
    With `descriptors`, it reads the first, and is that program, which has the others, and nothing of a node.

    Its number stays its own until `wait` has returned, even if it is dead: a signal never reaches another process.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        log: IO[Any] | int,
        folder: Path | None = None,
        program: str = "",
        terminal: int | None = None,
        descriptors: Sequence[int] = (),
    ) -> None:
        preload = environment.get("LD_PRELOAD", os.environ.get("LD_PRELOAD", ""))
        orders = _orders_of(preload)
        output, its_output = os.pipe()
        self.stdout = os.fdopen(output, encoding="utf-8")
        if terminal is not None:
            os.dup2(terminal, its_output)
        self._connection, its_connection = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        order = {"arguments": list(arguments), "environment": {**os.environ, **environment}}
        order |= {"folder": str(folder or Path.cwd()), "program": program, "reads": bool(descriptors)}
        with its_connection:
            passed = [its_connection.fileno(), its_output, log if isinstance(log, int) else log.fileno()]
            passed += descriptors or [orders.fileno()]
            socket.send_fds(orders, [json.dumps(order).encode()], passed)
        os.close(its_output)
        self.returncode: int | None = None
        self.pid = int(self._connection.recv(64))
        assert self.pid > 1  # a signal to any other number would reach more than one process

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status once the process has ended, as `subprocess.Popen.wait` does."""
        if self.returncode is None:
            self._connection.settimeout(timeout)
            try:
                self.returncode = int(self._connection.recv(64))
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired("voxelnode", timeout or 0) from None
            self._connection.close()
        return self.returncode


def run(
    *arguments: object, environment: Mapping[str, str] | None = None, folder: Path | None = None, check: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, as `subprocess.run` does; it has what this process has in its environment, and more.

    Raises subprocess.CalledProcessError: it failed, and `check` is true.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        process = Process([str(argument) for argument in arguments], environment or {}, log, folder)
        try:
            with process.stdout:
                output = process.stdout.read()
            status = process.wait()
        finally:
            process.kill()  # it may hang until pytest ends the test
        log.seek(0)
        done = subprocess.CompletedProcess(["voxelnode", *arguments], status, output, log.read())
    if check:
        done.check_returncode()
    return done


class Worker(Popen2IO):  # type: ignore[misc]
    """A worker of pytest-xdist, instead of the process of execnet: most of its imports are made."""

    def __init__(self, arguments: Sequence[str], execmodel: Any) -> None:
        its_input, input = os.pipe()
        program = f"import os; os.environ['{ORDERS}'] = str(descriptors[0]); {arguments[-1]}"
        worker = Process([], {}, 2, program=program, descriptors=[its_input, _orders_of("").fileno()])
        os.close(its_input)
        super().__init__(os.fdopen(input, "wb"), worker.stdout.buffer, execmodel)
        self.wait, self.kill = worker.wait, worker.kill


class Child(Process):
    """A child of a node, instead of `node.children.child.other_python`: all of its imports are made."""

    def __init__(self, name: str, ends: Sequence[int], function: Callable[..., None], *arguments: object) -> None:
        self._lock = threading.Lock()
        its_input, input = os.pipe()
        program = "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); "
        program += "f, *arguments = pickle.load(sys.stdin.buffer); f(list(descriptors), *arguments)"
        super().__init__([name], {}, 2, program=program, terminal=2, descriptors=[its_input, *ends])
        os.close(its_input)
        self.stdout.close()  # who reads the output of the node does not wait for its children
        with suppress(BrokenPipeError), os.fdopen(input, "wb") as told:
            told.write(pickle.dumps(sys.path) + pickle.dumps((function, *arguments)))

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        with self._lock:
            return super().wait(timeout)


def fork_children(orders: int) -> None:
    """Have the children of this process forked by the one that takes these orders, rather than start another Python."""
    _orders[os.environ.get("LD_PRELOAD", "")] = socket.socket(fileno=orders)
    os.set_inheritable(orders, False)
    child.other_python = Child  # type: ignore[assignment]


if ORDERS in os.environ:
    fork_children(int(os.environ.pop(ORDERS)))


# The process that forks


def main(descriptor: int) -> None:
    """Fork a node for each order until there can be no more."""
    from node.cli.application import commands
    from node.conversion import pool
    from node.settings.model import Settings
    from node.web.application import routes_of
    from node.writers.options import WriteOptions

    modules = [command.place.partition(":")[0] for command in commands()]
    served = ("node.settings.load", "pydantic_settings", "node.control.node", "node.web.server", "uvicorn.lifespan.on")
    for module in (*modules, *served, "uvicorn.protocols.http.httptools_impl", "uvloop", "tests.crash.mutants"):
        importlib.import_module(module)
    routes_of(Settings())  # more than half of a start: each route finds out what its requests may have
    pool._loaded()
    pool._load_writers(WriteOptions(), ())
    if not os.environ["LD_PRELOAD"]:  # on a disk that fails, the index must have been synced
        share_indexes()
        migrated()
        _serve_once()
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how attendants ended
    with socket.socket(fileno=descriptor) as orders:
        orders.send(b"!")
        while True:
            encoded, descriptors, _, _ = socket.recv_fds(orders, ORDER_BYTES, 16)
            if not encoded:
                return
            if os.fork() == 0:
                orders.close()
                _attend(json.loads(encoded), *descriptors)
            for own in descriptors:
                os.close(own)


def _serve_once() -> None:
    """Start a node and stop it: half of the work of a first start is to write out statements."""
    from node.control.node import Node
    from node.settings.model import Settings

    with tempfile.TemporaryDirectory() as folder:
        storage = {"root": Path(folder, "root"), "reserve_bytes": 0}
        node = Node(Settings(storage=storage, dicom={"port": 0}, web={"port": 0, "process": False}))  # type: ignore[arg-type]
        node.start()
        node.stop(5)
    for thread in set(threading.enumerate()) - {threading.current_thread()}:
        thread.join(5)  # a timer that was cancelled ends a moment later
    assert threading.active_count() == 1, threading.enumerate()  # only this one will be in a fork


def _attend(order: dict[str, Any], connection: int, *descriptors: int) -> None:
    """Fork a node, a worker or a child, tell its number, and its exit status when it has ended; never returns."""
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        forked = os.fork()
        if forked == 0:
            os.close(connection)
            _become(order, *descriptors)
        for its_own in descriptors:
            os.close(its_own)
        with socket.socket(fileno=connection) as reported:
            reported.send(str(forked).encode())
            ended = os.waitid(os.P_PID, forked, os.WEXITED | os.WNOWAIT)
            assert ended is not None
            reported.send(str(ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status).encode())
            reported.recv(1)  # ends when nobody can send it a signal any more
        os.waitpid(forked, 0)
        status = 0
    finally:
        os._exit(status)


def _become(order: dict[str, Any], output: int, log: int, *descriptors: int) -> None:
    """Become what was ordered; never returns."""
    from node.runtime import failpoints

    input = descriptors[0] if order["reads"] else os.open(os.devnull, os.O_RDONLY)
    status = 1
    try:
        for stream, descriptor in enumerate((input, output, log)):
            os.dup2(descriptor, stream)
            os.close(descriptor)
        os.chdir(order["folder"])
        os.environ.clear()
        os.environ.update(order["environment"])
        importlib.reload(failpoints)  # reads its variable
        if order["reads"]:
            sys.modules["__main__"] = ModuleType("__main__")
            exec(order["program"], {"__name__": "__main__", "descriptors": descriptors[1:]})
        else:
            _serve(order, *descriptors)
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:  # the interpreter would print it
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()  # type: ignore[attr-defined]
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)


def _serve(order: dict[str, Any], orders: int) -> None:
    """Do what a node does, or a program that is run in its place."""
    import node.__main__
    from node.cli import main as voxelnode
    from node.lifecycle import retention
    from node.runtime import background
    from tests.crash import held, mutants, small_journal

    faulthandler.enable()  # SIGABRT writes the stack of each thread to the log
    fork_children(orders)
    if (wait := os.environ.get(FIRST_WAIT)) is not None:
        background.FIRST_WAIT_SECONDS = background.PAUSE_SECONDS = background.MAX_PAUSE_SECONDS = float(wait)
    if (looks := os.environ.get(LOOKS)) is not None:
        retention.STEP_SECONDS = float(looks)
    small_journal.make_small()
    held.hold()
    mutant = os.environ.get(mutants.VARIABLE)
    if mutant is not None:
        mutants.MUTANTS[mutant]()
    sys.modules["__main__"] = node.__main__ if mutant is None else mutants
    if order["program"]:
        sys.argv = ["-c", *order["arguments"]]
        exec(order["program"], {"__name__": "__main__"})
    else:
        voxelnode(order["arguments"])


if __name__ == "__main__":
    main(int(sys.argv[1]))
