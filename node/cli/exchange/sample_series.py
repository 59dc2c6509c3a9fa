"""A converted CT series in a temporary root, for a test of a hook that has no series of its own."""

from __future__ import annotations

import datetime as dt
import importlib.resources
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from node.settings.model import Settings

CT_SERIES = "dicomdirtests/98892001/CT5N"
"""Five slices among the test files that pydicom ships."""


def shipped_with_pydicom(name: str) -> list[Path]:
    """Return a test file of pydicom, or the files of a folder of them."""
    path = Path(str(importlib.resources.files("pydicom"))) / "data" / "test_files" / name
    return sorted(path.iterdir()) if path.is_dir() else [path]


@contextmanager
def sample_root(settings: Settings) -> Iterator[Path]:
    """Make a root that has one series, converted by [convert]; it is removed at the end."""
    from node.control.repository import Repository
    from node.conversion.pipeline import convert
    from node.conversion.series import record_outcome, write_volumes
    from node.receive.import_files import import_instances
    from node.settings.core import IndexSettings
    from node.writers.options import write_options

    def now() -> dt.datetime:
        return dt.datetime.now(dt.UTC)

    with tempfile.TemporaryDirectory(prefix="voxelnode-test-") as folder:
        storage = settings.storage.model_copy(
            update={"root": Path(folder), "reserve_bytes": 0, "journal_bytes": 16_777_216}
        )
        own = settings.model_copy(update={"storage": storage, "index": IndexSettings()})
        with Repository(own) as repository:
            repository.ingest.quiet_seconds = lambda calling_ae_title: 0.0
            import_instances(shipped_with_pydicom(CT_SERIES), repository.ingest)
            repository.applier.require_caught_up()
            claimed = repository.index.series.claim_due(now())
            assert claimed is not None
            outcome = write_volumes(
                claimed, repository.archive, repository.index, write_options(settings.convert), convert
            )
            record_outcome(claimed, outcome, repository.archive, repository.index, now)
        yield Path(folder)
