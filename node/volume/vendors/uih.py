"""United Imaging: grids of planes, diffusion."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from pydicom.dataset import Dataset

from node.dicom.private import PrivateTag, private_items, private_numbers
from node.dicom.values import numbers, text, texts, whole
from node.errors import ConversionRefused
from node.volume.elements import instant
from node.volume.reasons import Reason
from node.volume.tiling import Tiling
from node.volume.vendors.gradients import Gradient, along_image

_CREATOR = "Image Private Header"
_PLANES = PrivateTag(0x0065, _CREATOR, 0x50, "DS")
_PLANE_SEQUENCE = PrivateTag(0x0065, _CREATOR, 0x51, "SQ")
_B_VALUE = PrivateTag(0x0065, _CREATOR, 0x09, "FD")
_DIRECTION = PrivateTag(0x0065, _CREATOR, 0x37, "FD")
_MAX_TILES = 4096


def tiling(ds: Dataset) -> Tiling | None:
    """Return the layout of a grid (``VFRAME`` in Image Type); None for any other image.

    Each plane has an item of (0065,xx51) with its own Image Position (Patient).

    Raises
    ------
    ConversionRefused
        ``unproven-layout``: count or positions are missing, or do not match the matrix.
    """
    kinds = texts(ds, "ImageType")
    if kinds and "VFRAME" not in kinds:
        return None
    planes = private_numbers(ds, _PLANES, 1)
    if not kinds and (planes or (0.0,))[0] <= 1:  # without Image Type the count decides
        return None
    if not planes or not 1 <= planes[0] <= _MAX_TILES or planes[0] != int(planes[0]):
        raise _unproven("the number of planes (0065,xx50) is missing or impossible")
    count = int(planes[0])
    across = math.ceil(math.sqrt(count))
    down = math.ceil(count / across)
    rows, columns = whole(ds, "Rows"), whole(ds, "Columns")
    if not rows or not columns or rows % down or columns % across:
        raise _unproven(f"{rows} x {columns} pixels do not divide into {down} x {across} tiles")
    orientation = numbers(ds, "ImageOrientationPatient", 6)
    positions = [numbers(item, "ImagePositionPatient", 3) for item in private_items(ds, _PLANE_SEQUENCE)]
    if orientation is None or len(positions) != count or None in positions:
        raise _unproven(f"(0065,xx51) must have the positions of all {count} planes")
    times = [
        instant(text(item, "AcquisitionDate"), text(item, "AcquisitionTime"))
        for item in private_items(ds, _PLANE_SEQUENCE)
    ]
    return Tiling(
        count=count,
        tile_rows=rows // down,
        tile_columns=columns // across,
        rows_of_tiles=down,
        columns_of_tiles=across,
        positions=np.array(positions, float),
        orientation=np.array(orientation),
        slice_times_s=_since_first(times),
    )


def _since_first(times_s: Sequence[float | None]) -> tuple[float, ...] | None:
    """Return times in seconds after the earliest, rounded to 0.1 ms; None if one is unknown."""
    known = [time for time in times_s if time is not None]
    return tuple(round(time - min(known), 4) for time in known) if len(known) == len(times_s) else None


def _unproven(problem: str) -> ConversionRefused:
    return ConversionRefused(Reason.UNPROVEN_LAYOUT, f"UIH grid: {problem}")


def gradient(ds: Dataset) -> Gradient | None:
    """Return the diffusion weighting of (0065,xx09) and (0065,xx37); the latter is along row, column, normal."""
    b_value = private_numbers(ds, _B_VALUE, 1)
    if not b_value or b_value[0] < 0:
        return None
    encoded = private_numbers(ds, _DIRECTION, 3)
    orientation = numbers(ds, "ImageOrientationPatient", 6)
    if encoded is None or orientation is None:
        return Gradient(b_value[0])
    return Gradient(b_value[0], along_image(encoded, orientation))
