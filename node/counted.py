"""Numbers with their nouns, for people."""

from __future__ import annotations


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
