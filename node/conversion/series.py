"""The node's half of a conversion: claim -> job -> run in a child (`node.conversion.pipeline`) -> files -> rows.

Each conversion of a claimed series has one end. `Conversions.convert` returns it, and `Conversions.record` puts it into
the index, which ends the claim, and into the log.
"""

import datetime as dt
import errno
import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any

import structlog

from node.archive.base import StoreAway
from node.archive.filesystem import Archive
from node.archive.space import reason_of
from node.children.messages import ChildCancelled
from node.completeness import lost_instances
from node.conversion.job import ConversionJob, Converted, ReferencedSeries, absent, run_with_references
from node.conversion.pool import ConverterDied, ShortOfResources
from node.conversion.volume_files import LostSources, publish, revision_folder, series_folder, settle, stored_files
from node.errors import OutOfResources, VoxelnodeError, is_out_of_memory
from node.files.durable import NO_ROOM
from node.index.database import Index
from node.index.rows.converted import ClaimedInstance, SeriesKey
from node.index.rows.place import IndexUnusable
from node.index.rows.records import ClaimedSeries, FoundSeries, SeriesOutcome
from node.index.rules.series.claims import FOR_ROOM
from node.receive.stored_files import report_damage
from node.runtime.background import wait_seconds
from node.runtime.failpoints import reached
from node.version import __version__
from node.volume.reasons import Reason
from node.writers.options import WriteOptions

log = structlog.get_logger()

SHORTAGES = NO_ROOM | {errno.EAGAIN, errno.ENOTCONN, errno.ESTALE}
"""Errors that are not the fault of a series; EAGAIN: no process or thread can start; the others: it is not mounted."""

ATTEMPTS = 3
"""Attempts at a crashing conversion before the series is set aside as failed."""

WHOLE_AGAIN_SECONDS = 2.0
"""Wait of a series that met damaged files which are whole now: they were replaced meanwhile, or read wrongly."""

SHORTAGE_LOG_SECONDS = 60.0

REFERENCE_WAIT = dt.timedelta(seconds=60)
"""Longest time between checks whether a referenced series is still open; usually its end is noticed at once."""

CONVERTER = f"voxelnode {__version__}"


class Unchanged:
    """A conversion would repeat the current volumes, which stay."""


@dataclass(frozen=True, slots=True)
class MadeOfLost:
    """The volumes of a series were made of instances that are lost now: none takes their place.

    `kept`: the volumes that no row names, as the end of a sentence.
    """

    kept: str = ""


@dataclass(frozen=True, slots=True)
class Postponed:
    """The machine lacked something: the series waits for some seconds at least, and did not fail."""

    why: str
    seconds: float = field(default_factory=lambda: wait_seconds(1))
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Crashed:
    """The converter crashed, or we did; `cause` in a sentence."""

    cause: str


class _Used:
    """The files that a conversion uses: those of the claimed series, and of the series to which it refers.

    They stay at their paths until `held` is closed.
    """

    def __init__(self, claimed: ClaimedSeries, archive: Archive, index: Index, held: ExitStack) -> None:
        self._claimed, self._archive, self._index, self._held = claimed, archive, index, held
        self.as_received: dict[Path, ClaimedInstance] = {}
        self.found: tuple[FoundSeries, ...] = ()

    @property
    def references(self) -> list[tuple[SeriesKey, int]]:
        """The series to which the claimed one refers, with their revisions."""
        return [(found.key, found.revision) for found in self.found]

    def add(self, instances: Sequence[ClaimedInstance]) -> tuple[tuple[str, Path], ...]:
        """Hold the files of instances; return their SOP Instance UIDs and paths."""
        self._held.enter_context(self._archive.held(instances))
        paths = [self._archive.path(instance.key) for instance in instances]
        self.as_received.update(zip(paths, instances, strict=True))
        return tuple((instance.sop_instance_uid, path) for instance, path in zip(instances, paths, strict=True))

    def look_up(self, keys: Sequence[SeriesKey]) -> tuple[ReferencedSeries, ...]:
        """Return the series to which the claimed one refers; their instances become part of `as_received`."""
        self.found = self._index.references.find(self._claimed.id, keys) if keys else ()
        for found in self.found:
            if found.is_open and not self._claimed.expectation.forced:
                raise ReferencedSeriesOpen(found.key[1], keys)
        return tuple(map(self._referenced, self.found))

    def _referenced(self, found: FoundSeries) -> ReferencedSeries:
        uid, instances = found.key[1], self.add(found.instances)
        if not instances:
            return ReferencedSeries(found.key, problem=(Reason.INCOMPLETE, absent(uid)))
        if found.is_open:
            detail = f"refers to series {uid}, which is still being received: the masks are made when it is converted"
            return ReferencedSeries(found.key, problem=(Reason.INCOMPLETE, detail))
        if not found.is_of_patient:
            detail = (
                f"refers to series {uid}, which is of another patient; if both are one, merge them and convert again"
            )
            return ReferencedSeries(found.key, problem=(Reason.CONTRADICTORY, detail))
        return ReferencedSeries(found.key, instances, is_of_patient=True)


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


