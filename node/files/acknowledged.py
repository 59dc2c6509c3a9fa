"""The ledger of acknowledged instances: what was ever acknowledged, beside the files and not in the index.

    acknowledged/00000000.ledger ...    segments of frames, each with a checksum; only ever appended to

A frame names versions of instances that were acknowledged, or writes off: a study, a series or an instance that was
deleted or given up, or a version that another one replaced. A version is a SOP Instance UID with a
digest; the digest alone names it, because the data set has the UID. Entries are numbered from 0; a write-off
covers the entries before a number. A full segment is sealed: its last frame has the SHA-256 of what is before it. The
first frame of a segment has the number of its first entry, so that a segment that is gone or damaged leaves the numbers
of the others as they are.

The journal keeps an instance until its entry is durable here. A frame that a crash tore ends the ledger and is cut off
by the next append; its entries come again from the journal. An instance may therefore have several entries. If the
journal has nothing to append, no crash tore the end: it is damaged, and stays as it is, with another segment behind it.
"""

import hashlib
import json
import os
import re
import struct
import uuid
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Any, Literal, NamedTuple, Self

from node.files.durable import make_folder, sync_data, sync_folder, write_all
from node.runtime.failpoints import reached

FOLDER = "acknowledged"

SEGMENT_ENTRIES = 65_536
"""Entries of a full segment, about 4 MB."""

VERSION = 1

MAX_BEGIN_BYTES = 512
"""A segment without a whole frame that is larger than its first one is damaged rather than torn."""

_HEAD = struct.Struct(">2sII")  # kind, bytes of the body, CRC-32 of kind and body
_BEGIN, _NAMES, _WRITTEN_OFF, _SEAL, _REPAIRED = b"VB", b"VA", b"VS", b"VE", b"VM"
_KINDS = re.compile(rb"V[BASEM]")
_NAME = re.compile(r"\d{8}\.ledger")

Level = Literal["study", "series", "instance", "version"]


@dataclass(frozen=True, slots=True)
class LedgerPosition:
    """How far a ledger is: its random name, and the number of its entries. As text, ``IDENTITY:ENTRIES``."""

    identity: str
    entries: int

    def __str__(self) -> str:
        return f"{self.identity}:{self.entries}"

    @classmethod
    def of(cls, text: str | None) -> Self:
        """Return the position that a text names; the begin of no ledger if there is none."""
        identity, _, entries = (text or ":0").partition(":")
        return cls(identity, int(entries))


class Acknowledged(NamedTuple):
    """An instance that was acknowledged: what it is, and how it came. `sha256` is that of the data set as received.

    `at`: where a ledger has it, if it was read from there; see `node.index.rules.custody.lost.absent`.
    """

    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    sha256: str
    source: str
    calling_ae_title: str
    peer: str
    received_at: str  # ISO 8601, in UTC
    at: LedgerPosition | None = None


WriteOffs = Mapping[tuple[str, str], int]
"""The numbers before which entries are written off, by level and UID."""


@dataclass(slots=True)
class ReadSegment:
    """What was read of a segment: `whole` is the end of its last whole frame; `problem` says what is wrong before.

    `torn`: bytes behind it that are no whole frame, unless they begin as one that names no instances.
    """

    path: Path
    identity: str = ""
    first: int = 0
    entries: int = 0
    whole: int = 0
    torn: int = 0
    is_sealed: bool = False
    problem: str | None = None


