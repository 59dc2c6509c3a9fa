"""Routes that administrators add, beside those of the configuration.

What waits for a destination that stays is sent by the changed route. What waits for one that a change or a removal
takes away is dropped, which has to be agreed to: callers say how many messages they know of.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from node.association.client.association import address_of
from node.audit.audit_log import Action as Audited
from node.control.additions import mistakes_of
from node.counted import counted
from node.errors import UsageError
from node.extensions.administration.additions import (
    Additions,
    keys_of,
    mistake_of,
    mistakes_of_route,
    require_name,
)
from node.index.database.reading import ReadIndex
from node.index.work.routes import lane_to, outstanding
from node.routing.judging import is_selected
from node.routing.router import change_of, check_destination, selector_of
from node.settings.model import Route, Settings

MAX_ROUTES = 100
"""Routes that are added: each destination of one has a thread."""

MAX_TRIED_SERIES = 1000
"""Newest series with which a route is tried."""


class RouteChanges:
    """The actions about routes."""

    def __init__(self, additions: Additions) -> None:
        self._additions, self._settings = additions, additions.settings
        self._index = additions.index

    def set_route(self, name: str, who: str, route: Mapping[str, Any], drops: int = 0) -> Mapping[str, Any]:
        """Add a route, or change one that was added; `route` has the keys of ``[routes.NAME]``.

        `drops`: how many messages may be dropped that wait for destinations which the route has no more, or for an
        event that it has no more.
        """
        with self._additions.changing:
            wanted, _ = self._usable(name, route)
            if name not in self._settings.routes and len(self._additions.routes) >= MAX_ROUTES:
                raise UsageError(f"there are {MAX_ROUTES} added routes already: add further ones to the configuration")
            owed = self._dropped(name, wanted)
            _require_told(name, owed, drops)
            rows, now, keys = self._additions.route_rows, self._additions.now(), keys_of(wanted)
            what = f"route {name}: {json.dumps(keys, ensure_ascii=False)}{_dropping(owed)}"
            self._additions.change(who, what, Audited.UPDATE, lambda: rows.set(name, keys, who, now))
            self._forget(name, wanted.to)
        return {"route": name, "dropped": owed}

    def remove_route(self, name: str, who: str, drops: int = 0) -> Mapping[str, Any]:
        """Remove a route that was added; `drops`: how many messages may be dropped that wait for it."""
        with self._additions.changing:
            self._require_changeable(name)
            routes = self._additions.routes
            if name not in routes and name not in self._settings.unusable_routes:
                raise UsageError("there is no such route: somebody has removed it")
            left = {other: rules for other, rules in routes.items() if other != name}
            if mistakes := mistakes_of(self._settings.having(self._additions.peers, left)):
                raise UsageError("\n".join(mistakes))
            owed = self._dropped(name, None)
            _require_told(name, owed, drops)
            rows = self._additions.route_rows
            what = f"route {name}: removed{_dropping(owed)}"
            self._additions.change(who, what, Audited.DELETE, lambda: rows.remove(name))
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
            rules, settings = self._usable(name, route)
        else:
            settings = self._settings
            if name not in settings.routes:
                raise UsageError("there is no such route: somebody has removed it")
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
        require_name(name, "route")
        self._require_changeable(name)
        if not isinstance(route.get("where") or "", str):
            raise UsageError('where: an added route has an expression, such as modality == "CT"')
        try:
            wanted = Route.model_validate(route)
        except ValidationError as error:
            raise UsageError("\n".join(mistake_of(one, "route") for one in error.errors())) from error
        if wanted.delete_confirmed:
            raise UsageError("delete_confirmed: a route that deletes is written in the configuration")
        settings = self._settings.having(self._additions.peers, {**self._additions.routes, name: wanted})
        if mistakes := mistakes_of_route(name, settings):
            raise UsageError("\n".join(mistakes))
        change_of(settings, wanted)
        for to in wanted.to:
            if to in settings.destinations:
                check_destination(settings, to)
            else:
                address_of(to, settings)
        return wanted, settings

    def _require_changeable(self, name: str) -> None:
        self._additions.require_alone("routes")
        if name in self._settings.own_routes:
            raise UsageError(f"the route {name} is in the configuration, and is changed there")

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


def _require_told(name: str, owed: int, drops: int) -> None:
    if owed > drops:
        raise UsageError(
            f"{counted(owed, 'message waits', 'messages wait')} for the route {name} and would be dropped: let it go "
            f"first, or confirm that it is dropped (--drop {owed})"
        )


def _dropping(owed: int) -> str:
    return f"; {counted(owed, 'message')} dropped" if owed else ""
