"""A journal of tiny segments, which a few instances fill, and instances that count as large from 4 KB on.

So short a session writes part files, fills segments, makes checkpoints and uses segments again.
"""

import os
from pathlib import Path

from node.archive import filesystem
from node.journal import journal, segment
from node.receive import data_set

VARIABLE = "TESTS_SMALL_JOURNAL"
"""Variable of a node with a small journal; its value is how many files a checkpoint syncs one by one."""

SINGLE_SYNCS = str(filesystem.MAX_SINGLE_SYNCS)

SEGMENT_BYTES = 16 << 10
SEGMENTS = 6
LARGE_BYTES = 4 << 10


def make_small() -> None:
    """Change this process, if the variable says so."""
    single_syncs = os.environ.get(VARIABLE)
    if single_syncs is not None:
        make = journal.Journal.__init__

        def make_of_small_segments(self: journal.Journal, folder: Path, *sizes: int) -> None:
            make(self, folder, SEGMENT_BYTES, SEGMENTS * SEGMENT_BYTES)

        journal.Journal.__init__ = make_of_small_segments  # type: ignore[method-assign]
        segment.GROW_BYTES = journal.GROW_BYTES = 4 << 10  # type: ignore[attr-defined]
        data_set.LARGE_BYTES = LARGE_BYTES
        filesystem.MAX_SINGLE_SYNCS = int(single_syncs)
