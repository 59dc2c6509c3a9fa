"""Functions that run in the children of `node.children.decoder`: frames, pictures, metadata, long values.

Headers too long for the node's memory are read here as well. See `node.children.decoding` for what such functions keep
to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.machinery import PathFinder
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from pydicom import Dataset
from pydicom.dataelem import DataElement
from pydicom.tag import BaseTag
from pydicom.uid import HTJ2KLossless, JPEGLSLossless

from node.children.decoding import NoSuchValue
from node.children.forwarding import CopyChange, transformed
from node.dicom.coercion import Identity
from node.dicom.encoding import (
    DEFLATED_LITTLE_ENDIAN,
    EXPLICIT_BIG_ENDIAN,
    EXPLICIT_LITTLE_ENDIAN,
    IMPLICIT_LITTLE_ENDIAN,
)
from node.dicom.json_model import MAX_DEPTH, has_fragments, json_model
from node.dicom.values import CONVERSION_ERRORS, held_elements, little_endian, text, whole
from node.errors import counted, is_out_of_memory
from node.extensions.dicomweb.pixel_element import (
    FrameNotFound,
    PixelElement,
    header_and_pixels,
    native_image,
    nearby_pixels,
    single_frame,
)
from node.extensions.dicomweb.xml_model import encoded_model
from node.files.reading import read_instance
from node.volume.planes import Window
from node.volume.read.transfer_syntaxes import HAS_PYJPEGLS, NotTranscodable, with_version

if TYPE_CHECKING:
    from node.volume.model import Array
    from node.volume.read.pixel_layout import PixelLayout
    from node.volume.rendering import Picture


_IMAGECODECS = find_spec("imagecodecs")
_HTJ2K = _IMAGECODECS and PathFinder.find_spec("_htj2k", _IMAGECODECS.submodule_search_locations)
"""Not in every build of the package; neither is imported here."""

_FORBIDDEN_ON_THE_WEB = frozenset((IMPLICIT_LITTLE_ENDIAN, EXPLICIT_BIG_ENDIAN))

ENCODERS: dict[str, str] = {
    **({JPEGLSLossless: "pyjpegls"} if HAS_PYJPEGLS else {}),
    **({HTJ2KLossless: "imagecodecs"} if _HTJ2K else {}),
}
"""The package that encodes frames in each transfer syntax, which is one without loss."""

LIBRARIES = ("node.volume.read.encoders", *(["imagecodecs._htj2k"] if HTJ2KLossless in ENCODERS else []))
"""See `node.children.decoding.LIBRARIES`."""

NATIVE_SIDE = 1024
"""Longest side of a frame, and of a picture, that the process of a node renders: in some milliseconds."""

PictureFormat = Literal["JPEG", "PNG", "GIF"]

Crop = tuple[int, int, int | None, int | None]
"""Left, top, width and height of a region of a frame, in pixels from 0; None: to the edge of the frame."""


@dataclass(frozen=True, slots=True)
class PictureOrder:
    """How to render a frame.

    `frame_number`: counts from 1.
    `size`: width and height of the box into which the picture is scaled; None: the size of the frame with square
        pixels.
    `quality`: JPEG quality, 1 to 100.
    `flip`: whether left and right, and top and bottom of the region change places.
    """

    frame_number: int
    format: PictureFormat = "JPEG"
    window: Window | None = None
    crop: Crop | None = None
    size: tuple[int, int] | None = None
    quality: int = 90
    flip: tuple[bool, bool] = (False, False)


def frame(path: Path, frame_number: int, into: Path | None = None) -> bytes:
    """Return the samples of one compressed frame (from 1), as Explicit VR Little Endian holds them.

    Colours are by pixel, in the colour space that the decoder returns (see `node.volume.read.pixels`).

    `into`: the file into which they are written instead, and so below.

    Raises ConversionRefused: the pixel data do not match the header, or cannot be decoded.

    PS3.5 8.1.1 and A.2.
    """
    import numpy as np

    from node.volume.read.pixels import decompressed_frames

    header, element = _opened(path)
    if element is None:
        raise FrameNotFound("the data set has no pixel data")
    decompressed = decompressed_frames(single_frame(header, element, frame_number))
    samples = next(decompressed.frames)
    if decompressed.layout.bits_allocated == 1:
        samples = np.packbits(samples.ravel(), bitorder="little")
    return _given(np.ascontiguousarray(samples, samples.dtype.newbyteorder("<")).tobytes(), into)


def _given(data: bytes, into: Path | None) -> bytes:
    if into is None:
        return data
    into.write_bytes(data)
    return b""


@lru_cache(maxsize=1)
def _opened(path: Path) -> tuple[Dataset, PixelElement | None]:
    """Read the header of a file, with its pixels if they are native. The last data set is cached: viewers request many
    frames of one file in a row.
    """
    header, element = None, nearby_pixels(path)
    if element is None or element.encapsulated:
        header, element = header_and_pixels(path)
    if header is None or element is None or not element.encapsulated:
        header = read_instance(path)
    return header, element


def picture(path: Path, order: PictureOrder) -> bytes:
    """Return one frame as PNG, JPEG or GIF."""
    header, element = _opened(path)
    if element is not None and element.encapsulated:  # read this frame only
        return _picture(header, order, single_frame(header, element, order.frame_number), 0)
    return _picture(header, order, header, order.frame_number - 1)


def native_picture(data_set: bytes, transfer_syntax_uid: str, order: PictureOrder, into: IO[bytes]) -> bool:
    """Write what `picture` returns, in the process of a node; False: a child process has to try.

    No decoder has part in it: the samples are taken as they are, once header and lengths are proved (`native_image`),
    and neither they nor the picture are large. Pillow encodes into a file of the system without Python's lock.
    """
    from node.volume.read.pixel_layout import GREY

    try:
        ds = native_image(data_set, transfer_syntax_uid)
        sides = (whole(ds, "Rows") or 0, whole(ds, "Columns") or 0, *(order.size or ()))
        if max(sides) > NATIVE_SIDE or text(ds, "PhotometricInterpretation") not in GREY:
            return False
        _draw(ds, order, ds, order.frame_number - 1, into)
    except Exception:  # a child says what is wrong with it
        into.seek(0)
        into.truncate()
        return False
    return True


def _picture(header: Dataset, order: PictureOrder, ds: Dataset, index: int) -> bytes:
    stream = BytesIO()
    _draw(header, order, ds, index, stream)
    return stream.getvalue()


def _draw(header: Dataset, order: PictureOrder, ds: Dataset, index: int, into: IO[bytes]) -> None:
    from node.writers.pictures import resized

    shown = _shown(header, order, ds, index)
    image = resized(shown, max(shown.pixels.shape))
    if order.size is not None:
        factor = min(order.size[0] / image.width, order.size[1] / image.height)
        image = image.resize((max(1, round(image.width * factor)), max(1, round(image.height * factor))))
    options: dict[str, Any] = {"quality": order.quality} if order.format == "JPEG" else {}
    image.save(into, order.format, **options)


def compressed_frame(path: Path, frame_number: int, transfer_syntax_uid: str, into: Path | None = None) -> bytes:
    """Return one frame (from 1) compressed without loss, in one of `ENCODERS`.

    What is written holds the samples that are sent uncompressed.

    Raises NotTranscodable: the frame is neither grey nor RGB by pixel, has other samples than of 8 or 16 bits, or would
        have others.
    Raises ConversionRefused: the header contradicts itself.
    """
    from node.volume.read.encoders import compressed
    from node.volume.read.pixel_layout import pixel_layout

    header, element = _opened(path)
    if element is None:
        raise FrameNotFound("the data set has no pixel data")
    samples = frame(path, frame_number) if element.encapsulated else b"".join(element.native_frame(frame_number))
    layout = pixel_layout(header, "PixelData")
    return _given(compressed(_shaped(layout, samples), layout, transfer_syntax_uid), into)


def _shaped(layout: PixelLayout, samples: bytes) -> Array:
    """Return the samples as (rows, columns) or (rows, columns, 3), signed if the data set says so."""
    import numpy as np

    is_colour = layout.samples == 3 and layout.photometric == "RGB" and not layout.by_plane
    if layout.bits_allocated not in (8, 16) or not (layout.samples == 1 or is_colour):
        raise NotTranscodable("only frames of 8 or 16 bits, grey or RGB by pixel, are compressed")
    shape = (layout.rows, layout.columns, *([3] if is_colour else []))
    dtype = layout.stored_dtype.newbyteorder("<")
    if len(samples) != dtype.itemsize * int(np.prod(shape)):
        raise NotTranscodable(f"the frame has {len(samples)} bytes, not those of {shape} samples")
    return np.frombuffer(samples, dtype).reshape(shape)


def pixel_location(path: Path) -> bytes:
    """Return `PixelElement.to_json` of a file; empty bytes if it has no pixel data."""
    element = _opened(path)[1]
    return b"" if element is None else element.to_json()


def value_paths(path: Path, transfer_syntax_uid: str) -> bytes:
    """Return the paths of the values that `metadata` omits, in order, one in a line; see `long_value`."""
    paths: list[str] = []
    json_model(_header(path, transfer_syntax_uid), paths.append)
    return "\n".join(paths).encode()


def stored_frame(path: Path, frame_number: int, into: Path | None = None) -> bytes:
    """Return one compressed frame, numbered from 1, as stored."""
    element = _opened(path)[1]
    if element is None:
        raise FrameNotFound("the data set has no pixel data")
    return _given(element.encapsulated_frame(frame_number), into)


def value_file(path: Path, value_path: str, into: Path) -> bytes:
    """Write one long value; see `long_value`."""
    return _given(long_value(path, value_path), into)


def _shown(header: Dataset, order: PictureOrder, ds: Dataset, index: int) -> Picture:
    from node.volume.display import rendered_frame
    from node.volume.read.pixels import frame_reader
    from node.volume.rendering import Picture

    reader = frame_reader(ds)
    if index >= reader.frames:
        raise FrameNotFound(
            f"frame {order.frame_number} does not exist: the instance has {counted(reader.frames, 'frame')}"
        )
    shown = rendered_frame(header, order.frame_number, reader, index, order.window)
    if order.crop is None:
        return shown
    left, top, width, height = order.crop
    pixels = shown.pixels[top:, left:][:height, :width]
    if not pixels.size:
        raise FrameNotFound(f"the region is outside of the frame of {shown.pixels.shape[1]} x {shown.pixels.shape[0]}")
    pixels = pixels[:: -1 if order.flip[1] else 1, :: -1 if order.flip[0] else 1]
    return Picture(pixels, shown.pixel_size)


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


@cache
def encoder_of(transfer_syntax_uid: str) -> str:
    """Return the package that encodes a transfer syntax, with its version: others may write other bytes; else empty."""
    package = ENCODERS.get(transfer_syntax_uid)
    return with_version(package) if package else ""


def web_transfer_syntax(transfer_syntax_uid: str) -> str:
    """Return the transfer syntax in which DICOMweb gives out an instance if it converts nothing else.

    PS3.18 8.7.3 forbids Implicit VR Little Endian and Explicit VR Big Endian; Explicit VR Little Endian replaces them.
    """
    return EXPLICIT_LITTLE_ENDIAN if transfer_syntax_uid in _FORBIDDEN_ON_THE_WEB else transfer_syntax_uid
