"""``voxelnode db reindex``."""

from __future__ import annotations

import sys

from node.cli.options import ChangedRoot
from node.cli.output import Answer


def reindex(root: ChangedRoot) -> Answer:
    """Fill the index of the attributes in [query] indexed.

    Documents of attributes that instances lack are written first. A running node does the same in the background; the
    command does it at once, also beside it. Queries are answered meanwhile. If the command is interrupted, run it
    again: it goes on with what is left.
    """
    after: int | None = 0
    left, written = 1, 0
    while after is not None or left:
        done = root.perform("reindex", after=after)
        after, left = done["after"], done["left"]
        written += done["documents"]
        if sys.stderr.isatty():
            print(f"\r{written} documents written, {left} series left ", end="", file=sys.stderr, flush=True)
    return Answer({"documents": written, "left": left}, f"{written} documents written; the index is complete")
