"""The one pipeline: instances of a series -> data sets -> volumes -> files -> rows.

`convert` is the part that touches hostile bytes; a node runs it in a child process. `publish` is the part that touches
the index; it runs in the node. `convert_folder` is `convert` without a node.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import re
import shutil
import tempfile
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import structlog
from pydicom import Dataset, dcmread

from node import __version__
from node.config import Convert
from node.index.records import ClaimedSeries, ConvertedFile, SeriesOutcome
from node.media import LeftOut, find_instances
from node.volume.assemble import assemble
from node.volume.model import Assembly, Exclusion, Reason, Refusal, Volume, Warn
from node.writers import write_volume
from node.writers.base import WriteOptions, WrittenFile, stem_of

if TYPE_CHECKING:
    from node.archive.filesystem import Archive
    from node.index.database import Index

log = structlog.get_logger()

CONVERTER = f"voxelnode {__version__}"


@dataclass(frozen=True, slots=True)
class ConversionJob:
    """What to convert, and where to: `instances` are (SOP Instance UID, file), `folder` exists and is empty."""

    instances: tuple[tuple[str, Path], ...]
    folder: Path
    options: WriteOptions


@dataclass(frozen=True, slots=True)
class Converted:
    """What one series gave; paths of `files` count from the folder of the job.

    `sources` are (stack, SOP Instance UID, frames): which instance went into which volume.
    """

    files: tuple[ConvertedFile, ...]
    sources: tuple[tuple[int, str, int], ...]
    exclusions: tuple[Exclusion, ...]
    refusals: tuple[Refusal, ...]
    seconds: float


def write_options(section: Convert) -> WriteOptions:
    """The options of the writers, from the configuration."""
    return WriteOptions(**{name: getattr(section, name) for name in WriteOptions.__slots__})


def convert(job: ConversionJob) -> Converted:
    """Read the instances of one series, assemble them, write every volume.

    Never raises for bad input: an instance that cannot be read is an exclusion, a stack that cannot be right a refusal.

    Raises
    ------
    OSError
        The folder cannot be written.
    """
    began = perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings quote values, which may be patient data
        return _convert(job, began)


def _convert(job: ConversionJob, began: float) -> Converted:
    datasets, unreadable = _read(job.instances)
    assembly = assemble(datasets) if datasets else Assembly(())
    files: list[ConvertedFile] = []
    for volume in assembly.volumes:
        written = write_volume(volume, job.folder, stem_of(volume), job.options)
        files += [_converted_file(volume, file, job.folder) for file in written]
    refusals = assembly.refusals
    if not datasets:
        uids = tuple(exclusion.sop_instance_uid for exclusion in unreadable)
        refusals = (Refusal(Reason.UNREADABLE, "no file of the series can be read as DICOM", uids),)
    return Converted(
        files=tuple(files),
        sources=tuple(_sources(assembly.volumes)),
        exclusions=(*unreadable, *assembly.exclusions),
        refusals=refusals,
        seconds=perf_counter() - began,
    )


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
    folder = archive.root / "work" / uuid.uuid4().hex
    folder.mkdir(mode=0o700, parents=True)
    try:
        instances = tuple((one.sop_instance_uid, archive.path(one.key)) for one in claimed.instances)
        converted = run(ConversionJob(instances, folder, options))
        place = revision_folder(claimed.study_instance_uid, claimed.series_instance_uid, claimed.revision)
        if converted.files:
            _publish(folder, archive.root / place)
        recorded = index.record_outcome(claimed, _outcome(claimed, converted, place, options), now())
        if not recorded:
            shutil.rmtree(archive.root / place, ignore_errors=True)
        return recorded
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def revision_folder(study_instance_uid: str, series_instance_uid: str, revision: int) -> Path:
    """Where the files of a revision lie, counted from the root."""
    return Path("volumes", _component(study_instance_uid), _component(series_instance_uid), str(revision))


def sweep(archive: Archive, index: Index) -> int:
    """Remove work folders, and volume folders that no row names; returns how many. Runs before any conversion."""
    swept = list((archive.root / "work").glob("*"))
    live = {archive.root / revision_folder(*revision) for revision in index.live_revisions()}
    swept += [folder for folder in (archive.root / "volumes").glob("*/*/*") if folder not in live]
    for folder in swept:
        shutil.rmtree(folder, ignore_errors=True)
    return len(swept)


def convert_folder(
    paths: Iterable[Path],
    out: Path,
    options: WriteOptions,
    on_series: Callable[[str, Converted], None] = lambda series_instance_uid, converted: None,
) -> dict[str, Any]:
    """Convert what lies in `paths` (see `node.media.find_instances`); writes and returns ``conversion.json``.

    Parameters
    ----------
    paths : iterable of Path
    out : Path
        Made when missing; each series gets a folder of its own in it, which replaces that of an earlier conversion.
    on_series : callable (Series Instance UID, Converted)
        Called after each series.

    Returns
    -------
    dict
        ``volumes``, ``refusals``, ``exclusions``, and ``not_dicom``: the files that are no instance, with the reason.
    """
    listing: dict[str, Any] = {"volumes": [], "refusals": [], "exclusions": [], "not_dicom": []}
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unpacked-", dir=out) as unpacked:
        for series_instance_uid, instances in _grouped(paths, Path(unpacked), listing["not_dicom"]).items():
            folder = out / f".converting-{uuid.uuid4().hex}"
            folder.mkdir()
            try:
                converted = convert(ConversionJob(tuple(instances), folder, options))
                place = out / _component(series_instance_uid)
                shutil.rmtree(place, ignore_errors=True)
                if converted.files:
                    os.rename(folder, place)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            _list(listing, series_instance_uid, converted, place.name)
            on_series(series_instance_uid, converted)
    (out / "conversion.json").write_text(json.dumps(listing, indent=1) + "\n", encoding="utf-8")
    return listing


def _grouped(
    paths: Iterable[Path], unpacked: Path, not_dicom: list[dict[str, str]]
) -> dict[str, list[tuple[str, Path]]]:
    """Files by Series Instance UID, in the order in which the series turn up; members of zip files are unpacked."""
    series: dict[str, list[tuple[str, Path]]] = {}
    for number, found in enumerate(find_instances(paths)):
        if isinstance(found, LeftOut):
            not_dicom.append({"name": found.name, "reason": found.reason})
            continue
        path = found.path
        if path is None:
            path = unpacked / f"{number}.dcm"
            with found.open_file() as member, path.open("xb") as file:
                shutil.copyfileobj(member, file)
        series.setdefault(found.identity.series_instance_uid, []).append((found.identity.sop_instance_uid, path))
    return series


def _read(instances: Sequence[tuple[str, Path]]) -> tuple[list[Dataset], list[Exclusion]]:
    datasets, unreadable = [], []
    for sop_instance_uid, path in instances:
        try:
            dataset = _opened(path, sop_instance_uid)
        except Exception as error:  # whatever a damaged file makes the parser raise
            detail = f"{type(error).__name__} while reading the data set"
            unreadable.append(Exclusion(sop_instance_uid, 0, Reason.UNREADABLE, detail))
        else:
            datasets.append(dataset)
    return datasets, unreadable


def _opened(path: Path, sop_instance_uid: str) -> Dataset:
    dataset = dcmread(path, force=True)
    if not dataset.get("SOPInstanceUID"):
        # Some writers name the instance in the File Meta Information only; damage leaves nothing at all.
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
    if dataset.SOPInstanceUID != sop_instance_uid:
        raise ValueError("not the instance that was put there")
    return dataset


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
    verdict, verdict_reason = _verdict(claimed, converted)
    return SeriesOutcome(
        state=_state(converted),
        converter=CONVERTER,
        options=asdict(options),
        seconds=converted.seconds,
        files=[replace(file, path=str(place / file.path)) for file in converted.files],
        sources=converted.sources,
        exclusions=[(one.sop_instance_uid, one.frames, one.reason.value, one.detail) for one in converted.exclusions],
        failures=[(one.stack, one.reason.value, one.detail) for one in converted.refusals],
        verdict=verdict,
        verdict_reason=verdict_reason,
        expected_instances=claimed.images_in_acquisition,
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


_GAPS = frozenset((Warn.MISSING_SLICE.value, Warn.INCOMPLETE_VOLUME.value))


def _verdict(claimed: ClaimedSeries, converted: Converted) -> tuple[str | None, str | None]:
    """Whether the series looks whole, and why: gaps in space first, then the count that its headers announce."""
    if not converted.files:
        return None, None
    received, announced = len(claimed.instances), claimed.images_in_acquisition
    if gaps := sorted({name for file in converted.files for name in file.warnings if name in _GAPS}):
        return "incomplete", f"{', '.join(gaps)} in {received} instances"
    if announced is None:
        return "complete", f"no gap between {received} instances; no count is announced"
    if received < announced:
        return "incomplete", f"{received} of {announced} instances that Images in Acquisition (0020,1002) announces"
    return "complete", f"{received} instances, Images in Acquisition (0020,1002) announces {announced}"


def _publish(folder: Path, place: Path) -> None:
    """Move a finished folder to its place in one step; what a crash left there without rows goes first."""
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for made in (folder, *place.parents[2::-1]):
        _sync(made)
    os.rename(folder, place)
    _sync(place.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_UID = re.compile(r"[0-9]+(\.[0-9]+)*")


def _component(uid: str) -> str:
    """A folder name for a UID; one that is no UID of PS3.5 9.1 came over the network and becomes a digest."""
    if len(uid) <= 64 and _UID.fullmatch(uid):
        return uid
    return "uid-" + hashlib.sha256(uid.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _list(listing: dict[str, Any], series_instance_uid: str, converted: Converted, folder: str) -> None:
    """Add one series to what becomes conversion.json."""
    for file in converted.files:
        row = {"series_instance_uid": series_instance_uid, **asdict(file), "path": f"{folder}/{file.path}"}
        listing["volumes"].append(row)
    for refusal in converted.refusals:
        row = {"series_instance_uid": series_instance_uid, "reason": refusal.reason.value, "detail": refusal.detail}
        listing["refusals"].append({**row, "stack": refusal.stack, "instances": len(refusal.sop_instance_uids)})
    for exclusion in converted.exclusions:
        row = {"series_instance_uid": series_instance_uid, **asdict(exclusion)}
        listing["exclusions"].append(row)
