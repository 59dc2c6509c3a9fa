"""Instances that are not slices of a stack: those without pixels, RT Dose, slides; segmentations are volumes as well.

RT Dose is a grid of dose whose plane positions are offsets, scaled to the unit of Dose Units. Of whole slide
microscopy, the small levels of a pyramid become one picture each; larger levels stay tiles.
"""

import math
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID, MPEGTransferSyntaxes, SurfaceSegmentationStorage

from node.dicom.values import held, items, number, numbers, standard_tag, text, texts, whole
from node.errors import ConversionRefused
from node.volume import segmentation
from node.volume.derived import with_upright
from node.volume.describe.sidecar_fields import describe
from node.volume.display import display_of
from node.volume.geometry import Placement, place_planes, stack_axes
from node.volume.model import Float, Geometry, Source, Volume
from node.volume.read.pixel_layout import PIXELS
from node.volume.read.pixels import FrameReader, frame_reader
from node.volume.read.planes import pixel_spacing
from node.volume.reasons import Reason, VolumeWarning, WarningKind

_CONFOCAL_PYRAMID = "1.2.840.10008.5.1.4.1.1.77.1.8"
"""Confocal Microscopy Tiled Pyramidal Image Storage."""

DOSE = "1.2.840.10008.5.1.4.1.1.481.2"

UNIT_TOLERANCE = 0.01
"""Largest deviation of a direction cosine vector from length 1, and of row and column from a right angle."""

UNUSED_SPACING_MM = 1.0
"""Slice distance for a single plane; never used, because a grid has several planes."""

SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"

MAX_SIDE_PIXELS = 4096
"""Longest side of a level that becomes a picture; the levels below it in a pyramid of a slide are of this size or less.
A larger one would take gigabytes, which no reader of _slide opens."""

Corner = tuple[int, int]
"""Row and column, from 0, of the first pixel of a tile in the total pixel matrix."""


def is_image(ds: Dataset) -> bool:
    """Return whether an instance has pixels, and is no video, which is seen as its stream.

    Plans, reports, key objects, presentation states, value maps, encapsulated documents, waveforms,
    annotations and raw data have none. They are stored, excluded as ``not-an-image``, and never a failure. Surface
    segmentations have none either, and are excluded as ``surfaces``.
    """
    return not _is_video(ds) and any(held(ds, standard_tag(keyword)) is not None for keyword in PIXELS)


def _is_video(ds: Dataset) -> bool:
    return text(ds.file_meta, "TransferSyntaxUID") in MPEGTransferSyntaxes


def without_pixels(ds: Dataset) -> ConversionRefused:
    """Return why an instance without pixels has no volume: its class (PS3.4 B.5) has no pixels, or they were lost."""
    sop_class = UID(text(ds, "SOPClassUID") or "")
    name = sop_class.name
    if sop_class == SurfaceSegmentationStorage:
        detail = (
            f"{name}: the triangles of its surfaces (PS3.3 C.27.1) are not drawn on slices; export the segments as "
            "Segmentation Storage or as an RT structure set"
        )
        return ConversionRefused(Reason.SURFACES, detail)
    if name and ("Image" not in name or _is_video(ds)):
        return ConversionRefused(Reason.NOT_AN_IMAGE, name)
    if not name:
        detail = "the instance has neither SOP Class UID (0008,0016) nor Pixel Data (7FE0,0010)"
        return ConversionRefused(Reason.NOT_AN_IMAGE, detail)
    return ConversionRefused(Reason.CUT, f"{name} without Pixel Data (7FE0,0010)")


def _is_of_a_slide(ds: Dataset, sop_class: str) -> bool:
    """Return whether an instance, such as a segmentation or a map of a slide, has the slide's frame of reference.

    PS3.3 C.7.6.17.3, C.8.12.6 and C.8.12.14; Dimension Organization Type (0020,9311) is optional. Only the functional
    groups of segmentations are read: parsing those of a large enhanced image takes seconds.
    """
    if text(ds, "DimensionOrganizationType").startswith("TILED"):
        return True
    if held(ds, standard_tag("TotalPixelMatrixColumns")) is not None:
        return True
    if sop_class not in segmentation.SOP_CLASSES:
        return False
    groups = (*items(ds, "SharedFunctionalGroupsSequence")[:1], *items(ds, "PerFrameFunctionalGroupsSequence")[:1])
    orientations = (orientation for group in groups for orientation in items(group, "PlaneOrientationSequence"))
    return any("PlanePositionSlideSequence" in group for group in groups) or any(
        "ImageOrientationSlide" in orientation for orientation in orientations
    )


