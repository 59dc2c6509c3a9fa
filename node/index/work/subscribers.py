"""Hooks and destinations of routes: their progress and their messages, as the views have them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from node.index.engine.rows import ReadRepository, Row
from node.index.nouns.converted import SeriesKey
from node.index.work.confirmed import deletable_series
from node.index.work.ledger import Lane
from node.index.work.messages import LedgerEvent


class ReadHooks(ReadRepository):
    """Rows of ``v_hooks`` and ``v_deliveries``."""

    def progress(self) -> dict[str, Row]:
        """Return the rows of ``v_hooks``, by name of the hook."""
        return {row["hook"]: row for row in self._rows("SELECT * FROM v_hooks")}

    def deliveries(self, limit: int, *, hook: str | None = None, state: str | None = None) -> list[Row]:
        """Return the last `limit` rows of ``v_deliveries`` with the names of their series, oldest first.

        Parameters
        ----------
        hook, state : str or None
            Filters; None matches all.
        """
        return self._rows(
            "SELECT d.*, se.series_number, se.modality, se.series_description FROM (SELECT * FROM v_deliveries "
            "WHERE (:hook IS NULL OR hook = :hook) AND (:state IS NULL OR state = :state) "
            "ORDER BY happened_at DESC LIMIT :limit) d "
            "LEFT JOIN v_series se USING (study_instance_uid, series_instance_uid) ORDER BY d.happened_at",
            hook=hook,
            state=state,
            limit=limit,
        )


def outstanding(row: Mapping[str, Any]) -> int:
    """Return how many messages of a row of ``v_routes`` wait, and how many instances or series have no message yet."""
    return int(row["waiting"] + (row["instances_behind"] or 0) + (row["series_behind"] or 0))


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

    def deletable(
        self, lanes: Collection[Lane], subscribers: Mapping[Lane, Collection[LedgerEvent]]
    ) -> list[SeriesKey]:
        """Return the series that all destinations have confirmed. See `node.index.work.routes.deletable_series`."""
        return deletable_series(self._connection, lanes, subscribers)
