"""Options shared by several commands, and the settings that result from them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from node.archive.base import LocalFile
    from node.index.database.reading import ReadIndex
    from node.settings.model import Settings

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="Configuration file (TOML). [default: $VOXELNODE_CONFIG, else ./voxelnode.toml if it exists]",
    ),
]
Root = Annotated[
    Path | None,
    typer.Option("--root", metavar="DIR", help="Folder of archive, index and volumes; overrides [storage] root."),
]
Uids = Annotated[bool, typer.Option("--uids", help="Print UIDs and texts in full, in a wider table.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def load(config: Path | None, **flags: Any) -> Any:
    """Return the `node.settings.load.Configuration` of a command; flags are given as ``section__key=value``."""
    from node.settings import load as configuration

    return configuration.load(config, {name.replace("__", "."): value for name, value in flags.items()})


def settings_for_change(config: Path | None, root: Path | None) -> Settings:
    """Return the settings of a command that changes a root, and log only warnings: the command prints what it did."""
    settings: Settings = load(config, storage__root=root).settings

    from node import logs

    logs.configure("warning", settings.log.format)
    return settings


@contextmanager
def reading_index(config: Path | None, root: Path | None) -> Iterator[ReadIndex]:
    """Open the index of a command's root for reading; see `node.index.database.reading`."""
    from node.index.database.index import reading

    settings = load(config, storage__root=root).settings
    with reading(settings.storage.root, settings.index.url) as index:
        yield index


@contextmanager
def archive_files(settings: Settings) -> Iterator[LocalFile]:
    """Yield what gives the files of the archive; see `node.archive.remote.fetching`."""
    from node.archive.objects import configured_store
    from node.archive.remote import fetching
    from node.index.database.index import other_host_of

    others = other_host_of(settings.storage.root, settings.index.url, settings.holder)
    with fetching(settings.storage.root.absolute(), configured_store(settings.storage), others) as local:
        yield local
