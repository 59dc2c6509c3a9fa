"""Jobs of hooks in a node whose extension for results is switched off: they can be ended, and nothing else."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from threading import Event
from typing import IO

from node.background import BackgroundService
from node.errors import UsageError
from node.index.work.jobs import Job, JobRepository, JobState
from node.settings.model import Settings


class NoResults:
    """See `node.hookspecs.Results`. No hook has `results` here, so nobody asks for what raises."""

    def __init__(self, jobs: JobRepository, now: Callable[[], dt.datetime]) -> None:
        self._jobs, self._now = jobs, now

    def under_way(self, job_id: str) -> AbstractContextManager[Event]:
        raise _off()

    def folder(self, job_id: str) -> Path:
        raise _off()

    def empty_folder(self, job_id: str) -> Path:
        raise _off()

    def new_file(self, job: Job, name: str) -> AbstractContextManager[IO[bytes]]:
        raise _off()

    def finish(
        self, job_id: str, content: object = None, detail: str | None = None, wait_seconds: float = 60.0
    ) -> None:
        raise _off()

    def end(self, job_id: str, state: JobState, detail: str | None = None) -> None:
        """End a job that is open, of before the extension was switched off."""
        self._jobs.end(job_id, state, detail, self._now())

    def sweep(self) -> None:
        """Leave the folders of jobs as they are."""

    def services(self, settings: Settings) -> Sequence[BackgroundService]:
        """Return nothing."""
        return ()

    def close(self) -> None:
        """Do nothing."""


def _off() -> UsageError:
    return UsageError("the extension for results is switched off by [extensions] disabled")
