"""Destinations of routes that are not DICOM peers: DICOMweb servers, buckets and folders."""

from __future__ import annotations

from node.hookspecs import Extension, ReceiverKey


class _Destinations(Extension):
    """What `[destinations.NAME]` names, but BIDS data sets."""

    name = "destinations"
    receivers = (
        ReceiverKey("url", f"{__name__}.dicomweb:opened"),
        ReceiverKey("s3", f"{__name__}.bucket:opened"),
        ReceiverKey("folder", f"{__name__}.folder:opened"),
    )


EXTENSION = _Destinations()
