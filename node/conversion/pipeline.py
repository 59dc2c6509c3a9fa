"""The one pipeline: instances of a series -> data sets -> volumes -> files -> rows.

`convert` is the part that touches hostile bytes; a node runs it in a child process. `convert_series` is the part that
touches archive and index; it runs in the node. `node.conversion.offline` is `convert` without a node.
"""

from __future__ import annotations

import datetime as dt
import gc
import hashlib
import json
import shutil
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from node import __version__
from node.completeness import Completeness, Expectation, completeness_of, expectation
from node.conversion.datasets import SeriesFiles
from node.conversion.job import ConversionJob, Converted
from node.conversion.volume_files import publish, revision_folder
from node.failpoints import reached
from node.index.records import ClaimedSeries, ConvertedFile, SeriesOutcome
from node.volume.assemble import assemble
from node.volume.describe.uptake import with_uptake
from node.volume.model import Assembly, Geometry, Volume
from node.volume.reasons import Reason, Refusal, WarningKind
from node.writers.base import WrittenFile, stem_of
from node.writers.options import WriteOptions
from node.writers.write import write_volume

if TYPE_CHECKING:
    from node.archive.filesystem import Archive
    from node.index.database import Index

CONVERTER = f"voxelnode {__version__}"


def convert(job: ConversionJob) -> Converted:
    """Read the instances of one series, assemble them, write every volume.

    Never raises for bad input: an instance that cannot be read is an exclusion, a stack that cannot be right a refusal.

    Raises
    ------
    OSError
        The folder cannot be written.
    """
    began = perf_counter()
    with warnings.catch_warnings(), _few_collections():
        warnings.simplefilter("ignore")  # pydicom's warnings quote values, which may be patient data
        return _convert(job, began)


@contextmanager
def _few_collections() -> Iterator[None]:
    """Look for cycles less often: data sets have next to none, and of frames, which stay, there may be a million."""
    thresholds = gc.get_threshold()
    gc.set_threshold(50_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)


def _convert(job: ConversionJob, began: float) -> Converted:
    assembly, known = _assembled(job)
    completeness = _completeness(known, assembly)
    files: list[ConvertedFile] = []
    for volume in assembly.volumes:
        told = replace(volume, attributes={**volume.attributes, "completeness": asdict(completeness)})
        written = write_volume(told, job.folder, stem_of(volume), job.options)
        files += [_converted_file(volume, file, job.folder) for file in written]
    return Converted(
        files=tuple(files),
        sources=tuple(_sources(assembly.volumes)),
        exclusions=assembly.exclusions,
        refusals=assembly.refusals,
        completeness=completeness,
        seconds=perf_counter() - began,
    )


def _assembled(job: ConversionJob) -> tuple[Assembly, Expectation]:
    """What the instances give and announce, those that cannot be read included; no data set is held on return."""
    files = SeriesFiles(job.instances)
    assembly = assemble(files, files.dataset_of)
    known = job.expectation or expectation(files.counts)
    if len(files.unreadable) == len(job.instances):
        uids = tuple(exclusion.sop_instance_uid for exclusion in files.unreadable)
        refusal = Refusal(Reason.UNREADABLE, "no file of the series can be read as DICOM", uids)
        return Assembly((), (refusal,), tuple(files.unreadable)), known
    if job.options.suv:
        assembly = with_uptake(assembly, files.dataset_of)
    return replace(assembly, exclusions=(*files.unreadable, *assembly.exclusions)), known


_GAPS = frozenset((WarningKind.MISSING_SLICE, WarningKind.INCOMPLETE_VOLUME))


def _completeness(known: Expectation, assembly: Assembly) -> Completeness:
    """Whether the series is whole, by what it announces and by what its geometry shows."""
    gaps = {warning.name.value for volume in assembly.volumes for warning in volume.warnings if warning.name in _GAPS}
    gaps |= {refusal.reason.value for refusal in assembly.refusals if refusal.reason is Reason.INCOMPLETE}
    placed = [volume for volume in assembly.volumes if volume.geometry not in (Geometry.NONE, Geometry.SINGLE)]
    times = max((volume.times for volume in placed), default=0)
    return completeness_of(known, sorted(gaps), placed=bool(placed), times=times)


def convert_series(
    claimed: ClaimedSeries,
    archive: Archive,
    index: Index,
    options: WriteOptions,
    run: Callable[[ConversionJob], Converted],
    now: Callable[[], dt.datetime],
) -> bool:
    """Convert a claimed series and record what came of it.

    Parameters
    ----------
    run : callable (ConversionJob) -> Converted
        `convert`, or what runs it in a child process.

    Returns
    -------
    bool
        False when the claim was lost meanwhile: nothing is recorded then.

    Notes
    -----
    Files appear under ``volumes/`` by one rename of their folder, before the rows that name them are committed; a
    folder without rows is removed by `sweep` at the next start.
    """
    return record_outcome(claimed, write_volumes(claimed, archive, options, run), archive, index, now)


