"""Background services: threads that sleep until there is work, and that no error ends; the wait between attempts."""

from __future__ import annotations

import ctypes
import datetime as dt
import random
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from email.utils import parsedate_to_datetime
from math import inf
from time import monotonic

import structlog

from node.errors import OutOfResources, type_and_location

log = structlog.get_logger()

SWITCH_SECONDS = 0.0005
"""Longest turn of a thread that computes. A thread that comes back from the disk or from a socket waits for one such
turn, twice for each instance; with Python's default of 5 ms, receiving stood still beside a query."""

ARENAS = 2
"""Regions from which threads take memory (glibc: mallopt(3), M_ARENA_MAX). With one for each thread, what the largest
answers of many callers have needed stays in all of them: 440 MB after floods of searches, 300 MB with two."""

_M_ARENA_MAX = -8

PAUSE_SECONDS = 1.0
"""Pause after a failure; doubles with each further failure."""

MAX_PAUSE_SECONDS = 30.0

TROUBLE_FAILURES = 3
"""Failures in a row after which a thread is in trouble: one may have been an accident."""

FIRST_WAIT_SECONDS, MAX_WAIT_SECONDS = 30.0, 3600.0
"""Wait after the first failed attempt at a conversion, or at what the ledger of work has; and the longest."""

ASK_AGAIN_SECONDS = 5.0
"""Interval at which a service asks whether the work is its own; whoever gives it the work wakes it."""


def share_fairly() -> None:
    """Let the threads of this process take short turns, and memory from few regions; call it before there are any."""
    sys.setswitchinterval(SWITCH_SECONDS)
    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, ARENAS)


