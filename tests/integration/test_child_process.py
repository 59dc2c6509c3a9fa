"""Child processes: replaced, ended and silent, whatever they do."""

import json
import os
import pickle
import re
import resource
import select
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from node.children.child import Child, ChildDied, ChildPool
from node.children.messages import ANSWER, IDENTITY_BYTES, ChildCancelled, ChildLate
from node.children.serving import ChildPipes, limit

pytestmark = pytest.mark.usefixtures("other_pythons")

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 60.0
MAX_BYTES = 3 << 20


def serve(channel: ChildPipes, memory_bytes: int | None = None) -> None:
    """Serve requests in the child: answer with its number, print, exit, or wait."""
    if memory_bytes is not None:
        limit(memory_bytes, 1 << 30)
    for request in channel.requests():
        match request:
            case "pid":
                _answer(channel, os.getpid())
            case "print", text:
                os.write(1, text)
                os.write(2, text)
                _answer(channel, None)
            case "limits":
                _answer(channel, [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_CORE)])
            case "read", path:
                _answer(channel, (os.getpid(), Path(path).read_text()))
            case "die", text:
                os.write(2, text)
                os._exit(1)
            case int():
                os._exit(request)
            case _:
                _misbehave(channel, request)


def _misbehave(channel: ChildPipes, request: object) -> None:
    match request:
        case "bytes", int(length):
            channel.answer(bytes(length))
        case "write", bytes(content):
            os.write(channel.answers_to, content)
        case "deaf":
            os.close(channel.requests_from)
            _answer(channel, None)
            threading.Event().wait()
        case "wait" | ("wait", _):
            threading.Event().wait()


def _answer(channel: ChildPipes, answer: object) -> None:
    channel.answer(json.dumps(answer).encode())


def call(child: Child | ChildPool, request: object, seconds: float = SECONDS) -> Any:
    return json.loads(child.call(request, seconds))


def a_child(*arguments: object) -> Child:
    return Child(serve, *arguments, name="child", max_answer_bytes=MAX_BYTES)


@pytest.fixture
def child() -> Iterator[Child]:
    with closing(a_child()) as child:
        yield child


def test_an_answer_is_as_long_as_it_may_be_and_no_longer(child: Child) -> None:
    assert child.call(("bytes", MAX_BYTES), SECONDS) == bytes(MAX_BYTES)
    with pytest.raises(ChildDied):
        child.call(("bytes", MAX_BYTES + 1), SECONDS)
    assert call(child, "pid")


@pytest.mark.slow
@pytest.mark.parametrize(
    "written", [b"x" * 100, pickle.dumps(print), bytes(IDENTITY_BYTES) + ANSWER + b"\xff" * 8], ids=repr
)
def test_what_is_no_answer_ends_the_child(child: Child, written: bytes) -> None:
    with pytest.raises(ChildDied):
        child.call(("write", written), SECONDS)
    assert call(child, "pid")


def test_an_answer_that_stops_in_its_middle_is_not_waited_for(child: Child) -> None:
    call(child, "pid")
    with pytest.raises(ChildLate):
        child.call(("write", b"half"), 0.5)


def test_an_answer_to_another_request_is_dropped(child: Child) -> None:
    ahead = bytes(IDENTITY_BYTES) + ANSWER + (4).to_bytes(8, "big") + b"evil"
    with pytest.raises(ChildLate):
        child.call(("write", ahead), 0.5)


@pytest.mark.slow
def test_a_request_that_is_not_read_is_not_waited_for(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.children.child._END_SECONDS", 0.1)  # the deaf child does not end by itself
    call(child, "pid")
    with pytest.raises(ChildLate):
        child.call(("wait", bytes(1 << 20)), 0.5)
    call(child, "deaf")
    with pytest.raises(ChildDied):
        child.call(("wait", bytes(1 << 20)), SECONDS)


def test_no_module_of_the_node_unpickles_or_lets_multiprocessing_do_it() -> None:
    """Only the child's half may, and a link, of values alone; whatever a child sends is bytes."""
    unpickling = re.compile(
        r"pickle\.loads?\(|Unpickler|\.recv\(\)|ProcessPoolExecutor|multiprocessing\.(Queue|Pool|Manager)"
    )
    found = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "node").rglob("*.py")
        if unpickling.search(path.read_text(encoding="utf-8"))
    }
    assert found == {"node/children/serving.py", "node/runtime/link.py"}


