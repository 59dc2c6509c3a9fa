"""Convert stored instances for receivers that do not accept their transfer syntax: the same values, uncompressed.

Nothing is decoded unnecessarily. Elements keep the bytes of their values; only the encoding before the value changes,
and the byte order if the two syntaxes differ in it. Compressed frames are decoded, and the attributes that describe
them are corrected. Nothing is ever compressed, and the SOP Instance UID stays the same: PS3.5 10.1 requires every
receiver to accept Implicit VR Little Endian.
"""

from typing import BinaryIO

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import correct_ambiguous_vr_element, write_dataset
from pydicom.tag import BaseTag
from pydicom.uid import UID, ExplicitVRBigEndian, ImplicitVRLittleEndian
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from node.dicom.reading import stored_bytes
from node.dicom.values import CONVERSION_ERRORS, held_elements
from node.dicom.walker import is_sequence
from node.errors import ConversionRefused, is_of_system
from node.volume.read.pixel_layout import to_rgb
from node.volume.read.pixels import DecompressedFrames, decompressed_frames
from node.volume.read.transfer_syntaxes import NATIVE, NotTranscodable

_PIXEL_DATA = BaseTag(0x7FE00010)
_ICON = BaseTag(0x00880200)
_OFFSET_TABLES = (BaseTag(0x7FE00001), BaseTag(0x7FE00002))
"""Extended Offset Table and its lengths, which only compressed frames have: PS3.3 C.7.6.3.1.8."""

_UNDEFINED_LENGTH = 0xFFFFFFFF
_MAX_VALUE_BYTES = (1 << 32) - 2
_MAX_SHORT_VALUE_BYTES = 0xFFFF
_WORD_BYTES = {
    **dict.fromkeys(("AT", "OW", "SS", "US"), 2),
    **dict.fromkeys(("FL", "OF", "OL", "SL", "UL"), 4),
    **dict.fromkeys(("FD", "OD", "OV", "SV", "UV"), 8),
}
"""Bytes that change order with the endianness, by value representation: PS3.5 7.3."""


def transcoded(file: BinaryIO, target: str) -> bytes:
    """Return the data set of a DICOM file in another transfer syntax, without preamble and File Meta Information.

    `file`: a DICOM file whose File Meta Information names its transfer syntax.
    `target`: one of `node.volume.read.transfer_syntaxes.TARGETS`, or the transfer syntax that the file names: then the
        encoding becomes that of this transfer syntax, and compressed frames stay as they are.

    Raises NotTranscodable: the frames cannot be decoded, or are longer than a native value can be; or the file is
        damaged.
    Raises OSError: the file cannot be read.
    """
    try:
        ds = dcmread(file)
        return encoded(ds, target)
    except ConversionRefused as error:
        raise NotTranscodable(f"the instance cannot be decompressed: {error}") from error
    except (*CONVERSION_ERRORS, StopIteration) as error:
        if is_of_system(error):
            raise
        raise NotTranscodable(f"the data set cannot be read: {type(error).__name__}") from error


def encoded(ds: Dataset, target: str) -> bytes:
    """Return a data set, as pydicom read it, encoded as `transcoded` says; `ds` cannot be used afterwards.

    Raises ConversionRefused: the compressed frames cannot be decoded, or the attributes that describe them contradict
        each other.
    Raises NotTranscodable: the decompressed frames are longer than 2^32 - 2 bytes (PS3.5 7.1.1).
    """
    syntax = UID(ds.file_meta.TransferSyntaxUID)
    if syntax not in NATIVE and target != syntax:
        decompress(ds)
    implicit = target == ImplicitVRLittleEndian
    is_big_endian = syntax == ExplicitVRBigEndian
    _prepare(ds, implicit, is_big_endian)
    return little_endian(ds, implicit=implicit)


def little_endian(ds: Dataset, *, implicit: bool) -> bytes:
    """Return a data set in Implicit or Explicit VR Little Endian."""
    stream = DicomBytesIO()
    stream.is_implicit_VR, stream.is_little_endian = implicit, True
    write_dataset(stream, ds)
    return stream.getvalue()


def decompress(ds: Dataset) -> None:
    """Replace compressed frames by decoded ones, and correct the Image Pixel module; also in the items of sequences.

    Those of items may be native (PS3.5 A.4). An icon that cannot be decoded is removed: the image does not need it.

    Raises ConversionRefused: see `encoded`.
    Raises NotTranscodable: see `encoded`.
    """
    if _PIXEL_DATA in ds:
        _decompress_frames(ds)
    _decompress_items(ds, ds.file_meta)


def _decompress_items(ds: Dataset, meta: FileMetaDataset) -> None:
    elements = list(held_elements(ds).items())
    for tag in [tag for tag, held in elements if held.VR == "SQ" or (held.VR is None and is_sequence(tag))]:
        try:
            for item in ds[tag].value:
                if _PIXEL_DATA in item and stored_bytes(item, "PixelData")[1]:
                    item.file_meta = meta
                    _decompress_frames(item)
                _decompress_items(item, meta)
        except (ConversionRefused, NotTranscodable):
            if tag != _ICON:
                raise
            del ds[tag]


