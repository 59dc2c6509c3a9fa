"""Stored instances for receivers that cannot take their transfer syntax: the same values, uncompressed.

Nothing is decoded that need not be. Elements keep the bytes of their values; only what stands before them changes, and
the order of bytes where that is the difference. Compressed frames are decoded, and what describes them is set right.
Nothing is ever compressed, and the SOP Instance UID stays: PS3.5 10.1 has Implicit VR Little Endian as the one that
every receiver can take.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import correct_ambiguous_vr_element, write_dataset
from pydicom.tag import BaseTag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from node.dicom.values import CONVERSION_ERRORS
from node.errors import ConversionRefused, VoxelnodeError
from node.volume.read.colours import to_rgb
from node.volume.read.decoders import can_decode
from node.volume.read.pixels import DecompressedFrames, decompressed_frames

TARGETS = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))
"""What can be made of a stored instance, the better one first: it keeps the value representations."""

_NATIVE = frozenset((*TARGETS, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian))

_PIXEL_DATA = BaseTag(0x7FE00010)
_OFFSET_TABLES = (BaseTag(0x7FE00001), BaseTag(0x7FE00002))
"""Extended Offset Table and its lengths: of compressed frames only, PS3.3 C.7.6.3.1.8."""

_UNDEFINED_LENGTH = 0xFFFFFFFF
_LONGEST_VALUE = (1 << 32) - 2
_LONGEST_SHORT_VALUE = 0xFFFF
_WORD_BYTES = {
    **dict.fromkeys(("AT", "OW", "SS", "US"), 2),
    **dict.fromkeys(("FL", "OF", "OL", "SL", "UL"), 4),
    **dict.fromkeys(("FD", "OD", "OV", "SV", "UV"), 8),
}
"""Bytes that change their order with the endianness, PS3.5 7.3."""


class NotTranscodable(VoxelnodeError):
    """An instance cannot be sent in any transfer syntax that its receiver takes; the message says why."""


def choose_target(transfer_syntax_uid: str, accepted: Collection[str]) -> str | None:
    """Return in which of the `accepted` transfer syntaxes an instance goes out: as it is stored wherever that will do.

    None where it can go out in none of them.
    """
    if transfer_syntax_uid in accepted:
        return transfer_syntax_uid
    if transfer_syntax_uid not in _NATIVE and not can_decode(transfer_syntax_uid):
        return None
    return next((target for target in TARGETS if target in accepted), None)


def transcoded(path: Path, target: str) -> bytes:
    """Return the data set of a DICOM file in another transfer syntax, without preamble and File Meta Information.

    Parameters
    ----------
    path : Path
        A file whose File Meta Information names its transfer syntax.
    target : str
        One of `TARGETS`.

    Raises
    ------
    NotTranscodable
        The frames cannot be decoded, or are longer than a native value can be; or the file is damaged.
    OSError
        The file cannot be read.
    """
    try:
        ds = dcmread(path)
        return encoded(ds, target)
    except ConversionRefused as error:
        raise NotTranscodable(f"it cannot be decompressed: {error}") from error
    except (*CONVERSION_ERRORS, StopIteration) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise NotTranscodable(f"its data set cannot be read: {type(error).__name__}") from error


def encoded(ds: Dataset, target: str) -> bytes:
    """Return the encoded data set that pydicom has read of a file, in one of `TARGETS`; `ds` is used up by it.

    Raises
    ------
    ConversionRefused
        Compressed frames cannot be decoded, or what describes them is contradictory.
    NotTranscodable
        The decompressed frames are longer than 2^32 - 2 bytes (PS3.5 7.1.1).
    """
    syntax = UID(ds.file_meta.TransferSyntaxUID)
    if syntax not in _NATIVE and _PIXEL_DATA in ds:
        _decompress(ds)
    implicit = target == ImplicitVRLittleEndian
    is_big_endian = syntax == ExplicitVRBigEndian
    _prepare(ds, implicit, is_big_endian)
    stream = DicomBytesIO()
    stream.is_implicit_VR, stream.is_little_endian = implicit, True
    write_dataset(stream, ds)
    return stream.getvalue()


def _decompress(ds: Dataset) -> None:
    """Put decoded frames in the place of compressed ones, and what they are into the Image Pixel module."""
    found = decompressed_frames(ds)
    layout = found.layout
    length = -(-layout.pixels * layout.samples * layout.bits_allocated * layout.frames // 8)
    if length > _LONGEST_VALUE:
        raise NotTranscodable(f"its {layout.frames} frames take {length} bytes uncompressed: at most {_LONGEST_VALUE}")
    photometric = found.photometric
    data = _native(found, length)
    if photometric.startswith("YBR_PARTIAL"):
        photometric = "RGB"
    for tag in _OFFSET_TABLES:
        ds.pop(tag, None)
    if layout.samples > 1:
        ds.PlanarConfiguration = 0
        ds.PhotometricInterpretation = photometric
    ds[_PIXEL_DATA] = DataElement(_PIXEL_DATA, "OW" if layout.bits_allocated > 8 else "OB", data)


def _native(found: DecompressedFrames, length: int) -> bytes:
    """The frames one after the other, padded to an even length (PS3.5 8.1.1)."""
    layout = found.layout
    if layout.bits_allocated == 1:
        bits = np.concatenate([frame.ravel() for frame in found.frames])
        data = bytearray(np.packbits(bits, bitorder="little").tobytes())
    else:
        data = bytearray()
        dtype = layout.stored_dtype.newbyteorder("<")
        for frame in found.frames:
            if found.photometric.startswith("YBR_PARTIAL"):  # only ever half sampled, which decoders have undone
                frame = to_rgb(found.photometric, layout.bits_allocated, frame)
            data += np.ascontiguousarray(frame, dtype).tobytes()
    if len(data) != length:
        raise NotTranscodable(f"its frames took {len(data)} bytes uncompressed instead of {length}")
    return bytes(data + b"\0" * (length % 2))


def _prepare(ds: Dataset, implicit: bool, is_big_endian: bool) -> None:
    """Make the elements of a data set such that pydicom writes the bytes of their values as they were read."""
    for tag in list(ds.keys()):
        element: RawDataElement | DataElement = ds.get_item(tag)
        if isinstance(element, RawDataElement):
            element = _prepared(ds, element, implicit, is_big_endian)
        if element.VR == "SQ":
            for item in ds[tag].value:
                _prepare(item, implicit, is_big_endian)
        else:
            ds[tag] = element
    # pydicom writes raw elements as they are only where it takes the encoding for the one that they were read in.
    ds.set_original_encoding(implicit, True, ds.original_character_set)


def _prepared(ds: Dataset, element: RawDataElement, implicit: bool, is_big_endian: bool) -> RawDataElement:
    value = element.value
    if element.length not in (len(value or b""), _UNDEFINED_LENGTH):  # pydicom takes what is there
        raise NotTranscodable(f"its data set ends within {element.tag}")
    vr = element.VR or _representation(ds, element)
    if vr == "SQ":
        return element._replace(VR="SQ")
    if value and is_big_endian and vr in _WORD_BYTES:
        value = _swapped(value, _word_bytes(ds, element.tag, vr))
    if not implicit and vr not in EXPLICIT_VR_LENGTH_32 and len(value or b"") > _LONGEST_SHORT_VALUE:
        vr = "UN"  # PS3.5 6.2.2 note: what a length of 16 bits cannot say
    return element._replace(VR=vr, value=value, is_little_endian=True, is_implicit_VR=implicit)


def _representation(ds: Dataset, element: RawDataElement) -> str:
    """The value representation of an element that was encoded without one (PS3.5 6.2.2); ``UN`` where none is known."""
    if element.tag.is_private:
        return "LO" if element.tag.is_private_creator else "UN"
    try:
        vr = str(dictionary_VR(element.tag))
    except KeyError:
        return "UN"
    if " or " not in vr:
        return vr
    try:
        vr = str(correct_ambiguous_vr_element(element._replace(VR=vr), ds, True).VR)
    except CONVERSION_ERRORS:
        return "UN"
    return "UN" if " or " in vr else vr


def _word_bytes(ds: Dataset, tag: BaseTag, vr: str) -> int:
    """How many bytes change their order: pixels of more than 16 bits are whole words too."""
    if tag == _PIXEL_DATA and vr == "OW":
        return max(int(ds.BitsAllocated) // 8, 2)
    return _WORD_BYTES[vr]


def _swapped(value: bytes, word_bytes: int) -> bytes:
    whole = len(value) // word_bytes * word_bytes
    return np.frombuffer(value[:whole], f"u{word_bytes}").byteswap().tobytes() + value[whole:]