@pytest.mark.slow
def test_a_child_that_ends_is_reported_with_its_status_and_replaced(child: Child) -> None:
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


@pytest.mark.slow
@pytest.mark.parametrize("end", [_late, _cancelled, Child.close])
def test_a_child_is_ended_at_once_and_replaced(child: Child, end: Callable[[Child], None]) -> None:
    first = os.pidfd_open(int(str(call(child, "pid"))))
    end(child)
    _wait_for_the_end(first)
    assert call(child, "pid")


@pytest.fixture
def pool() -> Iterator[ChildPool]:
    with closing(ChildPool(serve, name="child", max_answer_bytes=MAX_BYTES)) as pool:
        pool._processors = 2
        yield pool


def test_calls_one_after_the_other_are_served_by_one_child(pool: ChildPool) -> None:
    assert len({call(pool, "pid") for _ in range(3)}) == 1


@pytest.mark.slow
def test_a_call_has_a_child_to_itself_and_the_one_used_last_serves_next(pool: ChildPool, tmp_path: Path) -> None:
    first = call(pool, "pid")
    with _reading(pool, tmp_path / "fifo") as (reader, answer):
        assert first != call(pool, "pid") == call(pool, "pid")
        reader("text")
        assert answer.result(SECONDS) == [first, "text"]
    assert call(pool, "pid") == first


def test_a_call_waits_for_a_busy_child_where_each_processor_has_one(pool: ChildPool, tmp_path: Path) -> None:
    pool._processors = 1
    with _reading(pool, tmp_path / "fifo") as (reader, answer), ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(call, pool, "pid")
        reader("text")
        assert waiting.result(SECONDS) == answer.result(SECONDS)[0]


def test_a_call_starts_another_child_if_none_becomes_free(
    pool: ChildPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.children.child.PATIENCE_SECONDS", 0.0)
    pool._processors = 1
    with _reading(pool, tmp_path / "fifo") as (reader, answer):
        other = call(pool, "pid")
        reader("text")
        assert other != answer.result(SECONDS)[0]


@pytest.mark.slow
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


@pytest.mark.sample(2)
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
def test_a_child_that_ended_for_want_of_memory_is_known(pool: ChildPool, text: bytes, out_of_memory: bool) -> None:
    with pytest.raises(ChildDied) as died:
        call(pool, ("die", text))
    assert (died.value.exitcode, died.value.out_of_memory) == (1, out_of_memory)


@pytest.mark.slow
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
    with closing(a_child(1 << 33)) as child:
        assert call(child, "limits") == [1 << 33, 0]


def test_limits_are_no_wider_than_those_that_the_process_was_given() -> None:
    program = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (1 << 33, 1 << 33))
resource.setrlimit(resource.RLIMIT_CPU, (1000, 1000))
from node.children.serving import limit
limit(1 << 40, 1 << 30)
print(*resource.getrlimit(resource.RLIMIT_AS), *resource.getrlimit(resource.RLIMIT_CPU))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(1 << 33)] * 2 + ["1000"] * 2


def test_a_child_that_cannot_be_started_is_reported_and_may_be_started_later(child: Child) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))  # which are open: none is free, wherever gaps are
    try:
        with pytest.raises(OSError, match="Too many open files"):
            call(child, "pid")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert call(child, "pid") != os.getpid()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Child", "ChildPool"])
def test_what_a_child_prints_reaches_nobody(kind: str) -> None:
    with _in_another_process("call(child, ('print', b'Nemo^Captain'))", kind) as parent:
        assert parent.communicate(timeout=SECONDS) == (b"", b"")
    assert parent.returncode == 0


@pytest.mark.slow
def test_a_child_ends_with_the_process_that_started_it() -> None:
    with _in_another_process("print(call(child, 'pid'), flush=True); call(child, 'wait')") as parent:
        child = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
        _wait_for_the_end(child)


def _in_another_process(step: str, kind: str = "Child") -> subprocess.Popen[bytes]:
    program = f"""
import sys
from tests.integration.test_child_process import *
with closing({kind}(serve, name="child", max_answer_bytes=MAX_BYTES)) as child:
    {step}
"""
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe)


def _wait_for_the_end(process: int) -> None:
    """A descriptor of a process is readable once it has ended."""
    ended, _, _ = select.select([process], [], [], SECONDS)
    os.close(process)
    assert ended