def special_volumes(ds: Dataset, stack: int) -> tuple[Volume, ...] | None:
    """Return the volumes of a segmentation, of a dose grid or of a slide; None if the instance is none of these.

    A single plane of dose is an ordinary slice: some planning systems write one instance for each.

    `stack`: number of the volumes' stack in their series.

    Raises ConversionRefused ``tiled-slide``, or another reason why a segmentation, dose or slide has no volume.
    """
    sop_class = text(ds, "SOPClassUID")
    if sop_class == SLIDE:
        return _slide(ds, stack)
    if sop_class == _CONFOCAL_PYRAMID or _is_of_a_slide(ds, sop_class):
        raise ConversionRefused(Reason.TILED_SLIDE, "the tiles of a whole slide microscopy image are not a volume")
    if sop_class in segmentation.SOP_CLASSES:
        return segmentation.volumes(ds, stack)
    if sop_class == DOSE and (number(ds, "NumberOfFrames") or 1) > 1:
        return _dose(ds, stack)
    return None


def _dose(ds: Dataset, stack: int) -> tuple[Volume, ...]:
    """Return the dose grid of several planes, followed by an even grid if its planes are unevenly spaced.

    Values times `slope`, Dose Grid Scaling (3004,000E), are in the unit of Dose Units (3004,0002): Gy, or relative.
    Planes are in ascending order along the normal, whatever the order of their offsets.

    Raises ConversionRefused ``bad-geometry``: offsets, position or spacing are missing or impossible; or the pixels are
    refused.

    PS3.3 C.8.8.3.
    """
    reader = frame_reader(ds)
    scaling = number(ds, "DoseGridScaling")
    if not scaling:
        raise ConversionRefused(Reason.CONTRADICTORY, "(3004,000E) Dose Grid Scaling is missing or 0 (PS3.3 C.8.8.3)")
    positions, placed = _dose_placement(ds, reader.frames)
    order = np.argsort(positions, kind="stable")
    voxels = np.empty((1, reader.frames, reader.rows, reader.columns), reader.dtype)
    for plane, frame in enumerate(order):
        voxels[0, plane] = reader(int(frame))
    uid = text(ds, "SOPInstanceUID")
    attributes: dict[str, Any] = describe(ds, ())
    volume = Volume(
        voxels=voxels,
        affine_lps=placed.affine_lps,
        spacing_mm=placed.spacing_mm,
        geometry=placed.geometry,
        stack=stack,
        modality=text(ds, "Modality"),
        sources=tuple(Source(uid, int(frame) + 1, plane, 0) for plane, frame in enumerate(order)),
        slope=scaling,
        warnings=placed.warnings,
        attributes=attributes,
    )
    if placed.geometry is not Geometry.IRREGULAR:
        return (volume,)
    return tuple(with_upright(volume, placed, 0.0))


def _dose_placement(ds: Dataset, frames: int) -> tuple[Float, Placement]:
    """Return each frame's distance in mm along the normal, and the placement of the planes in ascending order."""
    corner = numbers(ds, "ImagePositionPatient", 3)
    cosines = numbers(ds, "ImageOrientationPatient", 6)
    spacing = numbers(ds, "PixelSpacing", 2)
    if corner is None or cosines is None or spacing is None or min(spacing) <= 0:
        raise _bad(
            "(0020,0032) Image Position (Patient), (0020,0037) Image Orientation (Patient) or (0028,0030) Pixel "
            "Spacing is missing or impossible"
        )
    row, column = np.array(cosines[:3]), np.array(cosines[3:])
    lengths = np.array([np.linalg.norm(row), np.linalg.norm(column)])
    if np.abs(lengths - 1).max() > UNIT_TOLERANCE or abs(row @ column) > UNIT_TOLERANCE:
        raise _bad("(0020,0037) Image Orientation (Patient) must be two unit vectors at a right angle")
    axes = stack_axes(np.array([cosines]))
    distances = _offsets(ds, frames, corner, axes.normal)
    ascending = np.sort(distances)
    if np.any(np.diff(ascending) <= 0):
        raise _bad("(3004,000C) Grid Frame Offset Vector has two equal offsets")
    positions = np.array(corner) + np.outer(ascending, axes.normal)
    return distances, place_planes(positions, axes, (spacing[0], spacing[1]), UNUSED_SPACING_MM)


def _offsets(ds: Dataset, frames: int, corner: tuple[float, ...], normal: Float) -> Float:
    """Return the distances in mm of the frames from Image Position (Patient) along the normal.

    Grid Frame Offset Vector (3004,000C) is relative to the first frame or, in axial grids, holds the patient's z.
    """
    offsets = numbers(ds, "GridFrameOffsetVector")
    if offsets is None or len(offsets) != frames:
        raise _bad(f"(3004,000C) Grid Frame Offset Vector must have one offset for each of the {frames} frames")
    stated: Float = np.array(offsets)
    if stated[0] == 0:
        return stated
    if not np.isclose(stated[0], corner[2], atol=1e-3) or abs(normal[2]) < 1 - UNIT_TOLERANCE:
        raise _bad("(3004,000C) Grid Frame Offset Vector must begin at 0, or at the patient's z in an axial grid")
    relative: Float = (stated - corner[2]) * np.sign(normal[2])
    return relative


def _bad(problem: str) -> ConversionRefused:
    return ConversionRefused(Reason.BAD_GEOMETRY, f"dose grid: {problem}")


