"""How far the records of the journal are applied, for those who wait for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic

from node.journal.journal import Journal


class Progress:
    """The number of the last record that is applied. One thread notes it; any thread asks and waits."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._changed = threading.Condition()
        self.applied = 0
        self._caught_up_at = monotonic()  # everything that was durable by then is applied
        self._seen, self._seen_at = 0, self._caught_up_at  # the last record at a moment since

    @property
    def lag(self) -> int:
        """How many records, nearly all of acknowledged instances, are not in the index yet."""
        return max(0, self._journal.last - self.applied)

    @property
    def lag_seconds(self) -> float:
        """For how long acknowledged instances have not been in the index; 0 while it is up to date."""
        return monotonic() - self._caught_up_at if self.lag else 0.0

    def expects(self) -> None:
        """Note that a record will be appended: until then, nothing may be late."""
        now = monotonic()
        if not self.lag:
            self._caught_up_at = now

    def note(self, sequence: int) -> None:
        """Note that all records are applied up to this one."""
        with self._changed:
            self.applied = sequence
            self._changed.notify_all()
        if sequence >= self._seen:  # under a steady load the lag is never 0: what was there at a moment is applied
            self._caught_up_at = max(self._caught_up_at, self._seen_at)
            self._seen_at, self._seen = monotonic(), self._journal.last

    def wake(self) -> None:
        """Have those who wait look again."""
        with self._changed:
            self._changed.notify_all()

    def wait(self, is_over: Callable[[], bool], seconds: float) -> bool:
        """Wait until something holds, which is looked at after each change; return False if that takes longer."""
        with self._changed:
            return self._changed.wait_for(is_over, seconds)
