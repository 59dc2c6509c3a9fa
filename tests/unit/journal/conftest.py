"""Journals of small segments, which are opened again and again."""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from node.journal import segment
from node.journal.journal import Journal
from node.journal.segment import Damage, Record

SEGMENT_BYTES = 16 << 10
PAYLOAD = bytes(range(256)) * 8
"""Five records with this payload fill a segment of `SEGMENT_BYTES`."""

PER_SEGMENT = 5


class Opened:
    """A journal on one folder; `open` ends the one before, as its process would."""

    def __init__(self, folder: Path, ends: ExitStack) -> None:
        self.folder, self._ends = folder, ends

    def open(self, **options: Any) -> Journal:
        """Open the journal, not replayed yet."""
        self._ends.close()
        options = {"segment_bytes": SEGMENT_BYTES, "max_bytes": 64 * SEGMENT_BYTES, **options}
        return self._ends.enter_context(closing(Journal(self.folder, **options)))

    def ready(self, **options: Any) -> Journal:
        """Open the journal and replay it, so that it can be appended to."""
        journal = self.open(**options)
        list(journal.replay())
        return journal

    def filled(self, count: int, **options: Any) -> Journal:
        """Return the journal, ready, after so many records were appended."""
        journal = self.ready(**options)
        fill(journal, count)
        return journal

    def left(self, **options: Any) -> list[Record | Damage]:
        """Open the journal and return what the processes before have left."""
        return list(self.open(**options).replay())

    def segments(self) -> list[Path]:
        return sorted(self.folder.glob("*.journal"))


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opened]:
    monkeypatch.setattr(segment, "GROW_BYTES", 4 << 10)
    with ExitStack() as ends:
        yield Opened(tmp_path / "journal", ends)


def fill(journal: Journal, count: int) -> list[int]:
    """Append so many records, each of which tells its number, and return their numbers."""
    first = journal.last + 1
    return [journal.append(b"%d" % number, PAYLOAD) for number in range(first, first + count)]
