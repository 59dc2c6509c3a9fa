"""What is derived from the array of a volume, in its values: projections, montages, thresholds, masked copies.

Arrays are (i, j, k) or (i, j, k, time), as the affine of a file has them. Nothing is interpolated or scaled to grey
levels (`node.volume.rendering` makes pictures).
"""

from __future__ import annotations

from math import ceil

import numpy as np

from node.volume.model import Array, Float
from node.volume.planes import PlaneName, ProjectionName
from node.volume.rendering import Plane, Projection, nearest_axes


def viewed(array: Array, affine_lps: Float, plane: PlaneName) -> Array:
    """Return the slices of a plane as radiologists view them (a view of the array, not a copy).

    `array`: (i, j, k) array.
    `affine_lps`, (4, 4) float, mm: from (i, j, k) to LPS+.
    `plane`: ``"axial"``, ``"coronal"`` or ``"sagittal"``: the nearest plane of an oblique volume.

    They are (slices, rows, columns): slices from inferior to superior, anterior to posterior or right to left; right is
    at the left of axial and coronal slices, anterior at the left of sagittal ones.

    Raises ValueError: the array has other dimensions, or there is no such plane.
    """
    _require_numbers(array)
    if array.ndim != 3:
        raise ValueError(f"the array has {array.ndim} dimensions, not three: choose one time")
    normal = _plane(plane)
    nearest = nearest_axes(affine_lps[:3, :3])
    order = [nearest.index(axis) for axis in range(3)]
    signs = [np.sign(affine_lps[axis, voxel]) for axis, voxel in enumerate(order)]
    oriented = array.transpose(order)[tuple(slice(None, None, -1 if sign < 0 else 1) for sign in signs)]  # (x, y, z)
    if normal is Plane.AXIAL:
        return oriented.transpose(2, 1, 0)
    return oriented.transpose(normal, 2, 1 - normal)[:, ::-1]


def _plane(name: str) -> Plane:
    try:
        return Plane[name.upper()]
    except KeyError:
        raise ValueError(f"{name!r} is not a plane: axial, coronal or sagittal") from None


def project(array: Array, affine_lps: Float, plane: PlaneName, projection: ProjectionName = "mip") -> Array:
    """Return the largest (``"mip"``) or smallest (``"minip"``) values of a whole volume, at right angles to a plane.

    Air around the patient counts, too: give `masked` the body if it should not. NaN counts as no value.

    Parameters and errors are those of `viewed`; the result is (rows, columns), in values of the array.
    """
    return np.asarray(_extreme(projection).reduce(viewed(array, affine_lps, plane), axis=0))


def collapse(array: Array, affine_lps: Float, plane: PlaneName, projection: ProjectionName = "mip") -> Array:
    """Return a projection as a volume of one slice with the affine of the whole: it is in the place of the first.

    Parameters and errors are those of `project`; the array may have times, of which each is projected.
    """
    _require_numbers(array)
    axis = nearest_axes(affine_lps[:3, :3]).index(_plane(plane))
    return np.asarray(_extreme(projection).reduce(array, axis=axis, keepdims=True))


def _extreme(projection: str) -> np.ufunc:
    try:
        return np.fmax if Projection(projection) is Projection.MIP else np.fmin
    except ValueError:
        raise ValueError(f"{projection!r} is not a projection: mip or minip") from None


def _require_numbers(array: Array) -> None:
    if array.dtype.kind not in "buif":
        raise ValueError(f"the voxels are {array.dtype}: only of real numbers, one is the larger")


def montage(array: Array, affine_lps: Float, plane: PlaneName = "axial", step: int = 1, columns: int = 0) -> Array:
    """Return every `step`-th slice of a plane in a grid, row by row, with `columns` slices in a row.

    `columns` is by default what makes the grid nearly square; cells without a slice have the smallest value. Parameters
    and errors are otherwise those of `viewed`.
    """
    if step < 1 or columns < 0:
        raise ValueError(f"step = {step}, columns = {columns}: a step is at least 1, and columns are not negative")
    slices = viewed(array, affine_lps, plane)[::step]
    columns = columns or ceil(len(slices) ** 0.5)
    lines = ceil(len(slices) / columns)
    height, width = slices.shape[1:]
    grid = np.full((lines * columns, height, width), slices.min(), array.dtype)
    grid[: len(slices)] = slices
    return grid.reshape(lines, columns, height, width).swapaxes(1, 2).reshape(lines * height, columns * width)


def threshold(array: Array, lower: float = -np.inf, upper: float = np.inf) -> Array:
    """Return a mask (uint8) with 1 where ``lower <= value <= upper``: every such voxel, connected or not."""
    _require_numbers(array)
    mask: Array = ((array >= lower) & (array <= upper)).astype(np.uint8)
    return mask


def masked(array: Array, mask: Array, outside: float) -> Array:
    """Return a copy whose values are `outside` where `mask` is 0, in the type of the array.

    Raises ValueError if the mask has another grid, or the type of the array cannot have `outside`.
    """
    if mask.shape != array.shape[: mask.ndim] or mask.ndim < 3:
        raise ValueError(f"the mask is {mask.shape}, and the array {array.shape}")
    value = np.asarray(outside).astype(array.dtype)
    if value != outside and not (np.isnan(outside) and np.isnan(value)):
        raise ValueError(f"outside = {outside}: {array.dtype} has no such value")
    inside = mask.reshape(mask.shape + (1,) * (array.ndim - mask.ndim)) != 0
    return np.where(inside, array, value)
