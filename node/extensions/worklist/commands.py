"""``voxelnode worklist list|performed``."""

from __future__ import annotations

from typing import Annotated

import typer

from node.cli.options import Commands, Root
from node.cli.output import Listing, listing
from node.errors import counted

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