def _slide(ds: Dataset, stack: int) -> tuple[Volume, ...]:
    """Return the total pixel matrix of a level as one plane, without a position in the patient.

    Raises ConversionRefused ``tiled-slide``: the level is too large, shows the label of the slide, is one of several
    parts, focal planes or optical paths, or its tiles do not cover it once; or the pixels are refused.

    PS3.3 C.8.12.4 and C.7.6.17.3.
    """
    rows, columns = _slide_size(ds)
    reader = frame_reader(ds)
    corners = _tile_corners(ds, reader, rows, columns)
    colour = (3,) if reader.colour else ()
    matrix = np.zeros((rows, columns, *colour), reader.dtype)
    covered, pixels = np.zeros((rows, columns), bool), 0
    for index, (row, column) in enumerate(corners):
        height, width = min(reader.rows, rows - row), min(reader.columns, columns - column)
        matrix[row : row + height, column : column + width] = reader(index)[:height, :width]
        covered[row : row + height, column : column + width] = True
        pixels += height * width
    if not covered.all() or pixels != rows * columns:
        raise _tiled("the tiles of the level leave gaps or overlap")
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
            warnings=_slide_warnings(reader, spacing),
            attributes=describe(ds, ()),
        ),
    )


def _slide_size(ds: Dataset) -> tuple[int, int]:
    """Return rows and columns of the total pixel matrix of a level that may become a picture."""
    rows, columns = whole(ds, "TotalPixelMatrixRows"), whole(ds, "TotalPixelMatrixColumns")
    if not rows or not columns or min(rows, columns) < 1:
        raise _tiled("(0048,0006) Total Pixel Matrix Columns or (0048,0007) Total Pixel Matrix Rows is missing")
    if max(rows, columns) > MAX_SIDE_PIXELS:
        raise _tiled(
            f"the level has {columns} x {rows} pixels; only levels of at most {MAX_SIDE_PIXELS} pixels along each side "
            "become pictures"
        )
    flavour, labelled = texts(ds, "ImageType")[2:3], text(ds, "SpecimenLabelInImage")
    if "LABEL" in flavour or labelled == "YES" or ("OVERVIEW" in flavour and labelled != "NO"):
        raise _tiled("the image shows the label of the slide, which may name the patient")
    if "ConcatenationUID" in ds:
        raise _tiled("the tiles of the level are in several instances (Concatenation UID (0020,9161))")
    for keyword in ("TotalPixelMatrixFocalPlanes", "NumberOfOpticalPaths"):
        if (number(ds, keyword) or 1) != 1 or len(items(ds, "OpticalPathSequence")) > 1:
            raise _tiled("the level has several focal planes or optical paths")
    return rows, columns


def _tile_corners(ds: Dataset, reader: FrameReader, rows: int, columns: int) -> list[Corner]:
    """Return the place of each tile; row by row if the organisation is TILED_FULL, else as each states it."""
    if text(ds, "DimensionOrganizationType") == "TILED_FULL":
        across, down = math.ceil(columns / reader.columns), math.ceil(rows / reader.rows)
        if reader.frames != across * down:
            raise _tiled(f"the level has {reader.frames} tiles, but {across} x {down} cover it")
        return [(reader.rows * (tile // across), reader.columns * (tile % across)) for tile in range(reader.frames)]
    groups = items(ds, "PerFrameFunctionalGroupsSequence")
    places = [_tile_corner(group) for group in groups]
    found = [(row, column) for row, column in places if 0 <= row < rows and 0 <= column < columns]
    if len(found) != reader.frames or len(groups) != reader.frames:
        raise _tiled("a tile has no place in the total pixel matrix (Plane Position (Slide) (0048,021A))")
    return found


def _tile_corner(group: Dataset) -> Corner:
    """Return the corner of the tile that a functional group describes; (-1, -1) if it states none."""
    plane = next(iter(items(group, "PlanePositionSlideSequence")), Dataset())
    row = numbers(plane, "RowPositionInTotalImagePixelMatrix", 1)
    column = numbers(plane, "ColumnPositionInTotalImagePixelMatrix", 1)
    return (-1, -1) if row is None or column is None else (int(row[0]) - 1, int(column[0]) - 1)


def _slide_warnings(reader: FrameReader, spacing: tuple[float, float] | None) -> tuple[VolumeWarning, ...]:
    detail = "the image is of a slide, without position or orientation in the patient; the volume has voxel axes only"
    warnings = [VolumeWarning(WarningKind.NO_GEOMETRY, detail)]
    if spacing is None:
        detail = "the image states no pixel spacing; 1 mm is assumed"
        warnings.append(VolumeWarning(WarningKind.SPACING_ASSUMED, detail))
    if reader.lossy:
        warnings.append(VolumeWarning(WarningKind.LOSSY, "the pixels went through a lossy codec"))
    return tuple(warnings)


def _tiled(cause: str) -> ConversionRefused:
    return ConversionRefused(Reason.TILED_SLIDE, f"whole slide microscopy: {cause}")
