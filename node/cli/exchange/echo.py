"""``voxelnode echo``."""

from __future__ import annotations

from typing import Annotated

import typer

from node.cli.options import ConfigFile, Json, load
from node.cli.output import print_json


def echo(
    peer: Annotated[
        str | None,
        typer.Argument(
            metavar="PEER",
            help="A name in [peers], or AET@HOST:PORT. [default: the node of this configuration]",
        ),
    ] = None,
    config: ConfigFile = None,
    calling_aet: Annotated[
        str | None, typer.Option("--calling-aet", metavar="AET", help="Calling AE title. [default: [dicom] ae_title]")
    ] = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=0.1, max=600, help="Maximum wait.")] = 10,
    json: Json = False,
) -> None:
    """Test the connection to a node (C-ECHO)."""
    settings = load(config).settings

    from node.association.addresses import address_of
    from node.association.client.association import Address
    from node.association.client.echo import verify
    from node.errors import VoxelnodeError

    if peer is None:
        address = Address(settings.dicom.ae_title, settings.dicom.host or "127.0.0.1", settings.dicom.port)
    else:
        address = address_of(peer, settings)
    answer = {"ae_title": address.ae_title, "host": address.host, "port": address.port}
    try:
        took = verify(address, calling_aet or settings.dicom.ae_title, timeout)
    except VoxelnodeError as error:
        if not json:
            raise
        print_json({**answer, "ok": False, "error": str(error)})
        raise typer.Exit(1) from error
    if json:
        print_json({**answer, "ok": True, "seconds": took})
    else:
        print(f"{address.ae_title} on {address.host}:{address.port} answers ({took * 1000:.0f} ms)")
