import pickle
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import pytest

from node.errors import NotUnderstood
from node.index.rows.records import Lane
from node.index.rules.custody.deletions import NotThere
from node.runtime.link import CalledBack, Link, LinkEnded

SECONDS = 20


@contextmanager
def linked(offers: dict[str, Callable[..., Any]], **options: Any) -> Iterator[tuple[Link, Link, threading.Event]]:
    """The end of the node, which offers, that of the process for strangers, and an event: the first one is over."""
    over = threading.Event()
    ours, theirs = socket.socketpair()
    node = Link(ours, offers, packages={"node"}, ended=over.set)
    web = Link(theirs, {}, **options)
    node.start()
    web.start()
    try:
        yield node, web, over
    finally:
        web.close()
        node.close()


def test_values_and_exceptions_cross_as_they_are() -> None:
    def raised(error: Exception) -> None:
        raise error

    with linked({"same": lambda *args, **named: (args, named), "raise": raised}) as (_, web, _):
        lane = Lane("route", "a", "b")
        assert web.call("same", lane, {1, 2}, deep=[lane]) == ((lane, {1, 2}), {"deep": [lane]})
        for error in (NotThere("no such series"), OSError(28, "No space left on device"), NotUnderstood("x")):
            with pytest.raises(type(error)) as met:
                web.call("raise", error)
            assert (str(met.value), vars(met.value)) == (str(error), vars(error))


class Program:
    """A value that runs a program where it is read."""

    def __reduce__(self) -> Any:
        return subprocess.check_call, (["false"],)


@pytest.mark.parametrize("one", [Program(), pickle.Unpickler, Link, subprocess.Popen])
def test_what_is_no_value_ends_the_link_unread(one: object) -> None:
    asked: list[object] = []
    with linked({"ask": asked.append}) as (_, web, over):
        with pytest.raises(LinkEnded):
            web.call("ask", one)
        assert over.wait(SECONDS)
        assert asked == []


def test_a_function_is_called_back_where_it_came_from_and_a_future_resolved_there() -> None:
    def change(terms: CalledBack, outcome: Future[str]) -> str:
        terms("a connection, which stays here")
        threading.Thread(target=outcome.set_result, args=("stored",)).start()
        return "changed"

    asked, outcome = [], Future[str]()
    with linked({"change": change}, call_back=lambda terms: terms("its own")) as (_, web, _):
        assert web.call("change", lambda connection: asked.append(connection), outcome) == "changed"
        assert (asked, outcome.result(SECONDS)) == (["its own"], "stored")

        def refuse(connection: object) -> None:
            raise NotThere("it has changed")

        with pytest.raises(NotThere):
            web.call("change", refuse, Future[str]())


def test_what_is_resolved_before_an_answer_is_resolved_once_that_is_here() -> None:
    def apply(outcome: Future[int]) -> None:
        outcome.set_result(1)

    with linked({"apply": apply}) as (_, web, _):
        for _ in range(300):
            outcome = Future[int]()
            web.call("apply", outcome)
            assert outcome.done()


def test_who_waits_for_an_end_that_is_gone_learns_it() -> None:
    began, wait = threading.Event(), threading.Event()

    def hang() -> None:
        began.set()
        wait.wait(SECONDS)

    with linked({"hang": hang}) as (node, web, _):
        met: list[BaseException] = []

        def call() -> None:
            try:
                web.call("hang")
            except LinkEnded as error:
                met.append(error)

        caller = threading.Thread(target=call)
        caller.start()
        assert began.wait(SECONDS)
        node.close()
        caller.join(SECONDS)
        wait.set()
        assert len(met) == 1
        with pytest.raises(LinkEnded):
            web.call("hang")
