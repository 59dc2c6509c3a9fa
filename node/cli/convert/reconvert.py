"""``voxelnode reconvert``."""

from __future__ import annotations

from typing import Annotated

import typer

from node.cli.options import ConfigFile, Json, Root, settings_for_change
from node.cli.output import print_json

CLOSED = 'state not in ["receiving", "converting"]'
FAILED = 'state in ["failed", "refused"]'


def reconvert(
    where: Annotated[
        str | None,
        typer.Option("--where", metavar="EXPRESSION", help="Series that `voxelnode select EXPRESSION` lists."),
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Series that were refused or crashed too often.")] = False,
    every: Annotated[bool, typer.Option("--all", help="All series.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the series.")] = False,
    config: ConfigFile = None,
    root: Root = None,
    json: Json = False,
) -> None:
    """Convert series again.

    A running node converts them; otherwise the next start does. A series keeps its revision if its volumes would not
    change.
    """
    if (where is not None) + failed + every != 1:
        raise typer.BadParameter("Give one of --where, --failed and --all.")
    settings = settings_for_change(config, root)

    from node.control.repository import perform_action
    from node.index.database.index import reading
    from node.selector import compile_selector

    selectors = [compile_selector(FAILED if failed else CLOSED)]
    if where is not None:
        selectors.append(compile_selector(where))
    with reading(settings.storage.root, settings.index.url) as index:
        series = list(index.facts.selected(*selectors))
    owed = 0
    if series and not dry_run:
        owed = perform_action(settings, "reconvert", series=series)["owed"]
    if json:
        uids = [series_instance_uid for _, series_instance_uid in series]
        print_json({"series": uids, "owed": owed, "dry_run": dry_run})
    elif dry_run:
        print("\n".join(series_instance_uid for _, series_instance_uid in series))
    else:
        print(f"{owed} series will be converted again")
