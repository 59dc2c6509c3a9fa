"""``voxelnode hooks list|deliveries|test|retry``."""

from __future__ import annotations

import datetime as dt
import threading
from typing import TYPE_CHECKING, Annotated, Any

import typer

from node.cli.options import ConfigFile, Json, Root, load, settings_for_change
from node.cli.output import print_json, print_table
from node.errors import UsageError, VoxelnodeError

if TYPE_CHECKING:
    from node.settings.model import HookSettings, Settings

app = typer.Typer(help="Inspect, test and retry webhooks, commands and plugins.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of a hook in the configuration.")]


class MessageNotDelivered(VoxelnodeError):
    """The hook did not accept the message."""


@app.command("list")
def list_(config: ConfigFile = None, root: Root = None, json: Json = False) -> None:
    """List the hooks and the progress of their deliveries."""
    settings: Settings = load(config, storage__root=root).settings

    from node.index.database import reading

    with reading(settings.storage.root) as index:
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
    config: ConfigFile = None,
    root: Root = None,
    json: Json = False,
) -> None:
    """List recent messages to hooks.

    Shows delivered, waiting and given-up messages, with the reasons of failures.
    """
    settings: Settings = load(config, storage__root=root).settings

    from node.index.database import reading

    with reading(settings.storage.root) as index:
        rows = index.hooks.deliveries(last, hook=hook, state=state)
    if json:
        print_json(rows)
        return
    names = ("happened_at", "hook", "event", "series_instance_uid", "state", "attempts", "due_at", "reason")
    print_table(
        f"last {len(rows)} messages",
        ("happened", "hook", "event", "series", "state", "attempts", "next attempt", "reason", "id"),
        [[row[name] for name in (*names, "message_id")] for row in rows],
    )


@app.command("test")
def try_(
    name: Name,
    event: Annotated[
        str | None,
        typer.Option("--event", metavar="EVENT", help="Event to send. [default: the first event of the hook]"),
    ] = None,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Send a test message to a hook and show the result.

    The message contains "test": true. The node need not be running.
    """
    settings: Settings = load(config).settings
    hook = _configured(settings, name)
    if event is not None and event not in hook.on:
        raise UsageError(f"hook {name} does not receive {event!r}; its events are {', '.join(hook.on)}")

    from node.control.availability import hook_channel
    from node.notify.channel import NotDelivered
    from node.notify.message import sample

    wanted = event or hook.on[0]
    message = sample(wanted, settings.dicom.ae_title, dt.datetime.now(dt.UTC))
    channel = hook_channel(settings, name)
    output = None
    try:
        output = channel.deliver(message, threading.Event())
    except NotDelivered as error:
        if error.output and not json:
            print(error.output)
        raise MessageNotDelivered(f"hook {name} did not accept the message: {error}") from error
    finally:
        channel.close()
    if json:
        print_json({"hook": name, "message": message.content, "output": output})
        return
    if output:
        print(output)
    print(f"hook {name} accepted {message.event} {message.id}")


@app.command()
def retry(
    name: Name,
    message_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="Only this message; the id is in `hooks deliveries`.")
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