def write_volumes(
    claimed: ClaimedSeries, archive: Archive, options: WriteOptions, run: Callable[[ConversionJob], Converted]
) -> SeriesOutcome:
    """Convert a claimed series into files under ``volumes/``; return the outcome that is to be recorded."""
    reached("series-claimed")
    folder = archive.root / "work" / uuid.uuid4().hex
    folder.mkdir(mode=0o700, parents=True)
    try:
        instances = tuple((one.sop_instance_uid, archive.path(one.key)) for one in claimed.instances)
        converted = run(ConversionJob(instances, folder, options, claimed.expectation))
        place = revision_folder(claimed.study_instance_uid, claimed.series_instance_uid, claimed.revision)
        reached("volumes-written")
        if converted.files:
            publish(folder, archive.root / place, archive.sync_folder)
        reached("volumes-published")
        return _outcome(claimed, converted, place, options)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def record_outcome(
    claimed: ClaimedSeries, outcome: SeriesOutcome, archive: Archive, index: Index, now: Callable[[], dt.datetime]
) -> bool:
    """Record what `write_volumes` returned; may be called again after an error.

    Returns
    -------
    bool
        False when the claim was lost meanwhile: nothing is recorded then, and the files are removed.

    Raises
    ------
    OutOfResources
        The index did not commit, or may not have.
    """
    recorded = index.series.record_outcome(claimed, outcome, now())
    reached("outcome-recorded")
    # A commit that was reported as failed may have succeeded: then the claim has ended, but rows name the files.
    if not recorded and not index.conversions.is_recorded(claimed):
        place = revision_folder(claimed.study_instance_uid, claimed.series_instance_uid, claimed.revision)
        shutil.rmtree(archive.root / place, ignore_errors=True)
    return recorded


def input_sha256(claimed: ClaimedSeries, options: WriteOptions) -> str:
    """A digest of all that decides what a conversion gives: instances with their bytes, converter and options."""
    made_of = sorted((one.sop_instance_uid, one.sha256) for one in claimed.instances)
    return hashlib.sha256(json.dumps([made_of, CONVERTER, asdict(options)]).encode()).hexdigest()


def is_unchanged(claimed: ClaimedSeries, archive: Archive, options: WriteOptions) -> bool:
    """Whether a conversion would give just the volumes that the series has, and that are whole on the disk."""
    current = claimed.current
    if current is None or not current.files or current.input_sha256 != input_sha256(claimed, options):
        return False
    try:
        return all((archive.root / path).stat().st_size == size for path, size in current.files)
    except OSError:
        return False


def _converted_file(volume: Volume, file: WrittenFile, folder: Path) -> ConvertedFile:
    return ConvertedFile(
        stack=volume.stack,
        suffix=volume.suffix,
        kind=file.kind,
        format=file.format,
        path=str(file.path.relative_to(folder)),
        shape=volume.shape,
        spacing_mm=tuple(float(length) for length in volume.spacing_mm),
        dtype=volume.voxels.dtype.name,
        geometry=volume.geometry.value,
        instances=len({source.sop_instance_uid for source in volume.sources}),
        warnings=tuple(sorted({warning.name.value for warning in volume.warnings})),
        bytes=file.bytes,
        sha256=file.sha256,
    )


def _sources(volumes: Sequence[Volume]) -> Iterator[tuple[int, str, int]]:
    placed = {
        (volume.stack, source.sop_instance_uid, source.frame_number) for volume in volumes for source in volume.sources
    }
    for (stack, uid), frames in Counter((stack, uid) for stack, uid, _ in placed).items():
        yield stack, uid, frames


def _outcome(claimed: ClaimedSeries, converted: Converted, place: Path, options: WriteOptions) -> SeriesOutcome:
    return SeriesOutcome(
        state=_state(converted),
        converter=CONVERTER,
        options=asdict(options),
        seconds=converted.seconds,
        files=[replace(file, path=str(place / file.path)) for file in converted.files],
        sources=converted.sources,
        exclusions=[(one.sop_instance_uid, one.frames, one.reason.value, one.detail) for one in converted.exclusions],
        failures=[(one.stack, one.reason.value, one.detail) for one in converted.refusals],
        completeness=converted.completeness,
        input_sha256=input_sha256(claimed, options),
        error=None if converted.files or not converted.refusals else _first_line(converted.refusals),
    )


def _state(converted: Converted) -> str:
    if converted.files:
        return "converted"
    if all(refusal.reason is Reason.NOT_AN_IMAGE for refusal in converted.refusals):
        return "not-an-image"
    return "refused"


def _first_line(refusals: Sequence[Refusal]) -> str:
    return f"{refusals[0].reason.value}: {refusals[0].detail}"
