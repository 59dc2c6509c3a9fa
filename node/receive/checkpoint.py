"""Checkpoints, and what a start compares of the records behind the last one.

    files synced -> ledger synced -> a durable commit -> the journal's mark

Files, ledger and rows become durable, and only then the journal writes over its records. If the process dies in
between, the next start compares these once more: the file of an applied record is written again where a power cut took
it, and other records are applied. Records that cannot be read were acknowledged: their segment is copied to quarantine,
and `lost` and the log report them.
"""

import datetime as dt
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import structlog

from node.archive.filesystem import Archive
from node.files.acknowledged import Acknowledged
from node.index.database import Index
from node.index.rows.records import Received
from node.journal.journal import Journal
from node.journal.segment import Damage, Record
from node.receive.accounting import RENEW_SECONDS, listed, mark_of, renew
from node.receive.record import Receipt, receipt

log = structlog.get_logger()

Unlisted = tuple[Acknowledged, Sequence[str]]
"""An instance that was applied and is not in the ledger yet, and the versions that it replaced."""


def acknowledged(received: Received) -> Acknowledged:
    """Return the entry of the ledger for a received instance."""
    attributes, file = received.attributes, received.file
    return Acknowledged(
        attributes.sop_instance_uid,
        attributes.study_instance_uid,
        attributes.series_instance_uid,
        file.sha256,
        file.source,
        file.calling_ae_title,
        file.peer,
        file.received_at.isoformat(),
    )


@dataclass(slots=True)
class Replayed:
    """How many records were applied, restored and damaged."""

    applied: int = 0
    restored: int = 0
    damaged: int = 0


class Checkpoint:
    """Files to sync and entries to add to the ledger since the last checkpoint. Thread-safe, but for `replay`.

    `is_damaged`: `replay` found records that cannot be read, or are missing: files that a power cut took may not have
        been written again.
    """

    def __init__(self, journal: Journal, archive: Archive, index: Index) -> None:
        self._journal, self._archive, self._index = journal, archive, index
        self._lock = threading.Lock()  # guards `_unsynced` and `_unlisted`
        self._making = threading.Lock()
        self._unsynced: set[str] = set()
        self._unlisted: list[Unlisted] = []
        self._copies: dict[Path, str] = {}  # segments with damage, and their copies in quarantine
        self.is_damaged = False
        self._renewed_at = monotonic()

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
                    if monotonic() > self._renewed_at + RENEW_SECONDS:
                        renew(self._archive, self._index, self._journal)
                        self._renewed_at = monotonic()
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

    def replay(
        self, apply: Callable[[Sequence[Record]], int], applied_before: int, most: int, most_bytes: int
    ) -> Replayed:
        """Go through the records that earlier processes left in the journal, in batches.

        `apply`: applies records, and returns how many of them are of instances.
        `applied_before`: the number of the last record that the index has.
        """
        replayed = Replayed()
        batch: list[Record] = []
        size = 0
        for record in self._journal.replay(applied_before):
            if isinstance(record, Damage):
                replayed.damaged += max(record.last - record.first + 1, 0)
                self._keep_damaged(record)
                continue
            batch.append(record)
            size += len(record.payload)
            if len(batch) == most or size >= most_bytes:
                self._take(batch, applied_before, apply, replayed)
                batch, size = [], 0
        self._take(batch, applied_before, apply, replayed)
        return replayed

    def _keep_damaged(self, damage: Damage) -> None:
        """Copy the segment of unreadable records to quarantine, and report these: they were acknowledged."""
        self.is_damaged = True
        which, copy = f"records {damage.first} to {damage.last}", None
        if damage.last < damage.first:
            which = f"records from {damage.first} on, if there were any,"
        if damage.segment.exists():
            copy = self._copies.get(damage.segment)
            if copy is None:
                copy = self._copies[damage.segment] = self._archive.quarantine_copy(damage.segment)
            detail = f"{which} of the journal cannot be read; the segment is kept: {copy}"
        else:
            detail = f"{which} of the journal are missing with its segment {damage.segment.name}"
        log.error("journal_damaged", detail=detail)
        self._index.lost.note_gap(detail, dt.datetime.now(dt.UTC), copy)

    def _take(
        self, batch: list[Record], applied_before: int, apply: Callable[[Sequence[Record]], int], replayed: Replayed
    ) -> None:
        receipts = [(record, its) for record in batch if (its := receipt(record.facts)) is not None]
        self._archive.make_folders(its.key for _, its in receipts)
        new = [record for record in batch if record.sequence > applied_before]
        replayed.restored += self._restore(receipts)
        if new:
            replayed.applied += apply(new)

    def _restore(self, receipts: list[tuple[Record, Receipt]]) -> int:
        """Write files again that are not as they were received, and that rows name or quarantine has; return how many.

        A power cut may take the bytes and the row of a file in quarantine, and leave its name. The record is applied
        again, and its row names the file: so the file is written first.
        """
        keys = [key for _, its in receipts for key in (its.key, self._archive.quarantine_key(its.key))]
        named = self._index.instances.named_keys(keys)
        restored = 0
        for record, its in receipts:
            for key in (its.key, self._archive.quarantine_key(its.key)):
                if key in named or (record.payload and key != its.key and self._archive.path(key).exists()):
                    restored += self._restored(record, its, key)
        stored = self._index.lost.stored_at(keys)
        replaced = self._index.lost.replaced([one.sop_instance_uid for one in stored])
        self.owe((one, replaced.get(one.sop_instance_uid, ())) for one in stored)
        return restored

    def _restored(self, record: Record, its: Receipt, key: str) -> bool:
        self.written(key)
        if its.sha256:
            return self._archive.keep_part(key)
        with suppress(FileNotFoundError):
            if self._archive.path(key).read_bytes() == record.payload:
                return False
        self._archive.write(key, record.payload)
        return True
