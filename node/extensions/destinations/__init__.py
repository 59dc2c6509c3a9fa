"""Destinations of routes that are not DICOM peers: DICOMweb servers, buckets and folders."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from node.extras import lacking
from node.hookspecs import Extension, Kind

if TYPE_CHECKING:
    from node.settings.model import Settings


class _Destinations(Extension):
    """What `[destinations.NAME]` names, but BIDS data sets."""

    name = "destinations"
    destinations = (
        Kind("dicomweb", f"{__name__}.settings:DicomwebSettings", f"{__name__}.dicomweb:opened"),
        Kind("s3", f"{__name__}.settings:BucketSettings", f"{__name__}.bucket:opened"),
        Kind("folder", f"{__name__}.settings:FolderSettings", f"{__name__}.folder:opened"),
    )

    def mistakes(self, settings: Settings) -> Iterator[str]:
        for name, destination in settings.destinations.items():
            if destination.kind == "s3":
                yield from lacking(f"destinations.{name}: s3", "s3")


EXTENSION = _Destinations()
