"""``voxelnode worklist list|performed``."""

from collections.abc import Sequence

from node.cli.options import Commands, Limit, Root
from node.cli.output import Listing, bounded, listing, newest
from node.extensions.worklist.listed import StepViews
from node.index.rows.view_rows import Newest, PagedViews

app = Commands(help="Scheduled and performed procedure steps.", no_args_is_help=True)

ENTRIES = ("start_date", "start_time", "state", "modality", "station_ae_title", "patient_id", "patient_name",
           "accession_number", "description", "source")  # fmt: skip
STEPS = ("created_at", "ended_at", "state", "modality", "station_ae_title", "patient_id", "accession_number",
         "series", "instances")  # fmt: skip


@app.command("list")
def list_(limit: Limit = 20, *, root: Root) -> Listing:
    """List the newest entries of the worklist."""
    with root.looking() as index:
        rows = _newest(index.views(StepViews), limit)
    return _listed(rows, ENTRIES, "the worklist is empty", "entry", "entries")


@app.command()
def performed(limit: Limit = 20, *, root: Root) -> Listing:
    """List the newest procedure steps that modalities report."""
    with root.looking() as index:
        rows = _newest(index.views(StepViews).performed, limit)
    return _listed(rows, STEPS, "no performed procedure steps", "step")


def _newest(steps: PagedViews, limit: int) -> Newest:
    return Newest(steps.page(None, limit), steps.count_matching())


def _listed(rows: Newest, columns: Sequence[str], none: str, *noun: str) -> Listing:
    title = newest(len(rows), rows.total, *noun)
    return bounded(listing(title, {key: key for key in columns}, rows[::-1], none=none), title, rows.total)
