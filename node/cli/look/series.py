"""``voxelnode series``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from node.cli.options import ConfigFile, Json, Root, Uids, reading_index
from node.cli.output import UID_END, person, print_fitted, print_json, print_table, printable, short_uid

COLUMNS = (
    "series_instance_uid",
    "modality",
    "state",
    "verdict",
    "certainty",
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
NAMED = ("series_number", "series_description", "patient_name", "patient_id", "study_date", "study_instance_uid")
"""Further columns of JSON."""

FITTED = {
    "date": 10,
    "patient": 16,
    "no": 5,
    "mod": 3,
    "description": 22,
    "images": 7,
    "state": 12,
    "uid": UID_END,
}
"""Columns and widths of a line of 100 characters."""

FULL = (
    *("series", "date", "patient", "no", "modality", "description", "state", "rev", "certainty", "rule"),
    *("expected", "received", "missing", "reason"),
)


def series(
    study: Annotated[str | None, typer.Option("--study", metavar="UID", help="Only series of this study.")] = None,
    state: Annotated[str | None, typer.Option("--state", metavar="STATE", help="Only series in this state.")] = None,
    incomplete: Annotated[bool, typer.Option("--incomplete", help="Only incomplete and suspect series.")] = False,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, help="Maximum number of series, newest first.")
    ] = 100,
    uids: Uids = False,
    config: ConfigFile = None,
    root: Root = None,
    json: Json = False,
) -> None:
    """List series with their state and completeness.

    `voxelnode info` takes the ends of UIDs, too.
    """
    with reading_index(config, root) as index:
        rows = index.series.newest(limit, study=study, state=state, incomplete=incomplete)
    if json:
        print_json([{name: row[name] for name in (*COLUMNS, *NAMED)} for row in rows])
        return
    if uids:
        print_table(f"{len(rows)} series", FULL, map(_full, rows))
        return
    print_fitted(f"{len(rows)} series", FITTED, map(_brief, rows))
    for row in rows:
        if incomplete or row["error"]:
            print(f"{short_uid(row['series_instance_uid'])}: {printable(row['error'] or row['verdict_reason'])}")


def _brief(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return a series in the columns of `FITTED`; once it is converted, its completeness stands for its state."""
    expected = row["expected_instances"]
    few = expected is not None and expected != row["instances"]
    return (
        row["study_date"],
        person(row["patient_name"]) or row["patient_id"],
        row["series_number"],
        row["modality"],
        row["series_description"] or row["protocol_name"],
        f"{row['instances']}/{expected}".rjust(FITTED["images"]) if few else row["instances"],
        row["certainty"] if row["state"] == "converted" else row["state"],
        short_uid(row["series_instance_uid"]),
    )


def _full(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return (
        row["series_instance_uid"],
        row["study_date"],
        person(row["patient_name"]) or row["patient_id"],
        row["series_number"],
        row["modality"],
        row["series_description"],
        row["state"],
        row["revision"],
        row["certainty"],
        row["verdict_rule"],
        row["expected_instances"],
        row["instances"],
        row["missing_instances"],
        row["error"] or row["verdict_reason"],
    )
