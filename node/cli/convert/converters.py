"""The child processes of ``voxelnode convert``; `main` starts the first one before it loads anything else."""

from __future__ import annotations

from functools import cache

from node.conversion.pool import Converters


@cache
def converters() -> Converters:
    """Return the converters of this run."""
    return Converters()


def close_converters() -> None:
    """Kill the children of this run."""
    converters().close()
    converters.cache_clear()
