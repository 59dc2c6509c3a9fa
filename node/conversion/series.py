"""The node's half of a conversion: a claimed series -> a job for `node.conversion.pipeline` -> files -> rows."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from node import __version__
from node.conversion.job import ConversionJob, Converted
from node.conversion.volume_files import publish, remove_folder, revision_folder
from node.errors import VoxelnodeError
from node.failpoints import reached
from node.index.records import ClaimedSeries, SeriesOutcome
from node.volume.reasons import Reason, Refusal
from node.writers.options import WriteOptions

if TYPE_CHECKING:
    from node.archive.filesystem import Archive
    from node.index.database import Index


class SeriesDamaged(VoxelnodeError):
    """Files of a series are not as they were received: it is not converted."""

    def __init__(self, converted: Converted) -> None:
        super().__init__(converted.refusals[0].detail)
        self.damaged = converted.damaged


CONVERTER = f"voxelnode {__version__}"


def write_volumes(
    claimed: ClaimedSeries,
    archive: Archive,
    index: Index,
    options: WriteOptions,
    run: Callable[[ConversionJob], Converted],
) -> SeriesOutcome:
    """Convert a claimed series into files under ``volumes/``; return the outcome to be recorded.

    Parameters
    ----------
    run : callable (ConversionJob) -> Converted
        `node.conversion.pipeline.convert`, or `Converters.run`, which calls it in a child process.

    Raises
    ------
    SeriesDamaged
        Files of the series are not as they were received.

    Notes
    -----
    No row names a file that is not durable: one rename moves the folder to ``volumes/`` before `record_outcome` commits
    its rows. If the process dies in between, `sweep` removes the folder without rows at the next start. If the claim is
    lost by then, as the series was deleted, nothing is moved: files of a deleted series do not appear again.
    """
    reached("series-claimed")
    folder = archive.root / "work" / uuid.uuid4().hex
    folder.mkdir(mode=0o700, parents=True)
    try:
        instances = tuple((instance.sop_instance_uid, archive.path(instance.key)) for instance in claimed.instances)
        as_received = {archive.path(instance.key): instance for instance in claimed.instances}
        converted = run(ConversionJob(instances, folder, options, claimed.expectation, as_received))
        if converted.damaged:
            raise SeriesDamaged(converted)
        destination = revision_folder(claimed)
        reached("volumes-written")
        if converted.files and index.series.is_claimed(claimed):
            publish(folder, archive.root / destination, archive.sync_folder)
        reached("volumes-published")
        return _outcome(claimed, converted, destination, options)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def record_outcome(
    claimed: ClaimedSeries, outcome: SeriesOutcome, archive: Archive, index: Index, now: Callable[[], dt.datetime]
) -> bool:
    """Record what `write_volumes` returned; may be called again after an error.

    Returns
    -------
    bool
        False if the claim was lost meanwhile; then nothing is recorded, and the files are removed.

    Raises
    ------
    OutOfResources
        The commit failed, or its outcome is unknown.
    """
    recorded = index.series.record_outcome(claimed, outcome, now())
    reached("outcome-recorded")
    # A commit reported as failed may have succeeded: then the claim is gone, but rows name the files.
    folder = revision_folder(claimed)
    if not recorded and not index.conversions.is_recorded(claimed, str(folder)):
        with suppress(OSError):  # the next start removes what is left
            remove_folder(archive.root / folder)
    return recorded


def input_sha256(claimed: ClaimedSeries, options: WriteOptions) -> str:
    """Return a digest of everything that determines the result: instances with their bytes, converter, options."""
    instances = sorted((instance.sop_instance_uid, instance.sha256) for instance in claimed.instances)
    return hashlib.sha256(json.dumps([instances, CONVERTER, asdict(options)]).encode()).hexdigest()


def is_unchanged(claimed: ClaimedSeries, archive: Archive, options: WriteOptions) -> bool:
    """Return whether a conversion would repeat the current volumes, and their files exist in full length."""
    current = claimed.current
    if current is None or not current.files or current.input_sha256 != input_sha256(claimed, options):
        return False
    try:
        return all((archive.root / path).stat().st_size == size for path, size in current.files)
    except OSError:
        return False


def _outcome(claimed: ClaimedSeries, converted: Converted, destination: Path, options: WriteOptions) -> SeriesOutcome:
    return SeriesOutcome(
        state=_state(converted),
        converter=CONVERTER,
        options=asdict(options),
        seconds=converted.seconds,
        files=[replace(file, path=str(destination / file.path)) for file in converted.files],
        sources=converted.sources,
        exclusions=[
            (exclusion.sop_instance_uid, exclusion.frames, exclusion.reason.value, exclusion.detail)
            for exclusion in converted.exclusions
        ],
        failures=[(refusal.stack, refusal.reason.value, refusal.detail) for refusal in converted.refusals],
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
