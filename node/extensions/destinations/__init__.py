"""Destinations of routes that are not DICOM peers: DICOMweb servers, buckets and folders."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from node.extras import lacking
from node.hookspecs import Extension, Key

if TYPE_CHECKING:
    from node.settings.model import Settings


class _Destinations(Extension):
    """What `[destinations.NAME]` names, but BIDS data sets."""

    name = "destinations"
    receivers = (
        Key("url", f"{__name__}.dicomweb:opened"),
        Key("s3", f"{__name__}.bucket:opened"),
        Key("folder", f"{__name__}.folder:opened"),
    )

    def mistakes(self, settings: Settings) -> Iterator[str]:
        for name, destination in settings.destinations.items():
            if destination.s3 is not None:
                yield from lacking(f"destinations.{name}: s3", "s3")


EXTENSION = _Destinations()
