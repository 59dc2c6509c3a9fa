"""The journal: one append and one sync for all threads that wait, and records read back in their order.

    for record in journal.replay(): ...           # first, once: what the last process left
    sequence = journal.append(facts, payload)     # durable when this returns
    for record in journal.read(): ...             # on one thread: what was appended since the last read
    journal.free(sequence)                        # what is durable elsewhere may be written over

A thread that appends takes the lead, or waits for the thread that has it. The leader writes what has come meanwhile in
one piece, and one sync serves all: a lone thread hands over to nobody, and many threads share syncs.

Segments are preallocated and reused. If the process dies during a write, the record that it tore ends the journal; no
`append` of it had returned. Each process begins a new segment, so that nothing is ever written behind a torn record.

`node.journal.inspection` reads a journal without locking or changing it, also while a node writes to it.
"""

import errno
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from time import monotonic
from types import MappingProxyType
from typing import Any

from node.errors import VoxelnodeError
from node.files.durable import NO_ROOM, locked, make_folder, moved, sync_folder, write_durably
from node.journal.inspection import MARK_FILE, JournalUnusable, age_of, read_in_order, segment_files, used_segments
from node.journal.segment import (
    GROW_BYTES,
    HEADER_BYTES,
    RECORD_HEAD_BYTES,
    VERSION,
    Damage,
    Record,
    RecordHead,
    Segment,
    SegmentGone,
    checksum,
)
from node.runtime.failpoints import reached

SEGMENT_BYTES = 16 << 20
"""Small, because a segment that is written over costs a tenth of one that is new: the journal soon only reuses them."""

MAX_BYTES = 1 << 30
"""Of all segments together; an append waits when they are full."""

ROOM_SECONDS = 10.0
"""Longest wait of an append for a free segment."""