def _decompress_frames(ds: Dataset) -> None:
    decompressed = decompressed_frames(ds)
    layout = decompressed.layout
    length = -(-layout.pixels * layout.samples * layout.bits_allocated * layout.frames // 8)
    if length > _MAX_VALUE_BYTES:
        raise NotTranscodable(
            f"the {layout.frames} frames take {length} bytes uncompressed; the limit is {_MAX_VALUE_BYTES}"
        )
    photometric = decompressed.photometric
    data = _native(decompressed, length)
    if photometric.startswith("YBR_PARTIAL"):
        photometric = "RGB"
    for tag in _OFFSET_TABLES:
        ds.pop(tag, None)
    if layout.samples > 1:
        ds.PlanarConfiguration = 0
        ds.PhotometricInterpretation = photometric
    ds[_PIXEL_DATA] = DataElement(_PIXEL_DATA, "OW" if layout.bits_allocated > 8 else "OB", data)


def _native(decompressed: DecompressedFrames, length: int) -> bytes:
    """Return the concatenated frames, padded to an even length (PS3.5 8.1.1)."""
    layout = decompressed.layout
    if layout.bits_allocated == 1:
        bits = np.concatenate([frame.ravel() for frame in decompressed.frames])
        data = bytearray(np.packbits(bits, bitorder="little").tobytes())
    else:
        data = bytearray()
        dtype = layout.stored_dtype.newbyteorder("<")
        for frame in decompressed.frames:
            if decompressed.photometric.startswith("YBR_PARTIAL"):  # always half sampled, which decoders have undone
                frame = to_rgb(decompressed.photometric, layout.bits_allocated, frame)
            data += np.ascontiguousarray(frame, dtype).tobytes()
    if len(data) != length:
        raise NotTranscodable(f"the frames take {len(data)} bytes uncompressed instead of {length}")
    if length % 2:
        data += b"\0"
    return bytes(data)


def _prepare(ds: Dataset, implicit: bool, is_big_endian: bool) -> None:
    """Prepare the elements of a data set so that pydicom writes the bytes of their values as they were read."""
    for tag in list(ds.keys()):
        element: RawDataElement | DataElement = ds.get_item(tag)
        if isinstance(element, RawDataElement):
            element = _prepared(ds, element, implicit, is_big_endian)
        elif is_big_endian and element.VR in _WORD_BYTES and isinstance(element.value, bytes):  # pydicom swaps none
            element = DataElement(tag, element.VR, _swapped(element.value, _word_bytes(ds, tag, element.VR)))
        if element.VR == "SQ":
            for item in ds[tag].value:
                _prepare(item, implicit, is_big_endian)
        else:
            ds._dict[tag] = element  # `ds[tag] =` would convert a private value by the dictionary of pydicom
    # pydicom writes raw elements unchanged only if the encoding appears to be the one in which they were read.
    ds.set_original_encoding(implicit, True, ds.original_character_set)


def _prepared(ds: Dataset, element: RawDataElement, implicit: bool, is_big_endian: bool) -> RawDataElement:
    value = element.value
    if element.length not in (len(value or b""), _UNDEFINED_LENGTH):  # pydicom accepts a truncated value
        raise NotTranscodable(f"the data set ends within {element.tag}")
    vr = element.VR or _representation(ds, element)
    if " or " in vr:  # of pydicom, for compressed frames whose VR was implicit
        vr = "OB"  # PS3.5 A.4
    if vr == "SQ":
        return element._replace(VR="SQ")
    if value and is_big_endian and vr in _WORD_BYTES:
        value = _swapped(value, _word_bytes(ds, element.tag, vr))
    if not implicit and vr not in EXPLICIT_VR_LENGTH_32 and len(value or b"") > _MAX_SHORT_VALUE_BYTES:
        vr = "UN"  # PS3.5 6.2.2 note: the value is too long for a length of 16 bits
    return element._replace(VR=vr, value=value, is_little_endian=True, is_implicit_VR=implicit)


def _representation(ds: Dataset, element: RawDataElement) -> str:
    """Return the VR of an element that was encoded without one (PS3.5 6.2.2); ``UN`` if it is unknown."""
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
    """Return the number of bytes that change order together; pixels of more than 16 bits count as whole words too."""
    return max(int(ds.BitsAllocated) // 8, 2) if tag == _PIXEL_DATA and vr == "OW" else _WORD_BYTES[vr]


def _swapped(value: bytes, word_bytes: int) -> bytes:
    whole = len(value) // word_bytes * word_bytes
    return np.frombuffer(value[:whole], f"u{word_bytes}").byteswap().tobytes() + value[whole:]
