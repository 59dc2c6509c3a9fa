"""``voxelnode get``."""

from __future__ import annotations

from typing import Annotated

import typer

from node.cli.options import ConfigFile, Json, Root, load
from node.cli.output import print_fields, print_json


def get(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Study Instance UID.")],
    source: Annotated[str, typer.Option("--from", metavar="PEER", help="A name in [peers], or AET@HOST:PORT.")],
    series: Annotated[
        str | None, typer.Option("--series", metavar="UID", help="One series of it. [default: all]")
    ] = None,
    config: ConfigFile = None,
    root: Root = None,
    json: Json = False,
) -> None:
    """Get a study of another node into the archive (C-GET); also while a node serves this root: it does it then."""
    settings = load(config, storage__root=root).settings

    from node import logs
    from node.association.addresses import address_of
    from node.control.repository import perform

    address_of(source, settings)  # what is wrong with it is told here, not by the node
    logs.configure("warning", settings.log.format)
    got = perform(settings, "get", study=study, series=series or "", source=source)
    if json:
        print_json(got)
    else:
        print_fields({"instances": got["completed"], "with a warning": got["warning"], "failed": got["failed"]})
    if got["failed"]:
        raise typer.Exit(1)
