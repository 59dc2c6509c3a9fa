"""The head of a DICOM file, PS3.10 7.1: preamble, prefix and File Meta Information."""

from __future__ import annotations

import struct
from functools import cache, lru_cache

from node.dicom.encoding import EXPLICIT_LITTLE_ENDIAN, encoding_of

IMPLEMENTATION_CLASS_UID = "2.25.203918237049125317709215371926431094752"
"""UID of voxelnode, from a UUID as PS3.5 B.2 allows."""

IMPLEMENTATION_VERSION_NAME = "VOXELNODE_0"

_PREAMBLE = b"\x00" * 128 + b"DICM"
META_BYTES = 1 << 16
"""File Meta Information is shorter than this."""

_META_READ = frozenset((0x0002, 0x0003, 0x0010, 0x0016))
"""SOP Class UID, SOP Instance UID, Transfer Syntax UID, Source Application Entity Title."""


def file_head(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, source_ae_title: str = "") -> bytes:
    """Return the bytes before the data set in a DICOM file.

    `sop_class_uid`, `sop_instance_uid`, `transfer_syntax_uid`: (0002,0002), (0002,0003) and (0002,0010).
    `source_ae_title`: (0002,0016), the sender of the instance; left out if empty.

    128 zeros, ``DICM`` and group 0002 in explicit VR little endian (PS3.10 7.1, table 7.1-1). The data set's own bytes
    follow unchanged.
    """
    before, behind = _around_instance_uid(sop_class_uid, transfer_syntax_uid, source_ae_title)
    body = before + _text(0x00020003, "UI", sop_instance_uid) + behind
    return _PREAMBLE + _element(0x00020000, "UL", struct.pack("<L", len(body))) + body


@lru_cache(maxsize=256)
def _around_instance_uid(sop_class_uid: str, transfer_syntax_uid: str, source_ae_title: str) -> tuple[bytes, bytes]:
    """Return the elements before the SOP Instance UID and those behind it: the same for all instances of a sender."""
    before = _element(0x00020001, "OB", b"\x00\x01") + _text(0x00020002, "UI", sop_class_uid)
    behind = _text(0x00020010, "UI", transfer_syntax_uid)
    behind += _text(0x00020012, "UI", IMPLEMENTATION_CLASS_UID)
    behind += _text(0x00020013, "SH", IMPLEMENTATION_VERSION_NAME)
    if source_ae_title:
        behind += _text(0x00020016, "AE", source_ae_title)
    return before, behind


def file_meta(head: bytes) -> tuple[dict[int, str], int]:
    """Return the texts of group 0002 that identify an instance, by element, and where the data set begins.

    Preamble and group may be absent. The group's own length is often wrong, and is not believed.

    `head`: the beginning of a file.
    """
    values: dict[int, str] = {}
    at = 132 if head[128:132] == b"DICM" else 0
    while head[at : at + 2] == b"\x02\x00" and at + 12 <= len(head):
        try:
            tag, _, length, at = encoding_of(EXPLICIT_LITTLE_ENDIAN).head(head, at, is_implicit=False)
        except struct.error:
            break
        if tag & 0xFFFF in _META_READ:
            values[tag & 0xFFFF] = head[at : at + length].rstrip(b"\x00 ").decode("ascii", "replace")
        at += length
    return values, at


def _text(tag: int, vr: str, value: str) -> bytes:
    raw = value.encode("ascii", "replace")
    return _element(tag, vr, raw + (b"\x00" if vr == "UI" else b" ") * (len(raw) % 2))


def _element(tag: int, vr: str, value: bytes) -> bytes:
    return _head_writer(tag, vr)(len(value)) + value


_head_writer = cache(encoding_of(EXPLICIT_LITTLE_ENDIAN).head_writer)
"""Every received instance needs the same seven heads."""
