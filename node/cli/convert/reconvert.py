"""``voxelnode reconvert``."""

from __future__ import annotations

from typing import Annotated

import typer

from node.cli.options import ChangedRoot
from node.cli.output import Answer

CLOSED = 'state not in ["receiving", "converting"]'
FAILED = 'state in ["failed", "refused"]'

AT_ONCE = 500
"""Series of one commit: other commits wait for it."""


def reconvert(
    where: Annotated[
        str | None,
        typer.Option("--where", metavar="EXPRESSION", help="Series that `voxelnode select EXPRESSION` lists."),
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Series that were refused or crashed too often.")] = False,
    every: Annotated[bool, typer.Option("--all", help="All series.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the series.")] = False,
    *,
    root: ChangedRoot,
) -> Answer:
    """Convert series again.

    A running node converts them; otherwise the next start does. A series keeps its revision if its volumes would not
    change.
    """
    if (where is not None) + failed + every != 1:
        raise typer.BadParameter("Give one of --where, --failed and --all.")

    from node.selector import compile_selector

    selectors = [compile_selector(FAILED if failed else CLOSED)]
    if where is not None:
        selectors.append(compile_selector(where))
    with root.looking() as index:
        series = list(index.facts.selected(*selectors))
    owed = 0
    for first in range(0, 0 if dry_run else len(series), AT_ONCE):
        owed += root.perform("reconvert", series=series[first : first + AT_ONCE])["owed"]
    uids = [series_instance_uid for _, series_instance_uid in series]
    text = "\n".join(uids) if dry_run else f"{owed} series will be converted again"
    return Answer({"series": uids, "owed": owed, "dry_run": dry_run}, text)
