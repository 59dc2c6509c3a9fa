"""A real archive and a real, migrated index in a fresh root."""

import datetime as dt
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, FileDataset, dcmwrite

from node.api import Audit, Index, Settings
from node.archive.filesystem import Archive
from node.children import child
from node.cli.run.doctor import CHECKS, Site
from node.conversion.job import ConversionJob, Converted
from node.conversion.pipeline import convert
from node.conversion.volume_files import Housekeeping
from node.extensions.results.intake import ResultIntake
from node.extensions.results.makers import Makers, ResultMaking, answer, made_of
from node.index.rows.records import ClaimedSeries, Level, Outcome
from node.lifecycle.deletion import Order, delete
from node.receive.ingest import Announced, Ingest, Origin
from node.receive.senders import quiet_seconds_of
from node.runtime.metrics import Metrics
from node.settings.section import Convert
from node.writers.options import WriteOptions, write_options
from tests.converting import convert_series
from tests.ingest import indexed, opened_ingest, settings_of
from tests.preloaded import other_python
from tests.protocol.conftest import keys  # noqa: F401  (a fixture)
from tests.rows import view_rows

Run = Callable[[ConversionJob], Converted]

QUICK = write_options(Convert(thumbnails=False, formats=("nifti",)))
"""What tests write that are not about what is written."""


@pytest.fixture(scope="module")
def other_pythons() -> Iterator[None]:
    """Children start by themselves, as those of a real node, for tests that are about how they start and end."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(child, "other_python", other_python)
        yield


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Those of a root in an empty folder."""
    return settings_of(tmp_path / "root")


def data_set_bytes(ds: FileDataset) -> bytes:
    """The data set as a peer would send it: no preamble, no File Meta Information."""
    stream = BytesIO()
    syntax = ds.file_meta.TransferSyntaxUID
    dcmwrite(stream, Dataset(ds), implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
    return stream.getvalue()


def announced(ds: FileDataset) -> Announced:
    return Announced(ds.SOPClassUID, ds.SOPInstanceUID, ds.file_meta.TransferSyntaxUID)


MODALITY = Origin("dicom", "MODALITY", "VOXELNODE", "127.0.0.1:1")


def bring(ingest: Ingest, *instances: FileDataset, origin: Origin = MODALITY) -> list[Outcome]:
    """Bring instances in, one after the other."""
    outcomes = []
    for ds in instances:
        incoming = ingest.begin(announced(ds), origin)
        incoming.take_fragment(data_set_bytes(ds))
        outcomes.append(indexed(incoming))
    return outcomes


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

    def make(self, making: ResultMaking) -> dict[str, Any]:
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

    def take_all(self, instances: Iterable[FileDataset], origin: Origin | None = None) -> list[Outcome]:
        """Bring instances in, one after the other."""
        return [self.take(ds, origin) for ds in instances]

    def take_bytes(self, said: Announced, data: bytes, origin: Origin | None = None) -> Outcome:
        """Bring one instance in, in fragments of 1000 bytes."""
        incoming = self.ingest.begin(said, origin or MODALITY)
        for start in range(0, len(data), 1000):
            incoming.take_fragment(data[start : start + 1000])
        return indexed(incoming)

    def end(self, association: str, outcome: str, **how: Any) -> None:
        """End an association, and have the index know it."""
        self.ingest.association_ended(association, outcome, **how)
        assert self.ingest.applier.catch_up()

    def rows(self, query: str, **values: Any) -> list[dict[str, Any]]:
        """The rows that a query gives; `values` fill its ``:names``."""
        return view_rows(self.folder, query, **values)

    def claim(self, seconds: float = 61) -> ClaimedSeries:
        """Claim a series that is due after some seconds: by default, after the quiet time."""
        self.clock.move(seconds)
        claimed = self.index.series.claim_due(self.clock())
        assert claimed is not None
        return claimed

    def convert(self, claimed: ClaimedSeries, run: Run = convert, options: WriteOptions = QUICK) -> bool:
        """Convert what was claimed in this process; False if the claim was lost."""
        return convert_series(claimed, self.archive, self.index, options, run, self.clock)

    def write_verdicts(self) -> None:
        """Write changed verdicts into the sidecars, as the worker does."""
        day = dt.timedelta(days=1)
        assert not Housekeeping(self.archive, self.index, day, day, self.clock).write_verdicts()

    def convert_due(self, options: WriteOptions = QUICK) -> None:
        """Let the quiet time pass, and convert what is due."""
        self.clock.move(61)
        while (claimed := self.index.series.claim_due(self.clock())) is not None:
            self.convert(claimed, options=options)

    def mark_quiet(self, seconds: float = 1000) -> None:
        """Let time pass, and call studies quiet that have waited for a quarter of an hour."""
        self.clock.move(seconds)
        self.index.studies.mark_quiet(dt.timedelta(seconds=900), self.clock())

    def delete(
        self, level: Level, uid: str, study: str | None = None, *, trash_until: dt.datetime | None = None
    ) -> None:
        """Delete as a command does."""
        order = Order("someone", "by command", trash_until=trash_until)
        with closing(Audit(self.folder, "VOXELNODE", now=self.clock)) as audit:
            delete(self.archive, self.index, audit, self.index.deletions.plan(level, uid, study), order, self.clock())


def flip(path: Path, at: int = -1) -> None:
    """Flip one bit of a file: by default, in its pixels."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.chmod(0o600)
    path.write_bytes(content)


@pytest.fixture
def audit(root: Root) -> Iterator[Audit]:
    with closing(Audit(root.folder, "VOXELNODE", now=root.clock)) as log:
        yield log


@contextmanager
def opened_root(folder: Path, clock: Clock) -> Iterator[Root]:
    """Open a root, which is made if it is not there."""
    metrics, archive = Metrics(), Archive(folder)
    with ExitStack() as opened:
        index = opened.enter_context(closing(Index(folder, metrics)))
        quiet_seconds = quiet_seconds_of(60, {"SLOW": 300})
        ingest = opened.enter_context(opened_ingest(archive, index, metrics, quiet_seconds, 10_000_000, clock))
        results = opened.enter_context(closing(ResultIntake(index, ingest, MakersHere())))
        yield Root(folder, archive, index, ingest, clock, results)


@pytest.fixture
def open_root(tmp_path: Path) -> Iterator[Callable[[], Root]]:
    """Open the same root, as often as a test restarts its node."""
    opened = ExitStack()
    clock = Clock()

    def open_() -> Root:
        opened.close()
        return opened.enter_context(opened_root(tmp_path / "root", clock))

    with opened:
        yield open_


@pytest.fixture
def root(open_root: Callable[[], Root]) -> Root:
    return open_root()


def doctor_finds(settings: Settings, name: str) -> list[tuple[str, str]]:
    """State and sentence of what the checks of a name find."""
    found = (row for check in CHECKS if check.name == name for row in check.findings(Site(settings)))
    return [(row["state"], row["found"]) for row in found]
