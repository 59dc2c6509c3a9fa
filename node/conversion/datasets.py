"""What a conversion reads: the data sets of one series, one file at a time, each after its digest was compared.

An error while reading a file that the archive keeps is raised: it says nothing about the bytes, and a volume without
that instance would be wrong.

Instances that are no stacks of slices are taken by extensions: the interface of `node.hookspecs.ObjectKind`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydicom import Dataset, dcmread

from node.archive.intact import problem_with
from node.conversion.grids import InstanceHeader, header_of
from node.dicom.counts import COUNT_KEYWORDS, InstanceCounts
from node.dicom.values import once_per_series, standard_tag, text, whole
from node.errors import ConversionRefused, is_of_system, is_out_of_memory, text_without
from node.files.heads import cut_pixels_of
from node.files.reading import read_instance
from node.index.rows.converted import ClaimedInstance
from node.volume.read.pixel_layout import cut
from node.volume.reasons import Exclusion, Reason

if TYPE_CHECKING:
    from node.completeness import Evidence
    from node.conversion.job import ReferencedSeries
    from node.index.rows.converted import ConvertedFile, SeriesKey
    from node.volume.model import Volume
    from node.volume.reasons import Refusal
    from node.writers.options import WriteOptions

_LONG_VALUE_BYTES = 1 << 20
"""When a file is read again, longer values (the pixels) are loaded only on access."""


class SeriesFiles:
    """The data sets of a series, in order. Only the last one stays in memory; others are read again on request.

    `unreadable`: files that cannot be read; filled during iteration.
    `counts`: counts announced by the readable instances, of an instance with several files only once: a copy is not the
        instance that is missing. Filled during iteration.
    `copies`: number of further files of these instances; filled during iteration.
    `damaged`, list of (str, str): instances whose files are not as they were received, and how they differ; filled
        during iteration.
    `headers`: what the readable instances say about their neighbours; filled during iteration.
    """

    def __init__(self, instances: Sequence[tuple[str, Path]], as_received: Mapping[Path, ClaimedInstance]) -> None:
        self._instances, self._as_received = instances, as_received
        self._paths: dict[str, Path] = {}
        self._last: tuple[str, Dataset] | None = None
        self.unreadable: list[Exclusion] = []
        self.counts: list[InstanceCounts] = []
        self.copies = 0
        self.damaged: list[tuple[str, str]] = []
        self.headers: dict[str, InstanceHeader] = {}

    def __iter__(self) -> Iterator[Dataset]:
        for sop_instance_uid, path in self._instances:
            if (problem := self._problem_with(path)) is not None:
                self.damaged.append((sop_instance_uid, problem))
                continue
            try:
                dataset = _opened(path, sop_instance_uid)
            except ConversionRefused as refused:
                self._exclude(sop_instance_uid, path, Reason(refused.reason), refused.detail)
                continue
            except Exception as error:  # a damaged file may raise anything
                if is_out_of_memory(error):  # our limit, not a bad file: fail and retry rather than lose a slice
                    raise MemoryError from error
                if is_of_system(error) and path in self._as_received:  # the disk, not the bytes: try again
                    raise
                self._exclude(sop_instance_uid, path, Reason.UNREADABLE, _detail_of(error, path))
                continue
            dataset.filename = str(path)
            counts = InstanceCounts(whole(dataset, COUNT_KEYWORDS[0]), *_counts_of_series(dataset))
            if self._paths.setdefault(sop_instance_uid, path) == path:
                self.counts.append(counts)
                self._last = sop_instance_uid, dataset
            else:
                self.copies += 1
            yield dataset
            self.headers.setdefault(sop_instance_uid, header_of(dataset, counts))  # its values are converted by now

    def _exclude(self, sop_instance_uid: str, path: Path, reason: Reason, detail: str) -> None:
        self.unreadable.append(Exclusion(sop_instance_uid, 0, reason, detail, str(path)))

    def lacking(self) -> tuple[list[Exclusion], list[Exclusion]]:
        """Return the instances of which no file can be read, and the unreadable files of other instances."""
        lacking: dict[str, Exclusion] = {}
        others = []
        for one in self.unreadable:
            if one.sop_instance_uid in self._paths or one.sop_instance_uid in lacking:
                others.append(one)
            else:
                lacking[one.sop_instance_uid] = replace(one, file=None)
        return [*lacking.values()], others

    def _problem_with(self, path: Path) -> str | None:
        expected = self._as_received.get(path)
        if expected is None:
            return None
        return problem_with(path, expected.data_set_offset, expected.bytes, expected.sha256)

    def dataset_of(self, sop_instance_uid: str) -> Dataset:
        """Return the first data set with a UID. If it must be read again, long values are loaded only on access."""
        if self._last is None or self._last[0] != sop_instance_uid:
            self._last = sop_instance_uid, _opened(self._paths[sop_instance_uid], sop_instance_uid, _LONG_VALUE_BYTES)
        return self._last[1]


def _detail_of(error: Exception, path: Path) -> str:
    """Return why the data set of a file cannot be read, in words that are not those of the file."""
    detail = "the data set is damaged or breaks off"
    try:
        with path.open("rb") as file:
            text = text_without(error, file.read(_LONG_VALUE_BYTES))
    except OSError:
        return detail
    return f"{detail}: {text}" if text else detail


@once_per_series(*COUNT_KEYWORDS[1:])
def _counts_of_series(dataset: Dataset) -> tuple[int | None, ...]:
    """Return all counts but the first, Instance Number (0020,0013), which each instance has to itself."""
    return tuple(whole(dataset, keyword) for keyword in COUNT_KEYWORDS[1:])


def _opened(path: Path, sop_instance_uid: str, defer_bytes: int | None = None) -> Dataset:
    dataset = read_instance(path) if defer_bytes is None else dcmread(path, defer_bytes, force=True)
    if not len(dataset):  # pydicom drops everything if compressed pixels end early
        if (pixels := cut_pixels_of(path)) is not None:
            raise cut(pixels)
        raise ValueError("no element can be read")
    uid = text(dataset, "SOPInstanceUID")
    if not uid:
        # Some writers put the UID only into the File Meta Information. A damaged file has it nowhere.
        uid = dataset.file_meta.MediaStorageSOPInstanceUID
        dataset.add_new(standard_tag("SOPInstanceUID"), "UI", uid)  # an element of another VR would keep it
    if uid != sop_instance_uid:
        raise ValueError("the file holds another instance")
    return dataset


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
