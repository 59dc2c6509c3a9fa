"""What a file says, in the DICOM JSON Model, and the long values that are left out of it (PS3.18 10.4.1.1.2)."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

from pydicom import Dataset
from pydicom.dataelem import DataElement

from node.dicom.bounded import TooLong
from node.dicom.header import DEFLATED_LITTLE_ENDIAN
from node.dicom.json_model import json_model
from node.dicom.pixel_element import header_and_pixels
from node.dicom.reading import read_instance
from node.dicom.values import CONVERSION_ERRORS, value, whole

NATIVE = frozenset(("1.2.840.10008.1.2", "1.2.840.10008.1.2.1"))
"""Transfer syntaxes whose pixel data need not be read to know their length."""

MAXIMUM_DEPTH = 16
"""Of a path to bulk data: sequences within each other."""


class NoSuchValue(Exception):
    """The data set holds no such bulk data."""


def metadata(path: Path, transfer_syntax_uid: str, url: str, longest: int | None = None) -> bytes:
    """Return the elements of a file in the DICOM JSON Model, without File Meta Information but with its syntax.

    Parameters
    ----------
    url : str
        Of the instance; URIs of bulk data begin with it.
    longest : int or None
        Bytes of the file that may be read for it.

    Raises
    ------
    TooLong
        It takes more than `longest`.
    Exception
        Whatever pydicom raises for a damaged file.
    """
    ds = _header(path, transfer_syntax_uid, longest)
    told = json_model(ds, lambda place: f"{url}/bulkdata/{quote(place)}")
    # Not an element of the data set, but how viewers know what frames are (PS3.18 10.4.1.1.2).
    told["00083002"] = {"vr": "UI", "Value": [transfer_syntax_uid]}
    told = dict(sorted(told.items()))
    return json.dumps(told, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _header(path: Path, transfer_syntax_uid: str, longest: int | None) -> Dataset:
    if transfer_syntax_uid == DEFLATED_LITTLE_ENDIAN and longest is not None:
        raise TooLong  # nobody knows how long it is until it is inflated
    if transfer_syntax_uid in NATIVE:
        return read_instance(path, longest)
    header, element = header_and_pixels(path, longest)
    if element is None:  # or deflated
        return read_instance(path, longest)
    header[element.tag] = DataElement(element.tag, element.vr, b"")  # that it is there is all that is told
    return header


def long_value(path: Path, place: str) -> bytes:
    """Return the value that `metadata` tells a URI of; `place` is the end of that URI.

    Raises
    ------
    NoSuchValue
    OSError
    """
    steps = place.split(".")
    try:
        if len(steps) > 2 * MAXIMUM_DEPTH:
            raise LookupError
        found = read_instance(path)
        for tag, item in zip(steps[:-1:2], steps[1::2], strict=True):
            found = found[int(tag, 16)].value[int(item) - 1]
        data = found[int(steps[-1], 16)].value
    except CONVERSION_ERRORS:
        data = None
    if isinstance(data, str):
        data = data.encode()
    if not isinstance(data, bytes):
        raise NoSuchValue("the instance has no such bulk data")
    return data


def document(path: Path) -> bytes:
    """Return the Encapsulated Document (0042,0011) of a file without its padding (PS3.3 C.24.2).

    Raises
    ------
    NoSuchValue
    """
    ds = read_instance(path)
    data = value(ds, "EncapsulatedDocument")
    if not isinstance(data, bytes):
        raise NoSuchValue("the instance holds no document")
    return data[: whole(ds, "EncapsulatedDocumentLength") or len(data)]
