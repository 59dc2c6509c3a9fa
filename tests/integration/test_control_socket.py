"""Commands that reach the process which holds the root."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from node.control.control_socket import NotPerformed, RequestDesk, ask
from node.errors import UsageError, VoxelnodeError


def add(a: int, b: int) -> dict[str, Any]:
    return {"sum": a + b}


def refuse(**_: Any) -> dict[str, Any]:
    raise VoxelnodeError("it is under a legal hold")


def misuse(**_: Any) -> dict[str, Any]:
    raise UsageError("no such thing")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[RequestDesk]:
    running = RequestDesk(tmp_path, {"add": add, "refuse": refuse, "misuse": misuse})
    running.start()
    yield running
    running.stop()


def left(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "requests").iterdir())


def test_a_request_is_answered_and_leaves_nothing_behind(desk: RequestDesk, tmp_path: Path) -> None:
    assert ask(tmp_path, "add", {"a": 1, "b": 2}, 10) == {"sum": 3}
    assert left(tmp_path) == []


def test_requests_of_many_are_each_answered(desk: RequestDesk, tmp_path: Path) -> None:
    answers: dict[int, Any] = {}
    threads = [
        threading.Thread(target=lambda n=n: answers.update({n: ask(tmp_path, "add", {"a": n, "b": n}, 10)}))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {n: {"sum": 2 * n} for n in range(8)}


def test_a_refusal_and_wrong_use_are_told_in_the_words_of_the_action(desk: RequestDesk, tmp_path: Path) -> None:
    with pytest.raises(NotPerformed, match="legal hold"):
        ask(tmp_path, "refuse", {}, 10)
    with pytest.raises(UsageError, match="no such thing"):
        ask(tmp_path, "misuse", {}, 10)


@pytest.mark.parametrize(("action", "arguments"), [("unknown", {}), ("add", {"c": 1})])
def test_what_the_node_cannot_do_is_told_and_the_desk_goes_on(
    desk: RequestDesk, tmp_path: Path, action: str, arguments: dict[str, Any]
) -> None:
    with pytest.raises(NotPerformed, match="in the node"):
        ask(tmp_path, action, arguments, 10)
    assert ask(tmp_path, "add", {"a": 1, "b": 1}, 10) == {"sum": 2}


def test_a_request_that_nobody_takes_up_is_withdrawn(tmp_path: Path) -> None:
    with pytest.raises(NotPerformed, match="did not take this up"):
        ask(tmp_path, "add", {"a": 1, "b": 2}, 0.1)
    assert left(tmp_path) == []


def test_a_request_that_a_dead_node_had_claimed_is_not_performed_twice(tmp_path: Path) -> None:
    performed: list[int] = []

    def count(n: int) -> dict[str, Any]:
        performed.append(n)
        return {}

    desk = RequestDesk(tmp_path, {"count": count})
    claimed = tmp_path / "requests" / "abc.claimed"
    claimed.write_text(json.dumps({"action": "count", "arguments": {"n": 1}}))
    old = tmp_path / "requests" / "old.answer"
    old.write_text("{}")
    os.utime(old, (0, 0))
    desk.start()
    try:
        assert "ended while it worked" in json.loads((tmp_path / "requests" / "abc.answer").read_bytes())["error"]
        assert ask(tmp_path, "count", {"n": 2}, 10) == {}
        assert performed == [2]
        assert left(tmp_path) == ["abc.answer"]
    finally:
        desk.stop()
