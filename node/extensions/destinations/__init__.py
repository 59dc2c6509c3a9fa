"""Destinations of routes that are not DICOM peers: DICOMweb servers and folders."""

from node.api import Extension, Kind


class _Destinations(Extension):
    """What `[destinations.NAME]` names, but BIDS data sets and buckets."""

    name = "destinations"
    destinations = (
        Kind("dicomweb", f"{__name__}.settings:DicomwebSettings", f"{__name__}.dicomweb:WebDestination"),
        Kind("folder", f"{__name__}.settings:FolderSettings", f"{__name__}.folder:FolderDestination"),
    )


EXTENSION = _Destinations()
