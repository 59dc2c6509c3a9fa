"""The expected volume of a series, computed without the converter, and its comparison with a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydicom import dcmread

if TYPE_CHECKING:
    from node.volume.model import Array, Float

TOLERANCE_MM = 1e-3
"""Tolerance of positions; NIfTI stores its affine as 32-bit floats."""


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """The expected volume of one series.

    Attributes
    ----------
    title : str
        Descriptive name.
    voxels : (slices, rows, columns), Hounsfield units
    affine_lps : (4, 4) float64, mm
        From (column, row, slice) to LPS+; the slice axis of a single slice is ignored.
    """

    title: str
    voxels: Array
    affine_lps: Float


def truth_of_files(title: str, paths: Sequence[Path]) -> tuple[str, Truth]:
    """Return the Series Instance UID and the expected volume of an evenly spaced CT series, read from its files.

    Notes
    -----
    PS3.3 C.7.6.2.1.1, equation C.7.6.2.1-1.
    """
    instances = [dcmread(path) for path in paths]
    orientation = np.array(instances[0].ImageOrientationPatient, dtype=float)
    along_row, down_column = orientation[:3], orientation[3:]
    normal = np.cross(along_row, down_column)
    instances.sort(key=lambda ds: float(normal @ np.array(ds.ImagePositionPatient, dtype=float)))
    first, last = (np.array(instances[index].ImagePositionPatient, dtype=float) for index in (0, -1))
    between_rows, between_columns = map(float, instances[0].PixelSpacing)
    affine = np.eye(4)
    affine[:3, 0] = along_row * between_columns
    affine[:3, 1] = down_column * between_rows
    affine[:3, 2] = (last - first) / (len(instances) - 1) if len(instances) > 1 else normal
    affine[:3, 3] = first
    voxels = np.stack([ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept) for ds in instances])
    return str(instances[0].SeriesInstanceUID), Truth(title, voxels, affine)


def difference(truth: Truth, voxels: Array, affine_lps: Float) -> str | None:
    """Return how a volume differs from the truth, or None if every voxel has the correct value and position.

    Axes may have a different order or direction if the affine agrees.

    Parameters
    ----------
    voxels : (slices, rows, columns)
        Real-world values.
    affine_lps : (4, 4) float64, mm
        From (column, row, slice) to LPS+.
    """
    expected = truth.voxels.transpose(2, 1, 0)
    actual = voxels.transpose(2, 1, 0)
    right = truth.affine_lps.copy()
    if expected.shape[2] == 1:
        right[:3, 2] = affine_lps[:3, 2]
    # From indices of the volume to indices of the truth: a rotation by quarter turns if the axes are correct.
    between = np.linalg.inv(right) @ affine_lps
    turn = np.rint(between[:3, :3]).astype(int)
    if not np.array_equal(np.abs(turn).sum(axis=0), [1, 1, 1]) or not np.array_equal(
        np.abs(turn).sum(axis=1), [1, 1, 1]
    ):
        return "axes or spacing differ"
    axes = np.abs(turn).argmax(axis=0)
    turned = expected.transpose(axes)
    turned = turned[tuple(slice(None, None, turn[axis, index]) for index, axis in enumerate(axes))]
    if actual.shape != turned.shape:
        return f"shape is {actual.shape}, expected {turned.shape}"
    off = _farthest_corner_mm(right, affine_lps, turn, expected.shape, actual.shape)
    if off > TOLERANCE_MM:
        return f"a corner is off by {off:.4f} mm"
    wrong = int(np.count_nonzero(actual != turned))
    return f"{wrong} voxels have wrong values" if wrong else None


def _farthest_corner_mm(
    right: Float, affine: Float, turn: Array, expected_shape: tuple[int, ...], found_shape: tuple[int, ...]
) -> float:
    """Return the largest distance in mm between corner voxels (centres) of the volume and of the truth."""
    corners = np.array([np.unravel_index(corner, (2, 2, 2)) for corner in range(8)])
    indices = corners * (np.array(found_shape) - 1)
    # On a reversed axis, index 0 is the truth's last index.
    start = np.where(turn.sum(axis=1) < 0, np.array(expected_shape) - 1, 0)
    of_truth = indices @ turn.T + start
    corners_mm = indices @ affine[:3, :3].T + affine[:3, 3]
    return float(np.linalg.norm(of_truth @ right[:3, :3].T + right[:3, 3] - corners_mm, axis=1).max())
