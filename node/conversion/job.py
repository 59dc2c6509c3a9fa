"""Records that pass between the node and a converting child: the job and its result.

This module imports neither NumPy nor codecs, so the node's process does not load them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from node.children.serving import ChildLimits
from node.completeness import Completeness, Expectation, Findings
from node.index.rows.converted import ClaimedInstance, ConvertedFile, SeriesKey
from node.volume.reasons import Exclusion, Reason, Refusal, VolumeWarning
from node.writers.options import WriteOptions

if TYPE_CHECKING:
    from node.hookspecs import ObjectKind
    from node.settings.section import Convert
    from node.volume.model import Float, Geometry
    from node.writers.base import WrittenFile


@dataclass(frozen=True, slots=True)
class ReferencedSeries:
    """A series to which instances of a job refer.

    `key`: as the instances name it; the study may be empty.
    `instances`: SOP Instance UID and file of each of its instances.
    `problem`, (Reason, str) or None: why it cannot be used.
    `is_of_patient`: the index says that it is of the same patient; else Patient ID (0010,0020) must be the same.
    """

    key: SeriesKey
    instances: tuple[tuple[str, Path], ...] = ()
    problem: tuple[Reason, str] | None = None
    is_of_patient: bool = False


@dataclass(frozen=True, slots=True)
class Joined:
    """The series that a job converts as one, the first of them first, and the proof that they are one acquisition."""

    series_instance_uids: tuple[str, ...]
    proof: str


@dataclass(frozen=True, slots=True)
class ConversionJob:
    """One series to convert.

    `instances`: SOP Instance UID and file of each instance.
    `folder`: existing empty folder for the files.
    `expectation`: expected counts; None: the counts that the data sets announce.
    `as_received`: the files that must be as they were received; others are taken as they are.
    `referenced`: the series to which the instances refer, as far as they are known; see `Converted.references`.
    `name`: what the names of all files begin with; empty: as in a node, without a name.
    `descriptions`: fields for the sidecars that people typed, and that a node leaves out.
    `transfer_syntax_uids`: transfer syntaxes of the instances, as they were announced.
    `objects`: the instances without pixels that extensions turn into files.
    `sop_class_uids`: SOP classes of the instances; None: any.
    `joined`: the instances are those of several series.
    `has_room`: whether there is room for files; without, a conversion ends as on a full disk where it would write.
    """

    instances: tuple[tuple[str, Path], ...]
    folder: Path
    options: WriteOptions
    expectation: Expectation | None = None
    as_received: Mapping[Path, ClaimedInstance] = field(default_factory=dict)
    referenced: tuple[ReferencedSeries, ...] = ()
    name: str = ""
    descriptions: Mapping[str, str] = field(default_factory=dict)
    transfer_syntax_uids: frozenset[str] = frozenset()
    objects: tuple[ObjectKind, ...] = ()
    sop_class_uids: frozenset[str] | None = None
    joined: Joined | None = None
    has_room: bool = True

    @property
    def has_codestreams(self) -> bool:
        """Whether there are frames in JPEG, JPEG-LS or JPEG 2000 (PS3.6 A), most of whose time is that of decoding."""
        return any(uid.startswith("1.2.840.10008.1.2.4.") for uid in self.transfer_syntax_uids)

    def with_objects(self, objects: tuple[ObjectKind, ...]) -> ConversionJob:
        """Return the job with the kinds that its instances may have; a child loads what they need."""
        uids = self.sop_class_uids
        possible = objects if uids is None else tuple(kind for kind in objects if any(map(kind.may_be, uids)))
        return replace(self, objects=possible)

    @property
    def files(self) -> Mapping[Path, str]:
        """SOP Instance UID of each file that the child reads: those of the series, and of the series they refer to."""
        instances = chain(self.instances, *(series.instances for series in self.referenced))
        return {path: uid for uid, path in instances}


@dataclass(frozen=True, slots=True)
class Converted:
    """The result of converting one series.

    `sources`, tuple of (int, str, int): stack, SOP Instance UID, and number of frames of that instance in that stack.
    `damaged`, tuple of (str, str): SOP Instance UID of each instance that is not as it was received, and how it
        differs; then there are no files.
    `references`: the series to which the instances refer. If the job lacks one of them, nothing was converted: the
        conversion is to be repeated with all of them.
    """

    files: tuple[ConvertedFile, ...]
    sources: tuple[tuple[int, str, int], ...]
    exclusions: tuple[Exclusion, ...]
    refusals: tuple[Refusal, ...]
    completeness: Completeness
    seconds: float
    damaged: tuple[tuple[str, str], ...] = ()
    references: tuple[SeriesKey, ...] = ()
    findings: Findings = field(default_factory=Findings)


def converted_file(
    written: WrittenFile,
    folder: Path,
    *,
    stack: int,
    suffix: str,
    geometry: Geometry,
    instances: int,
    warnings: Iterable[VolumeWarning] = (),
    affine_lps: Float | None = None,
    **columns: Any,
) -> ConvertedFile:
    """Return the row of a file in the folder of a job.

    `affine_lps`, (4, 4) float64 or None, mm: from voxel index (column, row, slice) to LPS+.
    `columns`: those of `ConvertedFile` that describe the scan, and ``orientation``.
    """
    return ConvertedFile(
        stack=stack,
        suffix=suffix,
        kind=written.kind,
        format=written.format,
        path=str(written.path.relative_to(folder)),
        shape=written.grid.shape,
        # Differences of decimal positions are 0.9999999999999929; people ask for 1.
        spacing_mm=tuple(float(f"{length:.9g}") for length in written.grid.spacing_mm),
        dtype=written.grid.dtype,
        geometry=geometry.value,
        orientation=columns.pop("orientation", None),
        instances=instances,
        warnings=tuple(sorted({warning.name.value for warning in warnings})),
        bytes=written.bytes,
        sha256=written.sha256,
        affine_lps=None if affine_lps is None else tuple(tuple(map(float, row)) for row in affine_lps),
        **columns,
    )


def absent(series_instance_uid: str) -> str:
    """Return in a sentence that a referenced series is not here."""
    return f"refers to series {series_instance_uid}, which is not here: with it, the masks are made"


def run_with_references(
    job: ConversionJob,
    run: Callable[[ConversionJob], Converted],
    look_up: Callable[[Sequence[SeriesKey]], tuple[ReferencedSeries, ...]],
    known: Sequence[SeriesKey] = (),
) -> Converted:
    """Run a job, and repeat it with the series to which its instances refer.

    Only the child process reads data sets, and only the caller knows where other series are.

    `look_up`: returns a record for each of these series, whether it is here or not.
    `known`: the references that an earlier conversion found.
    """
    converted = run(replace(job, referenced=look_up(known)))
    if converted.damaged or set(known).issuperset(converted.references):
        return converted
    return run(replace(job, referenced=look_up(converted.references)))


def limits(section: Convert) -> ChildLimits:
    """Return the limits that the configuration sets.

    Processor time is limited too, so that the kernel ends a child that has outlived the node, which watches the
    deadline.
    """
    return ChildLimits(section.memory_bytes, math.ceil(section.deadline_seconds), section.deadline_seconds)
