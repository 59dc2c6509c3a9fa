"""What is read of events, and of what is owed: messages, deliveries, jobs."""

import datetime as dt
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, case, exists, func, or_, select, true
from sqlalchemy.orm import aliased

from node.index.look.views import RouteViews
from node.index.rows.converted import SeriesKey
from node.index.rows.models.history import ConflictRow, EventRow
from node.index.rows.models.levels import OPEN_STATES, ImageRow, PatientRow, SeriesRow, StudyRow
from node.index.rows.models.work import (
    IS_JOB,
    OwedEventRow,
    OwedImageRow,
    ResultRow,
    SentInstanceRow,
    SubscriberRow,
    WorkRow,
    has_taken,
    taken_by,
    wants,
)
from node.index.rows.records import Lane
from node.index.rows.repositories import PagedRepository, ReadRepository, Row, columns_but, distinct_values


@dataclass(frozen=True, slots=True)
class MadeSeries:
    """A series that a hook made, and the series of which it did, in the job of this row.

    `outdated`: the revision that the job is about, if its series has a newer one.
    """

    series_instance_uid: str
    hook: str
    source_series_instance_uid: str
    job: int
    outdated: int | None
    stored_at: dt.datetime | None


class ReadJobs(ReadRepository):
    """What hooks made of what, by their jobs."""

    def descends(self, hook: str, study_instance_uid: str, series_instance_uid: str) -> bool:
        """Return whether a hook made a series, or what it was made of, over any number of other hooks."""
        return series_instance_uid in _descendants(self._connection, WorkRow.name == hook, study_instance_uid)

    def made(self, study_instance_uid: str) -> list[MadeSeries]:
        """Return the series of a study that hooks made, those of the newest jobs last."""
        of_study = StudyRow.study_instance_uid == study_instance_uid, ResultRow.study_instance_uid == study_instance_uid
        source = aliased(SeriesRow)
        is_source = source.study_id == StudyRow.id, source.series_instance_uid == WorkRow.series_instance_uid
        outdated = case((source.revision > WorkRow.revision, WorkRow.revision))
        named = ResultRow.series_instance_uid, WorkRow.name, ResultRow.source_series_instance_uid, WorkRow.id, outdated
        made = (
            select(*named, func.max(ResultRow.stored_at))
            .join_from(StudyRow, SeriesRow)
            .join(ResultRow, ResultRow.series_instance_uid == SeriesRow.series_instance_uid)
            .join(WorkRow, WorkRow.id == ResultRow.job_id)
            .outerjoin(source, and_(*is_source))
            .where(*of_study, ResultRow.stored_at.is_not(None))
            .group_by(*named)
            .order_by(WorkRow.id)
        )
        return [MadeSeries(*row) for row in self._connection.execute(made)]

    def is_own_news(self, hook: str, study_instance_uid: str, happened_at: dt.datetime) -> bool:
        """Return whether all that a study received since the last job of a hook for it was made by hooks like it.

        Hooks on ``study-quiet`` have the whole study as their input. What one of them makes is therefore no news for
        the others either: two of them would wake each other for ever.

        `happened_at`: time of the event in question: jobs of it and of later ones do not count.
        """
        kind = EventRow.kind.concat("")  # no column: the index of moments is used
        is_quiet = EventRow.study_instance_uid == study_instance_uid, kind == "study-quiet"
        is_of_hook = WorkRow.name == hook, WorkRow.study_instance_uid == study_instance_uid
        had_job = exists().where(IS_JOB, *is_of_hook, WorkRow.event == EventRow.kind)
        had_job = had_job.where(WorkRow.happened_at == EventRow.happened_at)  # its event, by its moment
        this = select(func.max(EventRow.id)).where(*is_quiet, EventRow.happened_at == happened_at).scalar_subquery()
        last = select(func.max(EventRow.id)).where(*is_quiet, EventRow.id < this, had_job)
        since = self._connection.execute(last).scalar()
        if since is None:
            return False
        of_study = StudyRow.study_instance_uid == study_instance_uid
        news = select(SeriesRow.series_instance_uid).join(StudyRow).where(of_study, SeriesRow.last_event >= since)
        received = set(self._connection.execute(news).scalars())
        by_such = or_(WorkRow.name == hook, WorkRow.event == "study-quiet")
        return bool(received) and received <= _descendants(self._connection, by_such, study_instance_uid)


