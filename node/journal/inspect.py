"""Read a journal without locking or changing it, also while a node writes to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from node.journal.journal import segment_files, used_segments
from node.journal.segment import Damage, Record, Segment, read_in_order


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

    Raises JournalUnusable if a newer version has written it. Raises OSError if a segment cannot be read.
    """
    state = _look(folder)
    if state.damage:  # or a process has half written a record, or writes over a segment: then the next look differs
        again = _look(folder)
        state = replace(again, damage=tuple(found for found in again.damage if found in state.damage))
    return state


def _look(folder: Path) -> JournalState:
    with _opened(folder) as segments:
        used, identity, freed = used_segments(folder, segments)
        damage = tuple(found for found in read_in_order(used, freed) if isinstance(found, Damage))
        last = max((segment.last for segment in used), default=0)
        size = sum(segment.capacity for segment in segments)
        return JournalState(identity.hex(), len(segments), size, freed, max(last, freed), damage)


def records(folder: Path) -> Iterator[Record]:
    """Yield every whole record that was not freed, in its order."""
    with _opened(folder) as segments:
        used, _, freed = used_segments(folder, segments)
        yield from (found for found in read_in_order(used, freed) if isinstance(found, Record))


@contextmanager
def _opened(folder: Path) -> Iterator[list[Segment]]:
    with ExitStack() as opened:
        yield [opened.enter_context(closing(Segment(path, read_only=True))) for path in segment_files(folder)]
