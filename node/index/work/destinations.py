"""What is read about destinations of routes: how much each is owed, what it has taken, and what may be deleted."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import exists, or_, select, true
from sqlalchemy.orm import aliased

from node.index.engine.rows import ReadRepository, Row
from node.index.models.history import ConflictRow, EventRow
from node.index.models.levels import OPEN_STATES, ImageRow, SeriesRow, StudyRow
from node.index.models.work import OwedEventRow, OwedImageRow, SentInstanceRow, SubscriberRow, WorkRow
from node.index.nouns.converted import SeriesKey
from node.index.nouns.views import RouteViews
from node.index.work.ledger import Lane
from node.index.work.outbox import wants
from node.index.work.routes import SENT_AS_IT_LEAVES, taken_by

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
        unconfirmed = [
            ~exists().where(
                SentInstanceRow.image_id == ImageRow.id,
                taken_by(lane),
                SENT_AS_IT_LEAVES,
                SentInstanceRow.state == "confirmed",
            )
            for lane in lanes
        ]
        confirmed = select(SentInstanceRow.image_id).where(
            taken_by(next(iter(lanes))), SentInstanceRow.state == "confirmed"
        )
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
