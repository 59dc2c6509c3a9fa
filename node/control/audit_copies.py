"""The audit log of this host, copied into the index that several hosts share."""

from __future__ import annotations

from pathlib import Path

from node.audit.audit_files import LogTail, digest_of
from node.background import BackgroundService
from node.index.database.index import Index

COPY_SECONDS = 2.0
MAX_LINES = 500
"""Lines in one commit."""


class AuditCopies(BackgroundService):
    """Copies the lines of an audit log that the index lacks, in their order.

    Parameters
    ----------
    root : Path
        Folder of the log.
    """

    def __init__(self, index: Index, root: Path) -> None:
        super().__init__("audit-copy")
        self._index, self._root = index, root
        self._tail: LogTail | None = None

    def step(self) -> float:
        """Copy some lines; return the seconds until the next step."""
        if self._tail is None:
            last = self._index.audit_lines.last()
            self._tail = LogTail(self._root, digest_of(last) if last else "")
        try:
            lines = self._tail.read(MAX_LINES)
            if lines:
                self._index.audit_lines.add(lines, self._index.now())
        except Exception:  # lines were read, and nobody knows whether they were committed
            self._close()
            raise
        return 0.0 if len(lines) == MAX_LINES else COPY_SECONDS

    def _close(self) -> None:
        if self._tail is not None:
            self._tail.close()
            self._tail = None
