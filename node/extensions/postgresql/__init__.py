"""The index in a database of PostgreSQL, and the hosts that share it (docs/cluster.md)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from node.extras import lacking
from node.hookspecs import Action, Command, Extension, IndexServer, OpenedRoot

if TYPE_CHECKING:
    from node.settings.model import Settings


class _PostgreSQL(Extension):
    name = "postgresql"
    server = IndexServer("node.extensions.postgresql.engine", "node.extensions.postgresql.membership:membership")
    commands = (
        Command(
            "db hosts",
            "Maintain",
            "node.extensions.postgresql.command:app",
            ("voxelnode db hosts", "voxelnode db hosts forget HOST"),
        ),
    )

    def mistakes(self, settings: Settings) -> Iterator[str]:
        if settings.index.url is not None:
            yield from lacking("index: url", "cluster")

    def actions(self, root: OpenedRoot) -> Mapping[str, Action]:
        from node.extensions.postgresql.actions import actions

        return actions(root.ingest, root.audit)


EXTENSION = _PostgreSQL()
