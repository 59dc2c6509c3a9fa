"""Intake: instances are accepted while the disk has free space and no sync has failed."""

from __future__ import annotations

import datetime as dt
import errno
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from node.durable import NO_ROOM
from node.errors import OutOfResources

log = structlog.get_logger()

STOPPED_FILE = "intake-stopped.json"
"""File in the root while intake is stopped, from which other processes read the reason."""

RESUME_FACTOR = 1.1
"""Hysteresis: after a refusal for lack of space, a tenth more than the limit must be free."""


class Intake:
    """The state of one root, checked before anything is accepted. Thread-safe.

    Parameters
    ----------
    root : Path
    reserve_bytes : int
        Free space below which instances are refused.
    low_bytes : int
        Free space below which new associations are refused, so that open ones can finish; at least the reserve.
    """

    def __init__(self, root: Path, reserve_bytes: int = 0, low_bytes: int = 0) -> None:
        self._root, self._reserve_bytes, self._low_bytes = root, reserve_bytes, max(low_bytes, reserve_bytes)
        self._full = self._low = False
        self._lock = threading.Lock()
        self._stopped: str | None = None
        (root / STOPPED_FILE).unlink(missing_ok=True)

    @property
    def stopped(self) -> str | None:
        """The reason why intake is stopped until the node restarts, or None while it is open."""
        return self._stopped

    def free_bytes(self) -> int:
        """Return the bytes that this process may still write to the disk of the root."""
        disk = os.statvfs(self._root)
        return disk.f_bavail * disk.f_frsize

    def has_room(self) -> bool:
        """Return whether the disk works and has more free space than the reserve."""
        return self._stopped is None and self.free_bytes() >= self._reserve_bytes

    def require(self) -> None:
        """Raise unless an instance may be accepted.

        Raises
        ------
        OutOfResources
            The free space is down to the reserve, or intake has stopped.
        """
        self.require_sound()
        free = self.free_bytes()
        self._full = free < self._reserve_bytes * (RESUME_FACTOR if self._full else 1)
        if self._full:
            raise OutOfResources(
                f"{free} bytes free, {self._reserve_bytes} are kept in reserve ([storage] reserve_bytes)"
            )

    def require_sound(self) -> None:
        """Raise if a sync has failed: after the first failure, a later success would prove nothing.

        Raises
        ------
        OutOfResources
            Intake has stopped.
        """
        if self._stopped is not None:
            raise OutOfResources(f"intake has stopped: {self._stopped}")

    def refusal(self) -> str | None:
        """Return the reason to refuse a new association, or None to accept it."""
        if self._stopped is not None:
            return f"intake has stopped: {self._stopped}; check the disk, then restart the node"
        free = self.free_bytes()
        self._low = free < self._low_bytes * (RESUME_FACTOR if self._low else 1)
        if not self._low:
            return None
        return f"{free} bytes free, but {self._low_bytes} are required (twice [storage] reserve_bytes): free space"

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Turn an error of the disk, raised within, into the refusal that `failed` returns."""
        try:
            yield
        except OSError as error:
            raise self.failed(error) from error

    def failed(self, error: OSError) -> OutOfResources:
        """Return the refusal for a disk error; any error but lack of space stops intake."""
        name = errno.errorcode.get(error.errno or 0, "EUNKNOWN")
        if error.errno not in NO_ROOM:
            self.stop(f"disk: {name}: {error.strerror}")
        return OutOfResources(f"archive: {name}: {error.strerror}")

    def stop(self, reason: str) -> None:
        """Stop intake until the node restarts; the first reason is kept.

        Notes
        -----
        After a failed sync, the kernel may drop the pages and report the next sync as a success. Only a restart, which
        reads the disk again, is safe.
        """
        with self._lock:
            if self._stopped is not None:
                return
            self._stopped = reason
        log.error("intake_stopped", reason=reason)
        try:
            state = {"reason": reason, "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds")}
            (self._root / STOPPED_FILE).write_text(json.dumps(state), encoding="utf-8")
        except OSError:
            log.warning("intake_stopped_not_noted")
