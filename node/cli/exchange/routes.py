"""``voxelnode routes list|waiting|retry|pause|resume|replay``."""

from __future__ import annotations

from collections.abc import Mapping
from time import sleep
from typing import TYPE_CHECKING, Annotated, Any

import typer

from node.cli.options import ConfigFile, Json, Root, Uids, load, settings_for_change
from node.cli.output import minute, print_fitted, print_json, print_table, short_uid
from node.errors import UsageError, nearest

if TYPE_CHECKING:
    from node.settings.model import Settings

MESSAGES = {"happened": 16, "route": 14, "series": 18, "state": 8, "try": 3, "reason": 32}
"""Columns and widths of a line of 100 characters."""

BY_HAND = "by hand"
"""Shown as the route of what people send from pages or by REST."""

REPLAY_SECONDS = 1.0
"""Interval at which a replay looks for room among the waiting messages."""

app = typer.Typer(help="Inspect, pause and retry routes to other nodes.", no_args_is_help=True)

Name = Annotated[
    str,
    typer.Argument(
        metavar="ROUTE[/DESTINATION]", help="Name of a route; /DESTINATION alone is what people send by hand."
    ),
]


@app.command("list")
def list_(config: ConfigFile = None, root: Root = None, json: Json = False) -> None:
    """List the destinations of routes, and what waits for each."""
    settings: Settings = load(config, storage__root=root).settings

    from node.index.database.index import reading

    with reading(settings.storage.root, settings.index.url) as index:
        rows = index.routes.destinations()
    known = [(name, to) for name, route in settings.routes.items() for to in route.to]
    there = {(row["route"], row["destination"]) for row in rows}
    rows += [{"route": route, "destination": to} for route, to in known if (route, to) not in there]
    rows = [row for row in rows if row["route"] or row.get("delivered") or row.get("waiting") or row.get("given_up")]
    if json:
        print_json(rows)
        return
    columns = ("delivered", "delivered_at", "waiting", "instances_behind", "series_behind", "given_up", "unconfirmed")
    behind = ("instances behind", "series behind")
    print_table(
        f"{len(rows)} destinations",
        ("route", "to", "state", "delivered", "last", "waiting", *behind, "given up", "unconfirmed"),
        [
            (row["route"] or BY_HAND, row["destination"], _state(row), *(row.get(name) for name in columns))
            for row in rows
        ],
    )


def _state(row: Mapping[str, Any]) -> str:
    if "paused" not in row:
        return "not started yet"
    if row["paused"]:
        return "paused"
    return f"since {minute(row['trouble_since'])}: {row['trouble']}" if row["trouble"] else "ready"


@app.command()
def waiting(
    name: Annotated[
        str | None, typer.Argument(metavar="ROUTE[/DESTINATION]", help="Only messages of this route.")
    ] = None,
    last: Annotated[int, typer.Option("--last", metavar="N", min=1, help="Number of messages to show.")] = 20,
    uids: Uids = False,
    config: ConfigFile = None,
    root: Root = None,
    json: Json = False,
) -> None:
    """List what waits, was given up or left out, and why."""
    settings: Settings = load(config, storage__root=root).settings
    route, slash, destination = (name or "").partition("/")

    from node.index.database.index import reading

    with reading(settings.storage.root, settings.index.url) as index:
        filters = {"route": route if name is not None else None, "destination": destination if slash else None}
        rows = [
            row
            for state in ("given-up", "waiting", "skipped")
            for row in index.routes.messages(last, state=state, **filters)
        ]
    if json:
        print_json(rows)
        return
    if uids:
        names = ("happened_at", "route", "destination", "series_instance_uid", "state", "attempts", "due_at", "reason")
        headers = ("happened", "route", "to", "series", "state", "attempts", "next attempt", "reason")
        print_table(f"{len(rows)} messages", headers, [[row[each] for each in names] for row in rows])
        return
    print_fitted(f"{len(rows)} messages", MESSAGES, map(_brief, rows))


def _brief(row: Mapping[str, Any]) -> tuple[Any, ...]:
    named = (row["series_number"], row["series_description"] or row["modality"])
    series = " ".join(str(part) for part in named if part is not None)
    return (
        minute(row["happened_at"]),
        f"{row['route'] or BY_HAND} > {row['destination']}",
        series or short_uid(row["series_instance_uid"] or row["study_instance_uid"]),
        row["state"],
        row["attempts"],
        row["reason"],
    )


