"""The last proof of a backup, as a file in the root: what status, pages and metrics know of it."""

import datetime as dt
import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from node.files.durable import write_durably

FILE = "backup-proof.json"
"""File in the root. It is not in the index, which a proof need not lock and a loss may take."""


@dataclass(frozen=True, slots=True)
class Proof:
    """The outcome of the last proof of a backup; times in ISO 8601, in UTC.

    `succeeded_at`: the end of the last proof that found no difference; None: there was none yet.
    `backup`: the folder of the backup.
    `instances`, `volumes_again`: how many instances were compared, and how many series were converted again.
    `problem`: why there was no comparison; empty: there was one.
    """

    ended_at: str
    succeeded_at: str | None
    backup: str
    differences: int = 0
    instances: int = 0
    volumes_again: int = 0
    problem: str = ""

    @property
    def ok(self) -> bool:
        """Whether the backup was restored and has no difference."""
        return not self.problem and not self.differences

    @property
    def succeeded_timestamp(self) -> float:
        """When a proof succeeded last, in seconds since 1970; 0: never."""
        return dt.datetime.fromisoformat(self.succeeded_at).timestamp() if self.succeeded_at else 0.0

    @property
    def text(self) -> str:
        """The outcome in words."""
        ended = _minute(self.ended_at)
        last = f"last success {_minute(self.succeeded_at)}" if self.succeeded_at else "no success yet"
        if self.problem:
            return f"failed {ended}: {self.problem}; {last}"
        if self.differences:
            return f"{self.differences} differences {ended}: `voxelnode backup --prove {self.backup}`; {last}"
        return f"{ended}: {self.instances} instances whole, {self.volumes_again} series converted again"


def _minute(moment: str) -> str:
    return f"{dt.datetime.fromisoformat(moment).astimezone():%Y-%m-%d %H:%M %Z}"


def last_proof(root: Path) -> Proof | None:
    """Return the outcome of the last proof; None if there was none, or its file cannot be read."""
    with suppress(OSError, ValueError, TypeError):
        return Proof(**json.loads((root / FILE).read_bytes()))
    return None


def note(root: Path, proof: Proof) -> None:
    """Replace the outcome durably; raises OSError if the disk is full or fails."""
    write_durably(root / FILE, json.dumps(asdict(proof)).encode())
