"""``voxelnode peers|routes|hooks set`` and ``remove``: tables of the drop-in that the pages write as well."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from node.cli.exchange.messages import HookName, hooks, routes
from node.cli.exchange.peers import peers
from node.cli.keys import Drop, Keys, SetsKeys, Unset, in_force, set_table
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
        "--secret-file", metavar="FILE", help="Read from here what signs the messages of a webhook; -: standard input."
    ),
]


@peers.command("set", cls=SetsKeys)
def set_peer(name: PeerName, keys: Keys = None, unset: Unset = None, drop: Drop = 0, *, root: ChangedRoot) -> Answer:
    """Add a peer, or change one that was set here.

    Keys that are not given stay; a new peer without may may do everything. A running node follows at once.
    """
    done = set_table(root, f"peers.{name}", keys, unset, drop)
    now = root.read().settings
    everything = "" if f"peers.{name}.may" in now.loaded_from.origins else " (everything, for `may` is not set)"
    return in_force(done, f"{name} may {', '.join(now.peers[name].may) or 'nothing'}{everything}")


@peers.command("remove")
def remove_peer(name: PeerName, drop: Drop = 0, *, root: ChangedRoot) -> Answer:
    """Remove a peer that was set here."""
    return in_force(root.order("remove-table", table=f"peers.{name}", drops=drop))


@routes.command("set", cls=SetsKeys)
def set_route(name: RouteName, keys: Keys = None, unset: Unset = None, drop: Drop = 0, *, root: ChangedRoot) -> Answer:
    """Add a route, or change one that was set here.

    Keys that are not given stay. A running node follows at once.
    """
    return in_force(set_table(root, f"routes.{name}", keys, unset, drop))


@routes.command("remove")
def remove_route(name: RouteName, drop: Drop = 0, *, root: ChangedRoot) -> Answer:
    """Remove a route that was set here."""
    return in_force(root.order("remove-table", table=f"routes.{name}", drops=drop))


@hooks.command("set", cls=SetsKeys)
def set_hook(
    name: NewHookName,
    keys: Keys = None,
    secret_file: SecretFile = None,
    unset: Unset = None,
    drop: Drop = 0,
    *,
    root: ChangedRoot,
) -> Answer:
    """Add a hook, or change one that was set here.

    It has `url`. Keys that are not given stay, and the secret while the address does. A running node follows at once.
    """
    more = {} if secret_file is None else {"secret": _secret_in(secret_file)}
    return in_force(set_table(root, f"hooks.{name}", keys, unset, drop, **more))


@hooks.command("remove")
def remove_hook(name: HookName, drop: Drop = 0, *, root: ChangedRoot) -> Answer:
    """Remove a hook that was set here."""
    return in_force(root.order("remove-table", table=f"hooks.{name}", drops=drop))


def _secret_in(file: Path) -> Any:
    try:
        return (sys.stdin.read() if str(file) == "-" else file.read_text(encoding="ascii")).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--secret-file {file} cannot be read: {error}") from error
