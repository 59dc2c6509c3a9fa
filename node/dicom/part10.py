"""The head of a DICOM file, PS3.10 7.1: preamble, prefix and File Meta Information."""

from __future__ import annotations

import struct

IMPLEMENTATION_CLASS_UID = "2.25.203918237049125317709215371926431094752"
"""UID of voxelnode, from a UUID as PS3.5 B.2 allows."""

IMPLEMENTATION_VERSION_NAME = "VOXELNODE_0"


def file_head(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, source_ae_title: str = "") -> bytes:
    """Return the bytes before the data set in a DICOM file.

    Parameters
    ----------
    sop_class_uid, sop_instance_uid, transfer_syntax_uid : str
        (0002,0002), (0002,0003) and (0002,0010).
    source_ae_title : str
        (0002,0016), the sender of the instance; left out if empty.

    Returns
    -------
    bytes
        128 zeros, ``DICM`` and group 0002 in explicit VR little endian. The data set's own bytes follow unchanged.

    Notes
    -----
    PS3.10 7.1, table 7.1-1.
    """
    body = struct.pack("<HH2s2xL", 0x0002, 0x0001, b"OB", 2) + b"\x00\x01"
    body += _element(0x0002, b"UI", sop_class_uid)
    body += _element(0x0003, b"UI", sop_instance_uid)
    body += _element(0x0010, b"UI", transfer_syntax_uid)
    body += _element(0x0012, b"UI", IMPLEMENTATION_CLASS_UID)
    body += _element(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME)
    if source_ae_title:
        body += _element(0x0016, b"AE", source_ae_title)
    return b"\x00" * 128 + b"DICM" + struct.pack("<HH2sHL", 0x0002, 0x0000, b"UL", 4, len(body)) + body


def _element(number: int, vr: bytes, value: str) -> bytes:
    raw = value.encode("ascii", "replace")
    raw += (b"\x00" if vr == b"UI" else b" ") * (len(raw) % 2)
    return struct.pack("<HH2sH", 0x0002, number, vr, len(raw)) + raw
