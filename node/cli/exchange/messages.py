"""``voxelnode hooks`` and ``voxelnode routes``: messages to programs, and instances to other nodes."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from time import sleep
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from node.cli.options import HOOK, ROUTE, ChangedRoot, Commands, Json, Limit, Root, Where
from node.cli.output import (
    Answer,
    Columns,
    Listing,
    bounded,
    listing,
    minute,
    newest,
    optional,
    patient,
    print_finding,
    printable,
    series_name,
)
from node.errors import ResultRefused, UsageError, counted, nearest, with_last_line

if TYPE_CHECKING:
    from node.index.rows.records import Lane
    from node.settings.core import HookSettings

hooks = Commands(help="Inspect, test and retry webhooks, commands and plugins.", no_args_is_help=True)
routes = Commands(help="Inspect, add, pause and retry routes to other nodes.", no_args_is_help=True)

HookName = Annotated[str, typer.Argument(help="Name of a hook in the configuration.", **HOOK)]
RouteName = Annotated[
    str, typer.Argument(help="Name of a route; /DESTINATION alone is what people send by hand.", **ROUTE)
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count the series.")]

BY_HAND = "by hand"
"""Shown as the route of what people send from pages or by REST."""

REPLAY_SECONDS = 1.0
"""Interval at which a replay looks for room among the waiting messages."""

DESTINATIONS: Columns = {
    "route": lambda row: row["route"] or BY_HAND, "to": "destination", "state": lambda row: _state(row),
    "delivered": optional("delivered"), "last": optional("delivered_at"), "waiting": optional("waiting"),
    "not looked at yet": lambda row: _unseen(row).removesuffix(" not looked at yet"),
    "given up": optional("given_up"), "unconfirmed": optional("unconfirmed"), "next": optional("due_at"),
}  # fmt: skip
ROUTED: Columns = {
    "happened": "happened_at",
    "route": lambda row: f"{row['route'] or BY_HAND} > {row['destination']}",
    "series": lambda row: series_name(row) or row["study_instance_uid"],
    "state": "state", "attempts": "attempts", "next attempt": "due_at", "reason": "reason",
}  # fmt: skip


@hooks.command("list")
def list_hooks(root: Root) -> Listing:
    """List the hooks and the progress of their deliveries.

    A hook of a program, which is not in the configuration, is listed while messages wait for it.
    """
    with root.looking() as index:
        rows = index.lanes("hook", index.hooks.progress().values(), root.settings)
        progress = {row["hook"]: row for row in rows}
    known = root.settings.hooks
    rows = [
        {"hook": name, "on": list(hook.on), "by": hook.receiver, **progress.get(name, {})}
        for name, hook in known.items()
    ]
    others = [row for name, row in progress.items() if name not in known and row["waiting"]]
    rows += [{"on": [], "by": "not in the configuration"} | row for row in others]

    def show() -> None:
        print(counted(len(rows), "hook"))
        width = max((len(row["hook"]) for row in rows), default=0)
        for row in rows:
            what = ": ".join(filter(None, (row["by"], ", ".join(row["on"]))))
            print_finding(row["hook"].ljust(width), what, _progress(row))

    return Listing(rows, show, rows=rows)


def _progress(row: Mapping[str, Any]) -> str:
    if "paused" not in row:
        return "not started yet"
    last = f", the last {minute(row['delivered_at'])}" if row["delivered_at"] else ""
    behind = f"{counted(row['instances_behind'], 'instance')} behind" if row["instances_behind"] else ""
    paused = "paused" if row["paused"] else ""
    counts = f"{row['delivered']} delivered{last}; {row['waiting']} waiting; {row['given_up']} given up"
    due = f"next {minute(row['due_at'])}" if row["due_at"] else ""
    return "; ".join(filter(None, (counts, behind, due, paused)))


@hooks.command()
def deliveries(
    hook: Annotated[str | None, typer.Option("--hook", help="Only messages to this hook.", **HOOK)] = None,
    state: Annotated[
        Literal["waiting", "delivered", "given-up", "dropped"] | None,
        typer.Option("--state", help="Only messages in this state."),
    ] = None,
    limit: Limit = 20,
    *,
    root: Root,
) -> Listing:
    """List recent messages to hooks.

    Shows delivered, waiting and given-up messages, with the reasons of failures.
    """
    with root.looking() as index:
        rows = index.hooks.deliveries(limit, hook=hook, state=state)
        if state in (None, "waiting"):
            rows += (quiet := index.quiet_to_come("hook", root.settings, hook=hook))[:limit]
            rows.total += len(quiet)
    if hook is not None and not rows:
        configured(root, hook)  # a misspelt name has no messages, either
    title = newest(len(rows), rows.total, "message")

    def show() -> None:
        print(title)
        for row in rows:
            tries = counted(row["attempts"], "attempt") + (
                f", the next {minute(row['due_at'])}" if row["due_at"] else ""
            )
            reason = row["reason"] and with_last_line(row["reason"], row["output"])
            texts = (f"{row['event']} to {row['hook']}: {row['state']}", series_name(row), tries, reason or "")
            print_finding(minute(row["happened_at"]), *texts, f"id {row['message_id']}" if row["message_id"] else "")

    return bounded(Listing(rows, show, rows=rows), title, rows.total)


@hooks.command("test")
def try_(
    name: HookName,
    event: Annotated[
        str | None,
        typer.Option("--event", metavar="EVENT", help="Event to send. [default: the first event of the hook]"),
    ] = None,
    series: Annotated[
        str | None,
        typer.Option("--series", metavar="UID", help="Series to send. [default: a CT in a temporary folder]"),
    ] = None,
    *,
    root: ChangedRoot,
    json: Json = False,
) -> Answer:
    """Send a test message to a hook and show the result.

    The message contains "test": true; its files exist. The node need not be running.
    """
    settings = root.settings
    hook = configured(root, name)
    if event is not None and event not in hook.on:
        raise UsageError(f"hook {name} does not receive {event!r}; its events are {', '.join(hook.on)}")

    from node.cli.exchange.hook_tests import (
        failure_of_test,
        message_of_test,
        misfit_lines,
        printed_lines,
        sample_root,
        tested_results,
        with_files,
    )
    from node.notify.channel import NotDelivered, delivered_test

    series = root.named(series, "series").series if series is not None else None
    wanted = next(known for known in hook.on if event in (None, known))
    with ExitStack() as opened:
        folder = settings.storage.root if series is not None else opened.enter_context(sample_root(settings))
        message, misfits = message_of_test(folder, settings, hook, wanted, series)
        unfit = misfit_lines(name, misfits, series)
        if series is not None and hook.is_here:
            message = opened.enter_context(with_files(message, root))
        output = None
        try:
            with delivered_test(settings, name, message) as (delivered, out):
                output = delivered.output
                results = tested_results(root, series is None and folder, out, delivered.results, name, message)
        except NotDelivered as error:
            reason = f"hook {name} did not accept the message: {error}"
            raise failure_of_test(reason, unfit, None if json else error.output) from error
        except ResultRefused as error:
            reason = f"hook {name}: a result was refused: {error}"
            raise failure_of_test(reason, unfit, None if json else output) from error
    lines = printed_lines(output)
    for result in results:
        lines.append(f"{result['file']}: {result['kind']} {result['description']!r}, not stored, since this is a test")
    if out is not None and not results:
        lines.append(f"hook {name} left no results: with `results = true`, it writes them to the folder of its job")
    lines += [f"hook {name} accepted {message.event} {message.id}", *unfit]
    content = {"hook": name, "message": message.content, "output": output, "misfits": misfits, "results": results}
    return Answer(content, "\n".join(lines))


@hooks.command("replay")
def replay_hook(
    name: HookName,
    where: Where,
    again: Annotated[
        bool, typer.Option("--again", help="Send messages again that the hook has accepted before.")
    ] = False,
    dry_run: DryRun = False,
    *,
    root: ChangedRoot,
) -> Answer:
    """Send a hook the newest events of series that are here.

    The messages have the ids of the events, so that a receiver recognises what it has seen. They are delivered like
    all others, and new events keep room: with a running node, the command waits until all have found room. If it is
    interrupted, the same command continues.
    """
    hook = configured(root, name)

    from node.index.rules.work.deliveries import REPLAYED

    events = [event for event in hook.on if event in REPLAYED]
    if not events:
        raise UsageError(f"hook {name} receives none of the events that can be replayed: {', '.join(REPLAYED)}")
    selected = _selected(root, where)
    series = left = _let_through(root, hook, events, selected)
    total: dict[str, Any] = {"hook": name, "series": len(selected), "queued": [], "waiting": 0, "delivered": 0}
    total |= {"without_event": 0, "filtered_out": len(selected) - len(series)}
    if not dry_run:
        command = secrets.token_hex(8) if again else None
        requests, left = _queued(root, "replay-deliveries", series, hook=name, events=events, again=command)
        for done in requests:
            for key in ("queued", "waiting", "delivered", "without_event"):
                total[key] += done[key]
    total |= {"left": len(left), "dry_run": dry_run}
    others = {
        "waiting already": total["waiting"], "delivered before": total["delivered"],
        "without an event": total["without_event"], "filtered out by the hook": total["filtered_out"],
    }  # fmt: skip
    text = _replayed(len(selected), len(total["queued"]), others)
    if left and not dry_run:
        text += f"\n{len(left)} series found no room: start the node, which delivers messages, and repeat the command"
    return Answer(total, text)


def _selected(root: Root, where: str) -> list[tuple[str, str]]:
    """Return the series that an expression selects, oldest first."""
    from node.selector import compile_selector

    selector = compile_selector(where)
    with root.reading() as index:
        return list(index.facts.selected(selector))[::-1]


def _let_through(
    root: Root, hook: HookSettings, events: Sequence[str], series: list[tuple[str, str]]
) -> list[tuple[str, str]]:
    """Return the series whose events pass the filters of a hook, as its worker applies them when it delivers.

    An event of a study passes if one series of it does, so a hook on `study-quiet` is asked about the studies.
    """
    from node.selector import compile_selector

    uids = 1 if "study-quiet" in events else 2
    with root.reading() as index:
        if hook.where is not None:
            fits = index.facts.selected(compile_selector(hook.where))
            passing = {key[:uids] for key in fits}
            series = [key for key in series if key[:uids] in passing]
        if titles := {title.strip() for title in hook.calling_ae_titles or ()}:
            known = index.instances.calling_ae_titles
            series = [key for key in series if not titles.isdisjoint(map(str.strip, known(*key[:uids])))]
    return series


def _queued(
    root: ChangedRoot, action: str, series: list[tuple[str, str]], **arguments: Any
) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """Queue messages of series, and wait for room if a node makes room; return what was done, and series without."""
    from node.control.root import is_held
    from node.index.rules.work.deliveries import MAX_REPLAYED

    requests, left = [], series
    while left:
        chunk, rest = left[:MAX_REPLAYED], left[MAX_REPLAYED:]
        done = root.perform(action, series=chunk, **arguments)
        requests.append(done)
        left = [*map(tuple, done["left"]), *rest]
        if done["left"]:
            if not is_held(root.settings.storage.root):
                break
            sleep(REPLAY_SECONDS)
    return requests, left


@hooks.command("retry")
def retry_hook(
    name: HookName,
    message_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="Only this message; `hooks deliveries` has the id.")
    ] = None,
    *,
    root: ChangedRoot,
) -> Answer:
    """Retry messages that were given up or are waiting.

    A running node delivers them at once; otherwise the next start does.
    """
    with root.looking() as index:
        progress = index.hooks.progress().get(name)
    if progress is None:
        configured(root, name)
    done = root.perform("retry-deliveries", lanes=_lanes("hook", (name,)), message_id=message_id)
    paused = f"; the hook is paused: `voxelnode hooks resume {name}`" if progress and progress["paused"] else ""
    return Answer(done, f"{counted(done['waiting'], 'message')} waiting for another attempt{paused}")


@hooks.command("pause")
def pause_hook(name: HookName, root: ChangedRoot) -> Answer:
    """Hold a hook until it is resumed, also over restarts."""
    configured(root, name)
    done = root.perform("pause-deliveries", lanes=_lanes("hook", (name,)), paused=True)
    return Answer(done, f"hook {name} is paused")


@hooks.command("resume")
def resume_hook(name: HookName, root: ChangedRoot) -> Answer:
    """Let a paused hook go on."""
    configured(root, name)
    done = root.perform("pause-deliveries", lanes=_lanes("hook", (name,)), paused=False)
    return Answer(done, f"hook {name} goes on")


def _lanes(kind: Literal["hook", "route"], *names: tuple[str, ...]) -> list[Lane]:
    from node.index.rows.records import Lane

    return [Lane(kind, *one) for one in names]


def configured(root: Root, name: str) -> HookSettings:
    """Return a hook of the configuration. Raises UsageError if there is none of the name."""
    known = root.settings.hooks
    if name not in known:
        configured = f"configured: {', '.join(known)}" if known else "none are configured"
        raise UsageError(f"there is no hook {name!r}; {configured}")
    return known[name]


@routes.command("list")
def list_routes(root: Root) -> Listing:
    """List the destinations of routes, and what waits for each.

    Delivered, waiting and given up are messages: of one instance each, or of a series or study, as `when` of the route
    says. Unconfirmed are instances.
    """
    from node.index.look.views import outstanding

    with root.looking() as index:
        rows = index.lanes("route", index.routes.destinations(), root.settings)
    known = [(name, to) for name, route in root.settings.routes.items() for to in route.to]
    there = {(row["route"], row["destination"]) for row in rows}
    rows += [{"route": route, "destination": to} for route, to in known if (route, to) not in there]
    rows = [row for row in rows if row["route"] or row.get("delivered") or outstanding(row) or row.get("given_up")]
    return listing(counted(len(rows), "destination"), DESTINATIONS, rows)


def _unseen(*rows: Mapping[str, Any]) -> str:
    from node.index.look.views import unseen

    return unseen(*rows)


def _owed(row: Mapping[str, Any], series: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield what a destination may want, as nobody has looked at it, with some of the series."""
    yield f"{row['route'] or BY_HAND} > {row['destination']}: {_unseen(row)}; {_state(row)}"
    for one in series:
        yield printable(f"  {', '.join(filter(None, (series_name(one), patient(one), one['series_instance_uid'])))}")


