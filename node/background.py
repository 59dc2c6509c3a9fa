"""Background services: threads that wait for something to do, and for nothing else."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from math import inf
from time import monotonic

import structlog

from node.child_process import type_and_location

log = structlog.get_logger()

PAUSE_SECONDS = 1.0
"""After a step that failed; doubles with each further failure."""

MAX_PAUSE_SECONDS = 30.0


class BackgroundService(ABC):
    """A thread that calls `step` whenever it is due, from `start` until `stop`.

    The thread sleeps until the moment that the last step asked for, or until `wake` asks for an earlier one. It does
    not tick. An exception ends a step, never the service: it is logged with its place, once for as long as it repeats,
    and the next step comes after a pause.

    Parameters
    ----------
    name : str
        Of the thread, in the log and in ``/readyz``.
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
        """Do what is due now.

        Returns
        -------
        float or None
            Seconds until the next step: 0 if there is more to do, None to sleep until `wake`.
        """

    def _close(self) -> None:  # noqa: B027  (most services hold nothing)
        """Release what the steps used; called once, on the thread of the service, after the last step."""

    def start(self) -> None:
        """Make the first step at once."""
        self._thread.start()

    def wake(self, seconds: float = 0.0) -> None:
        """Make the next step in `seconds` at the latest; a wake-up during a step counts for the next one.

        Callers that report frequent changes give some seconds: the step then comes once for all of them.
        """
        due_at = monotonic() + seconds
        with self._rescheduled:
            if due_at < self._due_at:
                self._due_at = due_at
                self._rescheduled.notify()

    def begin_stop(self) -> None:
        """Make no further step; return at once. Long steps look at `_stopping`."""
        self._stopping.set()
        with self._rescheduled:
            self._rescheduled.notify()

    def stop(self, seconds: float | None = None) -> None:
        """Make no further step; wait until the one under way has ended, for `seconds` at most."""
        self.begin_stop()
        if self._thread.is_alive():
            self._thread.join(seconds)

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
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
        """Sleep until the next step is due; False once the service stops."""
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
