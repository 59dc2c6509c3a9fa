"""``voxelnode workitems list|end``."""

from __future__ import annotations

from typing import Annotated

import typer

from node.cli.actions import Yes, confirm, perform
from node.cli.options import ConfigFile, Json, Root, reading_index, settings_for_change
from node.cli.output import minute, print_json, print_table

app = typer.Typer(help="Workitems of clients (UPS-RS).", no_args_is_help=True)


@app.command("list")
def list_(
    state: Annotated[
        str | None,
        typer.Option("--state", metavar="STATE", help="SCHEDULED, 'IN PROGRESS', COMPLETED or CANCELED."),
    ] = None,
    last: Annotated[int, typer.Option("--last", metavar="N", min=1, help="Number of workitems to show.")] = 20,
    config: ConfigFile = None,
    root: Root = None,
    json: Json = False,
) -> None:
    """List the newest workitems that clients created."""
    with reading_index(config, root) as index:
        rows = index.created_workitems.page(None, last, state=state)
    if json:
        print_json(rows)
        return
    print_table(
        f"last {len(rows)} workitems",
        ("created", "created by", "state", "workitem"),
        [(minute(row["created_at"]), row["created_by"], row["state"], row["sop_instance_uid"]) for row in rows],
    )


@app.command()
def end(
    workitem: Annotated[str, typer.Argument(metavar="UID", help="UID of the workitem, as listed.")],
    config: ConfigFile = None,
    root: Root = None,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Cancel a workitem whose performer has vanished.

    Nobody else can end a workitem that is IN PROGRESS: only its performer has its Transaction UID.
    """
    settings = settings_for_change(config, root)
    confirm("ending a workitem", f"End workitem {workitem}? Its performer must have vanished.", yes)
    done = perform(settings, "end-workitem", workitem=workitem)
    if json:
        print_json(done)
    else:
        print(f"workitem {workitem} is canceled")
