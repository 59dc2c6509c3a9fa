"""Rows of jobs as their receivers and people see them: reports, results, and what is listed."""

import datetime as dt
import hashlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from node.archive.base import LocalFile
from node.archive.intact import problem_with
from node.errors import ResultRefused
from node.extensions.results.listed import JobViews
from node.extensions.results.makers import Makers, ResultIdentity, ResultMaking, ResultSource, SourceStack, derived_uid
from node.extensions.results.manifest import MAX_BYTES, Manifest, ManifestEntry, left_in, opened_file, opened_folder
from node.index.look.views import ReadIndex
from node.index.rows.files import StoredInstance
from node.index.rows.models.work import IS_JOB, IS_OPEN, ResultRow, WorkRow
from node.index.rows.repositories import IndexRepository, Row, on_reader, on_writer
from node.index.rows.states import document_of
from node.index.rules.work.messages import Job, end_job, job_at, open_job
from node.receive.dicom_files import MediaFile, find_instances


@dataclass(frozen=True, slots=True)
class NewResult:
    """An instance that is about to be stored for a job; see `ResultRow`."""

    file: str
    kind: str
    sha256: str
    source_series_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    segments: dict[str, int] | None


class ResultRepository(IndexRepository):
    """What jobs report, and their results."""

    @on_reader
    def cancelled_among(self, connection: Connection, job_ids: Collection[str]) -> set[str]:
        """Return which of these jobs were cancelled."""
        cancelled = IS_JOB, WorkRow.key.in_(job_ids), WorkRow.outcome == "cancelled"
        return set(connection.execute(select(WorkRow.key).where(*cancelled)).scalars())

    @on_writer
    def report(
        self, connection: Connection, job_id: str, percent: int | None, detail: str | None, now: dt.datetime, *,
        is_refused: bool = False,
    ) -> None:  # fmt: skip
        """Record the progress of a job, or that its results were refused; None leaves what was reported before.

        Raises NoSuchJob, JobEnded.
        """
        job = open_job(connection, job_id)
        values: dict[str, Any] = {"percent": percent, "reason": detail}
        if detail is not None:
            values["payload"] = document_of(replace(job.assignment, is_refused=is_refused))
        reported = {name: value for name, value in values.items() if value is not None}
        connection.execute(update(WorkRow).where(WorkRow.id == job.id).values(changed_at=now, **reported))

    @on_writer
    def expect(
        self, connection: Connection, job_id: str, results: Sequence[NewResult]
    ) -> tuple[set[str], dict[str, str]]:
        """Record instances that are about to be stored; return the files of those that are not stored yet.

        Also return why others cannot be stored, by file: the job has a stored result of the same name with other
        content, or another result has the SOP Instance UID. Raises NoSuchJob, JobEnded.
        """
        job = open_job(connection, job_id)
        missing: set[str] = set()
        conflicts: dict[str, str] = {}
        for result in results:
            of_file = ResultRow.job_id == job.id, ResultRow.file == result.file
            row = connection.execute(select(ResultRow.sha256, ResultRow.stored_at).where(*of_file)).first()
            if row is not None and row.stored_at is not None:
                if row.sha256 != result.sha256:
                    conflicts[result.file] = f"the job has stored another {result.file}; give the new one another name"
                continue
            if row is not None:
                connection.execute(delete(ResultRow).where(*of_file))
            of_uid = ResultRow.sop_instance_uid == result.sop_instance_uid
            if connection.execute(select(ResultRow.id).where(of_uid)).first() is not None:
                conflicts[result.file] = (
                    f"{result.file}: another result has its SOP Instance UID: give each result a new one"
                )
                continue
            values = {name: getattr(result, name) for name in NewResult.__slots__}
            connection.execute(insert(ResultRow).values(job_id=job.id, **values))
            missing.add(result.file)
        return missing, conflicts

    @on_writer
    def stored(self, connection: Connection, sop_instance_uid: str, now: dt.datetime) -> None:
        """Record that the instance of a result is stored and indexed."""
        of_instance = ResultRow.sop_instance_uid == sop_instance_uid
        connection.execute(update(ResultRow).where(of_instance).values(stored_at=now))

    @on_writer
    def expire(self, connection: Connection, now: dt.datetime) -> list[Job]:
        """End the jobs whose outcome is late; return them."""
        late = select(WorkRow.id).where(IS_JOB, IS_OPEN, WorkRow.due_at <= now).order_by(WorkRow.id)
        jobs = [job_at(connection, id) for id in connection.scalars(late.with_for_update(key_share=True))]
        for job in jobs:
            detail = "the hook reported no outcome in time ([hooks.NAME] job_seconds)"
            last = f"; {job.detail}" if job.assignment.is_refused else ""
            end_job(connection, job, "expired", detail + last, now)
        return jobs

    @on_reader
    def next_due_at(self, connection: Connection) -> dt.datetime | None:
        """Return when the next job expires; None if none is open."""
        return connection.execute(select(func.min(WorkRow.due_at)).where(IS_JOB, IS_OPEN)).scalar()

    @on_reader
    def open_ids(self, connection: Connection) -> set[str]:
        """Return the ids of the jobs that may still report."""
        return set(connection.execute(select(WorkRow.key).where(IS_JOB, IS_OPEN)).scalars())


