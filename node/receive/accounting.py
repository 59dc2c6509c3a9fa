"""Account for acknowledged instances: each that the ledger names is indexed, was deleted, or is noted as lost.

A start reads the ledger from the position that the index last noted: little after a crash, and everything since the
copy if an index was restored. A new index, `fsck` and the scrub look at all of it.

**Generations.** Are the parts of a root of one age?
The index, the journal and the marker of each folder have the generation of the root: a number that grows, and letters,
because two states of a root may have come to one number. A start gives them the next one, and so do a clean end and a
checkpoint that comes `RENEW_SECONDS` after the last one. A disk that was put back as it was yesterday has an earlier
one; the marker of a folder that is new, a copy, or accepted by a person has none. A start that finds such a part
compares all that rows and ledger name, and renews the generation only then: if the process dies before, the next start
compares again.

    the index permits both generations -> journal -> folders -> the index permits the new one alone

If the process dies in between, each part has a generation that the index permits. What cannot be written is logged, and
``status`` says so.

**Checkpoints.** When may the journal write over its records?

    files synced -> ledger synced -> a durable commit -> the journal's mark

Files, ledger and rows become durable, and only then the journal writes over its records. If the process dies in
between, the next start compares these once more: the file of an applied record is written again where a power cut took
it, and other records are applied. Records that cannot be read were acknowledged: their segment is copied to quarantine,
and `lost` and the log report them.
"""

import datetime as dt
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from time import monotonic

import structlog

from node.archive.filesystem import Archive
from node.archive.root import generation_of
from node.archive.space import KEPT
from node.audit.audit_log import Audit, AuditAction, AuditEvent, AuditMessage
from node.files.acknowledged import Acknowledged, LedgerPosition, digests_of, entries, is_written_off, write_offs
from node.index.database import Index
from node.index.rows.about_keys import COMPARED, GENERATION, JOURNAL, LEDGER
from node.index.rows.records import Received
from node.journal.journal import Journal
from node.journal.segment import Damage, Record
from node.receive.record import Receipt, receipt
from node.runtime.failpoints import reached

log = structlog.get_logger()

Absent = Callable[[Sequence[Acknowledged]], list[int]]

LOOKED_UP_TOGETHER = 2048
"""Instances that are looked up in the index with one query."""


def listed(archive: Archive, applied: Sequence[tuple[Acknowledged, Sequence[str]]]) -> None:
    """Add versions to the ledger, each with the digests of those whose place it took, in the order of their receipt.

    Raises OSError if the disk fails.
    """
    superseded: dict[str, None] = {}
    for one, others in applied:
        superseded |= dict.fromkeys(others)
        superseded.pop(one.sha256, None)  # it came again
    archive.acknowledged.append([one for one, _ in applied], list(superseded))


def unaccounted(root: Path, absent: Absent, since: int = 0, older: float = inf) -> Iterator[list[Acknowledged]]:
    """Yield the instances that a ledger names from an entry on, and that are neither here nor deleted nor written off.

    `absent`: of the index (`node.index.rules.custody.lost.absent`). `older`: the entries that were known to an index of
    before; versions whose place others took later are in quarantine, or lost. Raises OSError if the ledger cannot be
    read.
    """
    written_off = write_offs(root, since)
    written_off = {key: one for key, one in written_off.items() if key[0] != "version" or one <= older}
    for batch in _batches(root, since):
        owed = [one._replace(at=at) for at, one in batch if not is_written_off(one, at.entries, written_off)]
        if found := [owed[place] for place in absent(owed)]:
            yield found


def _batches(root: Path, since: int) -> Iterator[list[tuple[LedgerPosition, Acknowledged]]]:
    batch: list[tuple[LedgerPosition, Acknowledged]] = []
    for first, some in entries(root, since):
        batch += ((LedgerPosition(first.identity, number), one) for number, one in enumerate(some, first.entries))
        if len(batch) >= LOOKED_UP_TOGETHER:
            yield batch
            batch = []
    if batch:
        yield batch


