"""An `Ingest` with the journal and the applier behind it, as `node.control.repository` puts them together."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from node.archive.filesystem import Archive
from node.audit import Audit
from node.index.database import Index
from node.index.records import Outcome
from node.journal.journal import Journal
from node.metrics import Metrics
from node.receive.apply import Applier
from node.receive.ingest import Arrival, Ingest

SEGMENT_BYTES = 4 << 20
INDEXED_SECONDS = 30.0


def indexed(arrival: Arrival) -> Outcome:
    """Finish an arrival, and wait for the outcome in the index."""
    outcome: Future[Outcome] = Future()
    arrival.finish(outcome)
    return outcome.result(INDEXED_SECONDS)


@contextmanager
def opened_ingest(
    archive: Archive, index: Index, metrics: Metrics, *arguments: Any, **options: Any
) -> Iterator[Ingest]:
    """Replay the journal of a root, and take instances in; `arguments` and `options` are those of `Ingest`."""
    journal = Journal(archive.root / "journal", SEGMENT_BYTES)
    audit = Audit(archive.root, "VOXELNODE")
    applier = Applier(journal, archive, index, metrics, audit)
    applier.replay()
    applier.start()
    index.ahead = applier
    try:
        yield Ingest(archive, index, journal, applier, metrics, *arguments, **options)
    finally:
        applier.finish()
        journal.close()
        audit.close()
