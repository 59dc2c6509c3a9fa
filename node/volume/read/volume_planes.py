"""Planes that are placed in a volume's own frame of reference, as those of enhanced ultrasound, not in the patient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from node.errors import ConversionRefused
from node.volume.geometry import ORIENTATION_TOLERANCE
from node.volume.reasons import Reason

MAX_SHIFT_MM = 0.01
"""Shift of a plane within itself, against the first one, that rounding explains."""

MICROMETRES = 3
"""Decimals of a distance in mm."""


def distances_mm(planes: Sequence[tuple[Any, Any]]) -> list[float | None]:
    """Return the distance of each plane along the normal of all of them; None for planes without a position.

    Parameters
    ----------
    planes : sequence of (position, orientation)
        Image Position (Volume) (0020,9301) in mm, and Image Orientation (Volume) (0020,9302), or None and None.

    Raises
    ------
    ConversionRefused
        ``unproven-layout``: the planes are not parallel, or not above each other, so that they are no grid of voxels.

    Notes
    -----
    PS3.3 C.7.6.16.2.21 and C.7.6.16.2.22.
    """
    placed = [(position, orientation) for position, orientation in planes if position is not None]
    if not placed:
        return [None] * len(planes)
    positions, orientations = (np.array(values) for values in zip(*placed, strict=True))
    if np.abs(orientations - orientations[0]).max() > ORIENTATION_TOLERANCE:
        raise _refused("are not parallel, as those of a probe that turns or tilts")
    row, column = orientations[0][:3], orientations[0][3:]
    moved = positions - positions[0]
    if max(np.abs(moved @ row).max(), np.abs(moved @ column).max()) > MAX_SHIFT_MM:
        raise _refused("shift within themselves")
    normal = np.cross(row, column)
    return [None if position is None else round(float(position @ normal), MICROMETRES) for position, _ in planes]


def _refused(what: str) -> ConversionRefused:
    return ConversionRefused(
        Reason.UNPROVEN_LAYOUT,
        f"the planes of the volume {what} (Plane Position (Volume) (0020,930E), Plane Orientation (Volume) "
        "(0020,930F)): they are no grid of voxels; send the volume that the scanner makes of them",
    )
