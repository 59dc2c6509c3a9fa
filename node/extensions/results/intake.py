"""What hooks leave for their jobs becomes instances: checked, made, and stored by the one way in.

All results of a job are made before the first one is stored, so a job whose second file is refused stores nothing. A
result is durable and indexed before its job has succeeded. What a hook left is kept before anything is made of it, so
that the hook runs once, though the index lags, the disk is full for a while, or the process dies. Instances that are
stored already are not made a second time: their UIDs follow from job, file name and content.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import re
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import structlog

from node.archive.space import reason_of
from node.background import BackgroundService
from node.durable import NO_ROOM, make_folder, sync_file_system, sync_folder
from node.errors import InstanceRefused, OutOfResources, ResultRefused, ResultsBusy
from node.extensions.results.makers import Makers
from node.extensions.results.making import ResultIdentity, ResultMaking, ResultSource, SourceStack, derived_uid
from node.extensions.results.manifest import (
    FILE_NAME,
    MAX_BYTES,
    MAX_JOB_BYTES,
    MAX_RESULTS,
    Manifest,
    ManifestEntry,
    left_in,
    opened_file,
    opened_folder,
)
from node.extensions.results.rows import NewResult, ReadResults, ResultRepository
from node.failpoints import reached
from node.index.database.index import Index
from node.index.database.reading import ReadIndex
from node.index.database.work_loop import WorkLoop
from node.index.engine.rows import Row
from node.index.nouns.records import NOT_CURRENT_OUTCOMES, Outcome
from node.index.search.selection import StoredInstance
from node.index.work.jobs import Job, JobState
from node.metrics import Metrics
from node.receive.dicom_files import MediaFile, find_instances
from node.receive.import_files import INDEX_SECONDS, take_in
from node.receive.ingest import Ingest, Origin
from node.receive.results import KeptResults, Results
from node.receive.stored_files import damage_of
from node.settings.model import Settings

log = structlog.get_logger()

FOLDER = "jobs"
"""Folder in the root; each job has one in it, with its id, while it is open, and one for what is kept."""

KEPT = ".kept"
"""End of the name of the folder of a job once its hook has ended: nothing of it is lost or changed from then on."""

JOB_ID_CHARACTERS = 32

FIRST_SERIES_NUMBER = 9001
"""Series Number (0020,0011) of the first result in a study; they count from there."""

ORIGIN = Origin(source="result")

MAX_WAIT_SECONDS = 60.0
"""Longest wait of a request for the results of other jobs, which are made one after the other."""

MAX_SOURCE_INSTANCES = 1_000_000

PIECE_BYTES = 1 << 20

_JOB_ID = re.compile(rf"[0-9a-f]{{{JOB_ID_CHARACTERS}}}")


@dataclass(frozen=True, slots=True)
class _Made:
    """A result that is made, and the file that holds it."""

    result: NewResult
    path: Path


class ResultIntake(Results):
    """Stores results of jobs. Thread-safe."""

    def __init__(self, index: Index, ingest: Ingest, metrics: Metrics, makers: Makers | None = None) -> None:
        super().__init__(index, ingest, metrics)
        self._results = index.repository(ResultRepository)
        self._folder = ingest.archive.root / FOLDER
        self._makers = makers or Makers()
        self._turn = threading.Lock()
        self._under_way: dict[str, threading.Event] = {}

    @contextmanager
    def under_way(self, job_id: str) -> Iterator[threading.Event]:
        """Yield an event that is set if somebody cancels the job within the block, whose work can end then."""
        cancelled = self._under_way[job_id] = threading.Event()
        try:
            if not self._index.jobs.with_id(job_id).is_open:  # it was cancelled before
                cancelled.set()
            yield cancelled
        finally:
            del self._under_way[job_id]

    def folder(self, job_id: str) -> Path:
        """Return the folder of a job, which may not exist."""
        if _JOB_ID.fullmatch(job_id) is None:
            raise ValueError(f"not the id of a job: {job_id!r}")
        return self._folder / job_id

    def empty_folder(self, job_id: str) -> Path:
        """Return the folder of a job, empty: what an attempt left that failed is gone."""
        self._ingest.archive.intake.require()
        folder = self.folder(job_id)
        _remove(folder)
        make_folder(folder)
        return folder

    def keep(self, job_id: str, kept: KeptResults) -> None:
        """Keep what a hook left in the folder of a job, durably; see `kept`. Raises OutOfResources."""
        folder = self.folder(job_id)
        try:
            make_folder(self._folder)
            with suppress(FileExistsError):  # a webhook may have left nothing
                folder.mkdir()
            folder.with_suffix(".json").write_text(json.dumps([kept.content, kept.output]))
            sync_file_system(self._folder)
            folder.rename(folder.with_suffix(KEPT))  # last: without it, the hook runs again
            sync_folder(self._folder)
        except OSError as error:
            raise _shortage(error, folder) from error

    def kept(self, job_id: str) -> KeptResults | None:
        """Return what `keep` was given for a job; None: its hook has left nothing yet, or on another host."""
        folder = self.folder(job_id)
        if not os.path.lexists(folder.with_suffix(KEPT)):
            return None
        content, output = json.loads(folder.with_suffix(".json").read_text())
        return KeptResults(content, output)

    @contextmanager
    def new_file(self, job: Job, name: str) -> Iterator[IO[bytes]]:
        """Open a file of a job for writing: durable, and in place of an earlier one of its name, when the block ends.

        Raises ResultRefused if the name is no name of a result or the job has too many files, and OutOfResources.
        """
        self._ingest.archive.intake.require()
        if FILE_NAME.fullmatch(name) is None:
            raise ResultRefused(f"a file name has 1 to 100 letters, digits, '.', '-', '_' or '+': {name[:100]!r}")
        path = self.folder(job.job_id)
        make_folder(path)
        with opened_folder(path) as folder:
            with os.scandir(folder) as found:
                sizes = {entry.name: entry.stat(follow_symlinks=False).st_size for entry in found}
            if name not in sizes and len(sizes) > MAX_RESULTS:
                raise ResultRefused(f"the job has {MAX_RESULTS} files already")
            if sum(sizes.values()) > MAX_JOB_BYTES:
                raise ResultRefused(f"the files of a job may have {MAX_JOB_BYTES} bytes")
            part = f".{uuid.uuid4().hex}.part"
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                with os.fdopen(os.open(part, flags, 0o600, dir_fd=folder), "wb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(part, name, src_dir_fd=folder, dst_dir_fd=folder)
            except OSError as error:
                raise _shortage(error, path) from error
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(part, dir_fd=folder)

    def finish(
        self,
        job_id: str,
        content: object = None,
        detail: str | None = None,
        wait_seconds: float = MAX_WAIT_SECONDS,
    ) -> None:
        """Store the results of a job from the files in its folder, and let it succeed, unless it has succeeded before.

        `content` is the manifest, or its JSON values: what the files are; None: as the folder says. `detail` is what
        the hook says of it. Waits at most `wait_seconds` for the results of other jobs (ResultsBusy).

        Raises ResultRefused if a file cannot become a result: nothing was stored, and the job is still open. Also
        raises NoSuchJob, JobEnded, ResultThere and OutOfResources.
        """
        manifest = Manifest.of(content) if content is not None else None
        if not self._turn.acquire(timeout=wait_seconds):
            raise ResultsBusy
        try:
            job = self._index.jobs.with_id(job_id)
            if job.state == "succeeded":
                return
            with self._ingest.archive.working_folder() as own:  # no hook knows it
                self._store(job, self._made(job, manifest, own) if job.is_open else [])
            reached("results-stored")
            self.end(job_id, "succeeded", detail)
            reached("results-done")
        except OSError as error:
            raise _shortage(error, self._folder) from error
        finally:
            self._turn.release()

    def end(self, job_id: str, state: JobState, detail: str | None = None) -> None:
        """End a job that is open, and remove its files. Raises NoSuchJob and JobEnded."""
        job = self._index.jobs.end(job_id, state, detail, self._ingest.now())
        self.ended(job, state)

    def ended(self, job: Job, state: JobState) -> None:
        """Count a job that has ended, and remove its files."""
        under_way = self._under_way.get(job.job_id)
        if state == "cancelled" and under_way is not None:
            under_way.set()
        for path in self._folder.glob(f"{job.job_id}*"):
            _remove(path)
        self._metrics.jobs.labels(job.hook, state).inc()
        log.info("job_ended", hook=job.hook, state=state, series_instance_uid=job.series_instance_uid)

    def sweep(self) -> None:
        """End what runs for jobs that a deletion cancelled; remove the folders of jobs that have ended."""
        if self._under_way:
            for job_id in self._results.cancelled_among(tuple(self._under_way)):
                if (under_way := self._under_way.get(job_id)) is not None:
                    under_way.set()
        there = list(self._folder.glob("*"))  # first: another host may begin a job, whose row comes before its folder
        is_open = self._results.open_ids()
        for folder in there:
            if folder.name[:JOB_ID_CHARACTERS] not in is_open:
                _remove(folder)

    def services(self, settings: Settings) -> Sequence[BackgroundService]:
        """Return what ends jobs whose hooks do not report, if there may be any."""
        is_needed = any(hook.results for hook in settings.hooks.values()) or self._results.open_ids()
        return (JobExpiry(self._index, self, self._ingest.now),) if is_needed else ()

    def close(self) -> None:
        """End the child processes."""
        self._makers.close()

    def _made(self, job: Job, manifest: Manifest | None, own: Path) -> list[_Made]:
        """Make the instances of a job, in a folder of our own."""
        folder = self.folder(job.job_id)
        if os.path.lexists(folder.with_suffix(KEPT)):
            folder = folder.with_suffix(KEPT)
        entries = left_in(folder, manifest, job.hook)
        return [self._make(job, folder, entry, own, number) for number, entry in enumerate(entries)]

    def _make(self, job: Job, folder: Path, entry: ManifestEntry, own: Path, number: int) -> _Made:
        file, into = own / entry.file, own / f".{number}.made"
        digest = _taken(folder, entry, file)
        with self._index.reading() as index:
            source = self._source(index, job, entry)
            results = index.repository(ReadResults).count_results(job.study_instance_uid)
        identity = ResultIdentity(
            derived_uid(job.job_id, entry.file),
            derived_uid(job.job_id, entry.file, digest),
            FIRST_SERIES_NUMBER + results + number,
        )
        into.touch()
        made = self._makers.make(ResultMaking(entry, file, source, identity, into, self._ingest.now()))
        if entry.kind == "instance":
            self._require_own_series(job, entry, made["series_instance_uid"])
        result = NewResult(
            entry.file,
            entry.kind,
            digest,
            source.series_instance_uid,
            source.study_instance_uid,
            made["series_instance_uid"],
            made["sop_instance_uid"],
            made["sop_class_uid"],
            made.get("segments"),
        )
        return _Made(result, file if entry.kind == "instance" else into)

    def _source(self, index: ReadIndex, job: Job, entry: ManifestEntry) -> ResultSource:
        """Return the series that a result is of, with its volumes in the revision that the job is about."""
        study, series = job.study_instance_uid, entry.series_instance_uid or job.series_instance_uid
        if series is None:
            raise ResultRefused(f"{entry.file}: the job is about a study; name its series by series_instance_uid")
        row = index.series.row(study, series)
        stored = {one.sop_instance_uid: one for one in index.instances.stored(study, series)}
        if row is None or not stored:
            raise ResultRefused(f"{entry.file}: there is no series {series} in the study of the job")
        revision = job.revision if series == job.series_instance_uid and job.revision else row["revision"]
        used = index.volumes.sources(study, series, revision, MAX_SOURCE_INSTANCES)
        classes = {stored[one["sop_instance_uid"]].sop_class_uid for one in used if one["sop_instance_uid"] in stored}
        images = [one for one in stored.values() if not classes or one.sop_class_uid in classes]
        return ResultSource(
            study,
            series,
            tuple((one.sop_class_uid, one.sop_instance_uid) for one in images),
            self._sample(images),
            self._stacks(entry, used, stored) if entry.kind == "segmentation" else (),
        )

    def _sample(self, images: Sequence[StoredInstance]) -> Path:
        """Return the file of the first image that is as it was received: a result has its patient from it."""
        refusal = None
        for one in images:
            try:
                return self._intact(one)
            except ResultRefused as error:
                refusal = refusal or error
        raise refusal or ResultRefused("the series has no image")

    def _stacks(
        self, entry: ManifestEntry, used: Sequence[Row], stored: Mapping[str, StoredInstance]
    ) -> tuple[SourceStack, ...]:
        """Return the volumes that a mask may be of: those whose images are all as they were converted."""
        stacks: dict[int, list[tuple[str, Path]]] = {}
        refusals: dict[int, ResultRefused] = {}
        for row in used:
            stack, uid = row["stack"], row["sop_instance_uid"]
            if entry.stack not in (None, stack) or stack in refusals:
                continue
            try:
                one = stored.get(uid)
                if one is None or one.sha256 != row["sha256"]:
                    raise ResultRefused(f"{entry.file}: an image of the volume was deleted or replaced meanwhile")
                stacks.setdefault(stack, []).append((uid, self._intact(one)))
            except ResultRefused as error:
                refusals[stack] = error
        whole = tuple(SourceStack(stack, tuple(stacks[stack])) for stack in sorted(stacks.keys() - refusals.keys()))
        if refusals and not whole:
            raise next(iter(refusals.values()))
        return whole

    def _intact(self, one: StoredInstance) -> Path:
        """Return the file of an image, after comparing it with what was received."""
        path = self._ingest.archive.local(one)
        problem = damage_of(self._ingest.archive, self._index, one, path, self._ingest.now())
        if problem is None:
            return path
        raise ResultRefused(f"the file of an image of the series {problem}: send the image again")

    def _require_own_series(self, job: Job, entry: ManifestEntry, series_instance_uid: str) -> None:
        """Refuse an instance in a series of others: no message of that series would be delivered to its hook."""
        with self._index.reading() as index:
            is_there = index.series.row(job.study_instance_uid, series_instance_uid) is not None
            is_own = index.jobs.descends(job.hook, job.study_instance_uid, series_instance_uid)
        if is_there and not is_own:
            raise ResultRefused(f"{entry.file} is in a series that the node has from elsewhere; give it its own series")

    def _store(self, job: Job, made: Sequence[_Made]) -> None:
        missing = {result.file for result in self._results.expect(job.job_id, [one.result for one in made])}
        for one in made:
            if one.result.file in missing:
                uid = one.result.sop_instance_uid
                if self._index.instances.current(uid) is None:  # else it was stored before the process died
                    self._take_in(one)
                self._results.stored(uid, self._ingest.now())
                self._metrics.results.labels(job.hook, one.result.kind).inc()
                reached("result-stored")
        if self._ingest.transfers is not None:
            self._ingest.transfers.ended(ORIGIN, "ended")

    def _take_in(self, one: _Made) -> None:
        """Store one instance, and wait until it is indexed."""
        [file] = find_instances([one.path])
        if not isinstance(file, MediaFile) or file.identity.sop_instance_uid != one.result.sop_instance_uid:
            raise ResultRefused(f"{one.result.file}: the instance that was made cannot be read")
        outcome: Future[Outcome] = Future()
        take_in(file, self._ingest, ORIGIN, outcome)
        try:
            indexed = outcome.result(INDEX_SECONDS)
        except TimeoutError:
            raise OutOfResources("the result is safe in the journal, but the index does not take it") from None
        except OutOfResources:
            raise
        except InstanceRefused as error:
            raise ResultRefused(f"{one.result.file}: {error}") from error
        if indexed in NOT_CURRENT_OUTCOMES:
            raise ResultRefused(f"{one.result.file}: the node has another instance with its SOP Instance UID")


def _taken(folder: Path, entry: ManifestEntry, into: Path) -> str:
    """Copy a file out of the reach of its hook, holes as holes; return the SHA-256 of the copy.

    The copy has at most the bytes that the file has at the beginning, whatever its hook still writes.
    """
    digest, nothing = hashlib.sha256(), bytes(PIECE_BYTES)
    with (
        opened_folder(folder) as descriptor,
        opened_file(descriptor, entry.file, MAX_BYTES[entry.kind]) as file,
        into.open("xb") as copy,
    ):
        left = os.fstat(file.fileno()).st_size
        while left and (piece := file.read(min(PIECE_BYTES, left))):
            digest.update(piece)
            left -= len(piece)
            if piece == nothing:
                copy.seek(PIECE_BYTES, os.SEEK_CUR)
            else:
                copy.write(piece)
        copy.truncate()
    return digest.hexdigest()


def _shortage(error: OSError, path: Path) -> Exception:
    """Return what to raise for an error of the disk: OutOfResources if it ends once there is room again."""
    return OutOfResources(f"disk: {reason_of(error, path)}") if error.errno in NO_ROOM else error


def _remove(folder: Path) -> None:
    """Remove the folder of a job, or what a hook put in its place; a link is removed, and not followed."""
    with suppress(OSError):  # it is a folder, or not there
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)


class JobExpiry(WorkLoop):
    """Ends the jobs whose hooks report no outcome in time, and removes the files of those that have ended.

    Of several hosts, one ends jobs, and each removes its own files.
    """

    def __init__(self, index: Index, intake: ResultIntake, now: Callable[[], dt.datetime]) -> None:
        super().__init__("jobs", index, now, lease="jobs")
        self._intake, self._results = intake, index.repository(ResultRepository)

    def _is_ours(self) -> bool:
        return True

    def work(self) -> bool:
        """End late jobs, and remove what ended ones left."""
        self._intake.sweep()
        due_at = self._next_due_at()
        is_any_late = due_at is not None and due_at <= self._now()
        if is_any_late:
            for job in self._results.expire(self._now()):
                self._intake.ended(job, "expired")
        return is_any_late

    def _next_due_at(self) -> dt.datetime | None:
        return self._results.next_due_at() if super()._is_ours() else None


def results_left_in(folder: Path, content: object, hook: str) -> list[dict[str, Any]]:
    """Return what would be made of the files in a folder, each with `file`, `kind` and `description`."""
    manifest = Manifest.of(content) if content is not None else None
    return [asdict(entry) for entry in left_in(folder, manifest, hook)]