End = (
    SeriesOutcome | Unchanged | MadeOfLost | SeriesDamaged | ReferencedSeriesOpen | Postponed | ChildCancelled | Crashed
)
"""How a conversion ends: with an outcome, without need, for the time being, or because something broke."""


class Conversions:
    """Converts claimed series, and records how each conversion ends. Thread-safe."""

    def __init__(self, archive: Archive, index: Index, options: WriteOptions, now: Callable[[], dt.datetime]) -> None:
        self._archive, self._index, self._options, self._now = archive, index, options, now
        self._shortage_logged_at = -inf
        self._is_lack_recorded = True  # by the process before, for all that is known

    def convert(
        self, claimed: ClaimedSeries, run: Callable[[ConversionJob], Converted], lack: str | None = None
    ) -> End:
        """Convert a claimed series into published files, which no row names yet; see `write_volumes`.

        `lack`: why nothing may be written; what needs no files has its outcome.
        """
        try:
            if (lost := self._made_of_lost(claimed)) is not None:
                return lost
            if is_unchanged(claimed, self._archive, self._options):
                return Unchanged()
            run_now = run if lack is None else lambda job: run(replace(job, has_room=False))
            return write_volumes(claimed, self._archive, self._index, self._options, run_now)
        except (ChildCancelled, SeriesDamaged, ReferencedSeriesOpen) as end:
            return end
        except Exception as error:  # any error concerns this series only
            if lack is not None:  # what wrote has an error of its own; others come again once there is room
                return Postponed(f"for room: {lack}", 0.0, FOR_ROOM)
            return self._broken(claimed, error)

    def _made_of_lost(self, claimed: ClaimedSeries) -> MadeOfLost | None:
        """Return an end if volumes of a series were made of lost instances, also if the index has forgotten them.

        Raises StoreAway if the object store is to tell, and does not answer.
        """
        if claimed.current is not None:
            return MadeOfLost() if claimed.current.holds_lost else None
        if not claimed.expectation.lost:
            return None
        lost = self._index.lost.by_series().get(claimed.key, set())
        remains = LostSources({claimed.key: lost}).folders(self._archive.root)
        remote, folder = self._archive.remote, series_folder(*claimed.key)
        if not remains and remote is not None and remote.has_any(folder):
            remains = [folder]
        return MadeOfLost(f"; {remains[-1]} was made of them, and stays") if remains else None

    def _broken(self, claimed: ClaimedSeries, error: Exception) -> Postponed | Crashed:
        is_expected = isinstance(error, ConverterDied | ShortOfResources | OSError | OutOfResources)
        cause = str(error) if is_expected else f"{type(error).__name__} while converting"
        if isinstance(error, OSError):
            origin = "object store" if isinstance(error, StoreAway) else "disk"
            cause = f"{origin}: {reason_of(error, self._archive.root)}"
        if self._is_short(error):
            return Postponed(cause)
        if not is_expected:
            log.exception("conversion_failed", series_instance_uid=claimed.series_instance_uid)
        return Crashed(cause)

    def _is_short(self, error: Exception) -> bool:
        """Return whether the machine lacks something: then it is not the fault of the series."""
        intake = self._archive.intake
        is_named = isinstance(error, ShortOfResources | StoreAway | IndexUnusable) or (
            isinstance(error, OSError) and error.errno in SHORTAGES
        )
        return is_named or is_out_of_memory(error) or intake.shortage is not None or not intake.has_room()

    def record(self, claimed: ClaimedSeries, end: End) -> None:
        """Record an end, which ends the claim (`node.index.rules.series.claims`), and log it.

        May be called again if it raises. An end whose claim was lost changes nothing.
        """
        index, now = self._index.series, self._now()
        told = log.bind(series_instance_uid=claimed.series_instance_uid, revision=claimed.revision)
        match end:
            case SeriesOutcome():
                self._record_outcome(claimed, end, told)
            case Unchanged():
                index.record_unchanged(claimed, now)
                told.info("series_unchanged", instances=len(claimed.instances))
            case MadeOfLost(kept):
                detail = f"{lost_instances(claimed.expectation.lost)}: send them again, or write them off{kept}"
                references = [(found.key, found.revision) for found in claimed.referenced]
                index.record_damaged(claimed, detail, references, now)
            case SeriesDamaged():
                self._record_damaged(claimed, end)
            case ReferencedSeriesOpen(references=references):
                index.postpone(claimed, str(end), REFERENCE_WAIT, now, references)
                told.info("conversion_waits", reason="a series to which it refers is open")
            case Postponed(why, seconds, reason):
                index.postpone(claimed, why, dt.timedelta(seconds=seconds), now, reason=reason)
                self._log_shortage(why)
            case ChildCancelled():  # it is due at once
                if index.release_claim(claimed, now):
                    told.info("conversion_handed_back")
            case Crashed(cause):
                again = index.record_crash(claimed, cause, ATTEMPTS, now)
                told.warning("conversion_crashed", reason=cause, tried_again=again)

    def _record_outcome(self, claimed: ClaimedSeries, outcome: SeriesOutcome, told: Any) -> None:
        try:
            recorded = record_outcome(claimed, outcome, self._archive, self._index, self._now)
        except VoxelnodeError:
            raise
        except Exception as error:  # a retry would fail in the same way
            log.exception("conversion_failed", series_instance_uid=claimed.series_instance_uid)
            self.record(claimed, Crashed(f"{type(error).__name__} while recording the conversion"))
            return
        event = "series_converted" if outcome.state == "converted" else "series_without_volume"
        told.info(event if recorded else "claim_lost", state=outcome.state, instances=len(claimed.instances))

    def _record_damaged(self, claimed: ClaimedSeries, damage: SeriesDamaged) -> None:
        """Set a series aside whose files are damaged, unless all of them are whole again."""
        now = self._now()
        if all([report_damage(self._archive, self._index, key, problem, now) for key, problem in damage.damaged]):
            wait = dt.timedelta(seconds=WHOLE_AGAIN_SECONDS)
            self._index.series.postpone(claimed, "damaged files are whole again", wait, now)
        else:
            self._index.series.record_damaged(claimed, str(damage), damage.references, now)

    def record_lack(self, lack: str | None) -> None:
        """Record in the series that wait for room how much there is, or that there is room again.

        Every now and then, their words are renewed, because the room that is left changes.
        """
        self._is_lack_recorded |= lack is not None
        if self._is_lack_recorded if lack is None else self._log_shortage(lack):
            with suppress(OutOfResources):  # the index lacks room as well; the log has the reason
                self._index.series.record_lack(lack)
                self._is_lack_recorded = lack is not None

    def _log_shortage(self, why: str) -> bool:
        """Log once in `SHORTAGE_LOG_SECONDS` that conversions wait; return whether that was now."""
        is_now = monotonic() >= self._shortage_logged_at + SHORTAGE_LOG_SECONDS
        if is_now:
            self._shortage_logged_at = monotonic()
            log.warning("conversions_wait", reason=why)
        return is_now


