"""Routes: their destinations, and the messages that wait or were given up."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import func, select

from node.index.converted import SeriesKey
from node.index.deliveries import LedgerEvent
from node.index.models import DeliveryRow
from node.index.read.rows import PagedRepository, Row
from node.index.routes import deletable_series

_SLASH = func.instr(DeliveryRow.hook, "/")
_ROUTE = func.substr(DeliveryRow.hook, 1, _SLASH - 1).label("route")
_DESTINATION = func.substr(DeliveryRow.hook, _SLASH + 1).label("destination")


def outstanding(row: Mapping[str, Any]) -> int:
    """Return how many messages of a row of ``v_routes`` wait, and how many instances or series have no message yet."""
    return int(row["waiting"] + (row["instances_behind"] or 0) + (row["series_behind"] or 0))


class ReadRoutes(PagedRepository):
    """Rows of ``v_routes`` and ``v_route_messages``; `page` lists the messages."""

    listing = select(
        DeliveryRow.id,
        DeliveryRow.message_id,
        _ROUTE,
        _DESTINATION,
        DeliveryRow.event,
        DeliveryRow.study_instance_uid,
        DeliveryRow.series_instance_uid,
        DeliveryRow.sop_instance_uid,
        DeliveryRow.happened_at,
        DeliveryRow.state,
        DeliveryRow.attempts,
        DeliveryRow.due_at,
        DeliveryRow.reason,
        DeliveryRow.last_at,
    ).where(_SLASH > 0)
    filters = (_ROUTE, _DESTINATION, DeliveryRow.state)

    def destinations(self) -> list[Row]:
        """Return the rows of ``v_routes``."""
        return self._rows("SELECT * FROM v_routes ORDER BY route, destination")

    def messages(
        self, limit: int, *, route: str | None = None, destination: str | None = None, state: str | None = None
    ) -> list[Row]:
        """Return the last `limit` rows of ``v_route_messages`` with the names of their series, newest first.

        Parameters
        ----------
        route, destination, state : str or None
            Filters; None matches all.
        """
        return self._rows(
            "SELECT m.*, se.series_number, se.modality, se.series_description FROM (SELECT * FROM v_route_messages "
            "WHERE (:route IS NULL OR route = :route) AND (:destination IS NULL OR destination = :destination) "
            "AND (:state IS NULL OR state = :state) ORDER BY happened_at DESC, message_id LIMIT :limit) m "
            "LEFT JOIN v_series se USING (study_instance_uid, series_instance_uid) ORDER BY m.happened_at DESC",
            route=route,
            destination=destination,
            state=state,
            limit=limit,
        )

    def deletable(self, names: Collection[str], subscribers: Mapping[str, Collection[LedgerEvent]]) -> list[SeriesKey]:
        """Return the series that all destinations have confirmed. See `node.index.routes.deletable_series`."""
        return deletable_series(self._connection, names, subscribers)
