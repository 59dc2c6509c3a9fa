"""``voxelnode hooks jobs [show|cancel]``."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import typer

from node.cli.options import HOOK, ChangedRoot, Commands, Limit, Root
from node.cli.output import Answer, Columns, Listing, bounded, described, listing, newest, print_fields
from node.errors import UsageError, counted

app = Commands(help="List, show and cancel jobs of hooks with results.", invoke_without_command=True)


def _series(row: Mapping[str, Any]) -> str:
    """Return modality and name of a series, as `voxelnode series` has them."""
    return " ".join(filter(None, (row["modality"], row["series_description"] or row["protocol_name"])))


def _revision(row: Mapping[str, Any]) -> Any:
    """Return the revision that a job is about, and whether its series has a newer one."""
    is_outdated = row["newest_revision"] and row["newest_revision"] > (row["revision"] or row["newest_revision"])
    return f"{row['revision']} (outdated)" if is_outdated else row["revision"]


JOBS: Columns = {
    "changed": "changed_at",
    "hook": "hook",
    "series": _series,
    "revision": _revision,
    "state": "state",
    "results": "results_stored",
    "detail": "detail",
    "job": "job_id",
}
RESULTS: Columns = {"file": "file", "kind": "kind", "series": "series_instance_uid", "instance": "sop_instance_uid"}

JobId = Annotated[str, typer.Argument(metavar="JOB", help="Id of the job, as listed.")]


@app.callback()
def list_(
    hook: Annotated[str | None, typer.Option("--hook", help="Only jobs of this hook.", **HOOK)] = None,
    state: Annotated[
        Literal["waiting", "running", "succeeded", "failed", "cancelled", "expired"] | None,
        typer.Option("--state", help="Only jobs in this state."),
    ] = None,
    limit: Limit = 20,
    *,
    root: Root,
) -> Listing:
    """List recent jobs of hooks with results."""
    from node.extensions.results.listed import JobViews

    with root.looking() as index:
        rows = index.views(JobViews).newest(limit, hook=hook, state=state)
    title = newest(len(rows), rows.total, "job")
    return bounded(listing(title, JOBS, rows, none="no jobs"), title, rows.total)


@app.command()
def show(job: JobId, root: Root) -> Listing:
    """Show a job and its results."""
    from node.extensions.results.listed import JobViews

    with root.looking() as index:
        jobs = index.views(JobViews)
        found = jobs.newest(1, job_id=job)
        if not found:
            raise UsageError(f"there is no job {job!r}: `voxelnode hooks jobs` lists them")
        results = jobs.results(found[0]["id"])

    def text() -> None:
        print_fields(found[0])
        listing(counted(len(results), "result"), RESULTS, results).show()

    return described({**found[0], "results": results}, text)


@app.command()
def cancel(job: JobId, root: ChangedRoot) -> Answer:
    """End a job without results.

    A command that runs for it is killed with its process group, a plugin with its process. The receiver of a webhook
    learns of it at its next report. The message is not delivered again, unless `hooks retry` asks for it.
    """
    return Answer(root.order("cancel-job", job=job), f"job {job} is cancelled")
