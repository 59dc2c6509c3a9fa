"""Look at a journal from outside, also while a process writes to it: nothing is locked and nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from node.journal.journal import JournalUnusable, freed_mark, identity_of, segment_files
from node.journal.layout import VERSION
from node.journal.segment import Damage, Record, Segment, in_order, read_in_order


@dataclass(frozen=True, slots=True)
class JournalState:
    """What a journal held at one moment. `identity` is empty where no record was ever written."""

    identity: str
    segments: int
    bytes: int
    freed: int
    last: int
    damage: tuple[Damage, ...]


def inspect(folder: Path) -> JournalState:
    """Return the state of a journal; one without segments where there is no folder.

    Raises
    ------
    JournalUnusable
        A newer version has written it.
    OSError
        A segment cannot be read.
    """
    state = _look(folder)
    if state.damage:  # or a process has half written a record, or writes over a segment: then the next look differs
        again = _look(folder)
        state = replace(again, damage=tuple(found for found in again.damage if found in state.damage))
    return state


def _look(folder: Path) -> JournalState:
    with _opened(folder) as segments:
        identity, freed, used = _in_use(folder, segments)
        damage = tuple(found for found in read_in_order(used, freed) if isinstance(found, Damage))
        last = max((segment.last for segment in used), default=0)
        size = sum(segment.capacity for segment in segments)
        return JournalState(identity, len(segments), size, freed, max(last, freed), damage)


def records(folder: Path) -> Iterator[Record]:
    """Yield every whole record that was not freed, in its order."""
    with _opened(folder) as segments:
        _, freed, used = _in_use(folder, segments)
        yield from (found for found in read_in_order(used, freed) if isinstance(found, Record))


def _in_use(folder: Path, segments: list[Segment]) -> tuple[str, int, list[Segment]]:
    """Return the identity of the journal, its mark, and the segments that were used, in their order."""
    used = in_order(segments)
    if newer := [segment for segment in used if segment.head is not None and segment.head.version > VERSION]:
        raise JournalUnusable(f"{newer[0].path} was written by a newer version of voxelnode: use that one")
    identity = identity_of(folder, used).hex()
    return identity, freed_mark(folder, identity), used


@contextmanager
def _opened(folder: Path) -> Iterator[list[Segment]]:
    with ExitStack() as opened:
        yield [opened.enter_context(closing(Segment(path, read_only=True))) for path in segment_files(folder)]
