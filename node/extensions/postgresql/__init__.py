"""The index in a database of PostgreSQL, and the hosts that share it (docs/cluster.md)."""

from __future__ import annotations

from collections.abc import Mapping

from node.hookspecs import Action, Command, Extension, OpenedRoot


class _PostgreSQL(Extension):
    name = "postgresql"
    commands = (
        Command(
            "cluster",
            "Maintain",
            "node.extensions.postgresql.command:app",
            ("voxelnode cluster hosts", "voxelnode cluster forget HOST"),
        ),
    )

    def actions(self, root: OpenedRoot) -> Mapping[str, Action]:
        from node.extensions.postgresql.actions import actions

        return actions(root.ingest, root.audit)


EXTENSION = _PostgreSQL()
