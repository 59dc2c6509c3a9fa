"""``voxelnode pseudonyms``: keys of pseudonyms, and the map that they make."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Annotated

import typer

from node.cli.options import Json
from node.cli.output import print_json

app = typer.Typer(help="Manage keys of pseudonyms, and show whose pseudonym is whose.", no_args_is_help=True)

KeyFile = Annotated[Path, typer.Argument(metavar="FILE", help="File of keys, which only its owner may read.")]
Name = Annotated[str | None, typer.Option("--name", help="Name of the key. [default: the time]")]


@app.command()
def new(path: KeyFile, name: Name = None) -> None:
    """Write a file with a new key."""
    from node.extensions.deidentify.pseudonyms import new_key_file

    print(f"{path}: key {new_key_file(path, name).name}")


@app.command()
def rotate(path: KeyFile, name: Name = None) -> None:
    """Add a new key to a file; pseudonyms are by it from then on."""
    from node.extensions.deidentify.pseudonyms import rotate as rotated

    print(f"{path}: key {rotated(path, name).name}")


@app.command(name="map")
def map_(
    path: KeyFile,
    source: Annotated[Path, typer.Argument(metavar="IN", exists=True, help="The originals: a folder or a file.")],
    uids: Annotated[bool, typer.Option("--uids", help="List studies, series and instances too.")] = False,
    json: Json = False,
) -> None:
    """Print the pseudonyms of originals as CSV. The output is patient data."""
    from node import logs
    from node.extensions.deidentify.map import Line, pseudonyms_of
    from node.extensions.deidentify.pseudonyms import read_keys

    logs.configure("warning")  # pydicom logs values, which are patient data
    lines = pseudonyms_of([source], read_keys(path), with_uids=uids)
    if json:
        print_json([line._asdict() for line in lines])
        return
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(Line._fields)
    writer.writerows(lines)
