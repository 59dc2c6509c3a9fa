"""What is derived from the array of a volume: an even upright grid, projections, montages, thresholds, masked copies.

Arrays are (i, j, k) or (i, j, k, time), as the affine of a file has them. A stack of parallel planes with a tilted
gantry, gaps or uneven spacing is interpolated onto an even, upright grid. Nothing else is interpolated, and nothing
scaled to grey levels (`node.volume.rendering` makes pictures).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil

import numpy as np
from numpy.typing import NDArray

from node.volume.geometry import SHEARED_ADVICE, SPACING_TOLERANCE, Placement, median
from node.volume.model import Array, Float, Geometry, Volume, VolumeKind
from node.volume.planes import PlaneName, ProjectionName
from node.volume.reasons import VolumeWarning, WarningKind
from node.volume.rendering import Plane, Projection, nearest_axes, rearranged

MAX_GROWTH = 4
"""Largest size of the upright grid, as a multiple of the voxels."""


def with_upright(volume: Volume, placement: Placement, fill: float, codes: Array | bool = False) -> list[Volume]:
    """Return a volume, followed by its copy interpolated onto an even upright grid.

    If that grid is too large, there is no copy, and the volume has the warning `WarningKind.NOT_RESAMPLED`.

    `placement`: placement of the planes, at least two. `fill`: stored value for voxels that no plane covers.
    `codes`: which voxels are codes, such as padding, labels and phases: values between two of them mean something else,
    and the nearest voxel is taken. True: all of them.
    """
    grid = upright(volume.voxels, placement, fill, codes)
    if grid is None:
        where = "the affine is right for the first slice alone, and " if volume.geometry is Geometry.IRREGULAR else ""
        detail = f"{where}no copy on an even upright grid is written: it would have over {MAX_GROWTH} times the voxels"
        warnings = (*without_advice(volume.warnings), VolumeWarning(WarningKind.NOT_RESAMPLED, detail))
        return [replace(volume, warnings=warnings)]
    voxels, affine_lps, step_mm = grid
    slices = slices_of(placement.along, step_mm)
    between = [index for index in range(voxels.shape[1]) if 0 < _between(placement.along, index * step_mm)[1] < 1]
    return [
        volume,
        replace(
            volume,
            voxels=voxels,
            affine_lps=affine_lps,
            spacing_mm=(*volume.spacing_mm[:2], step_mm),
            geometry=Geometry.REGULAR,
            kind=VolumeKind.RESAMPLED,
            sources=tuple(replace(source, slice_index=int(slices[source.slice_index])) for source in volume.sources),
            warnings=without_advice(volume.warnings),
            attributes={**volume.attributes, **({"interpolated_slices": between} if between else {})},
        ),
    ]


def without_advice(warnings: Sequence[VolumeWarning]) -> tuple[VolumeWarning, ...]:
    """Return warnings without the advice to use a resampled copy."""
    return tuple(replace(warning, detail=warning.detail.removesuffix(SHEARED_ADVICE)) for warning in warnings)


def upright(
    voxels: Array, placement: Placement, fill: float, codes: Array | bool = False
) -> tuple[Array, Float, float] | None:
    """Return voxels on the grid whose slices stand upright on the planes, at even distances.

    Planes are shifted within themselves, and values between planes are computed, by linear interpolation; where a code
    would take part in that, the nearest voxel is taken. Voxels outside the planes get `fill`. No distance is stretched:
    the first plane keeps its position, and the grid ends with the slice that the last one lies in (`slices_of`).

    `voxels`: (times, slices, rows, columns[, 3]) array.
    `placement`: placement of the planes, at least two.
    `fill`: stored value for voxels that no plane covers.
    `codes`: which voxels are codes, such as padding; True: all of them.

    Voxels, (times, slices', rows', columns'[, 3]), are of the same type, integers rounded. Then come the affine, mm,
    from voxel index (column, row, slice) to LPS+, and the distance between slices, mm. None if the grid would be larger
    than ``MAX_GROWTH`` times the voxels.
    """
    times, slices, rows, columns = voxels.shape[:4]
    affine, (wide, high, planes), step = upright_grid(placement, columns, rows)
    if planes * high * wide > MAX_GROWTH * slices * rows * columns:
        return None
    shifts, grown = _shifts(placement), np.array([wide - columns, high - rows])
    shifts -= shifts.min(axis=0)
    coded = np.broadcast_to(codes, voxels.shape)
    out = np.empty((times, planes, high, wide, *voxels.shape[4:]), voxels.dtype)
    work = np.float64 if voxels.dtype.itemsize > 2 else np.float32
    for index in range(planes):
        before, share = _between(placement.along, index * step)
        weights = {plane: weight for plane, weight in ((before, 1 - share), (before + 1, share)) if weight}
        nearest_plane = before if share <= 0.5 else before + 1
        for time in range(times):
            known = np.where(coded[time, [*weights]], 0, voxels[time, [*weights]])
            moved = _mixed(known.astype(work), weights, shifts, grown)
            touched = _mixed(coded[time, [*weights]].astype(work), weights, shifts, grown) > 0
            if touched.any():
                nearest = _moved(voxels[time, nearest_plane].astype(work), np.rint(shifts[nearest_plane]), grown)
                moved = np.where(touched, nearest, moved)
            out[time, index] = _stored(moved, fill, voxels.dtype)
    return out, affine, step


def _mixed(planes: Array, weights: Mapping[int, float], shifts: Float, grown: Array) -> Array:
    """Return the weighted sum of planes that are shifted within themselves; NaN where one of them has no values."""
    parts = [
        part * _moved(values, shifts[at], grown) for values, (at, part) in zip(planes, weights.items(), strict=True)
    ]
    return sum(parts[1:], start=parts[0])


def upright_grid(placement: Placement, columns: int, rows: int) -> tuple[Float, tuple[int, int, int], float]:
    """Return affine (LPS+, mm), size (columns, rows, slices) and slice distance (mm) of the upright grid of planes."""
    columns_mm, rows_mm, _ = placement.spacing_mm
    step = _even_step(placement.along)
    shifts = _shifts(placement)
    lowest, highest = shifts.min(axis=0), shifts.max(axis=0)
    grown = np.ceil(highest - lowest - SPACING_TOLERANCE).astype(int).tolist()
    affine = placement.affine_lps.copy()
    affine[:3, 2] = placement.axes.normal * step
    affine[:3, 3] += placement.axes.row * lowest[0] * columns_mm + placement.axes.column * lowest[1] * rows_mm
    return affine, (columns + grown[0], rows + grown[1], int(slices_of(placement.along, step)[-1]) + 1), step


def slices_of(along: Float, step: float) -> NDArray[np.intp]:
    """Return the slice of the upright grid, from 0, that each plane lies in: the nearest; the grid ends with the last.

    `along`, (N,) float, mm: distances of the planes from the first. `step`: distance between slices of the grid, mm.
    """
    return np.floor(along / step + 0.5 + SPACING_TOLERANCE).astype(np.intp)


def _shifts(placement: Placement) -> Float:
    """Return the shift of each plane within itself, (slices, 2): in columns and in rows."""
    shifts: Float = placement.offsets / np.array(placement.spacing_mm[:2])
    return shifts


def _even_step(along: Float) -> float:
    """Return the slice distance of the even grid in mm: the smallest, or the median if that gives too many slices."""
    steps = np.diff(along)
    usual = median(steps)
    finest = float(steps.min())
    if np.abs(steps - usual).max() <= SPACING_TOLERANCE * usual:
        return float(along[-1] / (len(along) - 1))
    if finest >= usual * (1 - SPACING_TOLERANCE):
        return usual
    return finest if along[-1] / finest <= MAX_GROWTH * len(along) else usual


def _between(along: Float, distance: float) -> tuple[int, float]:
    """Return the plane before a distance, and the weight of the next plane."""
    before = min(max(int(np.searchsorted(along, distance, side="right")) - 1, 0), len(along) - 2)
    share = (distance - along[before]) / (along[before + 1] - along[before])
    return before, 0.0 if share < SPACING_TOLERANCE else 1.0 if share > 1 - SPACING_TOLERANCE else float(share)


def _moved(plane: Array, shift: Float, grown: Array) -> Array:
    """Return a plane shifted by `shift` (columns, rows) on a larger grid; NaN where it has no values."""
    out = plane
    for axis, amount, more in ((1, shift[0], grown[0]), (0, shift[1], grown[1])):
        whole = int(np.floor(amount + SPACING_TOLERANCE))
        part = max(float(amount) - whole, 0.0)
        part = 0.0 if part < SPACING_TOLERANCE else part
        size = out.shape[axis]
        shape = list(out.shape)
        shape[axis] = size + int(more)
        larger = np.full(shape, np.nan, out.dtype)
        inside = [slice(None)] * out.ndim
        if part:
            later, earlier = np.take(out, range(1, size), axis), np.take(out, range(size - 1), axis)
            inside[axis] = slice(whole + 1, whole + size)
            larger[tuple(inside)] = (1 - part) * later + part * earlier
        else:
            inside[axis] = slice(whole, whole + size)
            larger[tuple(inside)] = out
        out = larger
    return out


def _stored(plane: Array, fill: float, dtype: np.dtype) -> Array:
    """Return a plane in the type of the volume, with `fill` for unknown values."""
    plane = np.where(np.isnan(plane), fill, plane)
    return (plane if dtype.kind == "f" else np.rint(plane)).astype(dtype)


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
    return ((array >= lower) & (array <= upper)).astype(np.uint8)


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