FIRST_SERIES_NUMBER = 9001
"""Series Number (0020,0011) of the first result in a study; they count from there."""

MAX_SOURCE_INSTANCES = 1_000_000

PIECE_BYTES = 1 << 20

Reading = Callable[[], AbstractContextManager[ReadIndex]]

JOB_OF_TEST = "0" * 32


@dataclass(frozen=True, slots=True)
class Draft:
    """A result that is made and not stored yet, and the file that holds it."""

    entry: ManifestEntry
    result: NewResult
    file: MediaFile


@dataclass(frozen=True, slots=True)
class Drafts:
    """Makes the instances of jobs.

    `reading`: opens the index.
    `intact`: returns the file of an image once it was compared with what was received; raises ResultRefused.
    """

    reading: Reading
    intact: Callable[[StoredInstance], Path]
    makers: Makers

    def of(
        self, job: Job, folder: Path, manifest: Manifest | None, own: Path, now: dt.datetime, refused: list[str]
    ) -> list[Draft]:
        """Make the instances of what the hook of a job left in `folder`, in the folder `own`, which no hook knows.

        Adds to `refused` why a file becomes no instance, by its name: the others do. Raises ResultRefused as `left_in`,
        and OutOfResources.
        """
        made = []
        for number, entry in enumerate(left_in(folder, manifest, job.hook, refused)):
            try:
                made.append(self._make(job, folder, entry, own, number, now))
            except ResultRefused as error:
                refused.append(about(entry.file, error))
        return made

    def _make(self, job: Job, folder: Path, entry: ManifestEntry, own: Path, number: int, now: dt.datetime) -> Draft:
        file, into = own / entry.file, own / f".{number}.made"
        digest = _taken(folder, entry, file)
        with self.reading() as index:
            source = self._source(index, job, entry)
            first = index.views(JobViews).next_number(job.study_instance_uid, FIRST_SERIES_NUMBER)
        identity = ResultIdentity(
            derived_uid(job.job_id, entry.file), derived_uid(job.job_id, entry.file, digest), first + number
        )
        into.touch()
        made = self.makers.make(ResultMaking(entry, file, source, identity, into, now))
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
        [found] = find_instances([file if entry.kind == "instance" else into])
        if not isinstance(found, MediaFile) or found.identity.sop_instance_uid != result.sop_instance_uid:
            raise ResultRefused(f"{entry.file}: the instance that was made cannot be read")
        return Draft(entry, result, found)

    def _source(self, index: ReadIndex, job: Job, entry: ManifestEntry) -> ResultSource:
        """Return the series that a result is of, with its volumes in the revision that the job is about."""
        study, series = job.study_instance_uid, entry.series_instance_uid or job.series_instance_uid
        if series is None:
            raise ResultRefused(f"{entry.file}: the job is about a study; name its series by series_instance_uid")
        row = index.series.row(study, series)
        stored = {one.sop_instance_uid: one for one in index.files.stored(study, series)}
        if row is None or not stored:
            raise ResultRefused(f"{entry.file}: there is no series {series} in the study of the job")
        revision = job.revision if series == job.series_instance_uid and job.revision else row["revision"]
        volumes = index.volumes.of_series(study, series)
        grids = {one["stack"] for one in volumes if one["revision"] == revision and one["kind"] == "volume"}
        sources = index.volumes.sources(study, series, revision, MAX_SOURCE_INSTANCES)
        used = [one for one in sources if one["stack"] in grids]  # a report has a file of a stack, and no grid
        classes = {stored[one["sop_instance_uid"]].sop_class_uid for one in used if one["sop_instance_uid"] in stored}
        images = [one for one in stored.values() if not classes or one.sop_class_uid in classes]
        return ResultSource(
            study,
            series,
            tuple((one.sop_class_uid, one.sop_instance_uid) for one in images),
            self._sample(images),
            self._stacks(entry, used, stored) if entry.kind == "segmentation" else (),
            next((one.identity.patient_id for one in images if one.identity is not None), ""),
        )

    def _sample(self, images: Sequence[StoredInstance]) -> Path:
        """Return the file of the first image that is as it was received: a result has its patient from it."""
        refusal = None
        for one in images:
            try:
                return self.intact(one)
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
                stacks.setdefault(stack, []).append((uid, self.intact(one)))
            except ResultRefused as error:
                refusals[stack] = error
        whole = tuple(SourceStack(stack, tuple(stacks[stack])) for stack in sorted(stacks.keys() - refusals.keys()))
        if refusals and not whole:
            raise next(iter(refusals.values()))
        return whole

    def _require_own_series(self, job: Job, entry: ManifestEntry, series_instance_uid: str) -> None:
        """Refuse an instance in a series of others: no message of that series would be delivered to its hook."""
        with self.reading() as index:
            is_there = index.series.row(job.study_instance_uid, series_instance_uid) is not None
            is_own = index.jobs.descends(job.hook, job.study_instance_uid, series_instance_uid)
        if is_there and not is_own:
            raise ResultRefused(f"{entry.file} is in a series that the node has from elsewhere; give it its own series")