def is_unchanged(claimed: ClaimedSeries, archive: Archive, options: WriteOptions) -> bool:
    """Return whether a conversion would repeat the current volumes, and their files exist in full length.

    Those that the object store has are believed to exist.
    """
    current = claimed.current
    if current is None or not current.has_volumes:
        return False
    if current.input_sha256 != input_sha256(claimed, options, claimed.referenced):
        return False
    try:
        return all((archive.root / path).stat().st_size == size for path, size in current.files)
    except OSError:
        return False


def input_sha256(claimed: ClaimedSeries, options: WriteOptions, referenced: Sequence[FoundSeries] = ()) -> str:
    """Return a digest of everything that determines the result.

    That is the instances with their bytes, the converter, the options, and the series to which the claimed one refers.
    """
    content: list[Any] = [_digests(claimed.instances), CONVERTER, asdict(options)]
    content += [[found.key, found.is_of_patient, found.is_open, _digests(found.instances)] for found in referenced]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _digests(instances: Sequence[ClaimedInstance]) -> list[tuple[str, str]]:
    return sorted((instance.sop_instance_uid, instance.sha256) for instance in instances)


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
            used.add(claimed.instances),
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


def _outcome(
    claimed: ClaimedSeries, converted: Converted, destination: Path, options: WriteOptions, used: _Used
) -> SeriesOutcome:
    state, first = _state(converted), next(iter(converted.refusals), None)
    return SeriesOutcome(
        state=state,
        converter=CONVERTER,
        options=asdict(options),
        seconds=converted.seconds,
        files=[replace(file, path=str(destination / file.path)) for file in converted.files],
        sources=converted.sources,
        exclusions=[(one.sop_instance_uid, one.frames, one.reason.value, one.detail) for one in converted.exclusions],
        failures=[(refusal.stack, refusal.reason.value, refusal.detail) for refusal in converted.refusals],
        completeness=converted.completeness,
        findings=converted.findings,
        input_sha256=input_sha256(claimed, options, used.found),
        references=used.references,
        error=None if first is None or state == "converted" else f"{first.reason.value}: {first.detail}",
    )


def _state(converted: Converted) -> str:
    if any(file.shape for file in converted.files):  # the file of a report has none
        return "converted"
    if all(refusal.reason is Reason.NOT_AN_IMAGE for refusal in converted.refusals):
        return "not-an-image"
    return "refused"


def record_outcome(
    claimed: ClaimedSeries, outcome: SeriesOutcome, archive: Archive, index: Index, now: Callable[[], dt.datetime]
) -> bool:
    """Record what `write_volumes` returned; may be called again after an error.

    The result is False if the claim was lost meanwhile; then nothing is recorded, and the files are removed.

    Raises OutOfResources: the commit failed, or its outcome is unknown.
    """
    recorded = index.series.record_outcome(claimed, outcome, now())
    reached("outcome-recorded")
    settle(claimed.claim, archive, index)  # a commit reported as failed may have succeeded: rows tell
    return recorded
