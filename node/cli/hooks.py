"""``voxelnode hooks list|deliveries|test|retry``."""

from __future__ import annotations

import datetime as dt
import threading
from typing import TYPE_CHECKING, Annotated, Any

import typer

from node.cli.options import ConfigFile, Json, Root, load
from node.cli.output import print_json, print_table
from node.errors import UsageError, VoxelnodeError

if TYPE_CHECKING:
    from node.settings.model import Hook, Settings

app = typer.Typer(help="Who is told what happens: webhooks, commands and plugins.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Of a hook in the configuration.")]


class MessageNotDelivered(VoxelnodeError):
    """The hook did not take the message."""


@app.command("list")
def list_(config: ConfigFile = None, root: Root = None, json: Json = False) -> None:
    """Tell which hooks there are, and how far each of them has been told."""
    settings: Settings = load(config, storage__root=root).settings

    from node.index.database import reading

    with reading(settings.storage.root) as index:
        progress = {row["hook"]: row for row in index.rows("SELECT * FROM v_hooks")}
    rows = [_described(name, hook) | progress.get(name, {}) for name, hook in settings.hooks.items()]
    if json:
        print_json(rows)
        return
    print_table(
        f"{len(rows)} hooks",
        ("hook", "on", "by", "delivered", "last", "waiting", "given up", "instances behind"),
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
    hook: Annotated[str | None, typer.Option("--hook", metavar="NAME", help="Only of this hook.")] = None,
    state: Annotated[
        str | None, typer.Option("--state", help="Only these: waiting, delivered, given-up or dropped.")
    ] = None,
    last: Annotated[int, typer.Option("--last", metavar="N", min=1, help="How many, the newest.")] = 20,
    config: ConfigFile = None,
    root: Root = None,
    json: Json = False,
) -> None:
    """Tell what hooks were told of late, what waits for another try, and what was given up, with the reason."""
    settings: Settings = load(config, storage__root=root).settings

    from node.index.database import reading

    query = (
        "SELECT * FROM (SELECT * FROM v_deliveries WHERE (:hook IS NULL OR hook = :hook) "
        "AND (:state IS NULL OR state = :state) ORDER BY happened_at DESC LIMIT :last) ORDER BY happened_at"
    )
    with reading(settings.storage.root) as index:
        rows = index.rows(query, hook=hook, state=state, last=last)
    if json:
        print_json(rows)
        return
    names = ("happened_at", "hook", "event", "series_instance_uid", "state", "attempts", "due_at", "reason")
    print_table(
        f"the last {len(rows)} messages",
        ("happened", "hook", "event", "series", "state", "attempts", "next try", "reason", "id"),
        [[row[name] for name in (*names, "message_id")] for row in rows],
    )


@app.command("test")
def try_(
    name: Name,
    event: Annotated[
        str | None,
        typer.Option("--event", metavar="EVENT", help="What to pretend. [default: the first that the hook wants]"),
    ] = None,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Send a message with "test": true to a hook, and tell what came of it; the node need not run."""
    settings: Settings = load(config).settings
    hook = _configured(settings, name)
    if event is not None and event not in hook.on:
        raise UsageError(f"hook {name} is not told of {event!r}; it is told of {', '.join(hook.on)}")

    from node.notify.channel import NotDelivered
    from node.notify.message import sample
    from node.notify.notifier import outlet_of

    wanted = next(one for one in hook.on if event in (None, one))
    message = sample(wanted, settings.dicom.ae_title, dt.datetime.now(dt.UTC))
    outlet = outlet_of(name, hook)
    output = None
    try:
        output = outlet.deliver(message, threading.Event())
    except NotDelivered as error:
        if error.output and not json:
            print(error.output)
        raise MessageNotDelivered(f"hook {name} did not take the message: {error}") from error
    finally:
        outlet.close()
    if json:
        print_json({"hook": name, "message": message.content, "output": output})
        return
    if output:
        print(output)
    print(f"hook {name} took {message.event} {message.id}")


@app.command()
def retry(
    name: Name,
    message_id: Annotated[str | None, typer.Option("--id", help="Only this message, of `hooks deliveries`.")] = None,
    config: ConfigFile = None,
    root: Root = None,
    json: Json = False,
) -> None:
    """Try what was given up again, and what waits at once; also by a running node."""
    settings: Settings = load(config, storage__root=root).settings
    _configured(settings, name)

    from node import logs
    from node.control.repository import perform

    logs.configure("warning", settings.log.format)
    done = perform(settings, "retry-deliveries", hook=name, message_id=message_id)
    if json:
        print_json(done)
    else:
        print(f"{done['waiting']} messages wait for another try")


def _configured(settings: Settings, name: str) -> Hook:
    try:
        return settings.hooks[name]
    except KeyError:
        known = f"known: {', '.join(settings.hooks)}" if settings.hooks else "there is none"
        raise UsageError(f"no hook {name!r} in the configuration; {known}") from None


def _described(name: str, hook: Hook) -> dict[str, Any]:
    by = hook.url or (f"plugin {hook.plugin}" if hook.plugin else " ".join(hook.command))
    return {"hook": name, "on": list(hook.on), "by": by}
