"""A record of the journal: facts as JSON.

They are those of the receipt of an instance, and its DICOM file as it is archived follows; or of the end of an
association that has brought instances.

`journal_report` tells of the journal of a root, also beside a node: its size, its waiting instances, its damage.
"""

import datetime as dt
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.dicom.attributes import InstanceAttributes
from node.index.rows.about_keys import AppliedPosition
from node.index.rows.records import AssociationEnd, Outcome, ReceivedPolicy
from node.journal.inspection import inspect, records
from node.journal.segment import Damage

_ENCODER = json.JSONEncoder(default=dt.datetime.isoformat)

_END = "association_end"
"""Name of the only field of the facts of an end; its value has the others."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """How an instance came, and where it goes.

    `sha256` is of the data set of a large instance, whose bytes lie in a file of their own, and `uids` are its SOP,
    Study and Series Instance UID, by which it is known if that file is gone; both are empty where the record has the
    bytes. `data_set_offset` and `data_set_bytes` are within the file. `begun` is the place of the begin of the
    association (`node.quiet.is_later`); `association` its name, empty where no record of its end will follow.
    """

    key: str
    source: str
    calling_ae_title: str
    called_ae_title: str
    peer: str
    received_at: dt.datetime
    transfer_syntax_uid: str
    data_set_offset: int
    data_set_bytes: int
    quiet_seconds: float
    overwrite_policy: ReceivedPolicy
    sha256: str = ""
    association: str = ""
    begun: str = ""
    uids: Sequence[str] = ()

    def encoded(self) -> bytes:
        """Return the facts of a record."""
        facts = {name: getattr(self, name) for name in self.__slots__}
        return _ENCODER.encode(facts).encode()


@dataclass(frozen=True, slots=True)
class Known:
    """What the receiving thread knows of the record of an instance; the journal hands it on with the record.

    `outcome`: gets the outcome after the commit; None: nobody waits for it.
    """

    receipt: Receipt
    attributes: InstanceAttributes
    outcome: Future[Outcome] | None = None


def receipt(facts: bytes) -> Receipt | None:
    """Return the receipt that a record of the journal holds; None if its facts are not those of this version."""
    try:
        return Receipt(**_with_moments(json.loads(facts), "received_at"))
    except (ValueError, TypeError):
        return None


def end_facts(end: AssociationEnd) -> bytes:
    """Return the facts of the record of an end."""
    fields = {name: getattr(end, name) for name in end.__slots__}
    fields["brought"] = [[*series, count] for series, count in end.brought.items()]
    return _ENCODER.encode({_END: fields}).encode()


def association_end(facts: bytes) -> AssociationEnd | None:
    """Return the end of an association that a record of the journal holds; None if it holds something else."""
    try:
        fields = _with_moments(json.loads(facts)[_END], "ended_at", "ending_at")
        fields["brought"] = {(study, series): count for study, series, count in fields["brought"]}
        fields["last"] = tuple(fields["last"])
        return AssociationEnd(**fields)
    except (ValueError, KeyError, TypeError):
        return None


def _with_moments(fields: dict[str, Any], *names: str) -> dict[str, Any]:
    for name in ("began_at", "address"):  # a version before 0.2 wrote them, and `db rebuild` takes its journal over
        fields.pop(name, None)
    moments: Mapping[str, str | None] = {name: fields.get(name) for name in names}
    return fields | {name: dt.datetime.fromisoformat(text) for name, text in moments.items() if text is not None}


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
