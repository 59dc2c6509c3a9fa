"""``voxelnode db reindex``."""

from __future__ import annotations

import sys

from node.cli.options import ChangedRoot
from node.cli.output import Answer


def reindex(root: ChangedRoot) -> Answer:
    """Fill the index of the attributes in [query] indexed.

    A running node does the same in the background; the command does it at once, also beside it. Queries are answered
    meanwhile. If the command is interrupted, run it again: it goes on with what is left.
    """
    left = 1
    while left:
        left = root.perform("reindex")["left"]
        if sys.stderr.isatty():
            print(f"\r{left} series left ", end="", file=sys.stderr, flush=True)
    return Answer({"left": left}, "the index is complete")
