"""Comparison of person names, ignoring case, accents and width of letters."""

from __future__ import annotations

import re
import unicodedata

GROUPS = 3
"""Component groups of a PN: alphabetic, ideographic, phonetic (PS3.5 6.2.1)."""

# Accents of Latin, Greek and Cyrillic letters only: a dakuten or a vowel sign makes a different letter.
_ACCENTS = re.compile("[\u0300-\u036f]")
_SPACES = re.compile(r"\s+")


def folded(text: str) -> str:
    """Return one component group of a PN, or a pattern for it, in the form for comparison.

    The form ignores case, accents, width of letters, repeated spaces, spaces around components, and the delimiters of
    empty components at the end (PS3.5 6.2.1.1). PS3.4 C.2.2.2.1 leaves these rules to the SCP.
    """
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    plain = unicodedata.normalize("NFKC", _ACCENTS.sub("", decomposed)).casefold()
    components = (_SPACES.sub(" ", component).strip() for component in plain.split("^"))
    return "^".join(components).rstrip("^")


def folded_groups(name: str | None) -> tuple[str | None, str | None, str | None]:
    """Return the three component groups of a PN, `folded`; None for an empty one."""
    groups = [folded(group) or None for group in (name or "").split("=")[:GROUPS]]
    groups += [None] * (GROUPS - len(groups))
    return groups[0], groups[1], groups[2]
