"""An `Ingest` with the journal and the applier behind it, as `node.control.repository` puts them together."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydicom import FileDataset

from node.api import Audit, Index, Settings
from node.archive.filesystem import Archive
from node.control.repository import Repository
from node.index.rows.records import Outcome
from node.journal.journal import Journal
from node.receive.apply import Applier
from node.receive.data_set import LARGE_BYTES
from node.receive.ingest import Announced, Incoming, Ingest, Origin
from node.runtime.metrics import Metrics
from node.settings.core import OverwritePolicy, Storage
from tests import make
from tests.rows import view_rows

if TYPE_CHECKING:
    from tests.crash.journal import Sent

SEGMENT_BYTES = 4 << 20
INDEXED_SECONDS = 30.0


def settings_of(root: Path, policy: OverwritePolicy = "never", **storage: Any) -> Settings:
    """Those of a root that needs no room on its disk."""
    return Settings(storage=Storage(root=root, reserve_bytes=0, overwrite_policy=policy, **storage))


def large_instance() -> FileDataset:
    """An instance of twice the bytes that are received in memory: it has a part file."""
    [ds] = make.ct_series(1)
    ds.PixelData = bytes(range(256)) * (2 * LARGE_BYTES // 256)
    return ds


def indexed(incoming: Incoming) -> Outcome:
    """Finish an arrival, and wait for the outcome in the index."""
    outcome: Future[Outcome] = Future()
    incoming.finish(outcome)
    incoming._ingest.applier.wake()  # no other instance is to come into its batch
    return outcome.result(INDEXED_SECONDS)


def take(ingest: Ingest, instances: Sequence[Sent], association: str = "") -> None:
    """Bring instances in, one after the other; each is in the index when the next one begins."""
    origin = Origin("dicom", "MODALITY", "VOXELNODE", "127.0.0.1:1", association)
    for one in instances:
        said = Announced("1.2.840.10008.5.1.4.1.1.2", one.sop_instance_uid, "1.2.840.10008.1.2.1")
        incoming = ingest.begin(said, origin)
        incoming.take_fragment(one.data)
        indexed(incoming)


def received(settings: Settings, instances: Sequence[Sent]) -> None:
    """Open a root, and bring instances in."""
    with Repository(settings) as repository:
        take(repository.ingest, instances)


def served(root: Path) -> dict[str, str]:
    """The digest of the file that each instance is served from, by SOP Instance UID."""
    rows = view_rows(root, "SELECT sop_instance_uid, path, data_set_offset FROM v_images WHERE NOT file_missing")
    return {
        row["sop_instance_uid"]: hashlib.sha256(Path(row["path"]).read_bytes()[row["data_set_offset"] :]).hexdigest()
        for row in rows
    }


@contextmanager
def opened_ingest(
    archive: Archive, index: Index, metrics: Metrics, *arguments: Any, **options: Any
) -> Iterator[Ingest]:
    """Replay the journal of a root, and take instances in; `arguments` and `options` are those of `Ingest`."""
    journal = Journal(archive.root / "journal", SEGMENT_BYTES)
    audit = Audit(archive.root, "VOXELNODE")
    is_awaited = options.get("acknowledge", "local") != "local"
    applier = Applier(journal, archive, index, metrics, audit, is_awaited=is_awaited)
    applier.replay()
    applier.start()
    index.ahead = applier
    try:
        yield Ingest(archive, index, journal, applier, metrics, *arguments, **options)
    finally:
        applier.finish()
        journal.close()
        audit.close()
