"""``voxelnode hooks list|deliveries|test|replay|retry``."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import sleep
from typing import TYPE_CHECKING, Annotated, Any

import typer

from node.cli.options import ConfigFile, Json, Root, Uids, archive_files, load, settings_for_change
from node.cli.output import minute, print_fitted, print_json, print_table, short_uid
from node.errors import UsageError, VoxelnodeError

if TYPE_CHECKING:
    from node.notify.message import HookMessage
    from node.settings.model import HookEvent, HookSettings, Settings

DELIVERIES = {"happened": 16, "hook": 10, "event": 17, "series": 18, "state": 9, "try": 3, "reason": 15}
"""Columns and widths of a line of 100 characters."""

app = typer.Typer(help="Inspect, test and retry webhooks, commands and plugins.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of a hook in the configuration.")]


REPLAY_SECONDS = 1.0
"""Interval at which a replay looks for room among the waiting messages."""


class MessageNotDelivered(VoxelnodeError):
    """The hook did not accept the message."""


@app.command("list")
def list_(config: ConfigFile = None, root: Root = None, json: Json = False) -> None:
    """List the hooks and the progress of their deliveries."""
    settings: Settings = load(config, storage__root=root).settings

    from node.index.database.index import reading

    with reading(settings.storage.root, settings.index.url) as index:
        progress = index.hooks.progress()
    rows = [_described(name, hook) | progress.get(name, {}) for name, hook in settings.hooks.items()]
    if json:
        print_json(rows)
        return
    print_table(
        f"{len(rows)} hooks",
        ("hook", "events", "channel", "delivered", "last", "waiting", "given up", "instances behind"),
        [
            (
                row["hook"],
                ", ".join(row["on"]),
                row["by"],
                row.get("delivered"),
                row.get("delivered_at"),
                row.get("waiting"),
                row.get("given_up"),
                row.get("instances_behind"),
            )
            for row in rows
        ],
    )


@app.command()
def deliveries(
    hook: Annotated[str | None, typer.Option("--hook", metavar="NAME", help="Only messages to this hook.")] = None,
    state: Annotated[
        str | None,
        typer.Option(
            "--state", metavar="STATE", help="Only messages in this state: waiting, delivered, given-up or dropped."
        ),
    ] = None,
    last: Annotated[int, typer.Option("--last", metavar="N", min=1, help="Number of messages to show.")] = 20,
    uids: Uids = False,
    config: ConfigFile = None,
    root: Root = None,
    json: Json = False,
) -> None:
    """List recent messages to hooks.

    Shows delivered, waiting and given-up messages, with the reasons of failures. --uids shows the ids of messages, too.
    """
    settings: Settings = load(config, storage__root=root).settings

    from node.index.database.index import reading

    with reading(settings.storage.root, settings.index.url) as index:
        rows = index.hooks.deliveries(last, hook=hook, state=state)
    if json:
        print_json(rows)
        return
    title = f"last {len(rows)} messages"
    if not uids:
        print_fitted(title, DELIVERIES, map(_brief, rows))
        return
    names = ("happened_at", "hook", "event", "series_instance_uid", "state", "attempts", "due_at", "reason")
    print_table(
        title,
        ("happened", "hook", "event", "series", "state", "attempts", "next attempt", "reason", "id"),
        [[row[name] for name in (*names, "message_id")] for row in rows],
    )


def _brief(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return a message in the columns of `DELIVERIES`; a series is named as people name it, if it is still there."""
    named = (row["series_number"], row["series_description"] or row["modality"])
    series = " ".join(str(part) for part in named if part is not None)
    return (
        minute(row["happened_at"]),
        row["hook"],
        row["event"],
        series or short_uid(row["series_instance_uid"] or ""),
        row["state"],
        row["attempts"],
        row["reason"],
    )


