"""Whether instances may come in: there is room on the disk, and no sync of it has failed."""

from __future__ import annotations

import datetime as dt
import errno
import json
import os
import threading
from pathlib import Path

import structlog

from node.errors import OutOfResources

log = structlog.get_logger()

STOPPED_FILE = "intake-stopped.json"
"""Below the root, while intake is stopped: what other processes can read of it."""

RESUME_FACTOR = 1.1
"""What was refused for want of room is taken again with a tenth more than the mark, so that nothing flaps about it."""

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Errors that pass by themselves when there is room again; any other one means that the disk cannot be trusted."""


class Intake:
    """The state of one root, asked by whoever lets something in; safe to use from many threads.

    Parameters
    ----------
    root : Path
    reserve_bytes : int
        Free space below which instances are refused.
    low_bytes : int
        Free space below which new associations are refused, so that open ones can end; never less than the reserve.
    """

    def __init__(self, root: Path, reserve_bytes: int = 0, low_bytes: int = 0) -> None:
        self._root, self._reserve_bytes, self._low_bytes = root, reserve_bytes, max(low_bytes, reserve_bytes)
        self._full = self._low = False
        self._lock = threading.Lock()
        self._stopped: str | None = None
        (root / STOPPED_FILE).unlink(missing_ok=True)

    @property
    def stopped(self) -> str | None:
        """Why nothing is taken any more until the node is started again; None while all is well."""
        return self._stopped

    def free_bytes(self) -> int:
        """Bytes that we may still write to the disk of the root."""
        disk = os.statvfs(self._root)
        return disk.f_bavail * disk.f_frsize

    def has_room(self) -> bool:
        """Whether the disk may be written to at all: it works, and is not down to the reserve."""
        return self._stopped is None and self.free_bytes() >= self._reserve_bytes

    def require(self) -> None:
        """Return when an instance may come in.

        Raises
        ------
        OutOfResources
            The disk is down to its reserve, or intake has stopped.
        """
        self.require_sound()
        free = self.free_bytes()
        self._full = free < self._reserve_bytes * (RESUME_FACTOR if self._full else 1)
        if self._full:
            raise OutOfResources(
                f"{free} bytes free, {self._reserve_bytes} are kept in reserve ([storage] reserve_bytes)"
            )

    def require_sound(self) -> None:
        """Return while no sync has failed: after the first failure, a later success would prove nothing.

        Raises
        ------
        OutOfResources
            Intake has stopped.
        """
        if self._stopped is not None:
            raise OutOfResources(f"intake has stopped: {self._stopped}")

    def refusal(self) -> str | None:
        """Why no new association should be accepted now, in words; None: it may come."""
        if self._stopped is not None:
            return f"intake has stopped: {self._stopped}; look at the disk, then start the node again"
        free = self.free_bytes()
        self._low = free < self._low_bytes * (RESUME_FACTOR if self._low else 1)
        if not self._low:
            return None
        return f"{free} bytes free, {self._low_bytes} wanted (twice [storage] reserve_bytes): make room"

    def failed(self, error: OSError) -> OutOfResources:
        """The refusal that an error of the disk means; any but want of room stops intake."""
        name = errno.errorcode.get(error.errno or 0, "EUNKNOWN")
        if error.errno not in NO_ROOM:
            self.stop(f"disk: {name}: {error.strerror}")
        return OutOfResources(f"archive: {name}: {error.strerror}")

    def stop(self, reason: str) -> None:
        """Take nothing more until the node is started again; the first reason stays.

        Notes
        -----
        After a failed sync the kernel may have dropped the pages and call the next sync a success: only a new start,
        which reads what the disk really holds, is honest.
        """
        with self._lock:
            if self._stopped is not None:
                return
            self._stopped = reason
        log.error("intake_stopped", reason=reason)
        try:
            told = {"reason": reason, "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds")}
            (self._root / STOPPED_FILE).write_text(json.dumps(told), encoding="utf-8")
        except OSError:
            log.warning("intake_stopped_not_noted")
