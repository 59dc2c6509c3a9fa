"""The journal of a root for commands, also beside a node: its size, its waiting instances, its damage."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from node.index.rows.about_keys import AppliedPosition
from node.journal.inspection import inspect, records
from node.journal.segment import Damage
from node.receive.record import association_end, receipt

JOURNAL_FOLDER = "journal"
"""Below the root."""


@dataclass(frozen=True, slots=True)
class JournalReport:
    """The state of a journal at one moment, and how far the index has it.

    `last`, `applied` and `freed` are numbers of records: the last one that was written, that is in the index, and that
    is durable without the journal. `waiting` instances were acknowledged and are not in the index.
    """

    segments: int
    bytes: int
    last: int
    applied: int
    freed: int
    waiting: int
    damage: tuple[Damage, ...]


def journal_report(root: Path, applied_of: Callable[[str], AppliedPosition]) -> JournalReport:
    """Return the state of the journal below `root`; `applied_of` is of the index. Errors are those of `inspect`."""
    state = inspect(root / JOURNAL_FOLDER)
    applied = applied_of(state.identity)
    done = max(state.freed, applied.sequence if applied.journal == state.identity else 0)
    waiting = 0
    if state.last > done:
        new = (record.facts for record in records(root / JOURNAL_FOLDER) if record.sequence > done)
        waiting = sum(association_end(facts) is None for facts in new)
    return JournalReport(
        segments=state.segments,
        bytes=state.bytes,
        last=state.last,
        applied=done,
        freed=state.freed,
        waiting=waiting,
        damage=state.damage,
    )


def waiting_keys(root: Path) -> set[str]:
    """Return the keys of the files that records of the journal below `root` name, of those that were not freed."""
    receipts = (receipt(record.facts) for record in records(root / JOURNAL_FOLDER))
    return {its.key for its in receipts if its is not None}  # the others go to quarantine, under keys of their own


def damaged_records(damage: Damage) -> str:
    """Return in words which records are damaged."""
    if damage.last < damage.first:
        return f"records from {damage.first} on, if there were any, are missing with it: it is not there, or was cut"
    if damage.first == damage.last:
        return f"record {damage.first}, an acknowledged instance, cannot be read"
    return f"records {damage.first} to {damage.last}, acknowledged instances, cannot be read"
