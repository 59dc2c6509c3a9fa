"""``voxelnode reconvert``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from node.cli.options import ConfigFile, Json, Root, settings_for_change
from node.cli.output import print_json

CLOSED = "state NOT IN ('receiving', 'converting')"
FAILED = "state IN ('failed', 'refused')"


def reconvert(
    where: Annotated[
        str | None,
        typer.Option(
            "--where", metavar="SQL", help="Series for which this condition on v_series (docs/index.md) is true."
        ),
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

    condition = f"({where}) AND {CLOSED}" if where is not None else FAILED if failed else CLOSED
    series = _chosen(settings, condition, where)
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


def _chosen(settings: Any, condition: str, where: str | None) -> list[tuple[str, str]]:
    """Return (Study, Series) Instance UIDs; the condition is evaluated here, on a read-only connection."""
    from node.errors import UsageError
    from node.index.database import reading
    from node.index.engine import IndexUnusable

    try:
        with reading(settings.storage.root) as index:
            return index.series.matching(condition)
    except IndexUnusable as error:
        if where is None:
            raise
        raise UsageError(f"--where {where!r}: {error}") from error
