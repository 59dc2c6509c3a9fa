"""The object store behind the archive, which is a bucket or a folder (docs/object-store.md)."""

from __future__ import annotations

from node.hookspecs import Command, Extension


class _ObjectStore(Extension):
    name = "object_store"
    commands = (
        Command(
            "archive",
            "Maintain",
            "node.extensions.object_store.command:app",
            ("voxelnode archive status", "voxelnode archive copy --to store"),
            before="journal",
        ),
    )


EXTENSION = _ObjectStore()
