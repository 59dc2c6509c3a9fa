"""``voxelnode routes set``, ``remove`` and ``try``: routes beside those of the configuration."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from node.cli.exchange.messages import routes
from node.cli.options import ROUTE, ChangedRoot
from node.cli.output import Answer, Columns, Listing, listing
from node.counted import counted
from node.errors import UsageError

__all__ = ["routes"]  # for the command

Name = Annotated[str, typer.Argument(help="Name of the route.", metavar="NAME", autocompletion=ROUTE["autocompletion"])]
_KEYS = typer.Argument(metavar="KEY=VALUE", help="Keys of [routes.NAME] with their values, such as to=PACS.")
Keys = Annotated[list[str], _KEYS]
OptionalKeys = Annotated[list[str] | None, _KEYS]
Drop = Annotated[int, typer.Option("--drop", metavar="N", min=0, help="Drop up to N messages that wait.")]
Series = Annotated[int, typer.Option("--series", metavar="N", min=1, help="How many of the newest series.")]

LISTS = frozenset({"to", "otherwise", "remove"})
"""Keys that take several values; one alone needs no brackets."""

TEXTS = frozenset({"when", "where", "between", "priority", "transfer_syntax", "deidentify"})
"""Keys whose value is a text, which needs no quotes."""


@routes.command("set")
def set_route(name: Name, keys: Keys, drop: Drop = 0, *, root: ChangedRoot) -> Answer:
    """Add a route, or change one that was added.

    It stands beside those of the configuration. A running node follows at once, otherwise the next start does. Keys
    that are not given have their defaults.
    """
    done = root.order("set-route", name=name, route=_table(keys), drops=drop)
    return Answer(done, f"route {name} is set{_dropped(done['dropped'])}")


@routes.command("remove")
def remove_route(name: Name, drop: Drop = 0, *, root: ChangedRoot) -> Answer:
    """Remove a route that was added."""
    done = root.order("remove-route", name=name, drops=drop)
    return Answer(done, f"route {name} is removed{_dropped(done['dropped'])}")


@routes.command("try")
def try_route(name: Name, keys: OptionalKeys = None, series: Series = 100, *, root: ChangedRoot) -> Listing:
    """List which of the newest series a route would take.

    With keys, the route is tried as `routes set` would make it.
    """
    done = root.perform("try-route", name=name, series=series, route=_table(keys) if keys else None)
    rows = [{"study_instance_uid": study, "series_instance_uid": one} for study, one in done["taken"]]
    title = f"route {name} would take {len(rows)} of {counted(done['series'], 'series', 'series')}"
    if done["returns"]:
        title += f"; {done['returns']} came from where they would go, and are not sent back (return_to_sender)"
    columns: Columns = {"study": "study_instance_uid", "series": "series_instance_uid"}
    return listing(title, columns, rows, none=title, data={**done, "taken": rows})


def _table(keys: Sequence[str]) -> dict[str, Any]:
    """Return the table of a route. Raises UsageError."""
    table: dict[str, Any] = {}
    for given in keys:
        key, equals, text = given.partition("=")
        if not equals or key in table:
            raise UsageError(f"{given!r}: write each key once, as KEY=VALUE, such as to=PACS")
        table[key] = text if key in TEXTS else _value(key, text)
    return table


def _value(key: str, text: str) -> Any:
    """Return a value that is written as in the configuration; a list of one needs neither brackets nor quotes."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    if key in LISTS and not isinstance(value, list):
        return [text.strip('"')]
    return value if isinstance(value, bool | int | list | dict) else text


def _dropped(count: int) -> str:
    return f"; {counted(count, 'message')} that waited: dropped" if count else ""