class JournalFull(VoxelnodeError):
    """The journal is full: its records could not be applied in time."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """A position in the journal: the number of the next record, and its offset in the segment that holds it."""

    sequence: int
    offset: int


@dataclass(slots=True)
class _Waiting:
    """An append that waits for the leader."""

    facts: bytes
    payload: tuple[bytes, ...]
    size: int
    known: Any = None
    sequence: int = 0
    error: Exception | None = None


class Journal:
    """The journal in one folder. Many threads may append; one thread reads and frees.

    `folder`: created if missing; locked for this process.
    `segment_bytes`, `max_bytes`: size of a segment, and of all of them.

    `last`: sequence number of the last durable record; 0 before the first one. `freed`: that of the last record that is
    durable elsewhere, or 0. `found`: that of the last record that `replay` has found. `generation`: that of `renew`.
    `start`: where the records of this process begin.

    Raises JournalUnusable: another process holds it, or a newer version has written it.
    Raises OSError: it cannot be read or made.
    """

    def __init__(self, folder: Path, segment_bytes: int = SEGMENT_BYTES, max_bytes: int = MAX_BYTES) -> None:
        make_folder(folder)
        self._folder, self._segment_bytes = folder, segment_bytes
        self._max_segments = max(3, max_bytes // segment_bytes)
        self._lock = threading.Lock()  # guards `_waiting` and `_known`
        self._leading = threading.Lock()  # held by the thread that writes
        self._room = threading.Condition()  # guards `_spare` and `_used`
        self._waiting: list[_Waiting] = []
        self._writing: Sequence[_Waiting] = ()
        self._known: dict[int, Any] = {}  # of records that are not done with, by their numbers
        self._used: list[Segment] = []  # in the order of their records; the last one is written to
        self._spare: list[Segment] = []
        self._failed: OSError | VoxelnodeError | None = None
        self._marking = threading.Lock()  # guards `_sizes` and the mark
        self._sizes: dict[str, int] = {}  # of the segments that the mark names
        self._is_closed = self._is_ready = False
        self.last = self.freed = self.found = 0
        self.generation = age_of(folder)
        self.start = Cursor(1, HEADER_BYTES)
        if (lock := locked(folder, os.O_RDONLY | os.O_DIRECTORY)) is None:
            raise JournalUnusable(f"{folder} is in use by another process: stop it first")
        self._folder_lock, self._place = lock, os.fstat(lock)
        try:
            self._find_segments()
        except BaseException:
            self.close()
            raise

    def _find_segments(self) -> None:
        paths = segment_files(self._folder)
        segments = [Segment(path) for path in paths]
        self._number = int(paths[-1].stem) + 1 if paths else 0
        self._used, self._spare = segments, []  # so that `close` finds them if they are unusable
        self._used, identity, self.freed, self._gone = used_segments(self._folder, segments)
        self._sizes = {segment.path.name: segment.capacity for segment in segments}
        self._spare = [segment for segment in segments if not segment.was_used]
        self._identity = identity or os.urandom(16)

    @property
    def identity(self) -> str:
        """Random name of this journal: sequence numbers count within it, not within one that was there before it."""
        return self._identity.hex()

    @property
    def size(self) -> int:
        """Bytes of all segments on the disk."""
        return sum(segment.capacity for segment in self._segments())

    def replay(self, known: int = 0) -> Iterator[Record | Damage]:
        """Yield every record that was not freed, and the damage between them.

        Must be read to its end before the first `append`. The records stay until they are freed.

        `known`: no number up to this one is given to a new record, even if its record is no longer readable.
        """
        self.last = self.freed
        for found in read_in_order(self._used, self.freed, self._gone):
            self.last = found.last if isinstance(found, Damage) else found.sequence
            yield found
        self.found = max([self.last, *(segment.last for segment in self._used)])
        self.last = max(self.found, known)
        self.start = Cursor(self.last + 1, HEADER_BYTES)
        # Before a segment is begun: a start writes over what is freed, and the journal grows by no segment a start.
        self._spare += [segment for segment in self._used if segment.last <= self.freed]
        self._used = [segment for segment in self._used if segment.last > self.freed]
        self._begin_segment(bounded=False)
        try:
            self._drop_surplus()
            self._mark()  # from here on, a segment that is missing at the next start is damage
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
        self._is_ready = True

    def append(self, facts: bytes, *payload: bytes, known: Any = None) -> int:
        """Append one record; it is durable when this returns.

        `facts`: what describes the record.
        `payload`: consecutive parts.
        `known`: its content, as far as memory has it; `read` returns it with the record.

        Its sequence number, one more than that of the record before.

        Raises JournalFull: no segment was freed within `ROOM_SECONDS`.
        Raises JournalUnusable: the journal is closed.
        Raises SegmentGone: a segment is not at its path; no append succeeds until `problem` finds all there.
        Raises OSError: there is no room on the disk, or it fails. After anything but want of room, no append succeeds
            until the journal is opened anew: after a failed sync a later success would prove nothing.
        """
        size = RECORD_HEAD_BYTES + len(facts) + sum(map(len, payload))
        if size > self._segment_bytes - HEADER_BYTES:
            raise ValueError(f"a record of {size} bytes does not fit into a segment")
        waiting = _Waiting(facts, payload, size, known)
        with self._lock:
            self._waiting.append(waiting)
        with self._leading:
            if not waiting.sequence and waiting.error is None:
                with self._lock:
                    batch, self._waiting = self._waiting, []
                    self._writing = tuple(batch)
                self._write(batch)
        if waiting.error is not None:
            raise waiting.error
        return waiting.sequence

    def _write(self, batch: list[_Waiting]) -> None:
        """Write and sync all that wait, in as many pieces as segments are needed."""
        try:
            while batch:
                segment = self._segment_for(batch[0].size)  # with room for one at least
                room = self._segment_bytes - segment.end
                count = max(1, sum(end <= room for end in accumulate(waiting.size for waiting in batch)))
                self._write_to(segment, batch[:count])
                del batch[:count]
        except Exception as error:
            self._note_failure(error)
            for waiting in batch:
                waiting.error = error

    def _note_failure(self, error: Exception) -> None:
        if self._failed is not None:
            return
        if isinstance(error, SegmentGone) or (isinstance(error, OSError) and error.errno not in NO_ROOM):
            self._failed = error

    def problem(self) -> str | None:
        """Return which path is missing or replaced, the folder or a segment; None if all are there.

        Until they are, no append succeeds. Acknowledged records can still be read and made durable elsewhere.
        """
        problem = self._missing()
        if problem is not None:
            self._note_failure(SegmentGone(problem))
        elif isinstance(self._failed, SegmentGone):
            with self._leading, suppress(OSError):
                self._mark({segment.path.name: segment.capacity for segment in self._segments()})
                self._failed = None
        return problem

    def _missing(self) -> str | None:
        with suppress(OSError):  # it says nothing about the folder
            if (problem := moved(self._folder, self._place)) is not None:
                return problem
        for segment in self._segments():
            with suppress(OSError):
                if (problem := segment.problem()) is not None and segment in self._segments():  # else it was dropped
                    return problem
        return None

    def _segments(self) -> list[Segment]:
        with self._room:
            return [*self._used, *self._spare]

    def _write_to(self, segment: Segment, batch: list[_Waiting]) -> None:
        assert segment.head is not None
        buffers: list[bytes] = []
        for sequence, waiting in enumerate(batch, self.last + 1):
            body = (waiting.facts, *waiting.payload)
            facts_bytes = len(waiting.facts)
            payload_bytes = waiting.size - RECORD_HEAD_BYTES - facts_bytes
            head = RecordHead(segment.head.salt, sequence, facts_bytes, payload_bytes, checksum(*body))
            buffers += (head.encoded(), *body)
        reached("record-begun")
        segment.write(buffers, len(batch))
        reached("record-synced")
        with self._lock:
            for sequence, waiting in enumerate(batch, self.last + 1):
                waiting.sequence = sequence
                if waiting.known is not None:
                    self._known[sequence] = waiting.known
        self.last += len(batch)

    def _segment_for(self, size: int) -> Segment:
        """Return the segment that is written to, with room for a record of `size` bytes."""
        if self._failed is not None:
            raise self._failed
        segment = self._used[-1]
        if segment.is_torn and segment.last < segment.first:
            segment.begin(self._identity, self.last + 1)  # with another salt: what the failed write left is no record
        elif segment.is_torn or segment.end + size > self._segment_bytes:
            self._begin_segment()
        return self._used[-1]

    def _begin_segment(self, *, bounded: bool = True) -> None:
        """Go on in a spare segment, or in a new one, or wait until one is freed."""
        deadline = monotonic() + ROOM_SECONDS
        with self._room:
            while bounded and not self._spare and len(self._used) >= self._max_segments:
                if not self._room.wait(deadline - monotonic()):
                    raise JournalFull(
                        f"the journal is full: {len(self._used)} segments of {self._segment_bytes} bytes wait to be "
                        "applied ([storage] journal_bytes)"
                    )
            segment = self._spare.pop(0) if self._spare else self._new_segment()
            segment.begin(self._identity, self.last + 1)
            self._used.append(segment)

    def _new_segment(self) -> Segment:
        path = self._folder / f"{self._number:08d}.journal"
        segment = Segment(path, create=True)
        self._number += 1
        try:
            segment.grow(min(GROW_BYTES, self._segment_bytes))
            segment.sync()
            sync_folder(self._folder)
            self._mark({path.name: segment.capacity})
            if (problem := moved(self._folder, self._place)) is not None:  # the segment may lie below a mount
                raise SegmentGone(problem)
        except (OSError, SegmentGone):
            segment.close()
            path.unlink(missing_ok=True)
            self._sizes.pop(path.name, None)
            raise
        return segment

    def _mark(
        self, new: Mapping[str, int] = MappingProxyType({}), *, freed: int | None = None, forget: bool = False
    ) -> None:
        """Write down durably what is durable elsewhere, and which segments there are.

        `new`: further segments, and their sizes. `freed`: a number up to which records are durable elsewhere. `forget`:
        name no segment any more, as nobody needs what is in them.
        """
        with self._marking:
            self._sizes = {} if forget else {**self._sizes, **new}
            number = self.freed if freed is None else freed
            mark = {"version": VERSION, "journal": self.identity, "freed": number, "segments": self._sizes}
            mark["generation"] = self.generation
            write_durably(self._folder / MARK_FILE, json.dumps(mark).encode())
            self.freed = number

    def prepare(self) -> None:
        """Preallocate ahead of the appends; for the thread that reads, when it has time.

        As much as half of what a segment holds is kept ready behind its end, and a spare segment once it is half full:
        a journal of little traffic stays small. If there is no room, the next append raises.

        Raises OSError if the disk fails; no append succeeds any more.
        """
        try:
            self._prepare()
        except OSError as error:
            self._note_failure(error)
            if error.errno not in NO_ROOM:
                raise

    def _prepare(self) -> None:
        with self._room:
            segment, needs_spare = self._used[-1], not self._spare and len(self._used) < self._max_segments
        ready = min(self._segment_bytes, segment.end + max(GROW_BYTES, segment.end // 2))
        if segment.capacity < ready - GROW_BYTES // 2 or segment.capacity < ready == self._segment_bytes:
            segment.grow(ready)
            segment.sync()
        ready = min(self._segment_bytes, 2 * segment.end - self._segment_bytes)
        if ready <= 0:
            return
        if needs_spare:
            with self._room:
                self._spare.append(self._new_segment())
        with self._room:
            spare = self._spare[0] if self._spare else None
        if spare is not None and spare.capacity < ready:
            spare.grow(ready)
            spare.sync()

    def read(self, cursor: Cursor, max_records: int, max_bytes: int) -> tuple[list[Record], Cursor]:
        """Return durable records from `cursor` on, and the cursor behind them; for one thread.

        The caller is done with the records before `cursor`: their `known` is forgotten.

        `cursor`: `start` of this journal, or what this method has returned.
        `max_records`, `max_bytes`: limits: the records of one call, and the bytes after which it returns.

        Raises OSError: the disk fails, or a record that was written is no longer readable.
        """
        records: list[Record] = []
        sequence, offset, size = cursor.sequence, cursor.offset, 0
        with self._lock:
            self._known = known = {number: its for number, its in self._known.items() if number >= sequence}
        while sequence <= self.last and len(records) < max_records and size < max_bytes:
            with self._room:
                segment = next(used for used in self._used if used.first <= sequence <= used.last)
            if sequence == segment.first:
                offset = HEADER_BYTES
            readable = segment.record_at(offset)
            if readable is None or readable[0].sequence != sequence:
                raise OSError(errno.EIO, f"record {sequence} of {segment.path.name} cannot be read back")
            record, offset = readable
            records.append(replace(record, known=known.get(sequence)))
            size += len(record.payload)
            sequence += 1
        return records, Cursor(sequence, offset)

    def known(self, after: int = 0) -> list[Any]:
        """Return `known` of the records behind a number, and of those that are being appended."""
        with self._lock:
            unwritten = (one for one in (*self._writing, *self._waiting) if not one.sequence and one.error is None)
            coming = [one.known for one in unwritten if one.known is not None]
            return [*(its for number, its in self._known.items() if number > after), *coming]

    def has_whole_segment(self, sequence: int) -> bool:
        """Return whether freeing the records up to a number makes a segment available."""
        with self._room:
            return any(segment.last <= sequence for segment in self._used[:-1])

    def free(self, sequence: int) -> None:
        """Record durably that all records up to a number are durable elsewhere; whole segments of them are reused.

        If the process dies before the mark is durable, the next one replays more than it needs to.

        Raises OSError if there is no room for the mark, or the disk fails.
        """
        self._mark(freed=sequence, forget=isinstance(self._failed, SegmentGone) and sequence == self.last)
        reached("journal-freed")
        self._release(sequence)
        self._drop_surplus()

    def renew(self, generation: str) -> None:
        """Write a generation into the mark, durably. Raises OSError if the disk fails."""
        self.generation = generation
        self._mark()

    def begin_clean(self) -> None:
        """Overwrite the free segments, and continue in one of them: earlier records are freed with their segment.

        Raises as `append` does.
        """
        self.overwrite_free()
        with self._leading:
            if self._failed is not None:
                raise self._failed
            try:
                self._begin_segment(bounded=False)
                self._used[-1].write_head()  # it names the journal once no other segment does
            except Exception as error:
                self._note_failure(error)
                raise

    def overwrite_free(self) -> None:
        """Overwrite the segments that are free with zeros, durably, beside the appends."""
        self._release(self.freed)
        with self._room:
            free, self._spare = self._spare, []
        try:
            for segment in free:
                segment.clear()
        except OSError as error:
            self._note_failure(error)
            raise
        finally:
            with self._room:
                self._spare += free
                self._room.notify_all()

    def _release(self, sequence: int) -> None:
        with self._room:
            self._spare += [segment for segment in self._used[:-1] if segment.last <= sequence]
            self._used = [*(segment for segment in self._used[:-1] if segment.last > sequence), *self._used[-1:]]
            self._room.notify_all()

    def _drop_surplus(self) -> None:
        """Remove free segments beyond the limit, which is lower than it was, or was passed by a start or a deletion.

        The mark forgets a segment before its file goes: without the file, a segment that the mark names is damage.
        """
        with self._room:
            count = len(self._used) + len(self._spare) - self._max_segments
            surplus = self._spare[len(self._spare) - count :] if count > 0 else []
            self._spare = [segment for segment in self._spare if segment not in surplus]
        if not surplus:
            return
        with self._marking:
            for segment in surplus:
                self._sizes.pop(segment.path.name, None)
        self._mark()
        for segment in surplus:
            segment.close()
            segment.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the files and unlock the folder, after the append under way; a second call does nothing."""
        with self._leading:
            if self._is_closed:
                return
            if self._is_ready and self.freed == self.last and not isinstance(self._failed, OSError):
                with suppress(OSError):
                    self._mark(freed=self.freed, forget=True)
            self._is_closed, self._failed = True, JournalUnusable("the journal is closed")
            for segment in (*self._used, *self._spare):
                segment.close()
            os.close(self._folder_lock)
