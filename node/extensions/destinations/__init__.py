"""Destinations of routes that are not DICOM peers: DICOMweb servers, buckets and folders."""

from __future__ import annotations

from node.hookspecs import Extension, Key


class _Destinations(Extension):
    """What `[destinations.NAME]` names, but BIDS data sets."""

    name = "destinations"
    receivers = (
        Key("url", f"{__name__}.dicomweb:opened"),
        Key("s3", f"{__name__}.bucket:opened"),
        Key("folder", f"{__name__}.folder:opened"),
    )


EXTENSION = _Destinations()
