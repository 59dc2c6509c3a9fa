"""``voxelnode get``."""

from __future__ import annotations

import getpass
from contextlib import suppress
from itertools import count
from time import sleep
from typing import TYPE_CHECKING, Annotated, Any

import typer

from node.cli.options import ConfigFile, Json, Root, settings_for_change
from node.cli.output import print_fields, print_json

if TYPE_CHECKING:
    from node.settings.model import Settings

LOOK_SECONDS = 0.2
"""Interval at which the command looks how far a retrieval is."""

SERVED_LOOKS = 25
"""Looks after which it also looks whether the node is still there."""


def get(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Study Instance UID.")],
    source: Annotated[str, typer.Option("--from", metavar="PEER", help="A name in [peers], or AET@HOST:PORT.")],
    series: Annotated[
        str | None, typer.Option("--series", metavar="UID", help="Only this series of the study. [default: all series]")
    ] = None,
    config: ConfigFile = None,
    root: Root = None,
    json: Json = False,
) -> None:
    """Retrieve a study from another node into the archive (C-GET).

    If a node runs on this root, the node does it, as a retrieval that the page Peers shows; interrupting the command
    cancels it. Exit 1 if an instance failed.
    """
    settings = settings_for_change(config, root)

    from node.association.addresses import address_of
    from node.control.repository import Repository
    from node.control.root import hold_or_request, require_created

    address_of(source, settings)  # reports a mistake here rather than from the node
    require_created(settings)
    folder = settings.storage.root.absolute()
    request = {"peer": source, "wanted": [[study, series]], "who": getpass.getuser()}
    held = hold_or_request(folder, lambda: Repository(settings), "retrieve", request)
    if isinstance(held, Repository):
        with held as repository:
            counts = dict(repository.actions.get(study, series or "", source))
    else:
        counts = _watched(settings, held["retrievals"][0])
    if json:
        print_json(counts)
    else:
        print_fields(
            {"instances": counts["completed"], "with a warning": counts["warning"], "failed": counts["failed"]}
        )
    if counts["failed"]:
        raise typer.Exit(1)


def _watched(settings: Settings, retrieval: str) -> dict[str, Any]:
    """Wait for a retrieval of the node, and return its counts; cancel it if the command is interrupted.

    Raises
    ------
    NotPerformed
        Nothing came, it was cancelled, or the node has ended.
    """
    from node.control.control_socket import NotPerformed, is_served, request_action

    folder = settings.storage.root.absolute()
    row = _row(settings, retrieval)
    try:
        for look in count(1):
            row = _row(settings, retrieval)
            if row["state"] not in ("waiting", "running"):
                break
            if look % SERVED_LOOKS == 0 and not is_served(folder):
                raise NotPerformed(f"the node ended: its next start continues with retrieval {retrieval}")
            sleep(LOOK_SECONDS)
    except KeyboardInterrupt:
        with suppress(NotPerformed):  # it has ended
            request_action(folder, "cancel-work", {"work": row["id"], "who": getpass.getuser()})
        raise
    failed = row["refused"] + row["failed"]
    if row["state"] in ("failed", "cancelled") or (row["state"] == "incomplete" and not failed):
        raise NotPerformed(row["reason"])
    left = max((row["announced"] or 0) - row["stored"] - failed, 0)
    return {"completed": row["stored"], "failed": failed, "warning": 0, "remaining": left}


def _row(settings: Settings, retrieval: str) -> dict[str, Any]:
    from node.control.control_socket import NotPerformed
    from node.index.database.index import reading

    with reading(settings.storage.root.absolute(), settings.index.url) as index:
        rows = index.work.page(None, 1, kind="retrieval", key=retrieval)
    if not rows:
        raise NotPerformed(f"retrieval {retrieval} was deleted with its study")
    return rows[0]
