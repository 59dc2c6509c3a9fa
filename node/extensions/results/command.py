"""``voxelnode jobs [show|cancel]``."""

from __future__ import annotations

from typing import Annotated

import typer

from node.cli.actions import perform
from node.cli.options import ConfigFile, Json, Root, reading_index, settings_for_change
from node.cli.output import minute, print_fields, print_fitted, print_json, print_table
from node.errors import UsageError

app = typer.Typer(
    help="List, show and cancel jobs of hooks with results.",
    invoke_without_command=True,
)

JOBS = {"changed": 16, "hook": 10, "series": 20, "state": 9, "results": 7, "detail": 15, "job": 32}
"""Columns and widths of a line."""

JobId = Annotated[str, typer.Argument(metavar="JOB", help="Id of the job, as listed.")]


@app.callback()
def list_(
    context: typer.Context,
    hook: Annotated[str | None, typer.Option("--hook", metavar="NAME", help="Only jobs of this hook.")] = None,
    state: Annotated[
        str | None,
        typer.Option(
            "--state",
            metavar="STATE",
            help="Only jobs in this state: waiting, running, succeeded, failed, cancelled or expired.",
        ),
    ] = None,
    last: Annotated[int, typer.Option("--last", metavar="N", min=1, help="Number of jobs to show.")] = 20,
    config: ConfigFile = None,
    root: Root = None,
    json: Json = False,
) -> None:
    """List recent jobs of hooks with results."""
    if context.invoked_subcommand is not None:
        return
    with reading_index(config, root) as index:
        rows = index.jobs.page(None, last, hook=hook, state=state)
    if json:
        print_json(rows)
        return
    print_fitted(
        f"last {len(rows)} jobs",
        JOBS,
        (
            (
                minute(row["changed_at"]),
                row["hook"],
                row["series_description"] or row["modality"] or "",
                row["state"],
                row["results_stored"],
                row["detail"],
                row["job_id"],
            )
            for row in rows
        ),
    )


@app.command()
def show(job: JobId, config: ConfigFile = None, root: Root = None, json: Json = False) -> None:
    """Show a job and its results."""
    with reading_index(config, root) as index:
        found = index.jobs.page(None, 1, job_id=job)
        if not found:
            raise UsageError(f"there is no job {job!r}: `voxelnode jobs` lists them")
        results = index.jobs.results(found[0]["id"])
    if json:
        print_json({**found[0], "results": results})
        return
    print_fields(found[0])
    print_table(
        f"{len(results)} results",
        ("file", "kind", "series", "instance"),
        [(one["file"], one["kind"], one["series_instance_uid"], one["sop_instance_uid"]) for one in results],
    )


@app.command()
def cancel(job: JobId, config: ConfigFile = None, root: Root = None, json: Json = False) -> None:
    """End a job without results.

    A command that runs for it is killed with its process group, a plugin with its process. The receiver of a webhook is
    told at its next report. The message is not delivered again, unless `hooks retry` asks for it.
    """
    done = perform(settings_for_change(config, root), "cancel-job", job=job)
    if json:
        print_json(done)
    else:
        print(f"job {job} is cancelled")
