"""Command lines of dcm2niix as those of ``voxelnode convert``."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

BY_VALUE: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("-z", "n"): ("--no-compress",),
    ("-z", "3"): ("--no-compress", "--split-times"),
    ("-ba", "y"): ("--anonymous",),
    ("-e", "y"): ("--format", "nrrd"),
    ("-n", "-1"): ("--list",),
}
"""Options with the values for which there is something else here; with other values, they are not needed."""

NOT_COMPRESSED = ("--no-compress",)
"""What dcm2niix does without ``-z``."""

KEPT = ("-o", "-f")
"""Options that mean the same here."""

WITH_A_VALUE = frozenset((*"abcdefgilmnopqrstvwxyz", "ba"))
"""Letters of the options of dcm2niix that have a value."""


def rewritten(arguments: Sequence[str]) -> str | None:
    """Return the command line that does what dcm2niix does with these arguments; None if they are not for it.

    It writes all files into one folder, as dcm2niix does. Without ``-o``, the folder is called OUT.
    """
    options: list[str] = []
    kept: dict[str, str] = {"-o": "OUT"}
    places: list[str] = []
    seen: set[str] = set()
    words = iter(arguments)
    for word in words:
        if not word.startswith("-"):
            places.append(word)
            continue
        letters = word[1:]
        if letters.isdigit():  # how much to compress
            continue
        value = next(words, None) if letters in WITH_A_VALUE else None
        if value is None:
            return None
        seen.add(word)
        if word in KEPT:
            kept[word] = value
        options += BY_VALUE.get((word, value), ())
    if not places:
        return None
    if not seen & {"-z", "-e"} and "--list" not in options:
        options += NOT_COMPRESSED
    given = [text for option in kept.items() for text in option]
    return shlex.join(["voxelnode", "convert", *given, "--flat", *options, *places])