def tested(
    folder: Path, content: object, hook: str, message: Mapping[str, Any], reading: Reading, local: LocalFile
) -> list[dict[str, Any]]:
    """Make what a hook left in a folder for a test message, and store nothing; return what each file would become.

    `content`: the manifest that a plugin returned. `reading`, `local`: index and files of the series of the message.

    Raises ResultRefused if one of them becomes no result, and OutOfResources.
    """

    def intact(one: StoredInstance) -> Path:
        path = local(one)
        problem = problem_with(path, one.data_set_offset, one.bytes, one.sha256)
        if problem is not None:
            raise damaged(problem)
        return path

    uids = message["study_instance_uid"], message["series_instance_uid"]
    job = Job(0, JOB_OF_TEST, hook, *uids, message["revision"], "running", None)
    manifest = Manifest.of(content) if content is not None else None
    refused: list[str] = []
    with TemporaryDirectory(prefix="voxelnode-test-") as own, closing(Makers()) as makers:
        drafts = Drafts(reading, intact, makers).of(job, folder, manifest, Path(own), dt.datetime.now(dt.UTC), refused)
        if refused:
            raise ResultRefused("; ".join(refused))
        return [asdict(draft.entry) for draft in drafts]


def about(file: str, error: Exception) -> str:
    """Return why a file becomes no result, with its name."""
    return str(error) if str(error).startswith(file) else f"{file}: {error}"


def damaged(problem: str) -> ResultRefused:
    """Return why nothing is made of an image whose file is not as it was received."""
    return ResultRefused(f"the file of an image of the series {problem}: send the image again")


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
