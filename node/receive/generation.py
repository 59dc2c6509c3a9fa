"""Generations: are the parts of a root of one age?

The index, the journal and the marker of each folder have the generation of the root: a number that grows, and letters,
because two states of a root may have come to one number. A start gives them the next one, and so do a clean end and a
checkpoint that comes `RENEW_SECONDS` after the last one. A disk that was put back as it was yesterday has an earlier
one; the marker of a folder that is new, a copy, or accepted by a person has none. A start that finds such a part
compares all that rows and ledger name, and renews the generation only then: if the process dies before, the next start
compares again.

    the index permits both generations -> journal -> folders -> the index permits the new one alone

If the process dies in between, each part has a generation that the index permits. What cannot be written is logged, and
``status`` says so.
"""

import uuid

import structlog

from node.archive.filesystem import Archive
from node.archive.root import generation_of
from node.archive.space import KEPT
from node.files.acknowledged import LedgerPosition
from node.index.database import Index
from node.index.rows.about_keys import COMPARED, GENERATION, LEDGER
from node.journal.journal import Journal
from node.runtime.failpoints import reached

log = structlog.get_logger()

RENEW_SECONDS = 600.0

CLEAN, BEGUN = "-clean", "-begun"
"""Ends of a generation, of one length: that of a clean end, which leaves nothing in the journal alone, or not."""

INDEX, RECORDS, LISTED = "the index", "the journal", "acknowledged/"
"""Parts of a root: those beside its folders, the journal by its mark, and the folder of the ledger."""


def mark_of(archive: Archive) -> str:
    """Return the key of ``about`` under which the index notes how far the ledger of this host is."""
    return f"{LEDGER}{archive.suffix}"


def lacks_entries(archive: Archive, index: Index) -> bool:
    """Return whether the ledger is gone, cut, or of before: it has fewer entries than the index knew.

    Raises OSError if the disk fails.
    """
    mark, position = LedgerPosition.of(index.about.get(mark_of(archive))), archive.acknowledged.position
    return mark.entries > (position.entries if mark.identity == position.identity else 0)


def permitted(archive: Archive, index: Index) -> list[str]:
    """Return the generations that the index permits, the newest last; empty if it is new, or had another host."""
    return (index.about.get(f"{GENERATION}{archive.suffix}") or "").split()


def odd_parts(archive: Archive, index: Index, journal: Journal) -> dict[str, str]:
    """Return the parts of a root that do not have its newest generation, with theirs; empty if all have it.

    A ledger that has fewer entries than the index knew is of before, whatever its marker says. A journal without a
    mark, and a folder without a marker, had nothing yet, unless the index is of before; a journal that is older than a
    clean end lacks nothing.
    """
    known = permitted(archive, index)
    ages = {f"{name}/": generation_of(archive.root, name) for name in KEPT}
    ages |= {RECORDS: journal.generation or None, INDEX: known[-1] if known else None}
    found = {part: known[-1] if age in known else age for part, age in ages.items() if age is not None}
    newest = max(found.values(), default="")
    if newest.endswith(CLEAN):
        found.pop(RECORDS, None)
    odd = {part: age for part, age in found.items() if age != newest}
    if lacks_entries(archive, index):
        odd[LISTED] = "cut"
    return odd | {RECORDS: ""} if INDEX in odd and not journal.generation and newest.endswith(BEGUN) else odd


def renew(archive: Archive, index: Index, journal: Journal, end: str = BEGUN) -> None:
    """Give all parts of a root the next generation, durably, once all of them were compared.

    `end`: `CLEAN` if nothing is left in the journal alone.

    Raises OutOfResources or OSError if a part is away, or its disk fails.
    """
    archive.intake.require_here()
    key, known = f"{GENERATION}{archive.suffix}", permitted(archive, index)
    newest = max(*known, journal.generation, *(generation_of(archive.root, name) or "" for name in KEPT))
    new = f"{int(newest[:12] or 0) + 1:012d}-{uuid.uuid4().hex[:8]}{end}"
    index.about.set(key, " ".join([*known, new]))
    journal.renew(new)
    reached("renewal-begun")
    if left := archive.renew(new):
        detail = f"the markers of {', '.join(left)} cannot be written: the next start compares all files again"
        log.error("generation_not_written", detail=detail)
        index.about.set(COMPARED, detail)
    index.about.set(key, new)
