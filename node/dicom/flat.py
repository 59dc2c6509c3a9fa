"""Encode data sets of text and small numbers, such as query answers, at a tenth of pydicom's cost."""

from __future__ import annotations

import struct
from typing import Any

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from node.dicom.header import EXPLICIT_BIG_ENDIAN, IMPLICIT_LITTLE_ENDIAN
from node.dicom.values import held_elements

_TEXT = frozenset(("AE", "AS", "CS", "DA", "IS", "LO", "PN", "SH", "TM", "UI"))
_NUMBERS = frozenset(("US",))
FLAT_VRS = _TEXT | _NUMBERS
"""The required value representations; all have a two-byte length (PS3.5 7.1.2)."""

_MAX_SHORT_LENGTH = 0xFFFE


class NotFlat(Exception):
    """The data set contains an element that needs a different encoding."""


def encode_flat(ds: Dataset, transfer_syntax_uid: str) -> bytes:
    """Return a data set encoded in one of the uncompressed transfer syntaxes (PS3.5 7.1); text is UTF-8.

    Elements that are not converted yet are little endian, and copied.

    Raises
    ------
    NotFlat
        The VR of an element is not in `FLAT_VRS`, or its value is longer than 65534 bytes.
    """
    order = ">" if transfer_syntax_uid == EXPLICIT_BIG_ENDIAN else "<"
    explicit = transfer_syntax_uid != IMPLICIT_LITTLE_ENDIAN
    head = struct.Struct(f"{order}HH2sH" if explicit else f"{order}HHL").pack
    number = struct.Struct(f"{order}H").pack
    chunks = []
    for tag, held in sorted(held_elements(ds).items()):
        is_encoded = isinstance(held, RawDataElement) and (order == "<" or held.VR in _TEXT)
        element = held if is_encoded else ds[tag]
        vr, content = element.VR, element.value
        if vr not in FLAT_VRS:
            raise NotFlat
        if is_encoded:
            value = content or b""
        elif vr in _TEXT:
            value = _text(content)
        else:
            value = b"" if content is None else number(content)
        value += (b"\0" if vr == "UI" else b" ") * (len(value) % 2)
        if len(value) > _MAX_SHORT_LENGTH:
            raise NotFlat
        group, element_number = tag >> 16, tag & 0xFFFF
        if explicit:
            chunks.append(head(group, element_number, vr.encode("ascii"), len(value)))
        else:
            chunks.append(head(group, element_number, len(value)))
        chunks.append(value)
    return b"".join(chunks)


def _text(value: Any) -> bytes:
    if value is None:
        return b""
    if isinstance(value, (MultiValue, list)):
        return "\\".join(map(str, value)).encode("utf-8")
    return str(value).encode("utf-8")
