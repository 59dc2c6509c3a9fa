"""What a journal holds: its segments in the order of their records, and its mark.

`inspect` and `records` read a journal without locking or changing it, also while a node writes to it.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any

from node.errors import VoxelnodeError
from node.journal.segment import VERSION, Damage, Record, Segment

MARK_FILE = "freed.json"
"""Beside the segments: up to which record everything is durable elsewhere."""

_NAME = re.compile(r"\d{8}\.journal")


class JournalUnusable(VoxelnodeError):
    """The journal is held by another process, was written by a newer version, or is closed."""


def segment_files(folder: Path) -> list[Path]:
    """Return the paths of the segments of a journal, in the order of their names; none where there is no folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def used_segments(folder: Path, segments: Sequence[Segment]) -> tuple[list[Segment], bytes, int, list[Path]]:
    """Return the segments that were used, in the order of their records, the identity of their journal and its mark.

    Last come the files of segments that the mark names and that are missing, or shorter than they were. The identity is
    empty, and the mark 0, if there is neither a segment that was used nor a mark.

    Raises JournalUnusable if a newer version has written a segment.
    """
    used = in_order(segments)
    if newer := [segment for segment in used if segment.head is not None and segment.head.version > VERSION]:
        raise JournalUnusable(
            f"{newer[0].path} was written by a newer version of voxelnode: install that one, or empty the journal with "
            "it by `voxelnode journal drain`"
        )
    mark = _read_mark(folder)
    gone = _gone(folder, mark, segments)
    identity = _identity(mark, used)
    is_own = mark.get("journal") == identity.hex()
    return used, identity, _freed(mark) if is_own else 0, gone if is_own else []


def _identity(mark: Mapping[str, Any], used: Sequence[Segment]) -> bytes:
    """Return the identity of the journal; where every header is damaged or missing, the mark names it."""
    heads = [segment.head for segment in used if segment.head is not None]
    newest = next((head.journal for head in reversed(heads) if head.journal), b"")
    if newest:
        return newest
    try:
        return bytes.fromhex(str(mark["journal"]))
    except (KeyError, ValueError):
        return b""


def _freed(mark: Mapping[str, Any]) -> int:
    """Return the number that `Journal.free` recorded; 0 where there is none, so that all records count."""
    try:
        return int(mark["freed"])
    except (ValueError, KeyError, TypeError):
        return 0


def _gone(folder: Path, mark: Mapping[str, Any], segments: Sequence[Segment]) -> list[Path]:
    """Return the files of the segments that a mark names and that are missing, or shorter than they were."""
    sizes, noted = {segment.path.name: segment.capacity for segment in segments}, mark.get("segments")
    if not isinstance(noted, dict):
        return []
    names = sorted(name for name in noted if _NAME.fullmatch(name) and isinstance(noted[name], int))
    return [folder / name for name in names if sizes.get(name, -1) < noted[name]]


def _read_mark(folder: Path) -> dict[str, Any]:
    """Return the mark of a journal; empty where there is none, or one that cannot be read."""
    try:
        mark = json.loads((folder / MARK_FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return mark if isinstance(mark, dict) else {}


def age_of(folder: Path) -> str:
    """Return the generation of a journal, by its mark; empty if there is none."""
    return str(_read_mark(folder).get("generation", ""))


def in_order(segments: Iterable[Segment]) -> list[Segment]:
    """Return the segments that were used, in the order of their records; unreadable ones come first.

    Two segments begin at one number if a process died between the header of a segment and its first whole record: the
    next process began another segment at that number. The segment with records comes last.
    """
    used = sorted((segment for segment in segments if segment.was_used), key=lambda segment: segment.begins_at)
    shared = {one.begins_at for one, other in pairwise(used) if one.begins_at == other.begins_at}
    return sorted(used, key=lambda segment: (segment.begins_at, segment.begins_at in shared and segment.has_records))


def read_in_order(segments: Sequence[Segment], freed: int, gone: Sequence[Path] = ()) -> Iterator[Record | Damage]:
    """Yield every record behind the number `freed`, and the gaps between them.

    `segments`: as of `in_order`. `gone`: files that should be there as well, or that are shorter than they were.
    """
    missing = list(gone)
    for found in _read_what_is_there(segments, freed, is_all=not gone):
        yield replace(found, segment=missing.pop(0)) if isinstance(found, Damage) and missing else found
    last = max((segment.last for segment in segments), default=freed)
    yield from (Damage(max(last, freed) + 1, max(last, freed), path) for path in missing)


def _read_what_is_there(segments: Sequence[Segment], freed: int, *, is_all: bool) -> Iterator[Record | Damage]:
    """Do `read_in_order` with the segments that are there; `is_all`: there were no others."""
    unreadable = [segment for segment in segments if not segment.begins_at]
    readable = [segment for segment in segments if segment.begins_at]
    last = max(freed, readable[0].begins_at - 1) if readable and is_all else freed
    for segment, following in zip_longest(readable, readable[1:]):
        # Behind the next segment's begin, this one has at most what a failed write has left.
        end = following.begins_at if following is not None else None
        if end is not None and end <= freed + 1:
            segment.first, segment.last = segment.begins_at, end - 1
            continue
        if segment.begins_at > last + 1:
            yield Damage(last + 1, segment.begins_at - 1, (unreadable or [segment])[0].path)
            last = segment.begins_at - 1
        for found in _read_segment(segment, last, end):
            last = found.last if isinstance(found, Damage) else found.sequence
            yield found


def _read_segment(segment: Segment, last: int, end: int | None) -> Iterator[Record | Damage]:
    """Yield the records of one segment behind `last` and before `end`, and its gaps; sets `segment.last`."""
    for record in segment.scan(last):
        if end is not None and record.sequence >= end:
            break
        if record.sequence > last + 1:
            yield Damage(last + 1, record.sequence - 1, segment.path)
        last = record.sequence
        yield record
    if end is not None:
        segment.last = end - 1
        if last < end - 1:
            yield Damage(last + 1, end - 1, segment.path)


@dataclass(frozen=True, slots=True)
class JournalState:
    """The state of a journal at one moment. `identity` is empty where no record was ever written."""

    identity: str
    segments: int
    bytes: int
    freed: int
    last: int
    damage: tuple[Damage, ...]


def inspect(folder: Path) -> JournalState:
    """Return the state of a journal; one without segments where there is no folder.

    Raises JournalUnusable if a newer version has written it. Raises OSError if a segment cannot be read.
    """
    state = _look(folder)
    if state.damage:  # or a process has half written a record, or writes over a segment: then the next look differs
        again = _look(folder)
        state = replace(again, damage=tuple(found for found in again.damage if found in state.damage))
    return state


def _look(folder: Path) -> JournalState:
    with _opened(folder) as segments:
        used, identity, freed, gone = used_segments(folder, segments)
        damage = tuple(found for found in read_in_order(used, freed, gone) if isinstance(found, Damage))
        last = max((segment.last for segment in used), default=0)
        size = sum(segment.capacity for segment in segments)
        return JournalState(identity.hex(), len(segments), size, freed, max(last, freed), damage)


def records(folder: Path) -> Iterator[Record]:
    """Yield every whole record that was not freed, in its order."""
    with _opened(folder) as segments:
        used, _, freed, _ = used_segments(folder, segments)
        yield from (found for found in read_in_order(used, freed) if isinstance(found, Record))


@contextmanager
def _opened(folder: Path) -> Iterator[list[Segment]]:
    with ExitStack() as opened:
        yield [opened.enter_context(closing(Segment(path, read_only=True))) for path in segment_files(folder)]