@app.command()
def retry(name: Name, config: ConfigFile = None, root: Root = None, json: Json = False) -> None:
    """Try again what waits, was given up or left out.

    Destinations that could not be reached are tried, too. A running node does so at once, otherwise the next start.
    """
    done = _perform(name, config, root, "retry-routes")
    if json:
        print_json(done)
    else:
        print(f"{done['waiting']} messages wait for another attempt")


@app.command()
def pause(name: Name, config: ConfigFile = None, root: Root = None, json: Json = False) -> None:
    """Hold a route until it is resumed, also over restarts."""
    done = _perform(name, config, root, "pause-routes", paused=True)
    print_json(done) if json else print(f"{done['changed']} destinations were paused")


@app.command()
def resume(name: Name, config: ConfigFile = None, root: Root = None, json: Json = False) -> None:
    """Let a paused route go on."""
    done = _perform(name, config, root, "pause-routes", paused=False)
    print_json(done) if json else print(f"{done['changed']} destinations go on")


@app.command()
def replay(
    name: Name,
    where: Annotated[
        str,
        typer.Option("--where", metavar="EXPRESSION", help="Series that `voxelnode select EXPRESSION` lists."),
    ],
    again: Annotated[bool, typer.Option("--again", help="Send again what a destination has taken before.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count the series.")] = False,
    config: ConfigFile = None,
    root: Root = None,
    json: Json = False,
) -> None:
    """Send series that are here already.

    Only those that the rules of the route want and the destination has not taken are sent. With a running node, the
    command waits until all have found room. If it is interrupted, the same command continues.
    """
    settings = settings_for_change(config, root)
    destinations = _destinations(settings, name)

    from node.control.repository import perform_action
    from node.control.root import is_held
    from node.index.database.index import reading
    from node.index.work.deliveries import MAX_REPLAYED
    from node.selector import compile_selector

    selector = compile_selector(where)
    with reading(settings.storage.root, settings.index.url) as index:
        found = list(index.facts.selected(selector))[::-1]
    total: dict[str, Any] = {"series": len(found), "queued": 0, "waiting": 0, "sent": 0, "left": 0, "dry_run": dry_run}
    for route, destination in destinations if not dry_run else ():
        left = found
        while left:
            chunk, rest = left[:MAX_REPLAYED], left[MAX_REPLAYED:]
            done = perform_action(
                settings, "replay-route", route=route, destination=destination, series=chunk, again=again
            )
            total["queued"] += len(done["queued"])
            total["waiting"] += done["waiting"]
            total["sent"] += done["delivered"]
            left = [*map(tuple, done["left"]), *rest]
            if done["left"]:
                if not is_held(settings.storage.root):
                    break
                sleep(REPLAY_SECONDS)
        total["left"] += len(left)
    if json:
        print_json(total)
        return
    print(
        f"{total['series']} series: {total['queued']} messages queued, {total['waiting']} wait already, "
        f"{total['sent']} were sent before"
    )
    if total["left"]:
        print(f"{total['left']} series found no room: start the node, which sends, and repeat the command")


def _perform(name: str, config: ConfigFile, root: Root, action: str, **arguments: Any) -> dict[str, Any]:
    settings = settings_for_change(config, root)
    destinations = _destinations(settings, name)

    from node.control.repository import perform_action

    return perform_action(settings, action, destinations=destinations, **arguments)


def _destinations(settings: Settings, name: str) -> list[tuple[str, str]]:
    """Return the destinations of a route, or the one that is named, each with the name of the route."""
    route_name, slash, destination = name.partition("/")
    if route_name not in settings.routes and (route_name or not slash):
        raise UsageError(f"there is no route {route_name!r}{nearest(route_name, settings.routes)}")
    to = settings.routes[route_name].to if route_name else settings.receivers
    if slash and destination not in to:
        raise UsageError(f"{destination!r} is no destination of {route_name or BY_HAND}{nearest(destination, to)}")
    return [(route_name, each) for each in ([destination] if slash else to)]
