"""``voxelnode get``."""

from __future__ import annotations

from typing import Annotated

import typer

from node.cli.options import ConfigFile, Json, Root, settings_for_change
from node.cli.output import print_fields, print_json


def get(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Study Instance UID.")],
    source: Annotated[str, typer.Option("--from", metavar="PEER", help="A name in [peers], or AET@HOST:PORT.")],
    series: Annotated[
        str | None, typer.Option("--series", metavar="UID", help="Only this series of the study. [default: all series]")
    ] = None,
    config: ConfigFile = None,
    root: Root = None,
    json: Json = False,
) -> None:
    """Retrieve a study from another node into the archive (C-GET).

    If a node runs on this root, the node does it. Exit 1 if an instance failed.
    """
    settings = settings_for_change(config, root)

    from node.association.addresses import address_of
    from node.control.repository import perform_action

    address_of(source, settings)  # reports a mistake here rather than from the node
    counts = perform_action(settings, "get", study=study, series=series or "", source=source)
    if json:
        print_json(counts)
    else:
        print_fields(
            {"instances": counts["completed"], "with a warning": counts["warning"], "failed": counts["failed"]}
        )
    if counts["failed"]:
        raise typer.Exit(1)
