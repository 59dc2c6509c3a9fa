"""A real archive and a real, migrated index in a fresh root."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, FileDataset, dcmwrite

from node.archive.filesystem import Archive
from node.extensions.results.intake import ResultIntake
from node.extensions.results.makers import Makers, answer, made_of
from node.extensions.results.making import Making
from node.index.database.index import Index
from node.index.nouns.records import Outcome
from node.metrics import Metrics
from node.receive.ingest import Announced, Ingest, Origin
from node.receive.quiet_times import quiet_seconds_of
from node.settings.model import Settings, Storage
from tests.ingest import indexed, opened_ingest


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Those of a root in an empty folder."""
    return Settings(storage=Storage(root=tmp_path / "root", reserve_bytes=0))


def data_set_bytes(ds: FileDataset) -> bytes:
    """The data set as a peer would send it: no preamble, no File Meta Information."""
    stream = BytesIO()
    syntax = ds.file_meta.TransferSyntaxUID
    dcmwrite(stream, Dataset(ds), implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
    return stream.getvalue()


def announced(ds: FileDataset) -> Announced:
    return Announced(ds.SOPClassUID, ds.SOPInstanceUID, ds.file_meta.TransferSyntaxUID)


@dataclass
class Clock:
    """A clock that stands still until it is moved."""

    moment: dt.datetime = field(default_factory=lambda: dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC))

    def __call__(self) -> dt.datetime:
        return self.moment

    def move(self, seconds: float) -> None:
        self.moment += dt.timedelta(seconds=seconds)


class MakersHere(Makers):
    """Makes results in this process, where the process is not what a test is about."""

    def make(self, making: Making) -> dict[str, Any]:
        return made_of(answer(making, None), making)


@dataclass
class Root:
    """Everything that takes instances in, on one folder."""

    folder: Path
    archive: Archive
    index: Index
    ingest: Ingest
    clock: Clock
    results: ResultIntake

    def take(self, ds: FileDataset, origin: Origin | None = None) -> Outcome:
        """Bring one instance in."""
        return self.take_bytes(announced(ds), data_set_bytes(ds), origin)

    def take_bytes(self, said: Announced, data: bytes, origin: Origin | None = None) -> Outcome:
        """Bring one instance in, in fragments of 1000 bytes."""
        incoming = self.ingest.begin(said, origin or Origin("dicom", "MODALITY", "VOXELNODE", "127.0.0.1:1"))
        for start in range(0, len(data), 1000):
            incoming.take_fragment(data[start : start + 1000])
        return indexed(incoming)


@pytest.fixture
def open_root(tmp_path: Path) -> Iterator[Callable[[], Root]]:
    """Open the same root, as often as a test restarts its node."""
    opened = ExitStack()
    clock = Clock()

    def open_() -> Root:
        opened.close()
        metrics = Metrics()
        archive = Archive(tmp_path / "root")
        index = opened.enter_context(closing(Index(tmp_path / "root", metrics)))
        quiet_seconds = quiet_seconds_of(60, {"SLOW": 300})
        ingest = opened.enter_context(opened_ingest(archive, index, metrics, quiet_seconds, 10_000_000, clock))
        results = opened.enter_context(closing(ResultIntake(index, ingest, metrics, MakersHere())))
        return Root(tmp_path / "root", archive, index, ingest, clock, results)

    with opened:
        yield open_


@pytest.fixture
def root(open_root: Callable[[], Root]) -> Root:
    return open_root()
