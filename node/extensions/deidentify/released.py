"""``voxelnode routes released``: what stays in what a route has sent without identities."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from node.cli.options import Root, archive_files
from node.cli.output import Answer
from node.counted import counted
from node.errors import UsageError, Withheld


def released(
    route: Annotated[str, typer.Argument(metavar="ROUTE[/DESTINATION]", help="Name of a route with `deidentify`.")],
    report: Annotated[Path, typer.Argument(metavar="FILE", help="CSV file to write.")],
    root: Root,
) -> Answer:
    """Write what texts and numbers stay in what a route has sent.

    The copies are made again, as the configuration says now, of all instances that a destination of the route has
    taken and that are still here. The file is that of `voxelnode deidentify --report`. Exit 1 if there are none.
    """
    from node import logs
    from node.children.forwarding import transformed
    from node.extensions.deidentify.remaining import Remaining
    from node.routing.router import change_of

    logs.configure_command()  # pydicom logs values, which are patient data
    settings = root.settings
    name, _, destination = route.partition("/")
    if name not in settings.routes or settings.routes[name].deidentify is None:
        known = ", ".join(each for each, one in settings.routes.items() if one.deidentify is not None)
        raise UsageError(f"no route {name} with `deidentify` in the configuration; there are: {known or 'none'}")
    change = change_of(settings, settings.routes[name])
    way = change.deidentification
    assert way is not None
    remaining, written, left = Remaining(), 0, 0
    with root.reading() as index, archive_files(settings) as local:
        taken = index.routes.taken(name, destination or None)
        for file in index.instances.files():
            if file.key not in taken:
                continue
            try:
                remaining.add(transformed(way.read(local(file)), change))
                written += 1
            except Withheld:  # by another configuration than when it left, or its file is damaged
                left += 1
    report.write_bytes(remaining.as_csv())
    text = f"{report}: what stays in {counted(written, 'instance')}" + (
        f"; {left} would be refused now" if left else ""
    )
    return Answer({"instances": written, "refused_now": left, "report": report}, text, failed=not written)
