"""The composition root: the only place that puts concrete parts together.

association -> archive -> index -> quiet -> volume -> writers
"""

from __future__ import annotations

import datetime as dt
import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import structlog

from node.archive.filesystem import Archive, sync_folder
from node.config import Settings
from node.convert import sweep
from node.errors import VoxelnodeError
from node.index.database import Index
from node.ingest import Ingest, quiet_seconds_of
from node.metrics import Metrics
from node.recovery import recover
from node.scp.server import Listener
from node.worker.loop import Worker

log = structlog.get_logger()


class RootInUse(VoxelnodeError):
    """Another voxelnode process works on this root."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a started node accepts associations."""

    host: str
    port: int
    ae_title: str


class Store:
    """Archive, index and ingest of one root, held by one process; what `import` needs of a node.

    Raises
    ------
    RootInUse
        Another process holds the root.
    """

    def __init__(self, settings: Settings) -> None:
        root = settings.storage.root.absolute()
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = _locked(root)
        self.metrics = Metrics()
        self.archive = Archive(root, settings.storage.reserve_bytes)
        self.index = Index(root, sync_folder, self.metrics)
        quiet_seconds = quiet_seconds_of(
            settings.series.quiet_seconds, settings.series.quiet_seconds_by_calling_ae_title
        )
        self.ingest = Ingest(
            self.archive, self.index, self.metrics, quiet_seconds, settings.dicom.maximum_instance_bytes
        )
        recover(self.archive, self.index, settings.series.quiet_seconds, dt.datetime.now(dt.UTC))

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the instances under way finish, commit, and let go of the root."""
        self.ingest.close()
        self.index.close()
        os.close(self._lock)


@contextmanager
def importer(settings: Settings) -> Iterator[Ingest]:
    """Open a root for taking instances in without a listener.

    Raises
    ------
    RootInUse
        A node or another import holds the root.
    """
    with Store(settings) as store:
        store.ingest.quiet_seconds = lambda calling_ae_title: 0.0  # nothing more comes: due as soon as a node serves
        yield store.ingest


class Node:
    """The whole node: listener and worker on one root."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store = Store(settings)
        sweep(self._store.archive, self._store.index)
        self._listener = Listener(settings, self._store.ingest, self._store.metrics)
        self._worker = Worker(self._store.archive, self._store.index, settings.convert)

    def start(self) -> Address:
        """Accept associations and convert what is due; returns where."""
        host, port = self._listener.start()
        self._worker.start()
        address = Address(host, port, self._settings.dicom.ae_title)
        log.info("ready", host=host, port=port, ae_title=address.ae_title)
        return address

    def serve_until(self, stop: threading.Event) -> None:
        """Return when `stop` is set."""
        stop.wait()

    def stop(self, drain_seconds: float) -> None:
        """End in good order: no new associations, the instances and conversions under way finish or are handed back."""
        self._listener.drain(drain_seconds)
        self._worker.stop(drain_seconds)
        self._store.close()
        log.info("stopped")


def _locked(root: Path) -> int:
    """Hold the root for this process; the lock goes with the process, however that ends."""
    descriptor = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise RootInUse(f"{root} is in use by another voxelnode process: stop it, or choose another root") from None
    return descriptor
