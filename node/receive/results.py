"""Store the results of hooks."""

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from node.errors import UsageError
from node.index.database import Index
from node.index.rows.models.work import JobState
from node.index.rules.work.messages import Job
from node.receive.ingest import Ingest
from node.runtime.background import BackgroundService
from node.settings.model import Settings


@dataclass(frozen=True, slots=True)
class KeptResults:
    """What a hook has left, beside the files in the folder of its job.

    `content`: the manifest as JSON values; None: as the folder says. `output`: the end of the output of a command.
    """

    content: Any = None
    output: str | None = None


@dataclass(frozen=True, slots=True)
class Upload:
    """A file while its bytes arrive; `arrived` measures them against the reserve of the disk."""

    file: IO[bytes]
    arrived: Callable[[int], None]

    def write(self, data: bytes) -> None:
        """Append bytes. Raises OutOfResources if the disk has no more than the reserve left."""
        self.arrived(len(data))
        self.file.write(data)


class Results:
    """Store what hooks leave for their jobs. Thread-safe.

    This class is for a node whose extension for results is off: no hook has `results` there, and it only ends old jobs.
    """

    def __init__(self, index: Index, ingest: Ingest) -> None:
        self._index, self._ingest = index, ingest

    def under_way(self, job_id: str) -> AbstractContextManager[threading.Event]:
        """Yield an event that is set if somebody cancels the job within the block."""
        raise _off()

    def folder(self, job_id: str) -> Path:
        """Return the folder of a job, which may not exist."""
        raise _off()

    def empty_folder(self, job_id: str) -> Path:
        """Return the folder of a job, empty."""
        raise _off()

    def keep(self, job_id: str, kept: KeptResults) -> None:
        """Keep what a hook left in the folder of a job, durably; see `kept`."""
        raise _off()

    def kept(self, job_id: str) -> KeptResults | None:
        """Return what was kept of a job, whose hook need not run again; None: nothing."""
        raise _off()

    def new_file(self, job: Job, name: str) -> AbstractContextManager[Upload]:
        """Yield a file of a job to write, which is there once the block ends."""
        raise _off()

    def finish(
        self, job_id: str, content: object = None, detail: str | None = None, wait_seconds: float = 60.0
    ) -> None:
        """Store the results of a job from the files in its folder, and let it succeed; `content` is the manifest."""
        raise _off()

    def end(self, job_id: str, state: JobState, detail: str | None = None) -> None:
        """End a job that is open, and remove its files."""
        self._index.jobs.end(job_id, state, detail, self._ingest.now())

    def sweep(self) -> None:
        """Remove the folders of jobs that have ended."""

    def services(self, settings: Settings) -> Sequence[BackgroundService]:
        """Return the services of a node for jobs."""
        return ()

    def close(self) -> None:
        """End what works on results."""


def _off() -> UsageError:
    return UsageError("the extension for results is switched off by [extensions] disabled")
