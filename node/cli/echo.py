"""``voxelnode echo``."""

from __future__ import annotations

from typing import Annotated

import typer

from node.cli.options import ConfigFile, Json, load
from node.cli.output import print_json


def echo(
    peer: Annotated[
        str | None,
        typer.Argument(metavar="[AET@HOST:PORT]", help="Whom to ask. [default: the node of this configuration]"),
    ] = None,
    config: ConfigFile = None,
    calling_aet: Annotated[
        str | None, typer.Option("--calling-aet", metavar="AET", help="Our own AE title. [default: dicom.ae_title]")
    ] = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=0.1, max=600, help="Longest wait.")] = 10,
    json: Json = False,
) -> None:
    """Ask a node whether it answers (C-ECHO, PS3.4 annex A)."""
    settings = load(config).settings
    if peer is None:
        host = settings.dicom.host or "127.0.0.1"
        called, port = settings.dicom.ae_title, settings.dicom.port
    else:
        called, host, port = _parsed(peer)

    from node.errors import VoxelnodeError
    from node.scp.echo import verify

    answer = {"ae_title": called, "host": host, "port": port}
    try:
        took = verify(host, port, calling_aet or settings.dicom.ae_title, called, timeout)
    except VoxelnodeError as error:
        if not json:
            raise
        print_json({**answer, "ok": False, "error": str(error)})
        raise typer.Exit(1) from error
    if json:
        print_json({**answer, "ok": True, "seconds": took})
    else:
        print(f"{called} on {host}:{port} answers ({took * 1000:.0f} ms)")


def _parsed(peer: str) -> tuple[str, str, int]:
    called, at, address = peer.rpartition("@")
    host, colon, port = address.rpartition(":")
    if not (at and called and colon and host and port.isdecimal() and 0 < int(port) < 65536):
        raise typer.BadParameter(f"{peer!r} is not AET@HOST:PORT, such as PACS@10.1.2.3:104.")
    return called, host.strip("[]"), int(port)
