"""Child processes: replaced, ended and silent, whatever they do."""

from __future__ import annotations

import os
import resource
import select
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from node.child_process import Child, ChildCancelled, ChildDied, ChildLate, ChildPool, limit_memory, requests

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 60.0


def serve(pipe: Connection, memory_bytes: int | None = None) -> None:
    """Serve requests in the child: answer with its number, print, exit, or wait."""
    if memory_bytes is not None:
        limit_memory(memory_bytes)
    for request in requests(pipe):
        match request:
            case "pid":
                pipe.send(os.getpid())
            case "print", text:
                os.write(1, text)
                os.write(2, text)
                pipe.send(None)
            case "limits":
                pipe.send([resource.getrlimit(limit)[0] for limit in (resource.RLIMIT_AS, resource.RLIMIT_CORE)])
            case "read", path:
                pipe.send((os.getpid(), Path(path).read_text()))
            case "die", text:
                os.write(2, text)
                os._exit(1)
            case "wait":
                threading.Event().wait()
            case number:
                os._exit(number)


def call(child: Child | ChildPool, request: object, seconds: float = SECONDS) -> object:
    return child.call(request, seconds)


def test_a_child_is_replaced_after_its_share_of_answers() -> None:
    with closing(Child(serve, name="child", max_answers=2)) as child:
        first, second, third = (call(child, "pid") for _ in range(3))
    assert first == second != third


def test_a_child_that_ends_is_told_with_its_status_and_replaced() -> None:
    with closing(Child(serve, name="child")) as child:
        with pytest.raises(ChildDied) as died:
            call(child, 7)
        assert died.value.exitcode == 7
        assert call(child, "pid") != os.getpid()


def _late(child: Child) -> None:
    with pytest.raises(ChildLate):
        call(child, "wait", 0.0)


def _cancelled(child: Child) -> None:
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(ChildCancelled):
        child.call("wait", SECONDS, cancelled)


@pytest.mark.parametrize("end", [_late, _cancelled, Child.close])
def test_a_child_is_ended_at_once_and_replaced(end: Callable[[Child], None]) -> None:
    with closing(Child(serve, name="child")) as child:
        first = os.pidfd_open(int(str(call(child, "pid"))))
        end(child)
        _wait_for_the_end(first)
        assert call(child, "pid")


@pytest.fixture
def pool() -> Iterator[ChildPool]:
    with closing(ChildPool(serve, name="child")) as pool:
        yield pool


def test_calls_one_after_the_other_are_served_by_one_child(pool: ChildPool) -> None:
    assert len({call(pool, "pid") for _ in range(3)}) == 1


def test_a_call_has_a_child_to_itself_and_the_one_used_last_serves_next(pool: ChildPool, tmp_path: Path) -> None:
    first = call(pool, "pid")
    with _reading(pool, tmp_path / "fifo") as (reader, answer):
        second = call(pool, "pid")
        assert first != second == call(pool, "pid")
        reader("text")
        assert answer.result(SECONDS) == (first, "text")
    assert call(pool, "pid") == first


def test_a_child_that_dies_costs_only_the_request_it_was_serving(pool: ChildPool, tmp_path: Path) -> None:
    with _reading(pool, tmp_path / "fifo") as (reader, answer):
        with pytest.raises(ChildDied) as died:
            call(pool, 7)
        assert died.value.exitcode == 7
        reader("text")
        survivor, text = answer.result(SECONDS)
    assert text == "text"
    assert call(pool, "pid") == survivor


def test_closing_a_pool_ends_the_calls_that_are_under_way_and_refuses_others(pool: ChildPool, tmp_path: Path) -> None:
    child = os.pidfd_open(int(str(call(pool, "pid"))))
    with _reading(pool, tmp_path / "fifo") as (_, answer):
        pool.close()
        _wait_for_the_end(child)
        with pytest.raises(ChildCancelled):
            answer.result(SECONDS)
    with pytest.raises(ChildCancelled):
        call(pool, "pid")


@pytest.mark.parametrize(
    ("text", "out_of_memory"),
    [
        (b"OpenBLAS error: Memory allocation still failed after 10 retries, giving up.\n", True),
        (b"terminate called after throwing an instance of 'std::bad_alloc'\n", True),
        (b"malloc(): memory corruption\n", False),
        (b"", False),
        (b"x" * 1_000_000, False),
    ],
)
def test_a_child_that_a_library_ended_for_want_of_memory_is_known(
    pool: ChildPool, text: bytes, out_of_memory: bool
) -> None:
    with pytest.raises(ChildDied) as died:
        call(pool, ("die", text))
    assert (died.value.exitcode, died.value.out_of_memory) == (1, out_of_memory)


def test_what_a_child_printed_for_an_earlier_request_does_not_count(pool: ChildPool) -> None:
    call(pool, ("print", b"std::bad_alloc"))
    with pytest.raises(ChildDied) as died:
        call(pool, 1)
    assert not died.value.out_of_memory


@contextmanager
def _reading(pool: ChildPool, fifo: Path) -> Iterator[tuple[Callable[[str], object], Future[Any]]]:
    """Let a child wait for text in a FIFO; gives the function that writes it, and the answer to come."""
    os.mkfifo(fifo)
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(call, pool, ("read", str(fifo)))
        with fifo.open("w") as writer:  # returns when the child has opened the other end

            def write(text: str) -> None:
                writer.write(text)
                writer.close()

            yield write, answer


def test_limits_hold_in_the_child() -> None:
    with closing(Child(serve, 1 << 33, name="child")) as child:
        assert call(child, "limits") == [1 << 33, 0]


def test_limits_are_no_wider_than_those_that_the_process_was_given() -> None:
    program = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (1 << 33, 1 << 33))
resource.setrlimit(resource.RLIMIT_CPU, (1000, 1000))
from node.child_process import limit_memory, limit_processor_time
limit_memory(1 << 40)
limit_processor_time(1 << 30)
print(*resource.getrlimit(resource.RLIMIT_AS), *resource.getrlimit(resource.RLIMIT_CPU))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(1 << 33)] * 2 + ["1000"] * 2


def test_a_child_that_cannot_be_started_is_told_and_may_be_started_later() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with closing(Child(serve, name="child")) as child:
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 2, hard))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                call(child, "pid")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert call(child, "pid") != os.getpid()


@pytest.mark.parametrize("kind", ["Child", "ChildPool"])
def test_what_a_child_prints_reaches_nobody(kind: str) -> None:
    with _in_another_process("call(child, ('print', b'Nemo^Captain'))", kind) as parent:
        assert parent.communicate(timeout=SECONDS) == (b"", b"")
    assert parent.returncode == 0


def test_a_child_ends_with_the_process_that_started_it() -> None:
    with _in_another_process("print(call(child, 'pid'), flush=True); call(child, 'wait')") as parent:
        assert parent.stdout is not None
        child = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
        _wait_for_the_end(child)


def _in_another_process(step: str, kind: str = "Child") -> subprocess.Popen[bytes]:
    program = f"""
import sys
from tests.unit.test_child_process import *
with closing({kind}(serve, name="child")) as child:
    {step}
"""
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe)


def _wait_for_the_end(process: int) -> None:
    """A descriptor of a process is readable once it has ended."""
    ended, _, _ = select.select([process], [], [], SECONDS)
    os.close(process)
    assert ended