@app.command("test")
def try_(
    name: Name,
    event: Annotated[
        str | None,
        typer.Option("--event", metavar="EVENT", help="Event to send. [default: the first event of the hook]"),
    ] = None,
    series: Annotated[
        str | None,
        typer.Option("--series", metavar="UID", help="Series to send. [default: a CT in a temporary folder]"),
    ] = None,
    config: ConfigFile = None,
    root: Root = None,
    json: Json = False,
) -> None:
    """Send a test message to a hook and show the result.

    The message contains "test": true; its files exist. The node need not be running.
    """
    settings = settings_for_change(config, root)
    hook = _configured(settings, name)
    if event is not None and event not in hook.on:
        raise UsageError(f"hook {name} does not receive {event!r}; its events are {', '.join(hook.on)}")

    from node.cli.run.sample_series import sample_root
    from node.control.availability import hook_channel
    from node.notify.channel import NotDelivered
    from node.notify.message import with_job
    from node.registry import results_kind

    wanted = next(known for known in hook.on if event in (None, known))
    channel = hook_channel(settings, name)
    with ExitStack() as opened:
        opened.callback(channel.close)
        folder = settings.storage.root if series is not None else opened.enter_context(sample_root(settings))
        message, misfits = _test_message(folder, settings, hook, wanted, series)
        if series is not None and hook.url is None:
            message = opened.enter_context(_with_files(message, settings))
        out = None
        if hook.results and hook.url is None:
            out = opened.enter_context(TemporaryDirectory(prefix="voxelnode-test-"))
            message = with_job(message, "test", "", "", out)
        try:
            delivered = channel.deliver(message, threading.Event())
        except NotDelivered as error:
            if error.output and not json:
                print(error.output)
            raise MessageNotDelivered(f"hook {name} did not accept the message: {error}") from error
        kind = results_kind(settings)
        results = kind.left_in(Path(out), delivered.results, name) if kind is not None and out is not None else []
    output = delivered.output
    if json:
        content = {"hook": name, "message": message.content, "output": output, "misfits": misfits, "results": results}
        print_json(content)
        return
    if output:
        print(output)
    for result in results:
        print(f"{result['file']}: {result['kind']} {result['description']!r}, not stored, since this is a test")
    print(f"hook {name} accepted {message.event} {message.id}")
    if misfits and series is not None:
        print(f"without a test, the hook does not receive this series: {'; '.join(misfits)}")


@contextmanager
def _with_files(message: HookMessage, settings: Settings) -> Iterator[HookMessage]:
    """Yield a message whose paths are those of temporary copies where only the object store has the files."""
    from node.index.database.index import reading
    from node.notify.message import files_of, with_paths

    root = settings.storage.root.absolute()
    with (
        reading(settings.storage.root, settings.index.url) as index,
        archive_files(settings) as local,
    ):
        yield with_paths(message, {str(root / file.key): str(local(file)) for file in files_of(index, message)})


def _test_message(
    root: Path, settings: Settings, hook: HookSettings, event: HookEvent, series: str | None
) -> tuple[HookMessage, list[str]]:
    """Return the message of a series, and the clauses of `where` that it does not fit."""
    from node.index.database.index import reading
    from node.notify.message import NothingLeft, compose_test
    from node.selector import compile_selector

    url = settings.index.url if root == settings.storage.root else None
    with reading(root, url) as index:
        found = index.series.with_uid(series) if series is not None else index.series.newest(1)
        if len(found) != 1:
            number = "several studies have a" if found else "there is no"
            raise UsageError(f"{number} series {series!r}: `voxelnode series` lists those that are here")
        key = (found[0]["study_instance_uid"], found[0]["series_instance_uid"])
        now = dt.datetime.now(dt.UTC)
        try:
            message = compose_test(
                index, event, key, settings.dicom.ae_title, now, include_patient=hook.include_patient
            )
        except NothingLeft as error:
            lacking = "volume" if event == "volume-written" else "instance"
            raise UsageError(
                f"series {key[1]} has no {lacking} for {event}: choose another series or --event"
            ) from error
        if hook.where is None:
            return message, []
        selector = compile_selector(hook.where)
        facts = index.facts.of_series(selector.fields, *key)
        misfits = selector.why_not(facts) if facts is not None else []
        return message, [f"{clause}, but {instead}" for clause, instead in misfits]