def note_lost(
    archive: Archive,
    index: Index,
    now: dt.datetime,
    since: int = 0,
    older: float = inf,
    stop: Callable[[], bool] = bool,
) -> int:
    """Note the instances as lost that the ledger names from an entry on and that are not here; return how many are new.

    Raises OSError if the ledger cannot be read.
    """
    lost = 0
    for found in unaccounted(archive.root, index.lost.absent, since, older):
        if recovered := index.instances.recovered_among([one.sop_instance_uid for one in found]):
            index.instances.distrust(digests_of(archive.root, recovered), now)
        lost += index.lost.record(found, now)
        if stop():
            break
    if lost:
        log.error("instances_lost", count=lost, detail="acknowledged, and not here: `voxelnode lost list`")
    return lost


def account_for(
    archive: Archive,
    index: Index,
    now: dt.datetime,
    gone: Sequence[Acknowledged],
    odd: Mapping[str, str],
    *,
    is_new: bool,
) -> None:
    """Examine the ledger when a root is opened, once files and rows agree.

    A ledger that is gone, damaged or of before gets all that the index has, before it is asked: what was adopted may be
    newer than its entries. One whose marker is a copy does not: it may be the newest part, and tell what was deleted.
    Instances that only the lost part named are forgotten.

    `gone`: instances of the previous index that have no file. `odd`: of `node.receive.accounting.odd_parts`. `is_new`:
    the index was just built.

    Raises OSError if the disk fails.
    """
    ledger, key = archive.acknowledged, mark_of(archive)
    mark, position = LedgerPosition.of(index.about.get(key)), ledger.position
    # As after a first run that was killed: the journal still has what the ledger was to get.
    is_absent = not position.entries and not archive.suffix and bool(gone or index.lost.stored(0, 1))
    if odd.get(LISTED) or is_absent:
        index.lost.record(gone, now)
        written = complete_ledger(archive, index)
        if LISTED in odd:
            detail = "the ledger of acknowledged instances was damaged or of before: it has what the index has"
            log.warning("ledger_rewritten", count=written, detail=detail)
    known = mark.entries if mark.identity == position.identity else 0
    since = 0 if is_new else min(known, position.entries)
    note_lost(archive, index, now, since, known if INDEX in odd else inf)
    if (position := ledger.position) != mark:
        index.about.set(key, str(position))


def repair_ledger(archive: Archive, index: Index, names: Sequence[str]) -> None:
    """Add everything that the index has to a ledger with damaged segments, which are then no problem any more.

    Raises OSError if the disk fails.
    """
    complete_ledger(archive, index)
    archive.acknowledged.note_repaired(names)


def write_off(
    archive: Archive, index: Index, audit: Audit, uid: str | None, reason: str, who: str, now: dt.datetime
) -> int:
    """Write off lost instances: one, those of a series or a study, or all; return how many they are.

    All of them includes the gaps of the journal, which alone are meant by the word `JOURNAL` in place of a UID.

    Raises AuditFailed or UsageError if nothing was changed, OSError if the disk fails.
    """
    listed = archive.acknowledged.position.entries  # before the look: instances that are sent again from now on count
    gaps = index.lost.gaps() if uid in (None, JOURNAL) else []
    instances = index.lost.of(uid) if not gaps or (uid is None and index.lost.count()) else []

    def made() -> int:
        if instances:
            uids = [one.sop_instance_uid for one in instances]
            archive.acknowledged.write_off("instance", uids, listed)
            reached("write-off-noted")
            index.lost.write_off(uids, who, now)
        if gaps:
            index.lost.accept_gaps()
        return len(instances)

    objects = [{"study_instance_uid": study} for study in sorted({one.study_instance_uid for one in instances})]
    of_journal = f" and {len(gaps)} gaps of the journal" if gaps else ""
    detail = f"write off {len(instances)} lost instances{of_journal}: {reason}"
    order = AuditMessage.by(who, AuditEvent.INSTANCES_ACCESSED, AuditAction.DELETE, detail, objects)
    return audit.change(replace(order, of="lost"), made)


