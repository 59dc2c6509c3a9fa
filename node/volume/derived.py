"""What is derived from the array of a volume, in its values: projections, montages, thresholds, masked copies.

Arrays are (i, j, k) or (i, j, k, time), as the affine of a file has them. Nothing is interpolated or scaled to grey
levels (`node.volume.rendering` makes pictures).
"""

from __future__ import annotations

from math import ceil

import numpy as np

from node.volume.model import Array, Float
from node.volume.planes import PlaneName, ProjectionName
from node.volume.rendering import Plane, Projection, nearest_axes, rearranged


def viewed(array: Array, affine_lps: Float, plane: PlaneName) -> Array:
    """Return the slices of a plane as radiologists view them (a view of the array, not a copy).

    `array`: (i, j, k) array.
    `affine_lps`, (4, 4) float, mm: from (i, j, k) to LPS+.
    `plane`: ``"axial"``, ``"coronal"`` or ``"sagittal"``: the nearest plane of an oblique volume.

    The array is (slices, rows, columns): slices from inferior to superior, anterior to posterior or right to left;
    right is at the left of axial and coronal slices, anterior at the left of sagittal ones.

    Raises ValueError: the array has other dimensions, or there is no such plane.
    """
    require_numbers(array)
    if array.ndim != 3:
        raise ValueError(f"the array has {array.ndim} dimensions, not three: choose one time")
    normal = named_plane(plane)
    nearest = nearest_axes(affine_lps[:3, :3])
    order = [nearest.index(axis) for axis in range(3)]
    oriented = rearranged(array, order, (affine_lps[axis, voxel] for axis, voxel in enumerate(order)))  # (x, y, z)
    if normal is Plane.AXIAL:
        return oriented.transpose(2, 1, 0)
    return oriented.transpose(normal, 2, 1 - normal)[:, ::-1]


def named_plane(name: str) -> Plane:
    """Return a plane by its name. Raises ValueError if there is none."""
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
    require_numbers(array)
    axis = nearest_axes(affine_lps[:3, :3]).index(named_plane(plane))
    return np.asarray(_extreme(projection).reduce(array, axis=axis, keepdims=True))


def _extreme(projection: str) -> np.ufunc:
    try:
        return np.fmax if Projection(projection) is Projection.MIP else np.fmin
    except ValueError:
        raise ValueError(f"{projection!r} is not a projection: mip or minip") from None


def require_numbers(array: Array) -> None:
    """Raise ValueError if an array has colours or complex numbers."""
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
    require_numbers(array)
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


GRID_TOLERANCE_VOXELS = 0.05
"""Largest distance of a label from the voxel that it is for, in voxels: files keep affines with 32 bits."""


def placed(labels: Array, labels_affine_lps: Float, affine_lps: Float, shape: tuple[int, ...]) -> Array:
    """Return labels on the grid of a volume, without interpolation; 0 where they have no voxel.

    A segmentation may have fewer slices than its volume, and its axes in another order or direction.

    `labels`: (i, j, k) array of whole numbers.
    `labels_affine_lps`, `affine_lps`: (4, 4) float, mm: from (i, j, k) of the labels and of the volume to LPS+.
    `shape`: of the volume, (i, j, k).

    Raises ValueError if voxels of the labels are not those of the volume, or labels lie outside of it.
    """
    require_numbers(labels)
    if labels.ndim != 3:
        raise ValueError(f"the labels have {labels.ndim} dimensions, not three")
    whole = labels if labels.dtype.kind in "bui" else np.rint(labels).astype(np.int32)
    if not np.array_equal(whole, labels):
        raise ValueError("the labels are not whole numbers")
    between = np.linalg.inv(affine_lps) @ labels_affine_lps
    turn, start = np.rint(between[:3, :3]), np.rint(between[:3, 3])
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(labels.shape) - 1)
    off = np.abs(corners @ (between[:3, :3] - turn).T + between[:3, 3] - start).max()
    is_turned = all((np.abs(turn).sum(axis=axis) == 1).all() for axis in (0, 1))
    if not (is_turned and off <= GRID_TOLERANCE_VOXELS):
        raise ValueError("the labels have another grid than the volume: resample them there, by nearest neighbour")
    axes = np.abs(turn).argmax(axis=1)
    signs = turn[range(3), axes]
    arranged = rearranged(whole, axes.tolist(), signs)
    first = np.where(signs < 0, start - np.array(arranged.shape) + 1, start).astype(int)
    begin, end = np.maximum(first, 0), np.minimum(first + arranged.shape, shape)
    inside = arranged[tuple(map(slice, begin - first, np.maximum(end - first, begin - first)))]
    if np.count_nonzero(inside) != np.count_nonzero(whole):
        sizes = (" x ".join(map(str, sizes)) for sizes in (arranged.shape, shape))
        raise ValueError("labels lie outside of the volume: they have {} voxels, and the volume {}".format(*sizes))
    result = np.zeros(shape, whole.dtype)
    result[tuple(map(slice, begin, np.maximum(end, begin)))] = inside
    return result
