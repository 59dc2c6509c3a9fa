"""Numbers with their nouns, for people."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

MAX_SPANS = 10
"""Runs of interpolated slices that are named."""


def counted(count: int, singular: str, plural: str | None = None) -> str:
    """Return a number with its noun; by default, the plural is the singular with an s.

    What follows the noun can be part of both: ``counted(1, "file is damaged", "files are damaged")``.
    """
    return f"{count} {singular if count == 1 else plural or singular + 's'}"


def sized(count: float) -> str:
    """Return a number of bytes in readable form, such as ``1.5 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def interpolated(indexes: Sequence[int]) -> str:
    """Return the slices, by their ascending indexes from 0, that a resampled copy has between those of its stack."""
    return f"{_slices(indexes)} {'is' if len(indexes) == 1 else 'are'} interpolated"


def no_label(indexes: Sequence[int]) -> str:
    """Return the interpolated slices, by their ascending indexes from 0, on which labels of a stack say nothing."""
    has, its, was = ("has", "its", "image was") if len(indexes) == 1 else ("have", "their", "images were")
    return f"{_slices(indexes)} {has} no label: {its} {was} interpolated"


def _slices(indexes: Sequence[int]) -> str:
    runs = [[index for _, index in run] for _, run in groupby(enumerate(indexes), lambda pair: pair[1] - pair[0])]
    named = spans([range(run[0] + 1, run[-1] + 2) for run in runs], MAX_SPANS)
    return f"slice {named}" if len(indexes) == 1 else f"slices {named}"


def spans(runs: Sequence[range], most: int) -> str:
    """Return runs of numbers in words, such as ``4, 7-9``; at most so many runs, and numbers of a run with steps."""
    shown = [
        str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" if run.step == 1 else ", ".join(map(str, run[:most]))
        for run in runs
    ]
    return ", ".join(shown[:most]) + (", ..." if len(shown) > most else "")
