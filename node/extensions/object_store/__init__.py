"""The object store behind the archive, which is a bucket or a folder (docs/object-store.md)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from node.extras import lacking
from node.hookspecs import Command, Extension

if TYPE_CHECKING:
    from node.settings.model import Settings


class _ObjectStore(Extension):
    name = "object_store"
    store = "node.extensions.object_store.kind:KIND"
    commands = (
        Command(
            "archive",
            "Maintain",
            "node.extensions.object_store.command:app",
            ("voxelnode archive status", "voxelnode archive copy --to store"),
            before="journal",
        ),
    )

    def mistakes(self, settings: Settings) -> Iterator[str]:
        if (settings.storage.url or "").startswith("s3://"):
            yield from lacking("storage: url", "s3")


EXTENSION = _ObjectStore()
