"""Encode data sets of text and small numbers, such as the answers of a query, at a tenth of the usual cost."""

from __future__ import annotations

import struct
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from node.dicom.header import EXPLICIT_BIG_ENDIAN, IMPLICIT_LITTLE_ENDIAN

_TEXT = frozenset(("AE", "AS", "CS", "DA", "IS", "LO", "PN", "SH", "TM", "UI"))
_NUMBERS = frozenset(("US",))
FLAT_VRS = _TEXT | _NUMBERS
"""Value representations whose length takes two bytes, PS3.5 7.1.2, as far as they are needed."""

_LONGEST = 0xFFFE


class NotFlat(Exception):
    """The data set holds an element that is encoded in another way."""


def encode_flat(ds: Dataset, transfer_syntax_uid: str) -> bytes:
    """Encode a data set in one of the uncompressed transfer syntaxes (PS3.5 7.1); text is UTF-8.

    Raises
    ------
    NotFlat
        An element is none of `FLAT_VRS`, or longer than 65534 bytes.
    """
    order = ">" if transfer_syntax_uid == EXPLICIT_BIG_ENDIAN else "<"
    explicit = transfer_syntax_uid != IMPLICIT_LITTLE_ENDIAN
    head = struct.Struct(f"{order}HH2sH" if explicit else f"{order}HHL").pack
    number = struct.Struct(f"{order}H").pack
    found = []
    for tag in sorted(ds.keys()):
        element = ds[tag]
        vr, several = element.VR, element.value
        if vr not in FLAT_VRS:
            raise NotFlat
        if vr in _TEXT:
            value = _text(several)
            value += (b"\0" if vr == "UI" else b" ") * (len(value) % 2)
        else:
            value = b"" if several is None else number(several)
        if len(value) > _LONGEST:
            raise NotFlat
        group, element_number = tag >> 16, tag & 0xFFFF
        if explicit:
            found.append(head(group, element_number, vr.encode("ascii"), len(value)))
        else:
            found.append(head(group, element_number, len(value)))
        found.append(value)
    return b"".join(found)


def _text(value: Any) -> bytes:
    if value is None:
        return b""
    if isinstance(value, (MultiValue, list)):
        return "\\".join(map(str, value)).encode("utf-8")
    return str(value).encode("utf-8")
