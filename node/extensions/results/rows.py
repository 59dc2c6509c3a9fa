"""Rows of jobs as their receivers and people see them: reports, results, and what is listed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from node.extensions.results.listed import JobViews
from node.index.engine.rows import IndexRepository, ReadRepository, on_reader, on_writer
from node.index.models.history import TombstoneRow, TrashRow
from node.index.models.levels import SeriesRow, StudyRow
from node.index.models.work import ResultRow, WorkRow
from node.index.work.jobs import IS_JOB, IS_OPEN, REFUSED, Job, end_job, job_at, open_job


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
        self, connection: Connection, job_id: str, percent: int | None, detail: str | None, now: dt.datetime
    ) -> None:
        """Record the progress of a job; None leaves what was reported before.

        Raises NoSuchJob, JobEnded.
        """
        job = open_job(connection, job_id)
        values: dict[str, Any] = {"percent": percent, "reason": detail}
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
            last = f"; {job.detail}" if job.detail and job.detail.startswith(REFUSED) else ""
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


class ReadResults(ReadRepository, JobViews):
    """Jobs, and rows of ``results``."""

    def next_number(self, study_instance_uid: str, first: int) -> int:
        """Return a Series Number from `first` on, above those of the series of a study and of its results so far.

        Those in the trash count: they can come back.
        """
        stored_results = ResultRow.study_instance_uid == study_instance_uid, ResultRow.stored_at.is_not(None)
        results = select(func.count()).select_from(ResultRow).where(*stored_results).scalar_subquery()
        of_study = StudyRow.study_instance_uid == study_instance_uid, SeriesRow.series_number >= first
        taken = select(func.max(SeriesRow.series_number)).join(StudyRow).where(*of_study).scalar_subquery()
        count, highest = self._connection.execute(select(results, taken)).one()
        in_trash = TombstoneRow.content["study_instance_uid"].as_string() == study_instance_uid
        number = func.max(TrashRow.content["series_number"].as_integer())
        trashed = self._connection.scalar(select(number).join(TombstoneRow).where(TrashRow.kind == "series", in_trash))
        return max(first + int(count), (highest or 0) + 1, (trashed or 0) + 1)