def _state(row: Mapping[str, Any]) -> str:
    if "paused" not in row:
        return "not started yet"
    if row["paused"]:
        return "paused"
    return f"since {minute(row['trouble_since'])}: {row['trouble']}" if row["trouble"] else "ready"


@routes.command()
def waiting(
    name: Annotated[str | None, typer.Argument(help="Only messages of this route.", **ROUTE)] = None,
    limit: Limit = 20,
    *,
    root: Root,
) -> Listing:
    """List what waits, was given up or left out, and why."""
    route, slash, destination = (name or "").partition("/")
    filters = {"route": route if name is not None else None, "destination": destination if slash else None}
    with root.looking() as index:
        states, known = ("given-up", "waiting", "skipped"), root.settings.routes
        found = [index.routes.messages(limit, known, state=state, **filters) for state in states]
        found.append(index.quiet_to_come("route", root.settings, **filters))
        rows, total = [*chain(*found)], sum(rows.total for rows in found)
        behind = [
            line
            for row in index.routes.destinations()
            if _unseen(row) and all(wanted is None or row[key] == wanted for key, wanted in filters.items())
            for line in _owed(row, index.routes.unseen(row["route"], row["destination"], limit))
        ]
    if name is not None and not rows:
        _destinations(root, name)  # a misspelt name has no messages, either
    none = "no message was tried yet" if behind else ""
    title = newest(len(rows), total, "message")
    return bounded(listing(title, ROUTED, rows, none=none, below=behind), title, total)


