"""Attributes of records that receiving threads are about to append, so that nobody reads them back from the journal."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import NamedTuple

from node.dicom.attributes import InstanceAttributes
from node.index.nouns.records import Outcome

MAX_EXPECTED = 4096
"""Records whose attributes are kept in memory from the receipt on."""


class _Expected(NamedTuple):
    attributes: InstanceAttributes
    outcome: Future[Outcome] | None


class ExpectedRecords:
    """The attributes of coming records, and the futures of their outcomes. Thread-safe.

    While the index accepts nothing for long, attributes are dropped, and read from the journal later; futures are never
    dropped.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_key: dict[str, _Expected] = {}

    def add(self, key: str, attributes: InstanceAttributes, outcome: Future[Outcome] | None) -> None:
        """Expect the record of the instance that gets this key; `outcome` gets its outcome after the commit."""
        with self._lock:
            if outcome is not None or len(self._by_key) < MAX_EXPECTED:
                self._by_key[key] = _Expected(attributes, outcome)

    def forget(self, key: str) -> None:
        """Expect a record no longer: the append failed."""
        self.applied(key)

    def may_have(self, sop_instance_uid: str) -> bool:
        """Return whether an instance with this UID may be ahead of the index."""
        with self._lock:
            if len(self._by_key) >= MAX_EXPECTED:
                return True
            return any(one.attributes.sop_instance_uid == sop_instance_uid for one in self._by_key.values())

    def attributes(self, key: str) -> InstanceAttributes | None:
        """Return the attributes of a record, if they are known."""
        with self._lock:
            expected = self._by_key.get(key)
        return expected.attributes if expected is not None else None

    def applied(self, key: str) -> Future[Outcome] | None:
        """Drop what is known of a record that was applied; return what waits for its outcome."""
        with self._lock:
            expected = self._by_key.pop(key, None)
        return expected.outcome if expected is not None else None

    def waiting(self) -> list[Future[Outcome]]:
        """Return the futures that have no outcome yet."""
        with self._lock:
            outcomes = [one.outcome for one in self._by_key.values() if one.outcome is not None]
        return [outcome for outcome in outcomes if not outcome.done()]
