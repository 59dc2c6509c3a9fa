"""``voxelnode worklist list|performed|check``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from node.cli.options import ConfigFile, Json, Root, load, reading_index
from node.cli.output import print_json, print_table, printable, report_problems
from node.errors import UsageError

app = typer.Typer(help="Scheduled and performed procedure steps.", no_args_is_help=True)


@app.command("list")
def list_(
    last: Annotated[int, typer.Option("--last", metavar="N", min=1, help="Number of entries to show.")] = 20,
    config: ConfigFile = None,
    root: Root = None,
    json: Json = False,
) -> None:
    """List the newest entries of the worklist."""
    with reading_index(config, root) as index:
        rows = index.scheduled_steps.page(None, last)[::-1]
    names = ("start_date", "start_time", "state", "modality", "station_ae_title", "patient_id", "patient_name",
             "accession_number", "description", "source")  # fmt: skip
    if json:
        print_json(rows)
    elif not rows:
        print("the worklist is empty")
    else:
        print_table(f"last {len(rows)} entries", names, [tuple(row[name] for name in names) for row in rows])


@app.command()
def performed(
    last: Annotated[int, typer.Option("--last", metavar="N", min=1, help="Number of steps to show.")] = 20,
    config: ConfigFile = None,
    root: Root = None,
    json: Json = False,
) -> None:
    """List the newest procedure steps that modalities report."""
    with reading_index(config, root) as index:
        rows = index.performed_steps.page(None, last)[::-1]
    names = ("created_at", "ended_at", "state", "modality", "station_ae_title", "patient_id", "accession_number",
             "series", "instances")  # fmt: skip
    if json:
        print_json(rows)
    elif not rows:
        print("no performed procedure steps")
    else:
        print_table(f"last {len(rows)} steps", names, [tuple(row[name] for name in names) for row in rows])


@app.command()
def check(
    folder: Annotated[
        Path | None, typer.Argument(metavar="FOLDER", help="Folder to check; default: [worklist] folder.")
    ] = None,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """List the files of a folder that have no entry, and why.

    Exit 1 if there is one.
    """
    folder = folder or load(config).settings.worklist.folder
    if folder is None:
        raise UsageError("name a folder, or set [worklist] folder")

    from node.extensions.worklist.entries import InvalidEntry
    from node.extensions.worklist.modality_worklist import read_entry, versions

    problems = []
    for name, _ in versions(folder):
        try:
            read_entry(folder / name)
        except InvalidEntry as error:
            problems.append(f"{printable(name)}: {error}")
    report_problems(folder, problems, "every file has an entry", json)
