"""Jobs of hooks, their results, and what was made by whom."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import ColumnElement, Connection, and_, func, or_, select

from node.index.models import ImageRow, JobRow, PatientRow, ResultRow, SeriesRow, StudyRow
from node.index.read.rows import PagedRepository, Row

_NOT_SHOWN = ("tokens", "message_id", "replayed")


class ReadJobs(PagedRepository):
    """Rows of ``jobs`` and ``results``.

    ``newest_revision`` is that of the series now: a job of an earlier one is about a volume that was superseded.
    """

    listing = select(
        *(column for column in JobRow.__table__.columns if column.name not in _NOT_SHOWN),
        SeriesRow.revision.label("newest_revision"),
        SeriesRow.series_description,
        SeriesRow.modality,
        select(func.count())
        .where(ResultRow.job_id == JobRow.id, ResultRow.stored_at.is_not(None))
        .scalar_subquery()
        .label("results_stored"),
    ).select_from(
        JobRow.__table__.outerjoin(
            StudyRow.__table__, StudyRow.study_instance_uid == JobRow.study_instance_uid
        ).outerjoin(
            SeriesRow.__table__,
            and_(SeriesRow.study_id == StudyRow.id, SeriesRow.series_instance_uid == JobRow.series_instance_uid),
        )
    )
    filters = (
        JobRow.job_id,
        JobRow.hook,
        JobRow.state,
        JobRow.study_instance_uid,
        JobRow.series_instance_uid,
    )

    def newest(self, limit: int, offset: int) -> list[Row]:
        """Return a page of all jobs, newest first, with their patients."""
        listing = self.listing.add_columns(PatientRow.patient_name, PatientRow.patient_id).outerjoin(
            PatientRow, PatientRow.id == StudyRow.patient_id
        )
        rows = self._connection.execute(listing.order_by(JobRow.id.desc()).limit(limit).offset(offset))
        return [dict(row) for row in rows.mappings()]

    def results(self, id: int) -> list[Row]:
        """Return the stored results of the job with this row."""
        its = ResultRow.job_id == id, ResultRow.stored_at.is_not(None)
        rows = self._connection.execute(select(ResultRow.__table__).where(*its).order_by(ResultRow.id))
        return [dict(row) for row in rows.mappings()]

    def count_results(self, study_instance_uid: str) -> int:
        """Count the stored results in a study."""
        its = ResultRow.study_instance_uid == study_instance_uid, ResultRow.stored_at.is_not(None)
        return int(self._connection.execute(select(func.count()).select_from(ResultRow).where(*its)).scalar_one())

    def descends(self, hook: str, study_instance_uid: str, series_instance_uid: str) -> bool:
        """Return whether a hook made a series, or what it was made of, over any number of other hooks."""
        return series_instance_uid in _descendants(self._connection, JobRow.hook == hook, study_instance_uid)

    def is_own_news(self, hook: str, study_instance_uid: str, happened_at: dt.datetime) -> bool:
        """Return whether all that a study received since the last job of a hook for it was made by hooks like it.

        Hooks on ``study-quiet`` have the whole study as their input. What one of them makes is therefore no news for
        the others either: two of them would wake each other for ever.

        Parameters
        ----------
        happened_at : datetime
            Time of the event in question: jobs of it and of later ones do not count.
        """
        its = JobRow.hook == hook, JobRow.study_instance_uid == study_instance_uid, JobRow.event == "study-quiet"
        last = select(func.max(JobRow.happened_at)).where(*its, JobRow.happened_at < happened_at)
        since = self._connection.execute(last).scalar()
        if since is None:
            return False
        news = (
            select(SeriesRow.series_instance_uid)
            .distinct()
            .join_from(ImageRow, SeriesRow)
            .join(StudyRow)
            .where(StudyRow.study_instance_uid == study_instance_uid, ImageRow.received_at >= since)
        )
        received = set(self._connection.execute(news).scalars())
        by_such = or_(JobRow.hook == hook, JobRow.event == "study-quiet")
        return bool(received) and received <= _descendants(self._connection, by_such, study_instance_uid)


def _descendants(connection: Connection, of_jobs: ColumnElement[bool], study_instance_uid: str) -> set[str]:
    """Return the series of a study that jobs made, and those that any hooks made of them."""
    made = (
        select(ResultRow.series_instance_uid, ResultRow.source_series_instance_uid, of_jobs.label("is_own"))
        .join(JobRow, JobRow.id == ResultRow.job_id)
        .where(ResultRow.study_instance_uid == study_instance_uid)
    )
    rows = connection.execute(made).all()
    own = {row.series_instance_uid for row in rows if row.is_own}
    while more := {row.series_instance_uid for row in rows if row.source_series_instance_uid in own} - own:
        own |= more
    return own
