"""Messages between the node and a child: what the node sends is pickled, what a child answers is plain bytes.

A child that runs foreign code may answer anything. The node therefore never unpickles an answer, reads no more than it
allows, and waits no longer than its deadline, also if a message stops in its middle. Every request has an identity
that nobody can guess, which its answer repeats: nothing that a child writes can become the answer to a later request.

`typed` values come from the JSON of a child: what has another type is refused, never made to fit. pydantic does the
same for the configuration and for HTTP, but takes longer to prepare than the conversion of one slice.
"""

from __future__ import annotations

import os
import select
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import StrEnum
from functools import cache, partial
from time import monotonic
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from node.errors import VoxelnodeError
from node.files.durable import write_all

IDENTITY_BYTES = 16

ANSWER, DEATH = b"a", b"d"
"""Kinds of answers: what was asked for, or the exit status, as text, of a process that ended without an answer."""

_LENGTH = struct.Struct(">Q")  # between the head of a message, if it has one, and its content
_ANSWER = struct.Struct(f">{IDENTITY_BYTES}scQ")
_DEATH_BYTES = 16
_PIECE_BYTES = 1 << 20
_CHECK_SECONDS = 0.2


class ChildLate(VoxelnodeError):
    """The child process did not answer in time and was killed."""


class ChildCancelled(VoxelnodeError):
    """The answer is no longer wanted; the child process was killed."""


class Garbled(VoxelnodeError):
    """The child process sent something that is no answer."""


@dataclass(frozen=True, slots=True)
class Wait:
    """How long the node waits for a child: until a moment of `monotonic`, the end of the child, or an event."""

    deadline: float
    lifeline: int
    cancelled: Sequence[threading.Event]

    def for_(self, descriptor: int, event: int) -> None:
        """Return when the descriptor of a pipe has this event of `select.poll`, or when its other end was closed.

        Raises EOFError: the child ended.
        """
        poll = select.poll()
        poll.register(descriptor, event)
        poll.register(self.lifeline, select.POLLIN)
        while True:
            if any(event.is_set() for event in self.cancelled):
                raise ChildCancelled
            left = self.deadline - monotonic()
            ready = [number for number, _ in poll.poll(1000 * max(min(left, _CHECK_SECONDS), 0.0))]
            if descriptor in ready and left > 0:
                return
            if self.lifeline in ready:
                raise EOFError
            if left <= 0:
                raise ChildLate


# The node's side; its descriptors are non-blocking


def send_request(descriptor: int, identity: bytes, content: bytes, wait: Wait) -> None:
    """Write one request.

    Raises EOFError, OSError: the child ended.
    """
    left = memoryview(identity + _LENGTH.pack(len(content)) + content)
    while left:
        wait.for_(descriptor, select.POLLOUT)
        try:
            left = left[os.write(descriptor, left[:_PIECE_BYTES]) :]
        except BlockingIOError:  # room for less than a page
            continue


def receive_answer(descriptor: int, identity: bytes, max_bytes: int, wait: Wait) -> tuple[bytes, bytes]:
    """Read the answer to one request; return its kind and its content. Answers to earlier requests are dropped.

    Raises Garbled: it is longer than `max_bytes`, or of no known kind. Raises EOFError, OSError: the child ended.
    """
    while True:
        found, kind, length = _ANSWER.unpack(_received(descriptor, _ANSWER.size, wait))
        if kind not in (ANSWER, DEATH) or length > (max_bytes if kind == ANSWER else _DEATH_BYTES):
            raise Garbled
        content = _received(descriptor, length, wait)
        if found == identity:
            return kind, content


def _received(descriptor: int, length: int, wait: Wait) -> bytes:
    pieces: list[bytes] = []
    while length:
        wait.for_(descriptor, select.POLLIN)
        piece = os.read(descriptor, min(length, _PIECE_BYTES))
        if not piece:
            raise EOFError
        pieces.append(piece)
        length -= len(piece)
    return b"".join(pieces)


# Where descriptors block: in the child, and between its processes


def read_message(descriptor: int, head_bytes: int = 0, max_bytes: int | None = None) -> tuple[bytes, bytearray] | None:
    """Return head and content of the next message; None at the end, or if it is longer than `max_bytes`."""
    head = _exactly(descriptor, head_bytes + _LENGTH.size)
    if head is None:
        return None
    [length] = _LENGTH.unpack_from(head, head_bytes)
    content = None if max_bytes is not None and length > max_bytes else _exactly(descriptor, length)
    return None if content is None else (bytes(head[:head_bytes]), content)


