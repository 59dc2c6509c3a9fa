"""``voxelnode peers|routes|hooks set`` and ``remove``: tables of the drop-in that the pages write as well."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from node.cli.exchange.messages import HookName, hooks, routes
from node.cli.exchange.peers import peers
from node.cli.keys import Drop, Keys, in_force, table_of
from node.cli.options import HOOK, PEER, ROUTE, ChangedRoot
from node.cli.output import Answer
from node.errors import UsageError

__all__ = ["hooks", "peers", "routes"]  # for the commands

PeerName = Annotated[str, typer.Argument(help="Name of the peer.", **PEER)]
RouteName = Annotated[
    str, typer.Argument(help="Name of the route.", metavar="NAME", autocompletion=ROUTE["autocompletion"])
]
NewHookName = Annotated[str, typer.Argument(help="Name of the hook.", **HOOK)]
SecretFile = Annotated[
    Path | None,
    typer.Option(
        "--secret-file",
        metavar="FILE",
        help="Read from here what signs the messages of a webhook; -: standard input.",
    ),
]
NoSecret = Annotated[bool, typer.Option("--no-secret", help="Forget the secret.")]


@peers.command("set")
def set_peer(name: PeerName, keys: Keys, drop: Drop = 0, *, root: ChangedRoot) -> Answer:
    """Add a peer, or change one that was set here.

    Keys that are not given have their defaults: without may, the peer may do everything. A running node follows at
    once.
    """
    from node.settings.peers import Peer

    table = table_of(keys)
    done = root.order("set-table", table=f"peers.{name}", keys=table, drops=drop)
    may = table.get("may", Peer.model_fields["may"].default)
    everything = "" if "may" in table else " (everything, for `may` is not set)"
    return in_force(done, f"{name} may {', '.join(may) or 'nothing'}{everything}")


@peers.command("remove")
def remove_peer(name: PeerName, drop: Drop = 0, *, root: ChangedRoot) -> Answer:
    """Remove a peer that was set here."""
    return in_force(root.order("remove-table", table=f"peers.{name}", drops=drop))


@routes.command("set")
def set_route(name: RouteName, keys: Keys, drop: Drop = 0, *, root: ChangedRoot) -> Answer:
    """Add a route, or change one that was set here.

    Keys that are not given have their defaults. A running node follows at once.
    """
    return in_force(root.order("set-table", table=f"routes.{name}", keys=table_of(keys), drops=drop))


@routes.command("remove")
def remove_route(name: RouteName, drop: Drop = 0, *, root: ChangedRoot) -> Answer:
    """Remove a route that was set here."""
    return in_force(root.order("remove-table", table=f"routes.{name}", drops=drop))


@hooks.command("set")
def set_hook(
    name: NewHookName,
    keys: Keys,
    secret_file: SecretFile = None,
    no_secret: NoSecret = False,
    drop: Drop = 0,
    *,
    root: ChangedRoot,
) -> Answer:
    """Add a hook, or change one that was set here.

    It has `url`. Keys that are not given have their defaults; the secret stays while the address does. A running node
    follows at once.
    """
    table = table_of(keys)
    if "secret" in table:
        raise UsageError("secret: others see a command line: write it to a file, and give --secret-file")
    table |= {"secret": ""} if no_secret else {}
    table |= {"secret": _secret_in(secret_file)} if secret_file is not None else {}
    return in_force(root.order("set-table", table=f"hooks.{name}", keys=table, drops=drop))


@hooks.command("remove")
def remove_hook(name: HookName, drop: Drop = 0, *, root: ChangedRoot) -> Answer:
    """Remove a hook that was set here."""
    return in_force(root.order("remove-table", table=f"hooks.{name}", drops=drop))


def _secret_in(file: Path) -> Any:
    try:
        return (sys.stdin.read() if str(file) == "-" else file.read_text(encoding="ascii")).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--secret-file {file} cannot be read: {error}") from error
