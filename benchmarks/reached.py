"""Which functions of the node each test enters: ``benchmarks/mutants.py`` copies this as ``sitecustomize``.

Every Python process that a test starts imports it, so functions that run in child processes count as well. Lines of the
file `REACHED_FILE`: kind, test, then path and first line of a function, or the seconds of a test. (PYTEST_DONT_REWRITE:
as a plugin it was imported before pytest.)
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from types import FrameType
from typing import Any

FILE = os.environ.get("REACHED_FILE", "")
BELOW = tuple(os.environ.get("REACHED_BELOW", "").split(os.pathsep))
"""Beginnings of the paths of functions that count."""

_environment: dict[bytes, bytes] = os.environ._data  # type: ignore[attr-defined]
"""Read for each call of a function: `os.environ` would decode it each time."""
_seen: set[tuple[bytes, str, int]] = set()


def _enter(frame: FrameType, event: str, _: Any) -> None:
    if event != "call" or not (code := frame.f_code).co_filename.startswith(BELOW):
        return
    if (test := _environment.get(b"PYTEST_CURRENT_TEST")) is None:
        return
    entered = test, code.co_filename, code.co_firstlineno
    if entered not in _seen:
        _seen.add(entered)
        _write("entered", os.fsdecode(test), f"{code.co_filename}:{code.co_firstlineno}")


def _write(*words: str) -> None:
    # Opened each time: a process may have closed the descriptors that it inherited. Some may open no file at all.
    with suppress(Exception), open(FILE, "a", encoding="utf-8") as stream:
        stream.write("\t".join(words) + "\n")


def pytest_runtest_logreport(report: Any) -> None:
    """As a plugin, write how long tests took that passed, and which failed."""
    if FILE and "PYTEST_XDIST_WORKER" not in os.environ:
        if report.failed:
            _write("failed", report.nodeid, "")
        elif report.passed:
            _write("passed", report.nodeid, str(report.duration))


if FILE:
    threading.setprofile(_enter)
    sys.setprofile(_enter)
