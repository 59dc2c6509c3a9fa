"""How the two processes of a node call each other: the one that receives, and the one that serves HTTP.

A link is a pair of sockets. Each end offers functions by name and calls those of the other end; calls go both ways at
once, each on a thread of its own. Arguments and results are pickled. An argument may also be a function, which the
other end can call back, or a `Future`, which it can resolve.

The process that serves HTTP reads what strangers send. What comes from it is therefore unpickled into values alone:
dataclasses, enumerations, exceptions and named tuples of the node and of its extensions, and a few types of Python.

If either process dies, the other end of the link is at its end: every call that waits there raises `LinkEnded`.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import io
import os
import pathlib
import pickle
import socket
import struct
import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from enum import Enum
from functools import partial
from itertools import count
from mmap import mmap
from types import FunctionType, MethodType
from typing import Any
from zlib import crc32

import structlog

from node.errors import OutOfResources, type_and_location

log = structlog.get_logger()

MAX_CALLS = 64
"""Calls of the other end that are answered at the same time; further ones wait."""

CALL_BACK_SECONDS = 10.0
"""Longest wait of a function that was passed as an argument: the writer of the index may wait for it."""

AT_ONCE = frozenset({"resolve", "configure"})
"""What is called before what was sent after it is read: it must not wait."""

_HEAD = struct.Struct(">Q")
_PLAIN = frozenset({dt, pathlib}), frozenset({"set", "frozenset", "bytearray", "complex", "range", "slice"})
_FUNCTIONS = FunctionType, MethodType, partial


class LinkEnded(OutOfResources):
    """The other process of the node has ended; whether it has done what it was asked for is not known."""


class NotAccepted(Exception):
    """The other end has sent something else than values."""


class CalledBack:
    """A function of the other end, for the time of the call that it came with. Its arguments stay in this process."""

    def __init__(self, link: Link, number: int) -> None:
        self._link, self._number = link, number

    def __call__(self, *here: object) -> Any:
        if threading.current_thread() is self._link._reader:  # while it reads, nothing is called
            raise NotAccepted("a function as a part of a value")
        return self._link._answer_to("back", (self._number,), {}).result(CALL_BACK_SECONDS)


class Link:
    """One end of a link. Thread-safe.

    `offers`: what the other end may call, by name.
    `call_back`: calls a function of this end that was an argument.
    `packages`: whose classes values of the other end may have; None: it is trusted.
    `ended`: called once the other end is gone.
    """

    def __init__(
        self,
        connection: socket.socket,
        offers: Mapping[str, Callable[..., Any]],
        *,
        call_back: Callable[[Callable[..., Any]], Any] = lambda function: function(),
        packages: Collection[str] | None = None,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self._connection, self._stream = connection, connection.makefile("rb")
        self._offers: dict[str, Callable[..., Any]] = {
            **offers,
            "back": lambda number: call_back(self._passed[number]),
            "resolve": self._resolve,
        }
        self._packages, self._ended = packages, ended
        self._sending, self._lock = threading.Lock(), threading.Lock()
        self._numbers = count()
        self._waiting: dict[int, Future[Any]] = {}
        self._passed: dict[int, Any] = {}  # functions and futures that the other end has
        self._is_over = False
        self._threads = ThreadPoolExecutor(MAX_CALLS, thread_name_prefix="link")
        self._reader = threading.Thread(target=self._read, name="link", daemon=True)

    def start(self) -> None:
        """Answer calls from now on, and receive the answers to those of this end."""
        self._reader.start()

    def call(self, name: str, /, *arguments: Any, **named: Any) -> Any:
        """Have the other end call what it offers, and return the result, or raise what it has raised.

        Raises LinkEnded: the other process is gone, or goes meanwhile.
        """
        return self._answer_to(name, arguments, named).result()

    def tell(self, name: str, *arguments: Any) -> None:
        """Have the other end call what it offers, and do not wait for that."""
        with suppress(LinkEnded):
            self._answer_to(name, arguments, {})

    def close(self) -> None:
        """End the link, for both."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        if self._reader.ident is not None:
            self._reader.join()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._stream.close()
        self._connection.close()

    def _answer_to(self, name: str, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> Future[Any]:
        number, answer, passed = next(self._numbers), Future[Any](), list[int]()
        content = self._packed((number, name, arguments, named), passed)
        with self._lock:
            if self._is_over:
                raise LinkEnded("the other process of the node has ended")
            self._waiting[number] = answer
        answer.add_done_callback(lambda _: [self._passed.pop(one, None) for one in passed])
        self._send(content)
        return answer

    def _send(self, content: bytes) -> None:
        with suppress(OSError), self._sending:  # the reader finds out, and has all callers raise
            self._connection.sendall(_HEAD.pack(len(content)) + content)

    def _read(self) -> None:
        try:
            while len(head := self._stream.read(_HEAD.size)) == _HEAD.size:
                [length] = _HEAD.unpack(head)
                number, name, *rest = _Values(self._stream.read(length), self).load()
                if name is None:
                    self._receive(number, *rest)
                elif name in AT_ONCE:
                    self._perform(number, name, *rest)
                else:
                    self._threads.submit(self._perform, number, name, *rest)
        except Exception as error:  # of whatever the other end sends: it is not to be relied on any more
            if not isinstance(error, OSError):
                log.error("link_failed", reason=type_and_location(error), detail=str(error)[:200])
        with self._lock:
            self._is_over = True
            waiting, self._waiting = self._waiting, {}
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        for answer in waiting.values():
            answer.set_exception(LinkEnded("the other process of the node has ended"))
        self._ended()

    def _receive(self, number: int, is_error: bool, result: Any) -> None:
        with self._lock:
            answer = self._waiting.pop(number, None)
        _settle(answer, is_error, result)

    def _perform(self, number: int, name: str, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        is_error = False
        try:
            result = self._offers[name](*arguments, **named)
        except Exception as error:  # of any kind: the caller waits for it
            is_error, result = True, error
        try:
            content = self._packed((number, None, is_error, result), [])
        except Exception as error:  # a result that is no value is a mistake of ours
            log.exception("link_failed", action=name, reason=type_and_location(error))
            content = self._packed((number, None, True, OutOfResources(f"{type_and_location(error)} in the node")), [])
        self._send(content)

    def _resolve(self, number: int, is_error: bool, result: Any) -> None:
        _settle(self._passed.pop(number, None), is_error, result)

    def _packed(self, frame: tuple[Any, ...], passed: list[int]) -> bytes:
        stream = io.BytesIO()
        _Pickler(stream, self, passed).dump(frame)
        return stream.getvalue()

    def _pass(self, one: object) -> int:
        number = next(self._numbers)
        self._passed[number] = one
        return number

    def _future(self, number: int) -> Future[Any]:
        """Return a future that resolves that of the other end."""
        future = Future[Any]()

        def tell(done: Future[Any]) -> None:
            error = done.exception()
            self.tell("resolve", number, error is not None, done.result() if error is None else error)

        future.add_done_callback(tell)
        return future


def _settle(future: Future[Any] | None, is_error: bool, result: Any) -> None:
    """Give a future its result, or the exception in its place; None: nobody waits any more."""
    if future is not None and is_error:
        future.set_exception(result)
    elif future is not None:
        future.set_result(result)


class _Pickler(pickle.Pickler):
    """Passes functions and futures by number, and an exception as its class and what it has."""

    def __init__(self, stream: io.BytesIO, link: Link, passed: list[int]) -> None:
        super().__init__(stream, pickle.HIGHEST_PROTOCOL)
        self._link, self._passed = link, passed

    def persistent_id(self, one: Any) -> tuple[str, Any] | None:
        if isinstance(one, _FUNCTIONS) and one is not _error:
            self._passed.append(self._link._pass(one))
            return "function", self._passed[-1]
        return ("future", self._link._pass(one)) if isinstance(one, Future) else None

    def reducer_override(self, one: Any) -> Any:
        if isinstance(one, BaseException):
            return _error, (type(one), one.args, {**vars(one)})
        return NotImplemented


def _error(kind: type[BaseException], arguments: tuple[Any, ...], fields: Mapping[str, Any]) -> BaseException:
    error = kind.__new__(kind, *arguments)
    error.args = arguments
    error.__dict__.update(fields)
    return error


class _Values(pickle.Unpickler):
    """Reads what the other end sent."""

    def __init__(self, content: bytes, link: Link) -> None:
        super().__init__(io.BytesIO(content))
        self._link = link

    def persistent_load(self, passed: Any) -> Any:
        kind, number = passed
        return CalledBack(self._link, number) if kind == "function" else self._link._future(number)

    def find_class(self, module: str, name: str) -> Any:
        packages = self._link._packages
        if packages is None or (module, name) == (__name__, "_error"):
            return super().find_class(module, name)
        if "." not in name:
            modules, builtins = _PLAIN
            if module in {one.__name__ for one in modules} or (module == "builtins" and name in builtins):
                return super().find_class(module, name)
            if module == "builtins" and name.endswith("Error"):
                return super().find_class(module, name)
            if module.partition(".")[0] in packages:
                found = super().find_class(module, name)
                if isinstance(found, type) and (
                    dataclasses.is_dataclass(found) or issubclass(found, Enum | BaseException | tuple)
                ):
                    return found
        raise NotAccepted(f"{module}.{name}")


LAST, APPLIED, READ_AT, TICKED_AT, VERSION, SLOTS_AT = range(6)
"""Positions in `SharedNumbers`: the last appended record, the last applied record, the time at which the index was last
read, the time at which the loop that serves HTTP last turned, the count of commits that took something away, and the
first slot."""

SLOTS = 1 << 15
"""UIDs that share a slot are taken for each other: while 100 records wait, 1 of 300 other UIDs is."""


class SharedNumbers:
    """Numbers that both processes see at once; `READ_AT` is written by both, each of the others by one.

    `file`: descriptor of a file in memory; without one, only this process sees them.

    `at`: the numbers, by `LAST` and the others.
    """

    def __init__(self, file: int = -1) -> None:
        self.at = memoryview(mmap(file, 8 * (SLOTS_AT + SLOTS))).cast("d")

    def share(self, file: int) -> None:
        """Move the numbers to a file in memory, before another process maps it."""
        os.ftruncate(file, self.at.nbytes)
        shared = SharedNumbers(file).at
        shared[:] = self.at
        self.at = shared

    def note_appended(self, record: int, uid: str = "") -> None:
        """Note the number of a record that was appended, and the UID that it brings."""
        self.at[_slot(uid)] = record
        self.at[LAST] = record

    def may_bring(self, uid: str) -> bool:
        """Return whether a record that is not applied may bring a UID; never False if one does."""
        return self.at[_slot(uid)] > self.at[APPLIED]


def _slot(uid: str) -> int:
    return SLOTS_AT + crc32(uid.encode(errors="replace")) % SLOTS