def read_request(descriptor: int) -> tuple[bytes, bytearray] | None:
    """Return identity and content of the next request; None at the end."""
    return read_message(descriptor, IDENTITY_BYTES)


def write_message(descriptor: int, content: bytes | bytearray, head: bytes = b"") -> None:
    """Write a message; that of a request is its identity."""
    write_all(descriptor, head + _LENGTH.pack(len(content)))
    write_all(descriptor, content)


def write_answer(descriptor: int, identity: bytes, content: bytes, kind: bytes = ANSWER) -> None:
    """Answer a request."""
    write_message(descriptor, content, identity + kind)


def _exactly(descriptor: int, length: int) -> bytearray | None:
    content = bytearray(length)
    left = memoryview(content)
    while left:
        count = os.readv(descriptor, [left[:_PIECE_BYTES]])
        if not count:
            return None
        left = left[count:]
    return content


class WrongType(VoxelnodeError):
    """A value is not of its type; the message says where it is, and does not quote it."""


def of_type(kind: Any, value: Any) -> Any:
    """Return a value that `json.loads` gave as an object of a type.

    `kind`: a dataclass, a `StrEnum`, ``str``, ``int``, ``float``, ``bool``, a literal, an optional one or a tuple of
        these. A list becomes a tuple, an object a dataclass, an integer a float where one is wanted, and a whole float
        an integer.
    """
    return _reader(kind)(value, "")


@cache
def _reader(kind: Any) -> Callable[[Any, str], Any]:
    """Return what reads a value of a type that is at a place."""
    origin, arguments = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return partial(_object, kind, _fields_of(kind))
    if origin is tuple and arguments[1:] == (...,):
        return partial(_list, _reader(arguments[0]))
    if origin is tuple:
        return partial(_tuple, tuple(map(_reader, arguments)))
    if origin in (Union, UnionType) and len(arguments) == 2 and arguments[1] is type(None):
        return partial(_optional, _reader(arguments[0]))
    if origin is Literal:
        return partial(_one_of, {name: name for name in arguments})
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return partial(_one_of, {member.value: member for member in kind})
    return partial(_plain, kind)


def _fields_of(kind: Any) -> dict[str, tuple[Callable[[Any, str], Any], bool]]:
    """Return the reader of each field of a dataclass, and whether the field must be given."""
    hints = get_type_hints(kind)
    return {
        field.name: (_reader(hints[field.name]), field.default is MISSING and field.default_factory is MISSING)
        for field in fields(kind)
    }


def _object(kind: Any, known: dict[str, tuple[Callable[[Any, str], Any], bool]], value: Any, where: str) -> Any:
    if not isinstance(value, dict) or not value.keys() <= known.keys():
        raise WrongType(f"{where or 'the answer'} is not an object of its type")
    if lacking := [name for name, (_, needed) in known.items() if needed and name not in value]:
        raise WrongType(f"{where}.{lacking[0]} is missing".lstrip("."))
    return kind(**{name: known[name][0](own, f"{where}.{name}".lstrip(".")) for name, own in value.items()})


def _list(read: Callable[[Any, str], Any], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise WrongType(f"{where} is not a list")
    return tuple([read(own, where) for own in value])


def _tuple(readers: tuple[Callable[[Any, str], Any], ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list) or len(value) != len(readers):
        raise WrongType(f"{where} is not a list of {len(readers)}")
    return tuple([read(own, where) for read, own in zip(readers, value, strict=True)])


def _optional(read: Callable[[Any, str], Any], value: Any, where: str) -> Any:
    return None if value is None else read(value, where)


def _one_of(values: dict[str, Any], value: Any, where: str) -> Any:
    if not isinstance(value, str) or value not in values:
        raise WrongType(f"{where} is not one of its words")
    return values[value]


_PLAIN = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


def _plain(kind: type, value: Any, where: str) -> Any:
    if kind is int and isinstance(value, float) and value.is_integer() and abs(value) < 1 << 53:
        value = int(value)
    is_of_kind = isinstance(value, int | float if kind is float else kind)
    if not is_of_kind or (isinstance(value, bool) and kind is not bool):
        raise WrongType(f"{where} is not {_PLAIN[kind]}")
    return kind(value)
