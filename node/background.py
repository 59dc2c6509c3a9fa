"""Background services: threads that sleep until there is work."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from math import inf
from time import monotonic

import structlog

from node.child_process import type_and_location

log = structlog.get_logger()

PAUSE_SECONDS = 1.0
"""Pause after a failed step; doubles with each further failure."""

MAX_PAUSE_SECONDS = 30.0


class BackgroundService(ABC):
    """A thread that calls `step` whenever it is due, from `start` until `stop`.

    The thread sleeps until the time that the last step requested, or until `wake` requests an earlier one; it does not
    poll. An exception ends a step, never the service: it is logged with its location (repetitions are not), and the
    next step follows after a pause.

    Parameters
    ----------
    name : str
        Name of the thread, in the log and in ``/readyz``.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.steps = 0
        self._stopping = threading.Event()
        self._rescheduled = threading.Condition()
        self._due_at = 0.0
        self._failures = 0
        self._last_failure = ""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @abstractmethod
    def step(self) -> float | None:
        """Do the work that is due now.

        Returns
        -------
        float or None
            Seconds until the next step: 0 if there is more to do, None to sleep until `wake`.
        """

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

    def begin_stop(self) -> None:
        """Prevent further steps, and return at once. Long steps check `_stopping`."""
        self._stopping.set()
        with self._rescheduled:
            self._rescheduled.notify()

    def stop(self, seconds: float | None = None) -> None:
        """Prevent further steps, and wait at most `seconds` for the one under way."""
        self.begin_stop()
        if self._thread.is_alive():
            self._thread.join(seconds)

    @property
    def is_alive(self) -> bool:
        """Whether the thread is running."""
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            while self._wait():
                seconds = self._checked_step()
                if seconds is not None:
                    self.wake(seconds)
        finally:
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
            seconds = self.step()
        except Exception as error:
            self._note_failure(error)
            self._stopping.wait(min(PAUSE_SECONDS * 2.0 ** min(self._failures - 1, 10), MAX_PAUSE_SECONDS))
            return 0.0
        if self._failures:
            log.info("service_recovered", service=self.name, failed=self._failures)
        self._failures, self._last_failure = 0, ""
        return seconds

    def _note_failure(self, error: Exception) -> None:
        self._failures += 1
        failure = type_and_location(error)
        if failure != self._last_failure:
            log.exception("service_failed", service=self.name, reason=failure)
            self._last_failure = failure
