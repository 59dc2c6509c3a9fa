"""``voxelnode viewers``: viewers that are installed beside the pages."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from node.cli.options import ConfigFile, Json, Root, load
from node.cli.output import print_fields, print_json

NPM_REGISTRY = "https://registry.npmjs.org/"

app = typer.Typer(help="Viewers that are installed beside the pages, below the root.", no_args_is_help=True)


class Viewer(Enum):
    """What can be installed."""

    OHIF = "ohif"


Name = Annotated[Viewer, typer.Argument(help="Which viewer.")]


@app.command()
def install(
    viewer: Name,
    package: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="Its npm tarball, for machines without a network.")
    ] = None,
    registry: Annotated[
        str, typer.Option(metavar="URL", envvar="npm_config_registry", help="npm registry to fetch it from.")
    ] = NPM_REGISTRY,
    config: ConfigFile = None,
    root: Root = None,
) -> None:
    """Fetch a viewer at its pinned version, check its digest, and lay it below the root; a running node serves it."""
    settings = load(config, storage__root=root).settings

    from node.web.viewers import BASE, OHIF
    from node.web.viewers import install as install_ohif

    count = install_ohif(settings.storage.root, package, registry)
    print(f"{OHIF.name} {OHIF.version} is installed, {count} files; the node serves it at {BASE}")


@app.command()
def remove(viewer: Name, config: ConfigFile = None, root: Root = None) -> None:
    """Take a viewer away again."""
    settings = load(config, storage__root=root).settings

    from node.web import viewers

    print(f"{viewer.value} is removed" if viewers.remove(settings.storage.root) else f"{viewer.value} is not installed")


@app.command("list")
def list_(config: ConfigFile = None, root: Root = None, json: Json = False) -> None:
    """Tell which viewers are installed, and which could be."""
    settings = load(config, storage__root=root).settings

    from node.web.viewers import OHIF, folder_of, installed

    found = installed(settings.storage.root)
    told = {
        "viewer": Viewer.OHIF.value,
        "installed": None if found is None else found["version"],
        "offered": OHIF.version,
        "folder": folder_of(settings.storage.root),
    }
    if json:
        print_json([told])
    else:
        print_fields(told)
