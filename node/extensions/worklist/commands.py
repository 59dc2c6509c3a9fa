"""``voxelnode worklist list|performed``."""

import datetime as dt
from collections.abc import Sequence

from node.cli.options import Commands, Limit, Root
from node.cli.output import Listing, bounded, listing, newest
from node.index.rows.view_rows import Newest, ViewRows, timed

app = Commands(help="Scheduled and performed procedure steps.", no_args_is_help=True)

ENTRIES = ("start_date", "start_time", "state", "modality", "station_ae_title", "patient_id", "patient_name",
           "accession_number", "description", "source")  # fmt: skip
STEPS = ("created_at", "ended_at", "state", "modality", "station_ae_title", "patient_id", "accession_number",
         "series", "instances")  # fmt: skip


@app.command("list")
def list_(limit: Limit = 20, *, root: Root) -> Listing:
    """List the newest entries of the worklist."""
    with root.looking() as index:
        rows = index.views(StepViews).scheduled(limit)
    return _listed(rows, ENTRIES, "the worklist is empty", "entry", "entries")


@app.command()
def performed(limit: Limit = 20, *, root: Root) -> Listing:
    """List the newest procedure steps that modalities report."""
    with root.looking() as index:
        rows = index.views(StepViews).performed(limit)
    return _listed(rows, STEPS, "no performed procedure steps", "step")


def _listed(rows: Newest, columns: Sequence[str], none: str, *noun: str) -> Listing:
    title = newest(len(rows), rows.total, *noun)
    return bounded(listing(title, {key: key for key in columns}, rows[::-1], none=none), title, rows.total)


class StepViews(ViewRows):
    """Rows of ``scheduled_steps`` and ``performed_steps`` without their attributes, newest first."""

    def scheduled(self, limit: int) -> Newest:
        """Return at most `limit` entries of the worklist."""
        rows = self._steps("scheduled_steps", limit)
        for row in rows:
            date, time = row["start_date"], row["start_time"]
            row["start_date"] = date and dt.date.fromisoformat(date)
            row["start_time"] = time and dt.time.fromisoformat(time)
        return rows

    def performed(self, limit: int) -> Newest:
        """Return at most `limit` steps that modalities report."""
        return self._steps("performed_steps", limit)

    def _steps(self, table: str, limit: int) -> Newest:
        rows, hidden = self._newest(limit, "id DESC", table), ("attributes", "identified")
        known = [timed({name: value for name, value in row.items() if name not in hidden}) for row in rows]
        return Newest(known, rows.total)