class Ledger:
    """The ledger of a root. Thread-safe; one process appends, the one that has locked the root.

    `folder`: a path of its folder that leads there also while that is not in the root; None: the one in the root.
    """

    def __init__(self, root: Path, folder: Path | None = None) -> None:
        self._root, self._folder = root, folder or root / FOLDER
        self._lock = Lock()
        self._tail: ReadSegment | None = None

    @property
    def position(self) -> LedgerPosition:
        """How far the ledger is; the begin of no ledger if there is none yet.

        Raises OSError if the disk fails.
        """
        with self._lock:
            tail = self._found_tail()
            return (
                LedgerPosition(tail.identity, tail.first + tail.entries) if tail is not None else LedgerPosition("", 0)
            )

    def append(self, instances: Sequence[Acknowledged], superseded: Sequence[str] = ()) -> None:
        """Add instances; durable when this returns.

        `superseded`: digests of the versions that these replace, which are written off.

        Raises OSError if the disk is full or fails: a part of it may be there, and the same may be appended again.
        """
        if instances:
            self._append(_NAMES, _encoded(instances), len(instances))
        if superseded:
            self.write_off("version", superseded, self.position.entries)

    def note_repaired(self, names: Sequence[str]) -> None:
        """Note durably that what these damaged segments named was added again, as far as it is known.

        Raises OSError if the disk is full or fails.
        """
        self._append(_REPAIRED, _json(list(names)), 0)

    def write_off(self, level: Level, uids: Sequence[str], before: int) -> None:
        """Write off the entries of these UIDs before a number, durably.

        Raises OSError if the disk is full or fails.
        """
        self._append(_WRITTEN_OFF, _json([level, list(uids), before]), 0)

    def keep_torn(self) -> bool:
        """Keep a torn end that no crash explains, and go on in another segment; return whether there is one.

        For a start, once the journal has nothing left that was to be appended. `problems` tells of it from now on.

        Raises OSError if the disk is full or fails.
        """
        with self._lock:
            tail = self._found_tail()
            if tail is None or not tail.torn or tail.is_sealed:
                return False
            self._tail = self._begun(tail)
            return True

    def _append(self, kind: bytes, body: bytes, entries: int) -> None:
        with self._lock:
            tail = self._found_tail()
            if tail is None or tail.is_sealed or not tail.whole:
                tail = self._tail = self._begun(tail)
            self._write(tail, kind, body)
            tail.entries += entries
            if tail.entries >= SEGMENT_ENTRIES:
                with tail.path.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                self._write(tail, _SEAL, _json([digest, tail.entries]))
                tail.is_sealed = True

    def _found_tail(self) -> ReadSegment | None:
        """Return the last segment; one without a whole frame was begun when a crash came, and goes."""
        paths = segments(self._folder) if self._tail is None else []
        while paths and self._tail is None:
            tail = read_segment(paths[-1], lambda kind, body: None)
            if tail.whole or tail.torn > MAX_BEGIN_BYTES:
                if not tail.whole and len(paths) > 1:
                    before = read_segment(paths[-2], lambda kind, body: None)
                    tail.identity, tail.first = before.identity, before.first + before.entries
                tail.identity = tail.identity or uuid.uuid4().hex  # its first frame is damaged: where it is is unknown
                self._tail = tail
            else:
                paths.pop().unlink()
        return self._tail

    def _begun(self, before: ReadSegment | None) -> ReadSegment:
        """Begin the first segment, or the one behind the last."""
        if not self._folder.is_dir():
            make_folder(self._folder)
        number = int(before.path.stem) + 1 if before is not None else 0
        segment = ReadSegment(self._folder / f"{number:08d}.ledger")
        segment.identity = before.identity if before is not None else uuid.uuid4().hex
        segment.first = before.first + before.entries if before is not None else 0
        if before is not None and before.torn:  # unknown how many entries are lost: no new one is written off
            segment.first = max(segment.first, *write_offs(self._root).values(), 0)
        self._write(segment, _BEGIN, _json([VERSION, segment.identity, segment.first]))
        sync_folder(self._folder)
        reached("ledger-begun")
        return segment

    def _write(self, segment: ReadSegment, kind: bytes, body: bytes) -> None:
        frame = _HEAD.pack(kind, len(body), zlib.crc32(body, zlib.crc32(kind))) + body
        file = os.open(segment.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(file, segment.whole)
            write_all(file, frame)
            reached("ledger-written")
            sync_data(file)
        finally:
            os.close(file)
        segment.whole, segment.torn = segment.whole + len(frame), 0
        reached("ledger-synced")


def segments(folder: Path) -> list[Path]:
    """Return the files of a ledger, in their order."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def entries(root: Path, since: int = 0) -> Iterator[tuple[LedgerPosition, list[Acknowledged]]]:
    """Yield what the ledger of a root names from an entry on: lists of instances, each with where its first is.

    Reads a segment at a time, also while a node appends. What is damaged is left out; see `problems`.

    Raises OSError if the disk fails.
    """
    for path in _behind(segments(root / FOLDER), since):
        found: list[list[Acknowledged]] = []

        def take(kind: bytes, body: bytes, found: list[list[Acknowledged]] = found) -> None:
            if kind == _NAMES:
                found.append(_decoded(body))

        segment = read_segment(path, take)
        number = segment.first
        for some in found:
            if number + len(some) > since:
                yield LedgerPosition(segment.identity, max(number, since)), some[max(0, since - number) :]
            number += len(some)


def digests_of(root: Path, uids: Collection[str]) -> dict[str, set[str]]:
    """Return the digests of all versions of instances that the ledger has, by their UIDs.

    Raises OSError if the ledger cannot be read.
    """
    found: dict[str, set[str]] = {}
    for _, some in entries(root) if uids else ():
        for one in some:
            if one.sop_instance_uid in uids:
                found.setdefault(one.sop_instance_uid, set()).add(one.sha256)
    return found


def newest_of(root: Path, uid: str, deadline: float) -> Acknowledged | None:
    """Return the last entry of an instance, of a series or of a study; None: there is none.

    Reads from the end, a segment at a time, until `deadline` of the monotonic clock.

    Raises OSError if the disk fails.
    """
    named = _json(uid)
    for path in reversed(segments(root / FOLDER)):
        found: list[Acknowledged] = []

        def take(kind: bytes, body: bytes, found: list[Acknowledged] = found) -> None:
            if kind == _NAMES and named in zlib.decompress(body[4 + 32 * int.from_bytes(body[:4]) :]):
                found += (one for one in _decoded(body) if uid in one[:3])

        read_segment(path, take)
        if found or monotonic() > deadline:
            return found[-1] if found else None
    return None


def write_offs(root: Path, since: int = 0) -> WriteOffs:
    """Return the write-offs by level and UID that can concern entries from `since` on.

    Raises OSError if the disk fails.
    """
    found: dict[tuple[str, str], int] = {}

    def take(kind: bytes, body: bytes) -> None:
        if kind == _WRITTEN_OFF:
            level, uids, before, *_ = json.loads(body)
            found.update({(level, uid): max(before, found.get((level, uid), 0)) for uid in uids})

    paths = segments(root / FOLDER)
    behind = _behind(paths, since)
    for path in paths[max(0, len(paths) - len(behind) - 1) :]:  # a write-off may stand just before later entries
        read_segment(path, take)
    return found


def is_written_off(one: Acknowledged, number: int, found: WriteOffs) -> bool:
    """Return whether an entry is written off."""
    uids = ("instance", one.sop_instance_uid), ("series", one.series_instance_uid), ("study", one.study_instance_uid)
    return any(number < found.get(key, 0) for key in (*uids, ("version", one.sha256)))


def problems(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield the segments that are damaged, or before which one is gone, with what is wrong, in words.

    Raises OSError if the disk fails.
    """
    paths = segments(root / FOLDER)
    repaired: set[str] = set()
    yield from ((path, problem) for path, problem in list(_problems(paths, repaired)) if path.name not in repaired)


def _problems(paths: Sequence[Path], repaired: set[str]) -> Iterator[tuple[Path, str]]:
    def take(kind: bytes, body: bytes) -> None:
        if kind == _REPAIRED:
            repaired.update(json.loads(body))

    known: int | None = 0
    for path in paths:
        found = read_segment(path, take)
        if found.problem is None and path != paths[-1] and not found.is_sealed:
            end = f": its last {found.torn} bytes are damaged" if found.torn else ""
            found.problem = f"it has no seal, although another segment is behind it{end}"
        if found.problem is not None:
            yield path, found.problem
        elif known is not None and found.first != known:
            yield path, f"begins with entry {found.first}, and {known} are before it: a segment is gone"
        known = None if found.problem is not None else found.first + found.entries


def _behind(paths: list[Path], since: int) -> list[Path]:
    """Return the segments that may have entries from a number on."""
    for at in range(len(paths) - 1, -1, -1):
        with paths[at].open("rb") as file:
            head = _frame(file.read(4096), 0)
        if head is not None and head[0] == _BEGIN and json.loads(head[1])[2] <= since:
            return paths[at:]
    return paths


def read_segment(path: Path, take: Any) -> ReadSegment:
    """Read a segment, and give kind and body of each of its frames to `take`.

    Raises OSError if the disk fails.
    """
    content = path.read_bytes()
    segment = ReadSegment(path)
    at: int | None = 0
    while (at := _next_frame(content, segment.whole)) is not None:
        if at > segment.whole:
            segment.problem = f"bytes {segment.whole} to {at} are damaged"
        segment.whole = at
        frame = _frame(content, at)
        assert frame is not None
        kind, body = frame
        if kind == _BEGIN:
            _, segment.identity, segment.first = json.loads(body)
        elif kind == _NAMES:
            segment.entries += int.from_bytes(body[:4])
        elif kind == _SEAL:
            digest, _ = json.loads(body)
            segment.is_sealed = True
            if hashlib.sha256(memoryview(content)[: segment.whole]).hexdigest() != digest:
                segment.problem = "it is not as it was sealed"
        take(kind, body)
        segment.whole += _HEAD.size + len(body)
    if content[segment.whole : segment.whole + 2] not in (_WRITTEN_OFF, _REPAIRED):
        segment.torn = len(content) - segment.whole
    if segment.whole < len(content) and segment.problem is None and segment.is_sealed:
        segment.problem = f"it has {len(content) - segment.whole} bytes behind its seal"
    return segment


def _next_frame(content: bytes, at: int) -> int | None:
    """Return where the next whole frame begins, at an offset or behind it; None if there is none."""
    if _frame(content, at) is not None:
        return at
    behind = (found.start() for found in _KINDS.finditer(content, at) if _frame(content, found.start()) is not None)
    return next(behind, None)


def _frame(content: bytes, at: int) -> tuple[bytes, bytes] | None:
    """Return kind and body of the frame at an offset; None if there is no whole one."""
    if len(content) < at + _HEAD.size:
        return None
    kind, size, checksum = _HEAD.unpack_from(content, at)
    begin, end = at + _HEAD.size, at + _HEAD.size + size
    body = content[begin:end] if end <= len(content) else b""
    return (kind, body) if len(body) == size and zlib.crc32(body, zlib.crc32(kind)) == checksum else None


def _json(content: Any) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


def _origin(one: Acknowledged) -> tuple[str, ...]:
    return one.study_instance_uid, one.series_instance_uid, one.source, one.calling_ae_title, one.peer


def _encoded(instances: Iterable[Acknowledged]) -> bytes:
    """Return the body of a frame: a number of entries, their digests, and the rest as JSON, compressed."""
    groups: list[Any] = []
    digests: list[bytes] = []
    for origin, some in groupby(instances, _origin):
        rest = []
        for one in some:
            digests.append(bytes.fromhex(one.sha256))
            rest.append([one.sop_instance_uid, one.received_at])
        groups.append([origin, rest])
    return b"".join((len(digests).to_bytes(4), *digests, zlib.compress(_json(groups), 1)))


def _decoded(body: bytes) -> list[Acknowledged]:
    count = int.from_bytes(body[:4])
    end = 4 + 32 * count
    digests = (body[at : at + 32].hex() for at in range(4, end, 32))
    return [
        Acknowledged(uid, study, series, next(digests), source, title, peer, received_at)
        for (study, series, source, title, peer), rest in json.loads(zlib.decompress(body[end:]))
        for uid, received_at in rest
    ]
