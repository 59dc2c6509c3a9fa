"""``voxelnode worklist list|performed``."""

import datetime as dt
from typing import Annotated

import typer

from node.cli.options import Commands, Root
from node.cli.output import Listing, listing
from node.errors import counted
from node.index.engine.view_rows import Row, ViewRows, timed

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
    with root.looking() as index:
        rows = index.views(StepViews).performed(last)[::-1]
    return listing(
        f"last {counted(len(rows), 'step')}", {key: key for key in STEPS}, rows, none="no performed procedure steps"
    )


class StepViews(ViewRows):
    """Rows of ``scheduled_steps`` and ``performed_steps`` without their attributes, newest first."""

    def scheduled(self, limit: int) -> list[Row]:
        """Return at most `limit` entries of the worklist."""
        rows = self._newest("SELECT * FROM scheduled_steps ORDER BY id DESC LIMIT :limit", limit)
        for row in rows:
            date, time = row["start_date"], row["start_time"]
            row["start_date"] = date and dt.date.fromisoformat(date)
            row["start_time"] = time and dt.time.fromisoformat(time)
        return rows

    def performed(self, limit: int) -> list[Row]:
        """Return at most `limit` steps that modalities report."""
        return self._newest("SELECT * FROM performed_steps ORDER BY id DESC LIMIT :limit", limit)

    def _newest(self, query: str, limit: int) -> list[Row]:
        rows = self._rows(query, limit=limit)
        return [
            timed({name: value for name, value in row.items() if name not in ("attributes", "identified")})
            for row in rows
        ]