@app.command()
def replay(
    name: Name,
    where: Annotated[
        str,
        typer.Option("--where", metavar="EXPRESSION", help="Series that `voxelnode select EXPRESSION` lists."),
    ],
    again: Annotated[
        bool, typer.Option("--again", help="Send messages again that the hook has accepted before.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count the series.")] = False,
    config: ConfigFile = None,
    root: Root = None,
    json: Json = False,
) -> None:
    """Send a hook the newest events of series that are here.

    The messages have the ids of the events, so that a receiver recognises what it has seen. They are delivered like
    all others, and new events keep room: with a running node, the command waits until all have found room. If it is
    interrupted, the same command continues.
    """
    settings = settings_for_change(config, root)
    hook = _configured(settings, name)

    from node.control.repository import perform_action
    from node.control.root import is_held
    from node.index.database.index import reading
    from node.index.work.deliveries import MAX_REPLAYED, REPLAYED
    from node.selector import compile_selector

    events = [event for event in hook.on if event in REPLAYED]
    if not events:
        raise UsageError(f"hook {name} receives none of the events that can be replayed: {', '.join(REPLAYED)}")
    selector = compile_selector(where)
    with reading(settings.storage.root, settings.index.url) as index:
        left = list(index.facts.selected(selector))[::-1]
    total: dict[str, Any] = {"hook": name, "series": len(left), "queued": [], "waiting": 0, "delivered": 0}
    total |= {"without_event": 0, "left": len(left), "dry_run": dry_run}
    before = dt.datetime.now(dt.UTC).isoformat() if again else None
    while left and not dry_run:
        chunk, rest = left[:MAX_REPLAYED], left[MAX_REPLAYED:]
        done = perform_action(settings, "replay-deliveries", hook=name, events=events, series=chunk, before=before)
        for key in ("queued", "waiting", "delivered", "without_event"):
            total[key] += done[key]
        left = [*map(tuple, done["left"]), *rest]
        total["left"] = len(left)
        if done["left"]:
            if not is_held(settings.storage.root):
                break
            sleep(REPLAY_SECONDS)
    if json:
        print_json(total)
        return
    print(
        f"{total['series']} series: {len(total['queued'])} messages queued, {total['waiting']} wait already, "
        f"{total['delivered']} were delivered before, {total['without_event']} series have no event"
    )
    if left and not dry_run:
        print(f"{len(left)} series found no room: start the node, which delivers messages, and repeat the command")


@app.command()
def retry(
    name: Name,
    message_id: Annotated[
        str | None,
        typer.Option("--id", metavar="ID", help="Only this message; `hooks deliveries --uids` has the id."),
    ] = None,
    config: ConfigFile = None,
    root: Root = None,
    json: Json = False,
) -> None:
    """Retry messages that were given up or are waiting.

    A running node delivers them at once; otherwise the next start does.
    """
    settings = settings_for_change(config, root)
    _configured(settings, name)

    from node.control.repository import perform_action

    done = perform_action(settings, "retry-deliveries", hook=name, message_id=message_id)
    if json:
        print_json(done)
    else:
        print(f"{done['waiting']} messages wait for another attempt")


def _configured(settings: Settings, name: str) -> HookSettings:
    try:
        return settings.hooks[name]
    except KeyError:
        known = f"configured: {', '.join(settings.hooks)}" if settings.hooks else "none are configured"
        raise UsageError(f"there is no hook {name!r}; {known}") from None


def _described(name: str, hook: HookSettings) -> dict[str, Any]:
    others = (("plugin", hook.plugin), ("peer", hook.peer))
    by = hook.url or next((f"{kind} {other}" for kind, other in others if other), " ".join(hook.command))
    return {"hook": name, "on": list(hook.on), "by": by}
