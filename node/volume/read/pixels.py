"""Stored values of the frames of an instance, checked against the header first, then decoded one frame at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from node.dicom.reading import stored_bytes
from node.dicom.values import held, standard_tag
from node.errors import ConversionRefused
from node.volume.elements import text
from node.volume.model import Array
from node.volume.read.colours import compressed_colours, decoded_photometric, native_colours
from node.volume.read.encapsulated_pixels import checked_frames, decode_frame
from node.volume.read.lookup_tables import LookupTable, modality_lut, palette
from node.volume.read.native_pixels import native_frames
from node.volume.read.pixel_layout import GREY, PIXELS, PixelLayout, contradictory, pixel_layout
from node.volume.reasons import Reason

_NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, "1.2.840.10008.1.2.1.99")


class FrameReader:
    """Read the frames of one instance one by one: ``reader(index)``, with `index` from 0.

    Attributes
    ----------
    frames : int
    rows, columns : int
    colour : bool
        Frames are (rows, columns, 3), RGB of 8 bits; else (rows, columns).
    dtype : numpy.dtype
        Type of the returned values, in the machine's byte order.
    modality_lut : bool
        A Modality LUT Sequence is applied; then rescale slope and intercept are 1 and 0.
    lossy : bool
        The pixels went through a lossy codec, now or before they were received.
    """

    def __init__(
        self,
        layout: PixelLayout,
        stored: Callable[[int], Array],
        table: LookupTable | None,
        to_rgb: Callable[[Array], Array] | None,
        lossy: bool,
    ) -> None:
        self.frames = layout.frames
        self.rows = layout.rows
        self.columns = layout.columns
        self.colour = layout.photometric not in GREY
        self.modality_lut = table is not None and not self.colour
        self.lossy = lossy
        if self.colour:
            self.dtype = np.dtype(np.uint8)
        else:
            self.dtype = layout.stored_dtype if table is None else table.entries.dtype
        self._stored = stored
        self._table = table
        self._to_rgb = to_rgb

    def __call__(self, index: int) -> Array:
        """Return one frame as `Frame.read` describes; it may be a read-only view into the data set.

        Raises
        ------
        ConversionRefused
            ``undecodable``: the codec failed.
        """
        stored = self._stored(index)
        if self._table is not None:
            return self._table(stored)
        return stored if self._to_rgb is None else self._to_rgb(stored)


def frame_reader(ds: Dataset) -> FrameReader:
    """Return a reader of the frames of an instance.

    Nothing is allocated by a number from the data set before the numbers agree with each other, with the length of the
    pixel data and with the headers of the compressed frames.

    Parameters
    ----------
    ds : Dataset
        One instance, with its pixel data; the reader keeps them, or their place in the file.

    Raises
    ------
    ConversionRefused
        ``not-an-image``, ``contradictory``, ``too-large`` or ``undecodable``; `detail` names tag, value and rule.

    Notes
    -----
    PS3.3 C.7.6.3, C.7.6.24 and C.7.6.25 (Image Pixel, Floating Point and Double Floating Point Image Pixel);
    PS3.5 8 and annex A. Overlays in unused high bits are masked off. Supplemental palettes leave grey values unchanged.
    """
    keyword = next((name for name in PIXELS if held(ds, standard_tag(name)) is not None), None)
    if keyword is None:
        raise ConversionRefused(Reason.NOT_AN_IMAGE, "the instance has no Pixel Data (7FE0,0010)")
    layout = pixel_layout(ds, keyword)
    syntax = text(ds.file_meta, "TransferSyntaxUID") or "" if hasattr(ds, "file_meta") else ""
    data, encapsulated = stored_bytes(ds, keyword)
    if not data:
        raise contradictory("(7FE0,0010) Pixel Data is empty or unreadable")
    table = _table(ds, layout)
    lossy = text(ds, "LossyImageCompression") == "01"
    if syntax in _NATIVE or (not syntax and not encapsulated):
        if encapsulated:
            raise contradictory(
                "(7FE0,0010) Pixel Data has an undefined length, but its transfer syntax is not a compressed one"
            )
        big = syntax == ExplicitVRBigEndian or (not syntax and ds.original_encoding[1] is False)
        swapped = big and layout.bits_allocated <= 8 and ds[keyword].VR == "OW"
        return FrameReader(layout, native_frames(layout, data, big, swapped), table, native_colours(layout), lossy)
    return _compressed(ds, layout, data[:], syntax, table, lossy)


def _table(ds: Dataset, layout: PixelLayout) -> LookupTable | None:
    if layout.photometric == "PALETTE COLOR":
        return palette(ds)
    return modality_lut(ds) if layout.photometric in GREY and layout.real is None else None


def _compressed(
    ds: Dataset, layout: PixelLayout, data: bytes, syntax: str, table: LookupTable | None, lossy: bool
) -> FrameReader:
    frames, streams = checked_frames(ds, layout, data, syntax)
    lossy = lossy or any(stream.lossy for stream in streams if stream)

    def stored(index: int) -> Array:
        return decode_frame(layout, frames[index], streams[index], syntax)

    return FrameReader(layout, stored, table, compressed_colours(layout, streams[0], syntax), lossy)


@dataclass(frozen=True, slots=True)
class DecompressedFrames:
    """The frames of a compressed instance, in the form of native pixel data.

    Attributes
    ----------
    photometric : str
        Photometric Interpretation (0028,0004) of the decoded samples.
    layout : PixelLayout
        Layout from the data set, except that the samples of a colour pixel are always adjacent.
    frames : iterator of (rows, columns) or (rows, columns, samples) array
        All bits that the codec kept, including those above Bits Stored (0028,0101).
    """

    photometric: str
    layout: PixelLayout
    frames: Iterator[Array]


def decompressed_frames(ds: Dataset) -> DecompressedFrames:
    """Return the frames of a compressed instance; each is decoded when it is iterated.

    Raises
    ------
    ConversionRefused
        See `frame_reader`; ``undecodable`` may also be raised during iteration.
    """
    layout = pixel_layout(ds, "PixelData")
    layout = replace(layout, bits_stored=layout.bits_allocated, shift=0)  # keeps the bits above Bits Stored
    syntax = text(ds.file_meta, "TransferSyntaxUID") or ""
    data, _ = stored_bytes(ds, "PixelData")
    if not data:
        raise contradictory("(7FE0,0010) Pixel Data is empty or unreadable")
    frames, streams = checked_frames(ds, layout, data[:], syntax)
    decoded = (decode_frame(layout, frame, stream, syntax) for frame, stream in zip(frames, streams, strict=True))
    return DecompressedFrames(decoded_photometric(layout, streams[0], syntax), layout, decoded)
