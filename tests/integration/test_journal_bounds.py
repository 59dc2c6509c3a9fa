"""The size of the journal, the lag behind it, and a look at it from outside."""

from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest
from pydantic import ValidationError

from node.api import Index
from node.archive.filesystem import Archive
from node.control.repository import MIN_SEGMENTS, Repository
from node.index.rows.place import IndexUnusable
from node.journal.journal import SEGMENT_BYTES, Journal
from node.receive.apply import Applier
from node.receive.ingest import Ingest, Origin
from node.runtime.metrics import Metrics
from node.settings.core import Storage
from tests import make
from tests.ingest import settings_of
from tests.integration.conftest import announced, data_set_bytes

ORIGIN = Origin("dicom", "MODALITY", "VOXELNODE", "127.0.0.1:1")
SMALLEST = 16 << 20


def take(ingest: Ingest, pixel_bytes: int = 512) -> None:
    [ds] = make.ct_series(1)
    ds.PixelData = bytes(pixel_bytes)
    incoming = ingest.begin(announced(ds), ORIGIN)
    incoming.take_fragment(data_set_bytes(ds))
    incoming.finish()


@pytest.mark.slow
def test_a_small_journal_has_smaller_segments_and_keeps_its_bound(tmp_path: Path) -> None:
    with Repository(settings_of(tmp_path, journal_bytes=SMALLEST)) as store:
        for _ in range(60):  # three times what fits
            take(store.ingest, 900_000)
        store.applier.require_caught_up()
        assert store.journal.last == 60
        assert store.journal.size <= SMALLEST
    sizes = [path.stat().st_size for path in (tmp_path / "journal").glob("*.journal")]
    assert sizes
    assert max(sizes) <= SMALLEST // MIN_SEGMENTS


def test_a_journal_of_the_default_size_has_segments_of_the_usual_size() -> None:
    assert Storage().journal_bytes >= MIN_SEGMENTS * SEGMENT_BYTES


def test_a_journal_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 16777216"):
        Storage(journal_bytes=1_000_000)


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[tuple[Ingest, Applier]]:
    """An applier whose steps the test makes."""
    archive, metrics = Archive(tmp_path), Metrics()
    index = Index(tmp_path, metrics)
    journal = Journal(tmp_path / "journal", 4 << 20)
    applier = Applier(journal, archive, index, metrics)
    applier.replay()
    yield Ingest(archive, index, journal, applier, metrics, lambda title: 60.0, 1 << 30), applier
    index.close()
    journal.close()


def test_the_lag_is_that_of_the_oldest_instance_even_if_there_is_always_another_one(
    parts: tuple[Ingest, Applier], monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest, applier = parts
    write = ingest.archive.write

    def write_while_another_one_comes(key: str, content: bytes) -> None:
        take(ingest)
        write(key, content)

    monkeypatch.setattr(ingest.archive, "write", write_while_another_one_comes)
    assert applier.lag_seconds == 0
    take(ingest)
    began = []
    for _ in range(8):
        began.append(monotonic())
        applier.step()
        assert applier.lag >= 1
    assert applier.lag_seconds <= monotonic() - began[-3]


def test_the_lag_counts_from_the_first_instance_after_a_rest(parts: tuple[Ingest, Applier]) -> None:
    ingest, applier = parts
    take(ingest)
    applier.step()
    assert (applier.lag, applier.lag_seconds) == (0, 0.0)
    came = monotonic()
    take(ingest)
    take(ingest)
    assert applier.lag == 2
    assert applier.lag_seconds <= monotonic() - came
    applier.step()
    assert applier.lag_seconds == 0


def test_a_journal_with_instances_but_no_index_beside_it_is_not_started_on(tmp_path: Path) -> None:
    root = tmp_path / "root"
    journal = Journal(root / "journal", 4 << 20)
    list(journal.replay())
    journal.append(b"{}", b"an instance that was acknowledged a moment ago")
    journal.close()
    with pytest.raises(IndexUnusable, match="voxelnode db rebuild"):
        Repository(settings_of(root))
