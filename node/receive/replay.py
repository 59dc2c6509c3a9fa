"""Replay the records that earlier processes left in the journal.

The file of an applied record is compared with the record, and written again where a power cut took it. Other records
are applied. Records that cannot be read were acknowledged: their segment is copied to quarantine, and `lost` and the
log report them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from node.archive.filesystem import Archive
from node.index.database.index import Index
from node.journal.journal import Journal
from node.journal.segment import Damage, Record
from node.receive.checkpoint import Checkpoint
from node.receive.record import Receipt, receipt

log = structlog.get_logger()


@dataclass(slots=True)
class Replayed:
    """How many records were applied, restored and damaged."""

    applied: int = 0
    restored: int = 0
    damaged: int = 0


class JournalReplay:
    """The records of one start.

    `apply`: applies records, and returns how many of them are of instances.

    `is_damaged`: records could not be read, or are missing: files that a power cut took may not have been written
        again.
    """

    def __init__(
        self,
        journal: Journal,
        archive: Archive,
        index: Index,
        checkpoint: Checkpoint,
        apply: Callable[[Sequence[Record]], int],
    ) -> None:
        self._journal, self._archive, self._index, self._checkpoint = journal, archive, index, checkpoint
        self._apply = apply
        self._copies: dict[Path, str] = {}  # segments with damage, and their copies in quarantine
        self._replayed = Replayed()
        self.is_damaged = False

    def run(self, applied_before: int, most: int, most_bytes: int) -> Replayed:
        """Go through all records, in batches.

        `applied_before`: the number of the last record that the index has.
        """
        batch: list[Record] = []
        size = 0
        for record in self._journal.replay(applied_before):
            if isinstance(record, Damage):
                self._keep_damaged(record)
                continue
            batch.append(record)
            size += len(record.payload)
            if len(batch) == most or size >= most_bytes:
                self._take(batch, applied_before)
                batch, size = [], 0
        self._take(batch, applied_before)
        return self._replayed

    def _keep_damaged(self, damage: Damage) -> None:
        """Copy the segment of unreadable records to quarantine, and report these: they were acknowledged."""
        self._replayed.damaged += max(damage.last - damage.first + 1, 0)
        self.is_damaged = True
        which = f"records {damage.first} to {damage.last}"
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
        self._index.lost.note_gap(detail, dt.datetime.now(dt.UTC))

    def _take(self, batch: list[Record], applied_before: int) -> None:
        receipts = [(record, its) for record in batch if (its := receipt(record.facts)) is not None]
        self._archive.make_folders(its.key for _, its in receipts)
        new = [record for record in batch if record.sequence > applied_before]
        self._replayed.restored += self._restore(receipts)
        if new:
            self._replayed.applied += self._apply(new)

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
        self._checkpoint.owe((one, replaced.get(one.sop_instance_uid, ())) for one in stored)
        return restored

    def _restored(self, record: Record, its: Receipt, key: str) -> bool:
        self._checkpoint.written(key)
        if its.sha256:
            return self._archive.keep_part(key)
        with suppress(FileNotFoundError):
            if self._archive.path(key).read_bytes() == record.payload:
                return False
        self._archive.write(key, record.payload)
        return True
