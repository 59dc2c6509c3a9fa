"""The schema of an index, the keys of the facts about it, and what some of these facts are as text."""

import datetime as dt
import json
from dataclasses import asdict, dataclass
from typing import Any, Self

REVISION = "r0001"
"""The last migration, which gives a database the tables of `node.index.rows.models`. Before version 0.2, revisions had
no letter: the tables of one number were others in each checkout."""

SCHEMA = frozenset({REVISION, "labels_0001", "shares_0001", "worklist_0001"})
"""`REVISION`, and the last migrations of the extensions that come with this version, which take long to load."""

CLOSED = "closed"
"""``yes`` if the last process that wrote to the index shut down cleanly, else ``no``."""

APPLIED = "applied"
"""The last record of the journal whose instance is in the index, see `AppliedPosition`. If several hosts can
share the index, there is one for each journal, with its identity behind a slash."""

JOURNAL = "journal"
"""Identity of the journal that may have records which are nowhere else; empty if the last process has left none. The
name of a host follows if several share the index."""

GAPS = "gaps"
"""Records that were acknowledged and that a start could not read, until a person accepts it, as JSON: see
`node.index.rules.custody.lost`."""

GENERATION = "generation"
"""The generations that the parts of the root may have, separated by blanks (`node.receive.accounting`); the name of a
host follows as for `SWEPT_FOLDER`."""

COMPARED = "compared"
"""The last comparison of all that rows and ledger name, in words."""

LEDGER = "ledger"
"""How far the ledger of acknowledged instances was at the last checkpoint (`node.files.acknowledged.LedgerPosition`);
the name of a host follows if several share the index."""

SWEPT_FOLDER = "swept_folder"
"""The last folder of the archive whose files a start has compared with the rows, and the number of folders up to it;
empty: all are to be compared. The name of a host follows, behind a dash, if several share the index."""

SWEPT_VOLUMES = "compared_volumes"
"""The last conversion whose files a start has compared, once all volume folders of the disk have rows, or are noted
(`node.conversion.volume_files`); the name of a host follows as for `SWEPT_FOLDER`."""

SCRUB = "scrub"
"""How far the background comparison of the archive is, see `node.lifecycle.scrub`."""

RETENTION = "retention"
"""What retention has seen of the clock, and what holds it, see `node.index.rules.custody.leaving`."""

RETENTION_CONFIRMED = "retention_confirmed"
"""The last confirmation of a person that retention may go on."""

HELD_FOR_OLDER = "held_for_older"
"""How far a journal was, whose identity follows behind a slash, when an index that was older held retention."""

STORE = "store"
"""Identity of the archive in its object store; empty after everything was copied back to the folder."""

STORE_SPOOLED = "store_spooled"
"""``yes`` once the instances from before the object store are noted as to be moved to it."""

STORE_CHECKSUMS = "store_checksums"
"""How the object store takes an object whose checksum is wrong; empty if it refuses it."""

COPYING = "copying"
"""The index that this unfinished copy is made of, see `node.extensions.postgresql.copying`."""

MOVED = "moved"
"""Where the index is now: this is not the newest any more."""


@dataclass(frozen=True, slots=True)
class AppliedPosition:
    """A position in a journal: every record up to `sequence` is in the index. As text, ``IDENTITY:SEQUENCE``."""

    journal: str
    sequence: int

    def __str__(self) -> str:
        return f"{self.journal}:{self.sequence}"

    @classmethod
    def of(cls, text: str | None) -> Self:
        """Return the position that a text names; that before the first record of no journal if there is none."""
        journal, _, sequence = (text or ":0").partition(":")
        return cls(journal, int(sequence))


@dataclass(frozen=True, slots=True)
class Uptime:
    """A start of the machine, and the seconds since then, with those in which it slept."""

    boot: str
    seconds: float


@dataclass(frozen=True, slots=True)
class ClockLook:
    """A look at the clock: what it showed, the time since the start of the machine, and the newest instance then."""

    at: dt.datetime
    uptime: Uptime
    image: int


@dataclass(frozen=True, slots=True)
class RetentionState:
    """What retention has seen, and what it waits for.

    `last`: the last look at the clock that contradicted nothing. `held`: why nothing is deleted: the clock is
    in doubt, or labels are lost. `asked`: how many studies a pass would delete. `approved`: how many a person has
    agreed to. `confirmation`: the last one that was followed. `differs`: what the hosts do not agree about.
    """

    last: ClockLook | None = None
    held: str | None = None
    asked: int | None = None
    approved: int = 0
    confirmation: str = ""
    differs: str | None = None

    @property
    def is_free(self) -> bool:
        """Whether anything may be deleted by its age."""
        return self.held is None and self.differs is None

    @property
    def waits_for(self) -> str | None:
        """What a person is to decide, in words, or None."""
        if self.held is not None:
            return f"{self.held}: nothing is deleted until a person confirms by `voxelnode retention confirm`"
        if self.differs is not None:
            return f"{self.differs}: nothing is deleted until the hosts agree"
        if self.asked is not None:
            return (
                f"{self.asked} studies are due at once, an unusual number: `voxelnode retention confirm` deletes them"
            )
        return None

    def encoded(self) -> str:
        """Return the state as text for the index."""
        return json.dumps(asdict(self), default=dt.datetime.isoformat)


def retention_state(text: str | None) -> RetentionState:
    """Return the state that a text of the index holds."""
    content = json.loads(text or "{}")
    if not content:
        return RetentionState()
    return RetentionState(**{**content, "last": content["last"] and look_of(content["last"])})


def look_of(fields: dict[str, Any]) -> ClockLook:
    """Return the look that fields of JSON hold."""
    return ClockLook(dt.datetime.fromisoformat(fields["at"]), Uptime(**fields["uptime"]), int(fields["image"]))
