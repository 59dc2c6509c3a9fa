"""What hooks leave for their jobs becomes instances: checked, made, and stored by the one way in.

All results of a job are made before the first one is stored. A file that cannot be made takes no other along: the job
names it, and the others are stored. A result is durable and indexed before its job has succeeded. What a hook left is
kept before anything is made of it, so that the hook runs once, though the index lags, the disk is full for a while, or
the process dies. Instances that are stored already are not made a second time: their UIDs follow from job, file name
and content.
"""

import datetime as dt
import hashlib
import json
import os
import re
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

from node.archive.space import reason_of
from node.errors import InstanceRefused, OutOfResources, ResultRefused, ResultsBusy, counted
from node.extensions.results.makers import Makers
from node.extensions.results.manifest import FILE_NAME, MAX_JOB_BYTES, MAX_RESULTS, Manifest, opened_folder
from node.extensions.results.rows import Draft, Drafts, ResultRepository, about, damaged
from node.files.durable import NO_ROOM, make_folder, sync_file_system, sync_folder
from node.index.database import Index
from node.index.rows.files import StoredInstance
from node.index.rows.models.work import JobState
from node.index.rows.records import NOT_CURRENT_OUTCOMES, Outcome
from node.index.rules.work.messages import Job
from node.index.work_loop import WorkLoop
from node.receive.dicom_files import MediaFile
from node.receive.import_files import INDEX_SECONDS, take_in
from node.receive.ingest import Ingest, Origin
from node.receive.results import KeptResults, Results, Upload
from node.receive.stored_files import damage_of
from node.runtime.background import BackgroundService
from node.runtime.failpoints import reached
from node.settings.model import Settings

log = structlog.get_logger()

FOLDER = "jobs"
"""Folder in the root; each job has one in it, with its id, while it is open, and one for what is kept."""

KEPT = ".kept"
"""End of the name of the folder of a job once its hook has ended: nothing of it is lost or changed from then on."""

JOB_ID_CHARACTERS = 32

ORIGIN = Origin(source="result")

MAX_WAIT_SECONDS = 60.0
"""Longest wait of a request for the results of other jobs, which are made one after the other."""

NOTHING_LEFT = "the hook left no results"

_UID_TAKEN = "the node has another instance with its SOP Instance UID: give each result a new one"

_JOB_ID = re.compile(rf"[0-9a-f]{{{JOB_ID_CHARACTERS}}}")


class ResultIntake(Results):
    """Stores results of jobs. Thread-safe."""

    def __init__(self, index: Index, ingest: Ingest, makers: Makers | None = None) -> None:
        super().__init__(index, ingest)
        self._results = index.repository(ResultRepository)
        self._folder = ingest.archive.root / FOLDER
        self._makers = makers or Makers()
        self._drafts = Drafts(index.reading, self._intact, self._makers)
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
    def new_file(self, job: Job, name: str) -> Iterator[Upload]:
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
                    yield Upload(file, self._ingest.archive.intake.measured())
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(part, name, src_dir_fd=folder, dst_dir_fd=folder)
            except OSError as error:
                raise _shortage(error, path) from error
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(part, dir_fd=folder)

    def finish(
        self, job_id: str, content: object = None, detail: str | None = None, wait_seconds: float = MAX_WAIT_SECONDS
    ) -> None:
        """Store the results of a job from the files in its folder, and let it succeed, unless it has succeeded before.

        `content` is the manifest, or its JSON values: what the files are; None: as the folder says. `detail` is what
        the hook says of it. Waits at most `wait_seconds` for the results of other jobs (ResultsBusy).

        Raises ResultRefused if a file cannot become a result: the others are stored, and the job is still open. Also
        raises NoSuchJob, JobEnded and OutOfResources.
        """
        manifest = Manifest.of(content) if content is not None else None
        if not self._turn.acquire(timeout=wait_seconds):
            raise ResultsBusy
        try:
            job = self._index.jobs.with_id(job_id)
            if job.state == "succeeded":
                return
            refused: list[str] = []
            with self._ingest.archive.working_folder() as own:  # no hook knows it
                left, now = self._left(job), self._ingest.now()
                drafts = self._drafts.of(job, left, manifest, own, now, refused) if job.is_open else []
                stored = self._store(job, drafts, refused)
            reached("results-stored")
            if refused:
                others = f"; {counted(stored, 'other result is', 'other results are')} stored" if stored else ""
                raise ResultRefused("; ".join(refused) + others)
            if not drafts:
                log.warning("job_left_nothing", hook=job.hook, series_instance_uid=job.series_instance_uid)
            self.end(job_id, "succeeded", detail or (None if drafts else NOTHING_LEFT))
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
        """Remove the files of a job that has ended."""
        under_way = self._under_way.get(job.job_id)
        if state == "cancelled" and under_way is not None:
            under_way.set()
        for path in self._folder.glob(f"{job.job_id}*"):
            _remove(path)
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

    def _intact(self, one: StoredInstance) -> Path:
        """Return the file of an image, after comparing it with what was received."""
        path = self._ingest.archive.local(one)
        problem = damage_of(self._ingest.archive, self._index, one, path, self._ingest.now())
        if problem is None:
            return path
        raise damaged(problem)

    def _left(self, job: Job) -> Path:
        """Return the folder in which the hook of a job left its results: once it has ended, the one that is kept."""
        kept = self.folder(job.job_id).with_suffix(KEPT)
        return kept if os.path.lexists(kept) else self.folder(job.job_id)

    def _store(self, job: Job, drafts: Sequence[Draft], refused: list[str]) -> int:
        """Store what is not stored yet; return how many results of the drafts are, and add the others to `refused`."""
        missing, conflicts = self._results.expect(job.job_id, [one.result for one in drafts])
        refused += conflicts.values()
        stored = len(drafts) - len(conflicts)
        for one in drafts:
            if one.result.file in missing:
                try:
                    self._store_one(one)
                except ResultRefused as error:
                    refused.append(about(one.result.file, error))
                    stored -= 1
        if self._ingest.transfers is not None:
            self._ingest.transfers.ended(ORIGIN, "ended")
        return stored

    def _store_one(self, one: Draft) -> None:
        uid = one.result.sop_instance_uid
        current = self._index.instances.current(uid)
        if current is None:
            self._take_in(one)
        elif one.result.kind == "instance" and current.sha256 != _digest(one.file):
            raise ResultRefused(_UID_TAKEN)
        # Otherwise it was stored before the process died: the node itself made the UID of any other kind for this file.
        self._results.stored(uid, self._ingest.now())
        reached("result-stored")

    def _take_in(self, one: Draft) -> None:
        """Store one instance, and wait until it is indexed."""
        outcome: Future[Outcome] = Future()
        take_in(one.file, self._ingest, ORIGIN, outcome)
        try:
            indexed = outcome.result(INDEX_SECONDS)
        except TimeoutError:
            raise OutOfResources("the result is safe in the journal, but the index does not take it") from None
        except OutOfResources:
            raise
        except InstanceRefused as error:
            raise ResultRefused(f"{one.result.file}: {error}") from error
        if indexed in NOT_CURRENT_OUTCOMES:
            raise ResultRefused(_UID_TAKEN)


def _digest(file: MediaFile) -> str:
    """Return the SHA-256 of a data set, as the index has it of an instance."""
    digest = hashlib.sha256()
    for piece in file.data_set():
        digest.update(piece)
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