def _descendants(connection: Connection, of_jobs: ColumnElement[bool], study_instance_uid: str) -> set[str]:
    """Return the series of a study that jobs made, and those that any hooks made of them."""
    made = (
        select(ResultRow.series_instance_uid, ResultRow.source_series_instance_uid, of_jobs.label("is_own"))
        .join(WorkRow, WorkRow.id == ResultRow.job_id)
        .where(ResultRow.study_instance_uid == study_instance_uid)
    )
    rows = connection.execute(made).all()
    own = {row.series_instance_uid for row in rows if row.is_own}
    while more := {row.series_instance_uid for row in rows if row.source_series_instance_uid in own} - own:
        own |= more
    return own


_STATE = func.coalesce(WorkRow.outcome, WorkRow.state).label("state")
_MESSAGE, _JOB = aliased(WorkRow), aliased(WorkRow)


def _is_message_of(message: Any, job: Any) -> Any:
    return and_(message.kind == "hook", message.name == job.name, message.key == job.cause)


_HAS_JOB = exists().where(_is_message_of(WorkRow, _JOB))  # only jobs have a cause, and an index of it


def _failed_of(kind: str, *conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    names = distinct_values(_JOB.name, _JOB.kind == kind)  # so that the index by outcome is used: every page asks this
    is_of_hook = WorkRow.name.in_(names), WorkRow.destination == ""
    return and_(WorkRow.kind == kind, *is_of_hook, WorkRow.outcome.in_(("failed", "expired")), *conditions)


_IS_FAILED = and_(
    or_(_failed_of("hook", ~_HAS_JOB), _failed_of("job", WorkRow.cause.is_not(None))),
    exists().where(StudyRow.study_instance_uid == WorkRow.study_instance_uid),
)
"""What hooks failed to do for studies that are here: a job whose message is tried again has no cause any more."""


class ReadWork(PagedRepository):
    """Rows of ``work``, with what their payloads have; ``state`` is the outcome of what has ended."""

    listing = select(*columns_but(WorkRow, "state", "outcome"), _STATE)
    filters = (
        WorkRow.id, WorkRow.kind, WorkRow.name, WorkRow.destination, WorkRow.key, WorkRow.study_instance_uid,
        WorkRow.series_instance_uid, _STATE,
    )  # fmt: skip

    def page(self, after: int | None, limit: int, **wanted: Any) -> list[Row]:
        """Return at most `limit` rows below the id `after`, newest first; `wanted` are filters, None matches all."""
        return [_flat(row) for row in self._page(after, limit, **wanted)]

    def counts(self) -> dict[tuple[str, str], int]:
        """Count the rows by kind and state."""
        rows = self._connection.execute(select(WorkRow.kind, _STATE, func.count()).group_by(WorkRow.kind, _STATE))
        return {(kind, state): count for kind, state, count in rows}

    def newest(self, limit: int, offset: int = 0, **wanted: Any) -> list[Row]:
        """Return a page of rows, the last changed first, with what is known here of their studies and series.

        Without a `kind`, a message that has a job is no row of its own: its job is.
        """
        is_shown = () if wanted.get("kind") else (~_HAS_JOB,)
        return self._known(self._matching(**wanted).where(*is_shown), limit, offset)

    def failed(self, limit: int, offset: int = 0, *, series: SeriesKey | None = None) -> list[Row]:
        """Return a page of what hooks failed to do, as `newest`; `series`: only for this one."""
        study, uid = series or (None, None)
        of_series = self._matching(study_instance_uid=study, series_instance_uid=uid)
        return self._known(of_series.where(_IS_FAILED), limit, offset)

    def count_failed(self, since: int | None = None) -> int:
        """Count what hooks failed to do; with `since`, after an event by its id."""
        failed = _IS_FAILED if since is None else and_(_IS_FAILED, WorkRow.last_event >= since)
        return int(self._connection.execute(select(func.count()).select_from(WorkRow).where(failed)).scalar_one())

    def _known(self, listing: Any, limit: int, offset: int) -> list[Row]:
        last_changed = listing.with_only_columns(WorkRow.id).order_by(WorkRow.changed_at.desc(), WorkRow.id.desc())
        rows = self._connection.execute(
            self.listing.where(WorkRow.id.in_(last_changed.limit(limit).offset(offset)))
            .add_columns(_MESSAGE.id.label("message"), _MESSAGE.outcome.label("message_outcome"))
            .add_columns(_MESSAGE.attempts.label("message_attempts"), PatientRow.patient_name, PatientRow.patient_id)
            .add_columns(SeriesRow.series_description, SeriesRow.modality, SeriesRow.series_number)
            .add_columns(SeriesRow.revision.label("newest_revision"), StudyRow.id.is_not(None).label("is_study_here"))
            .add_columns(SeriesRow.id.is_not(None).label("is_series_here"))
            .select_from(WorkRow)
            .outerjoin(_MESSAGE, and_(IS_JOB, _is_message_of(_MESSAGE, WorkRow)))
            .outerjoin(StudyRow, StudyRow.study_instance_uid == WorkRow.study_instance_uid)
            .outerjoin(PatientRow, PatientRow.id == StudyRow.patient_id)
            .outerjoin(
                SeriesRow,
                and_(SeriesRow.study_id == StudyRow.id, SeriesRow.series_instance_uid == WorkRow.series_instance_uid),
            )
            .order_by(WorkRow.changed_at.desc(), WorkRow.id.desc())
        )
        return [_flat(dict(row)) for row in rows.mappings()]


def _flat(row: Row) -> Row:
    return {**row.pop("payload"), **row}


NEWEST_SENT = 5000
"""Images, the newest, among which a page looks for what was delivered lately."""


class ReadRoutes(ReadRepository, RouteViews):
    """Rows of ``v_routes`` and ``v_route_messages``."""

    def delivered(self, limit: int) -> list[Row]:
        """Return the last series whose instances destinations have taken, with names, the last one first.

        Of each series: ``route``, ``destination``, ``delivered_instances``, ``last_at``. Only the newest images count.
        """
        return self._rows(
            "SELECT d.*, v.series_number, v.modality, v.series_description, n.patient_name, n.patient_id, "
            "n.study_date, n.study_description "
            "FROM (SELECT s.route, s.destination, st.study_instance_uid, se.series_instance_uid, "
            "count(*) AS delivered_instances, max(s.sent_at) AS last_at "
            "FROM (SELECT * FROM sent_instances ORDER BY image_id DESC LIMIT :newest) s "
            "JOIN images i ON i.id = s.image_id JOIN series se ON se.id = i.series_id "
            "JOIN studies st ON st.id = se.study_id "
            "GROUP BY s.route, s.destination, st.study_instance_uid, se.series_instance_uid "
            "ORDER BY last_at DESC LIMIT :limit) d JOIN v_series v USING (study_instance_uid, series_instance_uid) "
            "JOIN v_studies n USING (study_instance_uid) ORDER BY d.last_at DESC",
            newest=NEWEST_SENT,
            limit=limit,
        )

    def deletable(self, lanes: Collection[Lane]) -> list[SeriesKey]:
        """Return the series that all destinations of a route have confirmed, and that nobody waits for any more.

        Series with identity conflicts are left out, since a deletion also removes the versions that were not sent.
        """
        is_confirmed = SentInstanceRow.state == "confirmed"
        unconfirmed = [~has_taken(lane, is_confirmed) for lane in lanes]
        confirmed = select(SentInstanceRow.image_id).where(taken_by(next(iter(lanes))), is_confirmed)
        other = aliased(SeriesRow)
        candidates = select(ImageRow.series_id).where(ImageRow.id.in_(confirmed)).distinct()
        # A study that is not quiet yet has an event to come.
        is_waited_for = self._connection.execute(select(SubscriberRow.id).where(wants("study-quiet")).limit(1)).first()
        is_to_be_quiet = or_(
            StudyRow.closed_at.is_not(None),
            exists().where(other.study_id == StudyRow.id, other.state.in_(OPEN_STATES)).correlate(StudyRow),
        )
        owed_studies = select(EventRow.study_instance_uid).where(
            OwedEventRow.event_id == EventRow.id, OwedEventRow.subscriber_id == SubscriberRow.id
        )
        owes_instances = exists().where(
            ImageRow.series_id == SeriesRow.id,
            OwedImageRow.subscriber_id == SubscriberRow.id,
            OwedImageRow.image_id == ImageRow.id,
        )
        rows = self._connection.execute(
            select(StudyRow.study_instance_uid, SeriesRow.series_instance_uid)
            .join_from(SeriesRow, StudyRow)
            .where(SeriesRow.id.in_(candidates), SeriesRow.state.not_in(OPEN_STATES))
            .where(true() if is_waited_for is None else ~is_to_be_quiet)
            .where(~exists().where(ImageRow.series_id == SeriesRow.id, or_(*unconfirmed)).correlate(SeriesRow))
            .where(
                ~exists().where(
                    WorkRow.study_instance_uid == StudyRow.study_instance_uid,
                    WorkRow.kind.in_(("hook", "route")),
                    WorkRow.outcome.is_(None),
                )
            )
            .where(StudyRow.study_instance_uid.not_in(owed_studies), ~owes_instances.correlate(SeriesRow))
            .where(~exists().where(ConflictRow.series_instance_uid == SeriesRow.series_instance_uid))
            .limit(100)
        )
        return [(row.study_instance_uid, row.series_instance_uid) for row in rows]
