"""Read a single frame of an instance: its samples in the form of an uncompressed data set, or as a picture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from pydicom import Dataset

from node.dicom.values import items, whole
from node.volume.display import display_of
from node.volume.elements import item, text
from node.volume.model import Array, Geometry, Volume
from node.volume.read.pixels import FrameReader, decompressed_frames
from node.volume.read.planes import pixel_spacing, rescale
from node.volume.rendering import Picture, Shades
from node.volume.widths import read_as_bytes
from node.volume.window import Window


def decompressed_frame(ds: Dataset) -> bytes:
    """Return the samples of an instance with one compressed frame, as Explicit VR Little Endian holds them.

    Colours are by pixel, in the colour space that the decoder returns (see `decompressed_frames`).

    Raises ConversionRefused: the pixel data do not match the header, or cannot be decoded.

    PS3.5 8.1.1 and A.2.
    """
    decompressed = decompressed_frames(ds)
    samples = next(decompressed.frames)
    if decompressed.layout.bits_allocated == 1:
        return np.packbits(samples.ravel(), bitorder="little").tobytes()
    return np.ascontiguousarray(samples, samples.dtype.newbyteorder("<")).tobytes()


def rendered_frame(
    ds: Dataset, frame_number: int, reader: FrameReader, index: int, window: Window | None = None
) -> Picture:
    """Return a picture of one frame, by the display rules of PS3.3 C.11.

    `ds`: the header of the instance.
    `frame_number`: number of the frame in that instance, from 1.
    `reader`: reads the frame.
    `index`: index of the frame in `reader`, from 0.
    `window`: replaces the windows and VOI LUT of the data set.

    Raises ConversionRefused: the pixel data do not match the header, or cannot be decoded.
    """
    stored = reader(index)
    # Of a clip, other frames may be brighter.
    if (whole(ds, "NumberOfFrames") or 1) == 1 and read_as_bytes([reader.widths]):
        stored = reader(index)
    volume = _as_volume(ds, reader, frame_number, stored)
    rows_mm, columns_mm, _ = volume.spacing_mm
    return Picture(Shades(volume, window)(stored), (rows_mm, columns_mm))


def _as_volume(ds: Dataset, reader: FrameReader, frame_number: int, stored: Array) -> Volume:
    """Return the frame as a volume of one plane without a position, the input of `Shades`."""
    slope, intercept = (1.0, 0.0) if reader.modality_lut else _rescale(ds, frame_number)
    display = display_of(ds, frame_number)
    rows_mm, columns_mm = pixel_spacing(ds, placed=False) or (display.pixel_aspect, 1.0)
    return Volume(
        voxels=stored[None, None],
        affine_lps=None,
        spacing_mm=(rows_mm, columns_mm, 1.0),
        geometry=Geometry.NONE,
        stack=0,
        modality=text(ds, "Modality") or "",
        sources=(),
        slope=slope,
        intercept=intercept,
        display=replace(display, pixel_aspect=1.0),
    )


def _rescale(ds: Dataset, frame_number: int) -> tuple[float, float]:
    """Return slope and intercept of a frame: from its own functional group, else the shared one, else the data set."""
    per_frame = items(ds, "PerFrameFunctionalGroupsSequence")
    for group in (*per_frame[frame_number - 1 : frame_number], *items(ds, "SharedFunctionalGroupsSequence")[:1]):
        transformation = item(group, "PixelValueTransformationSequence")
        if transformation is not None:
            return rescale(transformation)
    return rescale(ds)
