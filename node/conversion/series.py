"""The node's half of a conversion: a claimed series -> a job for `node.conversion.pipeline` -> files -> rows."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from node.conversion.job import ConversionJob, Converted, ReferencedSeries, absent, run_with_references
from node.conversion.volume_files import publish, revision_folder, settle, stored_files
from node.errors import VoxelnodeError
from node.index.nouns.converted import ClaimedInstance, SeriesKey
from node.index.nouns.records import ClaimedSeries, FoundSeries, SeriesOutcome
from node.runtime.failpoints import reached
from node.version import __version__
from node.volume.reasons import Reason
from node.writers.options import WriteOptions

if TYPE_CHECKING:
    from node.archive.filesystem import Archive
    from node.index.database.index import Index


class SeriesDamaged(VoxelnodeError):
    """Files that a conversion needs are not as they were received: the series is not converted.

    `damaged`: list of (str, str); their archive keys, and how they differ. `references`: list of (SeriesKey, int); the
    series to which the series refers, with their revisions.
    """

    def __init__(self, converted: Converted, used: _Used) -> None:
        super().__init__(converted.refusals[0].detail)
        keys = {instance.sop_instance_uid: instance.key for instance in used.as_received.values()}
        self.damaged = [(keys[uid], problem) for uid, problem in converted.damaged]
        self.references = used.references


class ReferencedSeriesOpen(VoxelnodeError):
    """A series to which the claimed one refers still awaits its conversion."""

    def __init__(self, series_instance_uid: str, references: Sequence[SeriesKey]) -> None:
        super().__init__(f"refers to series {series_instance_uid}, which is not converted yet")
        self.references = references


CONVERTER = f"voxelnode {__version__}"


def write_volumes(
    claimed: ClaimedSeries,
    archive: Archive,
    index: Index,
    options: WriteOptions,
    run: Callable[[ConversionJob], Converted],
) -> SeriesOutcome:
    """Convert a claimed series into files under ``volumes/``; return the outcome to be recorded.

    `run`: `node.conversion.pipeline.convert`, or `Converters.run`, which calls it in a child process.

    Raises SeriesDamaged: files of the series, or of one to which it refers, are not as they were received.
    Raises ReferencedSeriesOpen: the conversion is to wait for another series, unless it has waited for the longest
        time.

    No row names a file that is not durable: one rename moves the folder to ``volumes/`` before `record_outcome` commits
    its rows. If the process dies in between, `sweep` removes the folder without rows at the next start. If the claim is
    lost by then, as the series was deleted, nothing is moved: files of a deleted series do not appear again.
    """
    reached("series-claimed")
    with ExitStack() as held:
        folder = held.enter_context(archive.working_folder())
        used = _Used(claimed, archive, index, held)
        # Looking up the referenced series adds their files to `as_received`, before the job is sent to a child.
        job = ConversionJob(
            _files_of(claimed.instances, archive),
            folder,
            options,
            claimed.expectation,
            used.as_received,
            transfer_syntax_uids=claimed.transfer_syntax_uids,
        )
        converted = run_with_references(job, run, used.look_up, [found.key for found in claimed.referenced])
        if converted.damaged:
            raise SeriesDamaged(converted, used)
        destination = revision_folder(claimed)
        outcome = _outcome(claimed, converted, destination, options, used)
        if archive.remote is not None and converted.files:
            known = {file.path: file.sha256 for file in outcome.files}
            outcome = replace(outcome, revision_files=stored_files(folder, str(destination), known))
        reached("volumes-written")
        if converted.files and index.series.is_claimed(claimed):
            publish(folder, claimed, archive)
        reached("volumes-published")
        return outcome


class _Used:
    """The files that a conversion uses: those of the claimed series, and of the series to which it refers.

    They stay at their paths until `held` is closed.
    """

    def __init__(self, claimed: ClaimedSeries, archive: Archive, index: Index, held: ExitStack) -> None:
        self._claimed, self._archive, self._index, self._held = claimed, archive, index, held
        self.as_received: dict[Path, ClaimedInstance] = {}
        self.found: tuple[FoundSeries, ...] = ()
        self._add(claimed.instances)

    @property
    def references(self) -> list[tuple[SeriesKey, int]]:
        """The series to which the claimed one refers, with their revisions."""
        return [(found.key, found.revision) for found in self.found]

    def _add(self, instances: Sequence[ClaimedInstance]) -> None:
        self._held.enter_context(self._archive.held(instances))
        self.as_received.update((self._archive.path(instance.key), instance) for instance in instances)

    def look_up(self, keys: Sequence[SeriesKey]) -> tuple[ReferencedSeries, ...]:
        """Return the series to which the claimed one refers; their instances become part of `as_received`."""
        self.found = self._index.references.find(self._claimed.id, keys) if keys else ()
        for found in self.found:
            if found.is_open and not self._claimed.expectation.forced:
                raise ReferencedSeriesOpen(found.key[1], keys)
            self._add(found.instances)
        return tuple(_referenced(found, self._archive) for found in self.found)


def _files_of(instances: Sequence[ClaimedInstance], archive: Archive) -> tuple[tuple[str, Path], ...]:
    return tuple((instance.sop_instance_uid, archive.path(instance.key)) for instance in instances)


def _referenced(found: FoundSeries, archive: Archive) -> ReferencedSeries:
    _, uid = found.key
    if not found.instances:
        return ReferencedSeries(found.key, problem=(Reason.INCOMPLETE, absent(uid)))
    if found.is_open:
        detail = f"refers to series {uid}, which is still being received: the masks are made when it is converted"
        return ReferencedSeries(found.key, problem=(Reason.INCOMPLETE, detail))
    if not found.is_of_patient:
        detail = f"refers to series {uid}, which is of another patient; if both are one, merge them and convert again"
        return ReferencedSeries(found.key, problem=(Reason.CONTRADICTORY, detail))
    return ReferencedSeries(found.key, _files_of(found.instances, archive), is_of_patient=True)


def record_outcome(
    claimed: ClaimedSeries, outcome: SeriesOutcome, archive: Archive, index: Index, now: Callable[[], dt.datetime]
) -> bool:
    """Record what `write_volumes` returned; may be called again after an error.

    The result is False if the claim was lost meanwhile; then nothing is recorded, and the files are removed.

    Raises OutOfResources: the commit failed, or its outcome is unknown.
    """
    recorded = index.series.record_outcome(claimed, outcome, now())
    reached("outcome-recorded")
    if outcome.files:
        settle(claimed, archive, index)  # a commit reported as failed may have succeeded: rows tell
    return recorded


def input_sha256(claimed: ClaimedSeries, options: WriteOptions, referenced: Sequence[FoundSeries] = ()) -> str:
    """Return a digest of everything that determines the result.

    That is the instances with their bytes, the converter, the options, and the series to which the claimed one refers.
    """
    content: list[Any] = [_digests(claimed.instances), CONVERTER, asdict(options)]
    content += [[found.key, found.is_of_patient, found.is_open, _digests(found.instances)] for found in referenced]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _digests(instances: Sequence[ClaimedInstance]) -> list[tuple[str, str]]:
    return sorted((instance.sop_instance_uid, instance.sha256) for instance in instances)


def is_unchanged(claimed: ClaimedSeries, archive: Archive, options: WriteOptions) -> bool:
    """Return whether a conversion would repeat the current volumes, and their files exist in full length.

    Those that the object store has are believed to exist.
    """
    current = claimed.current
    if (
        current is None
        or not current.has_volumes
        or current.input_sha256 != input_sha256(claimed, options, claimed.referenced)
    ):
        return False
    try:
        return all((archive.root / path).stat().st_size == size for path, size in current.files)
    except OSError:
        return False


def _outcome(
    claimed: ClaimedSeries, converted: Converted, destination: Path, options: WriteOptions, used: _Used
) -> SeriesOutcome:
    first = next(iter(converted.refusals), None)
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
        findings=converted.findings,
        input_sha256=input_sha256(claimed, options, used.found),
        references=used.references,
        error=None if first is None or _state(converted) == "converted" else f"{first.reason.value}: {first.detail}",
    )


def _state(converted: Converted) -> str:
    if any(file.shape for file in converted.files):  # the file of a report has none
        return "converted"
    if all(refusal.reason is Reason.NOT_AN_IMAGE for refusal in converted.refusals):
        return "not-an-image"
    return "refused"
