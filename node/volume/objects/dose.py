"""RT Dose: a grid of dose whose plane positions are offsets, scaled to the unit of Dose Units."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from node.dicom.values import number, numbers, text
from node.errors import ConversionRefused
from node.volume.describe.sidecar_fields import describe
from node.volume.geometry import Placement, place_planes, stack_axes
from node.volume.model import Float, Geometry, Source, Volume
from node.volume.read.pixels import frame_reader
from node.volume.reasons import Reason
from node.volume.resample import with_upright

SOP_CLASS = "1.2.840.10008.5.1.4.1.1.481.2"

UNIT_TOLERANCE = 0.01
"""Largest deviation of a direction cosine vector from length 1, and of row and column from a right angle."""

UNUSED_SPACING_MM = 1.0
"""Slice distance for a single plane; never used, because a grid has several planes."""


def volumes(ds: Dataset, stack: int) -> tuple[Volume, ...]:
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
    positions, placed = _placement(ds, reader.frames)
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


def _placement(ds: Dataset, frames: int) -> tuple[Float, Placement]:
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
