"""``voxelnode workitems list|end``."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from node.cli.options import ChangedRoot, Commands, Root, Yes, confirm
from node.cli.output import Answer, Columns, Listing, listing
from node.counted import counted

app = Commands(help="Workitems of clients (UPS-RS).", no_args_is_help=True)

WORKITEMS: Columns = {
    "created": "created_at",
    "created by": "created_by",
    "state": "state",
    "workitem": "sop_instance_uid",
}


@app.command("list")
def list_(
    state: Annotated[
        Literal["SCHEDULED", "IN PROGRESS", "COMPLETED", "CANCELED"] | None,
        typer.Option("--state", help="Only workitems in this state."),
    ] = None,
    last: Annotated[int, typer.Option("--last", metavar="N", min=1, help="Number of workitems to show.")] = 20,
    *,
    root: Root,
) -> Listing:
    """List the newest workitems that clients created."""
    from node.extensions.workitems.created import ReadCreatedWorkitems

    with root.reading() as index:
        rows = index.repository(ReadCreatedWorkitems).page(None, last, state=state)
    return listing(f"last {counted(len(rows), 'workitem')}", WORKITEMS, rows, none="no workitems")


@app.command()
def end(
    workitem: Annotated[str, typer.Argument(metavar="UID", help="UID of the workitem, as listed.")],
    root: ChangedRoot,
    yes: Yes = False,
) -> Answer:
    """Cancel a workitem whose performer has vanished.

    Nobody else can end a workitem that is IN PROGRESS: only its performer has its Transaction UID.
    """
    confirm("ending a workitem", f"End workitem {workitem}? Its performer must have vanished.", yes)
    done = root.order("end-workitem", workitem=workitem)
    return Answer(done, f"workitem {workitem} is canceled")
