"""How an instance of each storage SOP class is shown: a picture, a video, a document, a report or its attributes."""

from enum import StrEnum

from pydicom.uid import MPEGTransferSyntaxes

from node.dicom.uids import registered

DOCUMENT_TYPES = {
    "1.2.840.10008.5.1.4.1.1.104.1": "application/pdf",
    "1.2.840.10008.5.1.4.1.1.104.2": "text/xml",
    "1.2.840.10008.5.1.4.1.1.104.3": "model/stl",
    "1.2.840.10008.5.1.4.1.1.104.4": "model/obj",
    "1.2.840.10008.5.1.4.1.1.104.5": "model/mtl",
}
"""Media types of encapsulated documents by SOP class (PS3.3 A.45, A.85)."""

_REPORTS = "1.2.840.10008.5.1.4.1.1.88."
"""How the UIDs of structured reports and of Key Object Selection Documents begin (PS3.4 B.5)."""

_GRIDS = ("Image", "Segmentation Storage", "Map Storage", "RT Dose", "Hardcopy", "US Volume", "Volume Analysis")
"""Words in the names of classes with pixels (PS3.6 Annex A)."""


class Seen(StrEnum):
    """What an instance is shown as."""

    PICTURE = "picture"
    VIDEO = "video"
    DOCUMENT = "document"
    REPORT = "report"
    ATTRIBUTES = "attributes"


def seen_as(sop_class_uid: str, transfer_syntax_uid: str = "", *, has_rows: bool | None = None) -> Seen:
    """Return what an instance is shown as.

    `has_rows`: whether it has Rows (0028,0010); None: as the name of its class says.
    """
    if transfer_syntax_uid in MPEGTransferSyntaxes:
        return Seen.VIDEO
    if sop_class_uid in DOCUMENT_TYPES:
        return Seen.DOCUMENT
    if sop_class_uid.startswith(_REPORTS):
        return Seen.REPORT
    name = registered(sop_class_uid).name
    if "Spectroscopy" in name or "Surface" in name:  # rows of voxels, and triangles
        return Seen.ATTRIBUTES
    if has_rows is None:
        has_rows = any(word in name for word in _GRIDS)
    return Seen.PICTURE if has_rows else Seen.ATTRIBUTES
