"""Hold the acknowledgement until an instance is indexed, or is in the object store ([journal] acknowledge).

Uncertain is never success: if the index or the store has not taken the instance in time, its sender gets a failure and
sends it again. The instance stays in the journal, is indexed and uploaded later, and is a repeat when it comes again.
"""

from __future__ import annotations

from concurrent.futures import Future

from node.archive.filesystem import Archive
from node.errors import OutOfResources
from node.index.nouns.records import NOT_CURRENT_OUTCOMES, Outcome
from node.receive.apply import Applier
from node.runtime.metrics import Metrics
from node.settings.core import Acknowledge


class Acknowledgement:
    """Waits for index or store. Thread-safe.

    `seconds`: longest wait of one instance.
    """

    def __init__(
        self, promise: Acknowledge, seconds: float, applier: Applier, archive: Archive, metrics: Metrics
    ) -> None:
        self._promise, self.seconds = promise, seconds
        self._applier, self._archive, self._metrics = applier, archive, metrics

    def refusal(self) -> str | None:
        """Return why nothing can be acknowledged now; None if it can, or nobody has tried for long."""
        if (seconds := self._applier.lag_seconds) > self.seconds:
            return f"the index has not taken what was received for {seconds:.0f} s{self._reason()}"
        awaited = self._archive.remote.awaited if self._archive.remote is not None else None
        if awaited is not None and (seconds := awaited.oldest_seconds()) > self.seconds:
            return f"the object store has not taken what was received for {seconds:.0f} s"
        return None

    def _reason(self) -> str:
        """Return the reason, in brackets, why the index is behind, if it is known."""
        stall = self._applier.index_stall
        return f" (its server {stall})" if stall is not None else ""

    def wait(self, outcome: Future[Outcome], seconds: float | None = None) -> Outcome:
        """Return the outcome of an instance that is in the journal, once it may be acknowledged.

        `outcome`: as given to `Incoming.finish`.
        `seconds`: longest wait; None: that of the configuration.

        Raises OutOfResources: that takes longer, or only the disk of this host has these bytes, which is not what was
            promised.
        Raises NotUnderstood: the index can never take it: it is in quarantine.
        """
        with self._metrics.acknowledge_seconds.time():
            try:
                reached_outcome = outcome.result(self.seconds if seconds is None else seconds)
            except TimeoutError:
                place = "the object store" if self._promise == "object" else "the index"
                took = f"not in {place} within {self.seconds:g} s{self._reason()}"
                raise OutOfResources(f"{took}: send it again") from None
        if self._promise == "object" and reached_outcome in NOT_CURRENT_OUTCOMES:
            raise OutOfResources("other bytes are current; these are only on the disk of this host, in quarantine")
        return reached_outcome
