"""``voxelnode viewers install|remove``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from node.api import Commands, Root, counted

NPM_REGISTRY = "https://registry.npmjs.org/"

app = Commands(help="Install viewers beside the web pages.", no_args_is_help=True)


Name = Annotated[Literal["ohif"], typer.Argument(metavar="VIEWER", help="Name of the viewer.")]


@app.command()
def install(
    viewer: Name,
    package: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", help="npm tarball of the viewer, for machines without Internet."),
    ] = None,
    registry: Annotated[
        str, typer.Option(metavar="URL", envvar="npm_config_registry", help="npm registry to download from.")
    ] = NPM_REGISTRY,
    *,
    root: Root,
) -> None:
    """Install a viewer under the root.

    Downloads the pinned version and checks its digest. A running node serves it at once.
    """
    from node.extensions.ohif.package import BASE, OHIF
    from node.extensions.ohif.package import install as install_ohif

    count = install_ohif(root.folder, package, registry)
    print(f"installed {OHIF.name} {OHIF.version}, {counted(count, 'file')}; the node serves it at {BASE}")


@app.command()
def remove(viewer: Name, root: Root) -> None:
    """Remove a viewer."""
    from node.extensions.ohif import package as viewers

    print(f"{viewer} {'removed' if viewers.remove(root.folder) else 'is not installed'}")
