"""Routes that administrators add, beside those of the configuration.

What waits for a destination that stays is sent by the changed route. What waits for one that a change or a removal
takes away is dropped, which has to be agreed to: callers say how many messages they know of.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from node.association.client.association import address_of
from node.errors import UsageError
from node.extensions.administration.additions import Changes, dropping, keys_of
from node.index.database.reading import ReadIndex
from node.index.work.routes import lane_to, outstanding
from node.routing.judging import is_selected
from node.routing.router import change_of, check_destination, selector_of
from node.settings.model import Route, Settings

MAX_TRIED_SERIES = 1000
"""Newest series with which a route is tried."""


class RouteChanges(Changes[Route]):
    """The actions about routes."""

    table, what, model = "routes", "route", Route
    maximum = 100  # each destination of one has a thread

    def set_route(
        self, name: str, who: str, route: Mapping[str, Any], drops: int = 0, seen: str | None = None
    ) -> Mapping[str, Any]:
        """Add a route, or change one that was added; `route` has the keys of ``[routes.NAME]``.

        `drops`: how many messages may be dropped that wait for destinations which the route has no more, or for an
        event that it has no more.
        """
        with self._additions.changing:
            self._require_changeable(name)
            self._additions.require_seen(self.table, name, self.what, seen)
            wanted, _ = self._usable(name, route)
            self._require_room(name)
            owed = self._dropped(name, wanted)
            self._require_told(name, owed, drops)
            keys = keys_of(wanted)
            what = f"route {name}: {json.dumps(keys, ensure_ascii=False)}{dropping(owed)}"
            self._additions.set(self.table, name, keys, who, what)
            self._forget(name, wanted.to)
        return {"route": name, "dropped": owed}

    def remove_route(self, name: str, who: str, drops: int = 0, seen: str | None = None) -> Mapping[str, Any]:
        """Remove a route that was added; `drops`: how many messages may be dropped that wait for it."""
        with self._additions.changing:
            if self._removed_beside(name, who):
                return {"removed": name, "dropped": 0}
            self._require_changeable(name)
            if name not in self._settings.added.unusable_in(self.table):
                self._require_known(name)
            self._additions.require_seen(self.table, name, self.what, seen)
            self._having(name, None)
            owed = self._dropped(name, None)
            self._require_told(name, owed, drops)
            self._additions.remove(self.table, name, who, f"route {name}: removed{dropping(owed)}")
            self._forget(name, ())
        return {"removed": name, "dropped": owed}

    def try_route(self, name: str, series: int, route: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        """Return which of the newest series a route would take now, by its event and its selector; nothing is sent.

        `returns` in the answer: how many it would take but for their sender, who is its only destination.

        `route`: one that is not there yet, or a change of it; None: as it is.
        """
        if not 1 <= series <= MAX_TRIED_SERIES:
            raise UsageError(f"a route is tried with 1 to {MAX_TRIED_SERIES} series")
        if route is not None:
            self._require_changeable(name)
            rules, settings = self._usable(name, route)
        else:
            self._require_known(name)
            settings = self._settings
            rules = settings.routes[name]
        selector = selector_of(settings, rules)
        with self._index.reading() as index:
            rows = index.series.newest(series)
            keys = [(row["study_instance_uid"], row["series_instance_uid"]) for row in rows]
            selected = [one for one in keys if is_selected(index, rules.when, selector, one, None)]
            taken = [one for one in selected if not self._is_return(index, rules, settings, one)]
        return {"series": len(rows), "taken": taken, "returns": len(selected) - len(taken)}

    def _is_return(self, index: ReadIndex, rules: Route, settings: Settings, series: tuple[str, str]) -> bool:
        """Return whether each destination of a route is a peer that sent the whole series, and gets nothing back."""
        facts = None if rules.return_to_sender else index.facts.of_series({"calling_ae_titles"}, *series)
        if facts is None:
            return False
        own = [{settings.peers[to].ae_title} if to in settings.peers else set() for to in rules.to]
        return all({title.strip() for title in facts["calling_ae_titles"]} == titles for titles in own)

    def _usable(self, name: str, route: Mapping[str, Any]) -> tuple[Route, Settings]:
        """Return a route, and settings that have it. Raises UsageError for every rule that is broken with it."""
        if not isinstance(route.get("where") or "", str):
            raise UsageError('where: an added route has an expression, such as modality == "CT"')
        wanted = self._parsed(route)
        if wanted.delete_confirmed:
            raise UsageError("delete_confirmed: a route that deletes is written in the configuration")
        settings = self._having(name, wanted)
        change_of(settings, wanted)
        for to in wanted.to:
            if to in settings.destinations:
                check_destination(settings, to)
            else:
                address_of(to, settings)
        return wanted, settings

    def _dropped(self, name: str, wanted: Route | None) -> int:
        """Return how much waits that would not be sent by the changed route; None: by none."""
        before = self._settings.routes.get(name)
        is_same_event = before is None or wanted is None or before.when == wanted.when
        owed = 0
        for row in self._rows(name):
            if wanted is None or row["destination"] not in wanted.to:
                owed += outstanding(row)
            elif not is_same_event:  # its messages stay; events that are none yet are of another kind than it waits for
                owed += outstanding(row) - row["waiting"]
        return owed

    def _forget(self, name: str, kept: Collection[str]) -> None:
        """Drop what a running node has not dropped already, where none runs."""
        gone = [row["destination"] for row in self._rows(name) if row["destination"] not in kept]
        self._index.deliveries.forget([lane_to(name, to) for to in gone], self._index.now())

    def _rows(self, name: str) -> Sequence[Mapping[str, Any]]:
        with self._index.reading() as index:
            return [row for row in index.routes.destinations() if row["route"] == name]
