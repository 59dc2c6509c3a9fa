"""The metadata of a file in the DICOM JSON Model, and the long values omitted from it (PS3.18 10.4.1.1.2)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydicom import Dataset
from pydicom.dataelem import DataElement
from pydicom.tag import BaseTag

from node.children.decoding import NoSuchValue
from node.children.forwarding import CopyChange, transformed
from node.dicom.coercion import Identity
from node.dicom.encoding import DEFLATED_LITTLE_ENDIAN, EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN
from node.dicom.json_model import MAX_DEPTH, has_fragments, json_model
from node.dicom.uids import web_transfer_syntax
from node.dicom.values import CONVERSION_ERRORS, held_elements, little_endian, whole
from node.errors import is_out_of_memory
from node.extensions.dicomweb.pixel_element import header_and_pixels
from node.extensions.dicomweb.xml_model import encoded_model
from node.files.reading import read_instance

NATIVE = frozenset((IMPLICIT_LITTLE_ENDIAN, EXPLICIT_LITTLE_ENDIAN, DEFLATED_LITTLE_ENDIAN))
"""Transfer syntaxes whose pixel data have a defined length and can be skipped."""

LENGTH_BYTES = 4


def metadata(
    path: Path, transfer_syntax_uid: str, url: str, identity: Identity | None = None, *, as_xml: bool = False
) -> bytes:
    """Return a file in the DICOM JSON Model, with its transfer syntax but without File Meta Information.

    `url`: URL of the instance, the prefix of all bulk data URIs. `identity`: of the patient, if it is not as stored.
    `as_xml`: return the Native DICOM Model instead.

    Raises Exception: as from `node.files.reading.read_instance`.
    """
    ds = transformed(_header(path, transfer_syntax_uid), CopyChange(identity=identity))
    model = json_model(ds, lambda tag_path: f"{url}/bulkdata/{quote(tag_path)}")
    # Not an element of the data set, but viewers need it to decode frames (PS3.18 10.4.1.1.2).
    model["00083002"] = {"vr": "UI", "Value": [web_transfer_syntax(transfer_syntax_uid)]}
    return encoded_model(model, as_xml=as_xml)


def metadata_of_each(of_each: Sequence[tuple[str, str, Identity | None]], as_xml: bool, *paths: Path) -> bytes:
    """Return the `metadata` of several files, each behind its length; empty for a file that cannot be read."""
    found = bytearray()
    for path, arguments in zip(paths, of_each, strict=True):
        try:
            encoded = metadata(path, *arguments, as_xml=as_xml)
        except Exception as error:  # pydicom raises anything on damaged files
            if is_out_of_memory(error):
                raise
            encoded = b""
        found += len(encoded).to_bytes(LENGTH_BYTES) + encoded
    return bytes(found)


def split_metadata(found: bytes) -> Iterator[bytes]:
    """Yield what `metadata_of_each` has found."""
    at = 0
    while at < len(found):
        start = at + LENGTH_BYTES
        at = start + int.from_bytes(found[at:start])
        yield found[start:at]


def bulk_data_paths(path: Path, transfer_syntax_uid: str) -> list[str]:
    """Return the paths of the values that `metadata` omits, in order; see `long_value`. Arguments as of `metadata`."""
    paths: list[str] = []
    json_model(_header(path, transfer_syntax_uid), paths.append)
    return paths


def _header(path: Path, transfer_syntax_uid: str) -> Dataset:
    if transfer_syntax_uid in NATIVE:
        return read_instance(path)
    header, element = header_and_pixels(path)
    if element is None:
        return read_instance(path)
    header[element.tag] = DataElement(element.tag, element.vr, b"\0\0")  # the metadata only show that it has a value
    return header


def long_value(path: Path, tag_path: str) -> bytes:
    """Return a value that `metadata` omits.

    `tag_path`: the end of the value's URI: tags, and numbers of items from 1, joined by dots.

    Raises NoSuchValue: the instance has no such bulk data.
    Raises OSError: the file cannot be read.
    """
    steps = tag_path.split(".")
    try:
        if len(steps) > 2 * MAX_DEPTH + 1:
            raise LookupError
        ds = read_instance(path)
        for sequence, item in zip(steps[:-1:2], steps[1::2], strict=True):
            ds = ds[int(sequence, 16)].value[int(item) - 1]
        tag = BaseTag(int(steps[-1], 16))
        data = None if len(steps) > 1 and has_fragments(held_elements(ds)[tag]) else _bytes_of(ds, tag)
    except CONVERSION_ERRORS:
        data = None
    if not isinstance(data, bytes):
        raise NoSuchValue("the instance has no such bulk data")
    return data


def _bytes_of(ds: Dataset, tag: BaseTag) -> Any:
    """Return text in UTF-8, and another value as it is stored, in little endian: also one that its VR cannot have.

    A document has no padding (PS3.3 C.24.2).
    """
    stored, vr = held_elements(ds)[tag].value, None
    try:
        data, vr = ds[tag].value, ds[tag].VR
    except CONVERSION_ERRORS:
        data = stored
    if isinstance(data, str):
        return data.encode()
    if tag == 0x00420011 and isinstance(data, bytes):
        return data[: whole(ds, "EncapsulatedDocumentLength") or len(data)]
    if vr != "SQ" and not isinstance(data, bytes):  # several texts, or numbers
        data = stored
    return little_endian(vr, data) if isinstance(data, bytes) and ds.original_encoding[1] is False else data
