"""Encode data sets of text and small numbers, such as entries of a worklist, at a tenth of pydicom's cost."""

from __future__ import annotations

import struct
from typing import Any

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from node.dicom.encoding import ITEM, MAX_SHORT_LENGTH, encoding_of
from node.dicom.values import held_elements

_TEXT = frozenset(("AE", "AS", "CS", "DA", "IS", "LO", "PN", "SH", "TM", "UI"))
_NUMBERS = frozenset(("US",))
FLAT_VRS = _TEXT | _NUMBERS
"""The required value representations besides SQ; all have a two-byte length (PS3.5 7.1.2)."""


class NotFlat(Exception):
    """The data set contains an element that needs a different encoding."""


def encode_flat(ds: Dataset, transfer_syntax_uid: str) -> bytes:
    """Return a data set encoded in one of the uncompressed transfer syntaxes (PS3.5 7.1); text is UTF-8.

    Elements that are not converted yet are little endian, and copied. Sequences may contain data sets of the same kind.

    Raises
    ------
    NotFlat
        The VR of an element is not in `FLAT_VRS`, or its value is longer than 65534 bytes.
    """
    return _Encoding(transfer_syntax_uid).data_set(ds)


class _Encoding:
    """The encoding of one transfer syntax."""

    def __init__(self, transfer_syntax_uid: str) -> None:
        encoding = encoding_of(transfer_syntax_uid)
        self._order, self._head_writer, self._item = encoding.order, encoding.head_writer, encoding.head_writer(ITEM)
        self._number = struct.Struct(f"{encoding.order}H").pack

    def data_set(self, ds: Dataset) -> bytes:
        chunks = []
        for tag, held in sorted(held_elements(ds).items()):
            is_encoded = isinstance(held, RawDataElement) and (self._order == "<" or held.VR in _TEXT)
            element: Any = held if is_encoded else ds[tag]
            vr = element.VR
            if vr == "SQ":
                items = [self.data_set(item) for item in element.value or ()]
                value = b"".join(self._item(len(item)) + item for item in items)
            elif vr in FLAT_VRS:
                value = self._value(vr, element.value, is_encoded)
            else:
                raise NotFlat
            chunks += [self._head_writer(tag, vr)(len(value)), value]
        return b"".join(chunks)

    def _value(self, vr: str, content: Any, is_encoded: bool) -> bytes:
        if is_encoded:
            value: bytes = content or b""
        elif vr in _TEXT:
            value = _text(content)
        else:
            value = b"" if content is None else self._number(content)
        value += (b"\0" if vr == "UI" else b" ") * (len(value) % 2)
        if len(value) > MAX_SHORT_LENGTH:
            raise NotFlat
        return value


def _text(value: Any) -> bytes:
    if value is None:
        return b""
    if isinstance(value, (MultiValue, list)):
        return "\\".join(map(str, value)).encode("utf-8")
    return str(value).encode("utf-8")
