"""``voxelnode routes set``, ``remove`` and ``try``: routes beside those of the configuration."""

from __future__ import annotations

from typing import Annotated

import typer

from node.cli.exchange.messages import routes
from node.cli.keys import Drop, Keys, OptionalKeys, table_of
from node.cli.options import ROUTE, ChangedRoot
from node.cli.output import Answer, Columns, Listing, listing
from node.counted import counted

__all__ = ["routes"]  # for the command

Name = Annotated[str, typer.Argument(help="Name of the route.", metavar="NAME", autocompletion=ROUTE["autocompletion"])]
Series = Annotated[int, typer.Option("--series", metavar="N", min=1, help="How many of the newest series.")]


@routes.command("set")
def set_route(name: Name, keys: Keys, drop: Drop = 0, *, root: ChangedRoot) -> Answer:
    """Add a route, or change one that was added.

    It stands beside those of the configuration. A running node follows at once, otherwise the next start does. Keys
    that are not given have their defaults.
    """
    done = root.order("set-route", name=name, route=table_of(keys), drops=drop)
    return Answer(done, f"route {name} is set{dropped(done['dropped'])}")


@routes.command("remove")
def remove_route(name: Name, drop: Drop = 0, *, root: ChangedRoot) -> Answer:
    """Remove a route that was added."""
    done = root.order("remove-route", name=name, drops=drop)
    return Answer(done, f"route {name} is removed{dropped(done['dropped'])}")


@routes.command("try")
def try_route(name: Name, keys: OptionalKeys = None, series: Series = 100, *, root: ChangedRoot) -> Listing:
    """List which of the newest series a route would take.

    With keys, the route is tried as `routes set` would make it.
    """
    done = root.perform("try-route", name=name, series=series, route=table_of(keys) if keys else None)
    rows = [{"study_instance_uid": study, "series_instance_uid": one} for study, one in done["taken"]]
    title = f"route {name} would take {len(rows)} of {counted(done['series'], 'series', 'series')}"
    if done["returns"]:
        title += f"; {done['returns']} came from where they would go, and are not sent back (return_to_sender)"
    columns: Columns = {"study": "study_instance_uid", "series": "series_instance_uid"}
    return listing(title, columns, rows, none=title, data={**done, "taken": rows})


def dropped(count: int) -> str:
    """Return the end of a line about messages that were dropped."""
    return f"; {counted(count, 'message')} that waited: dropped" if count else ""
