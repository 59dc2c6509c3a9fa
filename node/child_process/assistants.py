"""Processes that compute for one that reads foreign bytes, and that may start no process once it is confined.

They are forked before that, and may touch less than the process that they work for: no file, and no pipe but their own
two. What an assistant answers is as foreign as what it was given. One that dies is not replaced: the process that it
worked for computes itself, and meets the same end if the bytes are to blame.
"""

from __future__ import annotations

import os
import signal
import struct
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from node.child_process.confinement import end_with_parent

_LENGTH = struct.Struct(">Q")
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class _Assistant:
    """One process, and this process's ends of its pipes."""

    process: int
    requests: int
    answers: int


class Assistants:
    """A few processes, each of which answers one request at a time. Thread-safe.

    Parameters
    ----------
    count : int
        This process must have no other thread yet.
    confine : callable (set of int)
        Called first in each process, with the descriptors that it keeps.
    compute : callable (bytearray) -> bytes
        An exception ends the process.
    """

    def __init__(self, count: int, confine: Callable[[set[int]], None], compute: Callable[[bytearray], bytes]) -> None:
        self._changed = threading.Condition()
        self._all: list[_Assistant] = []
        for _ in range(count):
            self._all.append(_start(self._all, confine, compute))
        self._idle = list(self._all)
        self._alive = count

    def ask(self, request: bytes, max_answer_bytes: int) -> bytearray | None:
        """Return the answer of the next assistant that is free; None if it died, or if none is left."""
        with self._changed:
            self._changed.wait_for(lambda: self._idle or not self._alive)
            if not self._alive:
                return None
            assistant = self._idle.pop()
        answer = None
        try:
            _write(assistant.requests, request)
            answer = _read(assistant.answers, max_answer_bytes)
        except OSError:  # it ended
            pass
        finally:
            with self._changed:
                if answer is None:
                    self._alive -= 1
                else:
                    self._idle.append(assistant)
                self._changed.notify_all()
        return answer

    def close(self) -> None:
        """End all processes, which notice that their pipes are closed. No request may be under way."""
        for assistant in self._all:
            os.close(assistant.requests)
            os.close(assistant.answers)
        for assistant in self._all:
            os.waitpid(assistant.process, 0)
        self._all, self._idle, self._alive = [], [], 0


def _start(
    others: list[_Assistant], confine: Callable[[set[int]], None], compute: Callable[[bytearray], bytes]
) -> _Assistant:
    its_requests, requests = os.pipe()
    answers, its_answers = os.pipe()
    parent = os.getpid()
    process = os.fork()
    if process == 0:
        try:
            end_with_parent(parent, signal.SIGKILL)
            for number in (requests, answers, *(end for other in others for end in (other.requests, other.answers))):
                os.close(number)  # else their readers would wait for this process, too
            confine({2, its_requests, its_answers})
            _serve(its_requests, its_answers, compute)
        except BaseException:
            traceback.print_exc()  # the node searches it for the word that memory ran out
        finally:
            os._exit(1)
    os.close(its_requests)
    os.close(its_answers)
    return _Assistant(process, requests, answers)


def _serve(requests: int, answers: int, compute: Callable[[bytearray], bytes]) -> NoReturn:
    while (request := _read(requests)) is not None:
        _write(answers, compute(request))
    os._exit(0)


def _write(descriptor: int, content: bytes) -> None:
    for part in (_LENGTH.pack(len(content)), content):
        left = memoryview(part)
        while left:
            left = left[os.write(descriptor, left[:_PIECE_BYTES]) :]


def _read(descriptor: int, max_bytes: int | None = None) -> bytearray | None:
    """Return the next message; None at the end, or if it is longer than `max_bytes`."""
    head = _exactly(descriptor, _LENGTH.size)
    if head is None:
        return None
    [length] = _LENGTH.unpack(head)
    return None if max_bytes is not None and length > max_bytes else _exactly(descriptor, length)


def _exactly(descriptor: int, length: int) -> bytearray | None:
    content = bytearray(length)
    left = memoryview(content)
    while left:
        count = os.readv(descriptor, [left[:_PIECE_BYTES]])
        if not count:
            return None
        left = left[count:]
    return content
