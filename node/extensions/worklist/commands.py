"""``voxelnode worklist list|performed|check``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from node.cli.options import Commands, Configured, Root
from node.cli.output import Listing, listing, printable, problems_of
from node.counted import counted
from node.errors import UsageError

app = Commands(help="Scheduled and performed procedure steps.", no_args_is_help=True)

ENTRIES = ("start_date", "start_time", "state", "modality", "station_ae_title", "patient_id", "patient_name",
           "accession_number", "description", "source")  # fmt: skip
STEPS = ("created_at", "ended_at", "state", "modality", "station_ae_title", "patient_id", "accession_number",
         "series", "instances")  # fmt: skip


@app.command("list")
def list_(
    last: Annotated[int, typer.Option("--last", metavar="N", min=1, help="Number of entries to show.")] = 20,
    *,
    root: Root,
) -> Listing:
    """List the newest entries of the worklist."""
    from node.extensions.worklist.listed import StepViews

    with root.looking() as index:
        rows = index.views(StepViews).scheduled(last)[::-1]
    return listing(
        f"last {counted(len(rows), 'entry', 'entries')}",
        {key: key for key in ENTRIES},
        rows,
        none="the worklist is empty",
    )


@app.command()
def performed(
    last: Annotated[int, typer.Option("--last", metavar="N", min=1, help="Number of steps to show.")] = 20,
    *,
    root: Root,
) -> Listing:
    """List the newest procedure steps that modalities report."""
    from node.extensions.worklist.listed import StepViews

    with root.looking() as index:
        rows = index.views(StepViews).performed(last)[::-1]
    return listing(
        f"last {counted(len(rows), 'step')}", {key: key for key in STEPS}, rows, none="no performed procedure steps"
    )


@app.command()
def check(
    folder: Annotated[
        Path | None, typer.Argument(metavar="FOLDER", help="Folder to check; default: [worklist] folder.")
    ] = None,
    *,
    configured: Configured,
) -> Listing:
    """List the files of a folder that have no entry, and why.

    Exit 1 if there is one.
    """
    from node.extensions.worklist.settings import WorklistSettings

    folder = folder or configured.settings.table(WorklistSettings).folder
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
    return problems_of(folder, problems, "every file has an entry")