class SupervisedThread:
    """A long-lived thread: a function that is called again after a pause if it raises, until it returns.

    `name`: name of the thread, in the log, in ``/readyz`` and in ``/metrics``.
    `run`: returns when it is to end.
    `stopping`: ends the pauses.
    `max_pause_seconds`: longest pause.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[], None],
        stopping: threading.Event | None = None,
        max_pause_seconds: float = MAX_PAUSE_SECONDS,
    ) -> None:
        self.name = name
        self.failures = 0
        self._run, self._stopping = run, stopping or threading.Event()
        self._max_pause_seconds = max_pause_seconds
        self._in_a_row = 0
        self.last_failure = ""
        self._was_started = False
        self._thread = threading.Thread(target=self._supervise, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()
        self._was_started = True

    def join(self, seconds: float | None = None) -> None:
        """Wait for the end of the thread, if it was started."""
        if self._was_started:
            self._thread.join(seconds)

    @property
    def is_alive(self) -> bool:
        """Whether the thread is running."""
        return self._thread.is_alive()

    @property
    def is_current(self) -> bool:
        """Whether the caller is on this thread."""
        return threading.current_thread() is self._thread

    @property
    def trouble(self) -> str | None:
        """What is wrong with the thread, to be read after its name; None if nothing is."""
        if not self.is_alive:
            return "has stopped: see the log"
        if self._in_a_row < TROUBLE_FAILURES:
            return None
        return f"has failed {self._in_a_row} times in a row and tries again: {self.last_failure}"

    def failed(self, error: Exception) -> None:
        """Log a failure with its location (repetitions are not), and pause."""
        self.failures += 1
        self._in_a_row += 1
        failure = str(error) if isinstance(error, OutOfResources) else type_and_location(error)
        if failure != self.last_failure:
            self.last_failure = failure
            with suppress(Exception):  # such as no memory; the thread goes on
                log.exception("service_failed", service=self.name, reason=failure)
        self._stopping.wait(min(PAUSE_SECONDS * 2.0 ** min(self._in_a_row - 1, 10), self._max_pause_seconds))

    def recovered(self) -> None:
        """Note that the thread works."""
        if self._in_a_row:
            log.info("service_recovered", service=self.name, failed=self._in_a_row)
        self._in_a_row, self.last_failure = 0, ""

    def _supervise(self) -> None:
        while True:
            try:
                self._run()
            except Exception as error:
                self.failed(error)
            else:
                return


class BackgroundService(ABC):
    """A thread that calls `step` whenever it is due, from `start` until `stop`.

    The thread sleeps until the time that the last step requested, or until `wake` requests an earlier one; it does not
    poll. An exception ends a step, never the service (`SupervisedThread`), and the next step follows after a pause.

    `name`: name of the thread.

    `lease`: the lease that a host needs for the work of this service; None: every host does it.
    `max_pause_seconds`: longest pause after failures.
    """

    lease: str | None = None
    max_pause_seconds = MAX_PAUSE_SECONDS

    def __init__(self, name: str) -> None:
        self.name = name
        self.steps = 0
        self._was_ours = False
        self._stopping = threading.Event()
        self._rescheduled = threading.Condition()
        self._due_at = 0.0
        self._thread = SupervisedThread(name, self._run, self._stopping, self.max_pause_seconds)

    @abstractmethod
    def step(self) -> float | None:
        """Do the work that is due now.

        The result is the seconds until the next step: 0 if there is more to do, None to sleep until `wake`.
        """

    def _is_ours(self) -> bool:
        """Return whether this process does the work, and not another host; until then, there are no steps."""
        return True

    def _take_up(self) -> None:  # noqa: B027  (most services have nothing to do)
        """Prepare for the first step after another host did the work, or none."""

    def _close(self) -> None:  # noqa: B027  (most services hold nothing)
        """Release the resources of the steps; called once, on the thread of the service, after the last step."""

    def start(self) -> None:
        """Start the thread; the first step runs at once."""
        self._thread.start()

    def wake(self, seconds: float = 0.0) -> None:
        """Run the next step within `seconds`; a wake-up during a step applies to the next one.

        Callers that report frequent changes pass some seconds, so that one step serves all of them.
        """
        due_at = monotonic() + seconds
        with self._rescheduled:
            if due_at < self._due_at:
                self._due_at = due_at
                self._rescheduled.notify()

    def wake_not_before(self, at: float) -> None:
        """Run the next step at a time of the monotonic clock, also if it was due earlier."""
        with self._rescheduled:
            was, self._due_at = self._due_at, at
            if at < was:
                self._rescheduled.notify()

    def begin_stop(self) -> None:
        """Prevent further steps, and return at once. Long steps check `_stopping`."""
        self._stopping.set()
        with self._rescheduled:
            self._rescheduled.notify()

    def stop(self, seconds: float | None = None) -> None:
        """Prevent further steps, and wait at most `seconds` for the one under way."""
        self.begin_stop()
        self._thread.join(seconds)

    def join(self, seconds: float) -> bool:
        """Wait for the end of the thread, for `seconds` at most; return whether it has ended."""
        self._thread.join(seconds)
        return not self.is_alive

    @property
    def is_alive(self) -> bool:
        """Whether the thread is running."""
        return self._thread.is_alive

    @property
    def trouble(self) -> str | None:
        """What is wrong with the service, to be read after its name; None if nothing is."""
        return self._thread.trouble

    @property
    def last_failure(self) -> str:
        """Why the last step failed; empty if it did not."""
        return self._thread.last_failure

    @property
    def failures(self) -> int:
        """How many steps have failed."""
        return self._thread.failures

    def _run(self) -> None:
        while self._wait():
            seconds = self._checked_step()
            if seconds is not None:
                self.wake(seconds)
        self._close()

    def _wait(self) -> bool:
        """Sleep until the next step is due; return False once the service stops."""
        with self._rescheduled:
            while not self._stopping.is_set() and (left := self._due_at - monotonic()) > 0:
                self._rescheduled.wait(None if left == inf else min(left, threading.TIMEOUT_MAX))
            self._due_at = inf
        return not self._stopping.is_set()

    def _checked_step(self) -> float | None:
        self.steps += 1
        try:
            is_ours = self._is_ours()
            if is_ours and not self._was_ours:
                self._take_up()
            self._was_ours = is_ours
            seconds = self.step() if is_ours else ASK_AGAIN_SECONDS
        except Exception as error:
            self._thread.failed(error)
            return 0.0
        self._thread.recovered()
        return seconds


def wait_seconds(attempts: int) -> float:
    """Return the seconds to wait after `attempts` failures: doubled after each, up to an hour."""
    return min(FIRST_WAIT_SECONDS * 2.0 ** min(attempts - 1, 60), MAX_WAIT_SECONDS)


def jittered_wait_seconds(attempts: int, retry_after: float | None) -> float:
    """Return the seconds to wait after `attempts` failures, randomized so that retries are spread out.

    `retry_after`: wait requested by the other side; the result is not shorter, up to `MAX_WAIT_SECONDS`.
    """
    longest = wait_seconds(attempts)
    wait = random.uniform(longest / 2, longest)
    return max(wait, min(retry_after or 0.0, MAX_WAIT_SECONDS))


def seconds_of_retry_after(text: str | None) -> float | None:
    """Return the wait in seconds from ``Retry-After`` (RFC 9110 10.2.3): a number, or a date, in UTC unless it says so.

    None if there is none, or none that can be read.
    """
    if text is None:
        return None
    if text.isdecimal() and text.isascii():
        return float(text[:9])
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    return max(0.0, (moment - dt.datetime.now(dt.UTC)).total_seconds())