@routes.command("retry")
def retry_route(name: RouteName, root: ChangedRoot) -> Answer:
    """Try again what waits, was given up or left out.

    Destinations that could not be reached are tried, too. A running node does so at once, otherwise the next start.
    """
    destinations = _destinations(root, name)
    from node.index.look.views import awaited

    with root.looking() as index:
        rows = [row for row in index.routes.destinations() if (row["route"], row["destination"]) in destinations]
    done = root.perform("retry-deliveries", lanes=_lanes("route", *destinations))
    behind = [{**row, "waiting": 0, "given_up": 0} for row in rows]
    return Answer(done, f"{awaited({'waiting': done['waiting']}, *behind)}: tried again now, or by the next start")


@routes.command()
def pause(name: RouteName, root: ChangedRoot) -> Answer:
    """Hold a route until it is resumed, also over restarts."""
    done = root.perform("pause-deliveries", lanes=_lanes("route", *_destinations(root, name)), paused=True)
    return Answer(done, f"{done['changed']} destinations were paused")


@routes.command()
def resume(name: RouteName, root: ChangedRoot) -> Answer:
    """Let a paused route go on."""
    done = root.perform("pause-deliveries", lanes=_lanes("route", *_destinations(root, name)), paused=False)
    return Answer(done, f"{done['changed']} destinations go on")


