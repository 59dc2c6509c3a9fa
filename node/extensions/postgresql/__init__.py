"""The index in a database of PostgreSQL, and the hosts that share it (docs/cluster.md)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from node.hookspecs import Command, Extension
from node.registry import lacking

if TYPE_CHECKING:
    from node.settings.model import Settings


class _PostgreSQL(Extension):
    name = "postgresql"
    commands = (
        Command(
            "db hosts",
            "Maintain",
            "node.extensions.postgresql.command:app",
            ("voxelnode db hosts", "voxelnode db hosts forget HOST"),
        ),
    )
    actions = "node.extensions.postgresql.hosts:actions"

    def mistakes(self, settings: Settings) -> Iterator[str]:
        if settings.index.url is not None:
            yield from lacking("index: url", "cluster")


EXTENSION = _PostgreSQL()
