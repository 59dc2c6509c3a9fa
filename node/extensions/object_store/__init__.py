"""The object store behind the archive, which is a bucket or a folder (docs/object-store.md); buckets of routes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from node.hookspecs import Command, Extension, Kind, Table
from node.registry import lacking

if TYPE_CHECKING:
    from node.settings.model import Settings


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
    tables = (Table("storage", f"{__name__}.settings:StoreSettings"),)
    destinations = (Kind("s3", f"{__name__}.settings:BucketSettings", f"{__name__}.destination:BucketDestination"),)

    def mistakes(self, settings: Settings) -> Iterator[str]:
        if (settings.storage.url or "").startswith("s3://"):
            yield from lacking("storage: url", "s3")
        for name, destination in settings.destinations.items():
            if destination.kind == "s3":
                yield from lacking(f"destinations.{name}: s3", "s3")


EXTENSION = _ObjectStore()
