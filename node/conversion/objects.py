"""Conversion of instances that are no stacks of slices: the interface of `node.hookspecs.ObjectKind`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

    from pydicom.dataset import Dataset

    from node.completeness import Evidence
    from node.conversion.datasets import SeriesFiles
    from node.conversion.job import ReferencedSeries
    from node.index.nouns.converted import ConvertedFile, SeriesKey
    from node.volume.model import Volume
    from node.volume.reasons import Exclusion, Refusal
    from node.writers.options import WriteOptions


@dataclass(frozen=True, slots=True)
class Output:
    """Where and how the files of a series are written.

    `stack`: number of the first of these files; each further output has the next number.
    `name`: what the names of all files begin with; empty: as in a node, without a name.
    `fields`: what every sidecar of the series has.
    """

    folder: Path
    stack: int
    name: str
    fields: Mapping[str, Any]
    options: WriteOptions


class FileSource(NamedTuple):
    """An instance whose frames are in a file: the number of its stack, its SOP Instance UID, its number of frames."""

    stack: int
    sop_instance_uid: str
    frames: int


class WrittenObjects(NamedTuple):
    """Files that were written, and all their sources."""

    files: Sequence[ConvertedFile]
    sources: Sequence[FileSource]


class Objects:
    """The instances of one kind in a series. Each that was taken is in a file, in an exclusion or in a refusal.

    Define only what the kind has: files that it writes itself, or volumes that are written as those of images are.
    """

    def __init__(self) -> None:
        self.exclusions: list[Exclusion] = []
        self.refusals: list[Refusal] = []

    def take(self, ds: Dataset) -> bool:
        """Return whether an instance is of this kind, and keep what its file needs; nothing else reads it then.

        Raises ConversionRefused: it is of this kind, but cannot be used: it is excluded for this reason.
        """
        raise NotImplementedError

    @property
    def references(self) -> Collection[SeriesKey]:
        """The other series that are needed, after all instances were read."""
        return ()

    def read_referenced(self, series: ReferencedSeries, files: SeriesFiles) -> None:
        """Keep what is needed of one of them; `files` are its data sets, none if it is not here."""

    def evidence(self) -> Sequence[Evidence]:
        """Return the evidence against completeness, after all instances were read."""
        return ()

    def volumes(self, stack: int) -> Iterator[Volume]:
        """Yield volumes one by one; `stack` is the number of the first stack, each further one has the next."""
        return iter(())

    def write(self, output: Output) -> WrittenObjects:
        """Write the other files."""
        return WrittenObjects((), ())
