"""A test that is slow and not marked `slow` fails, so that the README's command stays quick.

A verdict must not depend on luck: workers beside a test, and whatever else the machine does, make it take longer.
Therefore the least time is judged that the test can take on this machine when it is idle. It is the greater one of:

- the time on the clock, without the time in which anything on the machine waited for a processor, a disk or memory
  (``some`` in ``/proc/pressure``, which the workers beside the test raise as well). Waits of the test itself, such as
  for a deadline, count. The three run at the same time, so the longest of them counts and not their sum, which can be
  more than the time on the clock.
- the processor time of the thread that runs the test.

On a loaded machine a slow test may pass; run alone, it fails. A quick one never fails. Without ``/proc/pressure``, only
processor time is judged.

Setup and call count. A fixture that tests share is judged by itself: only the first of them waits for it. Teardown does
not count, for the last test of a module ends what they share. Nor does what is made once for all tests of a process,
for which the clock stands still.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from operator import add, sub
from pathlib import Path
from typing import Any

import pytest

LIMIT_SECONDS = 5.0
PRESSURE = Path("/proc/pressure")
PRESSURE_SECONDS = 2.1
"""The kernel counts pressure every two seconds."""
LASTS_SECONDS = 0.1
"""For how long a reading serves: to read takes a tenth of a millisecond, as long as some tests."""


Stalled = tuple[float, float, float]
"""Seconds in which anything waited for a processor, for a disk, and for memory."""


def stalled_seconds() -> Stalled:
    """Return for how long anything has waited since the machine was started; grows for ever where nobody knows."""
    return _stalled_at(time.monotonic() // LASTS_SECONDS)


@lru_cache(maxsize=1)
def _stalled_at(moment: float) -> Stalled:
    try:
        cpu, disk, memory = ((PRESSURE / resource).read_text() for resource in ("cpu", "io", "memory"))
    except OSError:
        return (moment * LASTS_SECONDS, 0.0, 0.0)
    return _total(cpu), _total(disk), _total(memory)


def _total(pressure: str) -> float:
    return int(pressure.partition("total=")[2].split()[0]) / 1e6


@dataclass(frozen=True)
class Span:
    """A length of time: on the clock, stalled, and on the processor."""

    seconds: float = 0.0
    stalled: Stalled = (0.0, 0.0, 0.0)
    processor: float = 0.0

    def __add__(self, other: Span) -> Span:
        return self._with(add, other)

    def __sub__(self, other: Span) -> Span:
        return self._with(sub, other)

    def _with(self, do: Callable[[float, float], float], other: Span) -> Span:
        cpu, disk, memory = map(do, self.stalled, other.stalled)
        return Span(do(self.seconds, other.seconds), (cpu, disk, memory), do(self.processor, other.processor))

    @property
    def undisturbed(self) -> float:
        """The time on the clock without that in which something waited."""
        return self.seconds - max(self.stalled)

    @property
    def least(self) -> float:
        """The least time that this takes on an idle machine."""
        return max(self.undisturbed, self.processor)


_left_out = [Span()]


def now() -> Span:
    """Return a moment, as the time since others that no one knows."""
    return Span(time.monotonic(), stalled_seconds(), time.thread_time()) - _left_out[0]


@contextmanager
def standing_still() -> Iterator[None]:
    """Do not count the time of a block that makes what all tests of a process share: the first of them waits for it."""
    began = now()
    try:
        yield
    finally:
        _left_out[0] += now() - began


def settle() -> None:
    """Wait until the kernel has counted all pressure so far."""
    time.sleep(PRESSURE_SECONDS)


def idle_seconds(began: Span, enough: float) -> float:
    """Return how long ago a moment is, and from `enough` on without what the machine did beside it."""
    span = now() - began
    if span.seconds < enough:
        return span.seconds
    before = now()
    settle()
    return (span + replace(now() - before, seconds=0.0)).undisturbed


class Pace:
    """The plugin: measures each test, and fails those that are slow and not marked."""

    def __init__(self) -> None:
        self._test, self._shared = Span(), list[tuple[str, Span]]()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self) -> Generator[None, Any, Any]:
        self._shared, began = [], now()
        try:
            return (yield)
        finally:
            self._test = now() - began

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self) -> Generator[None, Any, Any]:
        began = now()
        try:
            return (yield)
        finally:
            self._test += now() - began

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, Any, Any]:
        if fixturedef.scope == "function":
            return (yield)
        began = now()
        try:
            return (yield)
        finally:
            self._shared.append((fixturedef.argname, now() - began))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        is_marked = any(item.get_closest_marker(name) for name in ("slow", "long"))
        if call.when == "call" and report.passed and not is_marked and (slow := self._slow()):
            report.outcome = "failed"
            report.longrepr = (
                f"{item.nodeid}: {', and '.join(slow)} of an idle machine, more than {LIMIT_SECONDS:g} s: "
                "make it quicker, or mark it pytest.mark.slow"
            )
        return report

    def _slow(self) -> list[str]:
        """Return what of a test, which has just ended, took too long."""
        own = self._test
        for _, span in self._shared:
            own -= span
        spans = {"it took": own, **{f"its fixture {name} took": span for name, span in self._shared}}
        if not any(span.least > LIMIT_SECONDS for span in spans.values()):
            return []
        before = now()
        settle()
        late = Span(stalled=(now() - before).stalled)
        return [f"{what} {span.least:.1f} s" for what, span in spans.items() if (span + late).least > LIMIT_SECONDS]
