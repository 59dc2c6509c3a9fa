"""Destinations of routes that are not DICOM peers: DICOMweb servers and folders."""

from __future__ import annotations

from node.hookspecs import Extension, Key


class _Destinations(Extension):
    """What `[destinations.NAME]` names, but BIDS data sets and buckets."""

    name = "destinations"
    receivers = (
        Key("url", f"{__name__}.dicomweb:opened"),
        Key("folder", f"{__name__}.folder:opened"),
    )


EXTENSION = _Destinations()