@routes.command("replay")
def replay_route(
    name: RouteName,
    where: Where,
    again: Annotated[bool, typer.Option("--again", help="Send again what a destination has taken before.")] = False,
    dry_run: DryRun = False,
    *,
    root: ChangedRoot,
) -> Answer:
    """Send series that are here already.

    Only those that the rules of the route want and the destination has not taken are sent. With a running node, the
    command waits until all have found room. If it is interrupted, the same command continues.
    """
    destinations = _destinations(root, name)
    series = _selected(root, where)
    total: dict[str, Any] = {"series": len(series), "queued": 0, "waiting": 0, "sent": 0, "left": 0, "dry_run": dry_run}
    for route, destination in destinations if not dry_run else ():
        requests, left = _queued(root, "replay-route", series, route=route, destination=destination, again=again)
        for done in requests:
            total["queued"] += len(done["queued"])
            total["waiting"] += done["waiting"]
            total["sent"] += done["delivered"]
        total["left"] += len(left)
    others = {"waiting already": total["waiting"], "sent before": total["sent"]}
    text = _replayed(len(series), total["queued"], others)
    if total["left"]:
        text += f"\n{total['left']} series found no room: start the node, which sends, and repeat the command"
    return Answer(total, text)


def _replayed(series: int, queued: int, others: Mapping[str, int]) -> str:
    """Return what a replay did in one line; of the `others`, those that there are."""
    left_out = (f"{count} {what}" for what, count in others.items() if count)
    return ", ".join((f"{series} series: {counted(queued, 'message')} queued", *left_out))


def _destinations(root: Root, name: str) -> list[tuple[str, str]]:
    """Return the destinations of a route, or the one that is named, each with the name of the route."""
    settings = root.settings
    route_name, slash, destination = name.partition("/")
    known: dict[str, list[str]] = {one: list(route.to) for one, route in settings.routes.items()}
    if route_name not in known and (route_name or not slash):
        raise UsageError(f"there is no route {route_name!r}{nearest(route_name, [one for one in known if one])}")
    to = known[route_name] if route_name else settings.receivers
    if slash and destination not in to:
        raise UsageError(f"{destination!r} is not a destination of {route_name or BY_HAND}{nearest(destination, to)}")
    return [(route_name, each) for each in ([destination] if slash else to)]
