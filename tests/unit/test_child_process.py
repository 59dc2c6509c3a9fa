"""Child processes: replaced, ended and silent, whatever they do."""

from __future__ import annotations

import os
import resource
import select
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from node.child_process import Child, ChildCancelled, ChildDied, ChildLate, questions, settle

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 60.0


def serve(pipe: Connection, memory_bytes: int | None = None) -> None:
    """Do what is asked, in the child: answer with its number, print, exit, or wait."""
    settle(memory_bytes)
    for question in questions(pipe):
        match question:
            case "pid":
                pipe.send(os.getpid())
            case "print":
                os.write(1, b"Nemo^Captain")
                os.write(2, b"Nemo^Captain")
                pipe.send(None)
            case "limits":
                pipe.send([resource.getrlimit(limit)[0] for limit in (resource.RLIMIT_AS, resource.RLIMIT_CORE)])
            case "wait":
                threading.Event().wait()
            case number:
                os._exit(number)


def ask(child: Child, question: object, seconds: float = SECONDS) -> object:
    return child.ask(question, seconds, threading.Event())


def test_a_child_is_replaced_after_its_share_of_answers() -> None:
    with closing(Child(serve, name="child", answers=2)) as child:
        first, second, third = (ask(child, "pid") for _ in range(3))
    assert first == second != third


def test_a_child_that_ends_is_told_with_its_status_and_replaced() -> None:
    with closing(Child(serve, name="child")) as child:
        with pytest.raises(ChildDied) as died:
            ask(child, 7)
        assert died.value.exitcode == 7
        assert ask(child, "pid") != os.getpid()


def _late(child: Child) -> None:
    with pytest.raises(ChildLate):
        ask(child, "wait", 0.0)


def _cancelled(child: Child) -> None:
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(ChildCancelled):
        child.ask("wait", SECONDS, cancelled)


@pytest.mark.parametrize("end", [_late, _cancelled, Child.close])
def test_a_child_is_ended_at_once_and_replaced(end: Callable[[Child], None]) -> None:
    with closing(Child(serve, name="child")) as child:
        first = os.pidfd_open(int(str(ask(child, "pid"))))
        end(child)
        _wait_for_the_end(first)
        assert ask(child, "pid")


def test_limits_hold_in_the_child() -> None:
    with closing(Child(serve, 1 << 33, name="child")) as child:
        assert ask(child, "limits") == [1 << 33, 0]


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
                ask(child, "pid")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert ask(child, "pid") != os.getpid()


def test_what_a_child_prints_reaches_nobody() -> None:
    with _in_another_process("ask(child, 'print')") as parent:
        assert parent.communicate(timeout=SECONDS) == (b"", b"")
    assert parent.returncode == 0


def test_a_child_ends_with_the_process_that_started_it() -> None:
    with _in_another_process("print(ask(child, 'pid'), flush=True); ask(child, 'wait')") as parent:
        assert parent.stdout is not None
        child = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
        _wait_for_the_end(child)


def _in_another_process(step: str) -> subprocess.Popen[bytes]:
    program = f"""
import sys
from tests.unit.test_child_process import *
with closing(Child(serve, name="child")) as child:
    {step}
"""
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe)


def _wait_for_the_end(process: int) -> None:
    """A descriptor of a process is readable once it has ended."""
    ended, _, _ = select.select([process], [], [], SECONDS)
    os.close(process)
    assert ended
