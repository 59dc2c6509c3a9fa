"""Checkpoints: files, ledger and rows become durable, and only then the journal writes over its records.

    files synced -> ledger synced -> a durable commit -> the journal's mark

If the process dies in between, the next start compares the records with the files once more.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

from node.archive.filesystem import Archive
from node.files.acknowledged import Acknowledged
from node.index.database.index import Index
from node.journal.journal import Journal
from node.receive.accounting import listed, mark_of

Unlisted = tuple[Acknowledged, Sequence[str]]
"""An instance that was applied and is not in the ledger yet, and the versions that it replaced."""


class Checkpoint:
    """Files to sync and entries to add to the ledger since the last checkpoint. Thread-safe."""

    def __init__(self, journal: Journal, archive: Archive, index: Index) -> None:
        self._journal, self._archive, self._index = journal, archive, index
        self._lock = threading.Lock()  # guards `_unsynced` and `_unlisted`
        self._making = threading.Lock()
        self._unsynced: set[str] = set()
        self._unlisted: list[Unlisted] = []

    def written(self, key: str) -> None:
        """Note a file that the next checkpoint has to sync."""
        with self._lock:
            self._unsynced.add(key)

    def owe(self, unlisted: Iterable[Unlisted]) -> None:
        """Note what the next checkpoint has to add to the ledger."""
        with self._lock:
            self._unlisted += unlisted

    def make(self, applied: int) -> None:
        """Make applied records durable in archive, ledger and index, and free them in the journal.

        `applied`: the number of the last of these records.

        Raises OutOfResources if the disk or the index fails; the journal keeps everything.
        """
        with self._making:
            if applied <= self._journal.freed:
                return
            with self._lock:
                keys, self._unsynced = self._unsynced, set()
                unlisted, self._unlisted = self._unlisted, []
            try:
                self._archive.sync(keys)
                self._list(unlisted)
                # A durable commit: it takes the rows of all batches before it along.
                self._index.about.set(mark_of(self._archive), str(self._archive.acknowledged.position))
                with self._archive.intake.refusing():
                    self._journal.free(applied)
            except BaseException:
                with self._lock:
                    self._unsynced |= keys
                    self._unlisted = unlisted + self._unlisted
                raise

    def _list(self, unlisted: Sequence[Unlisted]) -> None:
        """Add the applied instances to the ledger, durably.

        Raises OutOfResources if the disk fails, or has failed before: intake stops.
        """
        self._archive.intake.require_sound()
        with self._archive.intake.refusing():
            listed(self._archive, unlisted)
