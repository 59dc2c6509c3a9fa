"""``voxelnode series``."""

from __future__ import annotations

from typing import Annotated

import typer

from node.cli.options import ConfigFile, Json, Root, reading_index
from node.cli.output import print_json, print_table

COLUMNS = (
    "series_instance_uid",
    "modality",
    "state",
    "verdict",
    "verdict_rule",
    "expected_instances",
    "expected_source",
    "instances",
    "missing_instances",
    "missing_detail",
    "verdict_reason",
    "revision",
    "due_at",
    "error",
)
SHOWN = ("series", "modality", "state", "rev", "completeness", "rule", "expected", "received", "missing", "reason")


def series(
    study: Annotated[str | None, typer.Option("--study", metavar="UID", help="Only series of this study.")] = None,
    state: Annotated[str | None, typer.Option("--state", metavar="STATE", help="Only series in this state.")] = None,
    incomplete: Annotated[bool, typer.Option("--incomplete", help="Only incomplete and suspect series.")] = False,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, help="Maximum number of series, newest first.")
    ] = 100,
    config: ConfigFile = None,
    root: Root = None,
    json: Json = False,
) -> None:
    """List series with their state and completeness."""
    with reading_index(config, root) as index:
        rows = index.series.newest(limit, study=study, state=state, incomplete=incomplete)
    if json:
        print_json([{name: row[name] for name in COLUMNS} for row in rows])
        return
    print_table(
        f"{len(rows)} series",
        SHOWN,
        [
            (
                row["series_instance_uid"],
                row["modality"],
                row["state"],
                row["revision"],
                row["verdict"],
                row["verdict_rule"],
                row["expected_instances"],
                row["instances"],
                row["missing_instances"],
                row["error"] or row["verdict_reason"],
            )
            for row in rows
        ],
    )
