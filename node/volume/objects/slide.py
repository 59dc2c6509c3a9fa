"""Whole slide microscopy: the small levels of a pyramid as one picture each; larger levels stay tiles."""

from __future__ import annotations

import math

import numpy as np
from pydicom.dataset import Dataset

from node.dicom.values import items, number, numbers, text, texts, whole
from node.errors import ConversionRefused
from node.volume.describe.sidecar_fields import describe
from node.volume.display import display_of
from node.volume.model import Geometry, Source, Volume
from node.volume.read.pixels import FrameReader, frame_reader
from node.volume.read.planes import pixel_spacing
from node.volume.reasons import Reason, VolumeWarning, WarningKind

SOP_CLASS = "1.2.840.10008.5.1.4.1.1.77.1.6"

MAX_SIDE_PIXELS = 4096
"""Longest side of a level that becomes a picture; the levels below it in a pyramid of a slide are of this size or less.
A larger one would take gigabytes, which no reader of volumes opens."""

Corner = tuple[int, int]
"""Row and column, from 0, of the first pixel of a tile in the total pixel matrix."""


def volumes(ds: Dataset, stack: int) -> tuple[Volume, ...]:
    """Return the total pixel matrix of a level as one plane, without a position in the patient.

    Raises ConversionRefused ``tiled-slide``: the level is too large, shows the label of the slide, is one of several
    parts, focal planes or optical paths, or its tiles do not cover it once; or the pixels are refused.

    PS3.3 C.8.12.4 and C.7.6.17.3.
    """
    rows, columns = _size(ds)
    reader = frame_reader(ds)
    corners = _corners(ds, reader, rows, columns)
    colour = (3,) if reader.colour else ()
    matrix = np.zeros((rows, columns, *colour), reader.dtype)
    covered, pixels = np.zeros((rows, columns), bool), 0
    for index, (row, column) in enumerate(corners):
        height, width = min(reader.rows, rows - row), min(reader.columns, columns - column)
        matrix[row : row + height, column : column + width] = reader(index)[:height, :width]
        covered[row : row + height, column : column + width] = True
        pixels += height * width
    if not covered.all() or pixels != rows * columns:
        raise _refused("the tiles of the level leave gaps or overlap")
    uid = text(ds, "SOPInstanceUID")
    shared = next(iter(items(ds, "SharedFunctionalGroupsSequence")), Dataset())
    measures = next(iter(items(shared, "PixelMeasuresSequence")), Dataset())
    spacing = pixel_spacing(measures, placed=False)
    rows_mm, columns_mm = spacing or (1.0, 1.0)
    return (
        Volume(
            voxels=matrix[None, None],
            affine_lps=None,
            spacing_mm=(columns_mm, rows_mm, 1.0),
            geometry=Geometry.NONE,
            stack=stack,
            modality=text(ds, "Modality"),
            sources=tuple(Source(uid, index + 1, 0, 0) for index in range(reader.frames)),
            display=display_of(ds, 1),
            warnings=_warnings(reader, spacing),
            attributes=describe(ds, ()),
        ),
    )


def _size(ds: Dataset) -> tuple[int, int]:
    """Return rows and columns of the total pixel matrix of a level that may become a picture."""
    rows, columns = whole(ds, "TotalPixelMatrixRows"), whole(ds, "TotalPixelMatrixColumns")
    if not rows or not columns or min(rows, columns) < 1:
        raise _refused("(0048,0006) Total Pixel Matrix Columns or (0048,0007) Total Pixel Matrix Rows is missing")
    if max(rows, columns) > MAX_SIDE_PIXELS:
        raise _refused(
            f"the level has {columns} x {rows} pixels; only levels of at most {MAX_SIDE_PIXELS} pixels along each side "
            "become pictures"
        )
    flavour, labelled = texts(ds, "ImageType")[2:3], text(ds, "SpecimenLabelInImage")
    if "LABEL" in flavour or labelled == "YES" or ("OVERVIEW" in flavour and labelled != "NO"):
        raise _refused("the image shows the label of the slide, which may name the patient")
    if "ConcatenationUID" in ds:
        raise _refused("the tiles of the level are in several instances (Concatenation UID (0020,9161))")
    for keyword in ("TotalPixelMatrixFocalPlanes", "NumberOfOpticalPaths"):
        if (number(ds, keyword) or 1) != 1 or len(items(ds, "OpticalPathSequence")) > 1:
            raise _refused("the level has several focal planes or optical paths")
    return rows, columns


def _corners(ds: Dataset, reader: FrameReader, rows: int, columns: int) -> list[Corner]:
    """Return the place of each tile; row by row if the organisation is TILED_FULL, else as each states it."""
    if text(ds, "DimensionOrganizationType") == "TILED_FULL":
        across, down = math.ceil(columns / reader.columns), math.ceil(rows / reader.rows)
        if reader.frames != across * down:
            raise _refused(f"the level has {reader.frames} tiles, but {across} x {down} cover it")
        return [(reader.rows * (tile // across), reader.columns * (tile % across)) for tile in range(reader.frames)]
    groups = items(ds, "PerFrameFunctionalGroupsSequence")
    places = [_position(group) for group in groups]
    found = [(row, column) for row, column in places if 0 <= row < rows and 0 <= column < columns]
    if len(found) != reader.frames or len(groups) != reader.frames:
        raise _refused("a tile has no place in the total pixel matrix (Plane Position (Slide) (0048,021A))")
    return found


def _position(group: Dataset) -> Corner:
    """Return the corner of the tile that a functional group describes; (-1, -1) if it states none."""
    plane = next(iter(items(group, "PlanePositionSlideSequence")), Dataset())
    row = numbers(plane, "RowPositionInTotalImagePixelMatrix", 1)
    column = numbers(plane, "ColumnPositionInTotalImagePixelMatrix", 1)
    return (-1, -1) if row is None or column is None else (int(row[0]) - 1, int(column[0]) - 1)


def _warnings(reader: FrameReader, spacing: tuple[float, float] | None) -> tuple[VolumeWarning, ...]:
    detail = "the image is of a slide, without position or orientation in the patient; the volume has voxel axes only"
    warnings = [VolumeWarning(WarningKind.NO_GEOMETRY, detail)]
    if spacing is None:
        detail = "the image states no pixel spacing; 1 mm is assumed"
        warnings.append(VolumeWarning(WarningKind.SPACING_ASSUMED, detail))
    if reader.lossy:
        warnings.append(VolumeWarning(WarningKind.LOSSY, "the pixels went through a lossy codec"))
    return tuple(warnings)


def _refused(cause: str) -> ConversionRefused:
    return ConversionRefused(Reason.TILED_SLIDE, f"whole slide microscopy: {cause}")
