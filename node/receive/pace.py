"""When the next batch of the journal is applied: a pure function of what waits.

Records are applied together, since a commit costs as much for one as for hundreds, and an interpreter that applies has
no time for senders. A batch therefore waits for those that follow: for a moment after the last one, and no longer than
`YIELD_SECONDS` after the first. Who reads the index waits for none of that. Where senders wait for the index, each
sends its next instance once the last one is acknowledged: a batch waits for as many as have waited for the last one, or
some of them would always wait for the commit of the others.
"""

from math import inf
from typing import NamedTuple

MAX_GATHERED = 2048
"""Records that wait at most; then all of them are applied, in several transactions."""

MAX_BATCH_BYTES = 32 << 20
GATHER_SECONDS = 0.05
"""How long a batch waits after its last record, for those that may follow, and at most for senders that wait."""

YIELD_SECONDS = 4.0
"""How long a record waits at most while others follow it: until then, senders have the interpreter."""

READ_SECONDS = 10.0
"""For so long after somebody has read the index, no record waits longer than `GATHER_SECONDS`: of several who read,
only the first waits for as many records as `MAX_GATHERED`."""


class Waiting(NamedTuple):
    """What is appended and not applied; times are those of the monotonic clock.

    `records`, `size`: how many, and their bytes.
    `first_at`, `last_at`: when the first and the last of them came.
    `is_wanted`: somebody waits for one of them: a query, an outcome, or those before it are being applied.
    `read_at`: when somebody last read the index.
    `company`, `took`: how many senders waited for the last batch, and its seconds; 0: senders never wait for the index.
    """

    records: int = 0
    size: int = 0
    first_at: float = 0.0
    last_at: float = 0.0
    is_wanted: bool = False
    read_at: float = -inf
    company: int = 0
    took: float = 0.0

    def with_another(self, size: int, now: float) -> "Waiting":
        """Return what waits once one more record has come."""
        first_at = self.first_at if self.records else now
        return self._replace(records=self.records + 1, size=self.size + size, first_at=first_at, last_at=now)


def due_at(waiting: Waiting) -> float:
    """Return when the next batch is due; a time that is over: now."""
    if waiting.is_wanted or waiting.records >= MAX_GATHERED or waiting.size >= MAX_BATCH_BYTES:
        return waiting.first_at
    if waiting.company:
        is_met = waiting.records >= waiting.company
        return waiting.first_at if is_met else waiting.first_at + min(waiting.took, GATHER_SECONDS)
    is_read = waiting.last_at <= waiting.read_at + READ_SECONDS
    longest = GATHER_SECONDS if is_read else YIELD_SECONDS
    return min(waiting.last_at + GATHER_SECONDS, waiting.first_at + longest)
