"""``voxelnode hooks set``, ``remove``, ``try``, ``pause`` and ``resume``: hooks beside those of the configuration."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from node.cli.exchange.messages import HookName, MessageNotDelivered, configured, hooks
from node.cli.exchange.route_rules import dropped
from node.cli.keys import Drop, Keys, OptionalKeys, table_of
from node.cli.options import HOOK, ChangedRoot
from node.cli.output import Answer
from node.errors import UsageError

__all__ = ["hooks"]  # for the command

Name = Annotated[str, typer.Argument(help="Name of the hook.", **HOOK)]
SecretFile = Annotated[
    Path | None,
    typer.Option(
        "--secret-file",
        metavar="FILE",
        help="Read from here what signs the messages of a webhook; -: standard input.",
    ),
]
NoSecret = Annotated[bool, typer.Option("--no-secret", help="Forget the secret.")]


@hooks.command("set")
def set_hook(
    name: Name,
    keys: Keys,
    secret_file: SecretFile = None,
    no_secret: NoSecret = False,
    drop: Drop = 0,
    *,
    root: ChangedRoot,
) -> Answer:
    """Add a hook, or change one that was added.

    It stands beside those of the configuration, and has url or peer. A running node follows at once, otherwise
    the next start does. Keys that are not given have their defaults; the secret stays while the address does.
    """
    done = root.order("set-hook", name=name, drops=drop, **_given(keys, secret_file, no_secret=no_secret))
    return Answer(done, f"hook {name} is set{dropped(done['dropped'])}")


@hooks.command("remove")
def remove_hook(name: Name, drop: Drop = 0, *, root: ChangedRoot) -> Answer:
    """Remove a hook that was added."""
    done = root.order("remove-hook", name=name, drops=drop)
    return Answer(done, f"hook {name} is removed{dropped(done['dropped'])}")


@hooks.command("try")
def try_hook(
    name: Name,
    keys: OptionalKeys = None,
    secret_file: SecretFile = None,
    no_secret: NoSecret = False,
    *,
    root: ChangedRoot,
) -> Answer:
    """Send a message of the newest series, marked as a test.

    With keys, the hook is tried as `hooks set` would make it.
    """
    given = _given(keys, secret_file, no_secret=no_secret) if keys else {}
    done = root.order("try-hook", name=name, **given)
    if not done["accepted"]:
        raise MessageNotDelivered(f"hook {name} did not accept the message: {done['reason']}")
    return Answer(done, f"hook {name} accepted {done['event']} {done['id']}")


@hooks.command()
def pause(name: HookName, root: ChangedRoot) -> Answer:
    """Hold a hook until it is resumed, also over restarts."""
    configured(root, name)
    done = root.perform("pause-hooks", hooks=[name], paused=True)
    return Answer(done, f"hook {name} is paused")


@hooks.command()
def resume(name: HookName, root: ChangedRoot) -> Answer:
    """Let a paused hook go on."""
    configured(root, name)
    done = root.perform("pause-hooks", hooks=[name], paused=False)
    return Answer(done, f"hook {name} goes on")


def _given(keys: list[str], secret_file: Path | None, *, no_secret: bool) -> dict[str, Any]:
    table = table_of(keys)
    if "secret" in table:
        raise UsageError("secret: others see a command line: write it to a file, and give --secret-file")
    secret = "" if no_secret else None
    if secret_file is not None:
        try:
            secret = (sys.stdin.read() if str(secret_file) == "-" else secret_file.read_text(encoding="ascii")).strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--secret-file {secret_file} cannot be read: {error}") from error
    return {"hook": table, "secret": secret}