def complete_ledger(archive: Archive, index: Index) -> int:
    """Add everything that the index has to the ledger; return how much that is. Raises OSError if the disk fails."""
    after = written = 0
    while rows := index.lost.stored(after, LOOKED_UP_TOGETHER):
        after = rows[-1][0]
        archive.acknowledged.append([one for _, one in rows])
        written += len(rows)
    others = [*index.lost.aside(), *index.lost.all()]
    archive.acknowledged.append(others)
    return written + len(others)


log = structlog.get_logger()

RENEW_SECONDS = 600.0

CLEAN, BEGUN = "-clean", "-begun"
"""Ends of a generation, of one length: that of a clean end, which leaves nothing in the journal alone, or not."""

INDEX, RECORDS, LISTED = "the index", "the journal", "acknowledged/"
"""Parts of a root: those beside its folders, the journal by its mark, and the folder of the ledger."""


def mark_of(archive: Archive) -> str:
    """Return the key of ``about`` under which the index notes how far the ledger of this host is."""
    return f"{LEDGER}{archive.suffix}"


def lacks_entries(archive: Archive, index: Index) -> bool:
    """Return whether the ledger is gone, cut, or of before: it has fewer entries than the index knew.

    Raises OSError if the disk fails.
    """
    mark, position = LedgerPosition.of(index.about.get(mark_of(archive))), archive.acknowledged.position
    return mark.entries > (position.entries if mark.identity == position.identity else 0)


def permitted(archive: Archive, index: Index) -> list[str]:
    """Return the generations that the index permits, the newest last; empty if it is new, or had another host."""
    return (index.about.get(f"{GENERATION}{archive.suffix}") or "").split()


def odd_parts(archive: Archive, index: Index, journal: Journal) -> dict[str, str]:
    """Return the parts of a root that do not have its newest generation, with theirs; empty if all have it.

    A ledger that has fewer entries than the index knew is of before, whatever its marker says. A journal without a
    mark, and a folder without a marker, had nothing yet, unless the index is of before; a journal that is older than a
    clean end lacks nothing.
    """
    known = permitted(archive, index)
    ages = {f"{name}/": generation_of(archive.root, name) for name in KEPT}
    ages |= {RECORDS: journal.generation or None, INDEX: known[-1] if known else None}
    found = {part: known[-1] if age in known else age for part, age in ages.items() if age is not None}
    newest = max(found.values(), default="")
    if newest.endswith(CLEAN):
        found.pop(RECORDS, None)
    odd = {part: age for part, age in found.items() if age != newest}
    if lacks_entries(archive, index):
        odd[LISTED] = "cut"
    return odd | {RECORDS: ""} if INDEX in odd and not journal.generation and newest.endswith(BEGUN) else odd


def renew(archive: Archive, index: Index, journal: Journal, end: str = BEGUN) -> None:
    """Give all parts of a root the next generation, durably, once all of them were compared.

    `end`: `CLEAN` if nothing is left in the journal alone.

    Raises OutOfResources or OSError if a part is away, or its disk fails.
    """
    archive.intake.require_here()
    key, known = f"{GENERATION}{archive.suffix}", permitted(archive, index)
    newest = max(*known, journal.generation, *(generation_of(archive.root, name) or "" for name in KEPT))
    new = f"{int(newest[:12] or 0) + 1:012d}-{uuid.uuid4().hex[:8]}{end}"
    index.about.set(key, " ".join([*known, new]))
    journal.renew(new)
    reached("renewal-begun")
    if left := archive.renew(new):
        detail = f"the markers of {', '.join(left)} cannot be written: the next start compares all files again"
        log.error("generation_not_written", detail=detail)
        index.about.set(COMPARED, detail)
    index.about.set(key, new)


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
