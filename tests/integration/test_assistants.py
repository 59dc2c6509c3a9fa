"""Assistants compute for a process that may start none: at the same time, with less rights, and only as long as it."""

import json
import os
import select
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from node.children.child import Child
from node.children.confinement import offered
from node.children.serving import Apart, Assistance, Assistants, ChildLimits, ChildPipes, serve_apart
from tests.processes import children, descendants, known_outside_as
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("other_pythons")]

SECONDS = 60.0
LIMITS = ChildLimits(memory_bytes=1_000_000_000, cpu_seconds=60, deadline_seconds=SECONDS)


def answers(serve: Callable[..., None], *requests: object) -> list[Any]:
    """Return the answers of a child, one after the other."""
    with closing(Child(serve, name="child", max_answer_bytes=1 << 20)) as child:
        return [json.loads(child.call(request, SECONDS)) for request in requests]


# As a library


def serve_scenarios(channel: ChildPipes) -> None:
    """Run functions of this module, each with two assistants of its own that have met at a pipe."""
    reading, writing = os.pipe()

    def compute(request: bytearray) -> bytes:
        match bytes(request):
            case b"wait":
                return os.read(reading, 1)
            case b"wake":
                return b"%d" % os.write(writing, b"!")
            case b"die":
                os.abort()
            case _:
                return bytes(request) * 2

    for name in channel.requests():
        with closing(Assistants(2, lambda descriptors: None, compute)) as assistants:
            answer = globals()[name](assistants)
        channel.answer(json.dumps(answer).encode())


def together(assistants: Assistants) -> list[str]:
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda request: assistants.ask(request, 10), (b"wait", b"wake")))
    return [bytes(answer or b"").decode() for answer in answers]


def by_many_threads(assistants: Assistants) -> bool:
    with ThreadPoolExecutor(8) as pool:
        requests = [b"%d" % number * 50_000 for number in range(40)]
        return all(
            answer == request * 2
            for request, answer in zip(
                requests, pool.map(lambda request: assistants.ask(request, 1 << 20), requests), strict=True
            )
        )


def deaths(assistants: Assistants) -> list[bool]:
    return [assistants.ask(request, 10) is None for request in (b"die", b"a", b"die", b"a")]


def too_long(assistants: Assistants) -> list[bool]:
    return [assistants.ask(b"123456", 11) is None, assistants.ask(b"12345", 11) is None]


def closed(assistants: Assistants) -> str:
    assistants.ask(b"1234", 1)  # this one is writing
    assistants.close()
    try:
        return str(os.waitpid(-1, os.WNOHANG))
    except ChildProcessError:
        return "none left"


def test_assistants() -> None:
    expected: dict[Callable[[Assistants], object], object] = {
        together: ["!", "1"],
        by_many_threads: True,
        deaths: [True, False, True, True],
        too_long: [True, False],
        closed: "none left",
    }
    names = [scenario.__name__ for scenario in expected]
    assert dict(zip(names, answers(serve_scenarios, *names), strict=True)) == dict(
        zip(names, expected.values(), strict=True)
    )


# In the service of a process that reads foreign bytes

_lent: list[Assistants] = []


def serve(channel: ChildPipes) -> None:
    serve_apart(channel, work, max_requests=2, assistance=Assistance(compute, _lent.append))


def work(request: tuple[str, str], limits: ChildLimits) -> bytes:
    action, path = request
    answer = None
    if _lent:
        answer = _lent[0].ask(json.dumps(request).encode(), 1000)
    own = None if action == "pid" else attempt(action, Path(path))
    return json.dumps({"own": own, "assistant": json.loads(answer) if answer else None}).encode()


def compute(request: bytearray) -> bytes:
    action, path = json.loads(request)
    return json.dumps(os.getpid() if action == "pid" else attempt(action, Path(path))).encode()


def attempt(action: str, path: Path) -> str:
    try:
        match action:
            case "read":
                path.read_bytes()
            case "fork":
                if (process := os.fork()) == 0:
                    os._exit(0)
                os.waitpid(process, 0)
            case "load":
                __import__("zoneinfo").ZoneInfo("UTC")
    except OSError as error:
        return os.strerror(error.errno or 0)
    return "done"


@pytest.fixture
def given(tmp_path: Path) -> Path:
    (tmp_path / "given").write_bytes(b"pixels")
    return tmp_path / "given"


def asked(given: Path, action: str, assistants: int = 1) -> Apart:
    return Apart((action, str(given)), LIMITS, (given,), (), assistants)


@pytest.mark.skipif(not offered().landlock or not offered().seccomp, reason="this kernel confines nothing")
def test_an_assistant_may_less_than_what_it_works_for(given: Path) -> None:
    assert answers(serve, *(asked(given, action) for action in ("read", "fork", "load"))) == [
        {"own": "done", "assistant": "Permission denied"},
        {"own": "Operation not permitted", "assistant": "Operation not permitted"},
        {"own": "done", "assistant": "done"},
    ]


def test_without_assistants_there_is_none(given: Path) -> None:
    assert answers(serve, asked(given, "read", 0))[0]["assistant"] is None


def test_an_assistant_ends_with_what_it_works_for_and_leaves_no_zombie(given: Path, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"")
    before = children()
    with closing(Child(serve, name="child", max_answer_bytes=1000)) as child:
        answer = json.loads(child.call(asked(given, "pid", 3), SECONDS))
        [keeper] = children() - before
        descriptor = os.pidfd_open(known_outside_as(keeper, answer["assistant"]))
        for number in range(4):  # other files each time, so in another process
            child.call(asked((given, tmp_path / "other")[number % 2 == 0], "pid", 3), SECONDS)
        assert select.select([descriptor], [], [], SECONDS)[0]
        os.close(descriptor)
        until(lambda: len(descendants(keeper)) <= 5, SECONDS, "those before have ended")


def test_assistants_end_with_the_keeper(given: Path) -> None:
    before = children()
    with closing(Child(serve, name="child", max_answer_bytes=1000)) as child:
        answer = json.loads(child.call(asked(given, "pid"), SECONDS))
        [keeper] = children() - before
        descriptor = os.pidfd_open(known_outside_as(keeper, answer["assistant"]))
        os.kill(keeper, signal.SIGKILL)
        assert select.select([descriptor], [], [], SECONDS)[0]
        os.close(descriptor)
