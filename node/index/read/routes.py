"""Routes: their destinations, and the messages that wait or were given up."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from node.index.converted import SeriesKey
from node.index.deliveries import LedgerEvent
from node.index.read.rows import ReadRepository, Row
from node.index.routes import deletable_series


class ReadRoutes(ReadRepository):
    """Rows of ``v_routes`` and ``v_route_messages``."""

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
