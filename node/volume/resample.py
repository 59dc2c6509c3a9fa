"""Interpolate a stack of parallel planes onto an even, upright grid: for tilted gantries, gaps and uneven spacing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from node.volume.geometry import SHEARED_ADVICE, SPACING_TOLERANCE, Placement
from node.volume.model import Array, Float, Geometry, Volume, VolumeKind
from node.volume.reasons import VolumeWarning, WarningKind

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
    nearest = np.rint(placement.along / step_mm).astype(int)
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
            sources=tuple(replace(source, slice_index=int(nearest[source.slice_index])) for source in volume.sources),
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
    the first plane keeps its position.

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
    planes = int((placement.along[-1] / step) + SPACING_TOLERANCE) + 1
    return affine, (columns + grown[0], rows + grown[1], planes), step


def _shifts(placement: Placement) -> Float:
    """Return the shift of each plane within itself, (slices, 2): in columns and in rows."""
    shifts: Float = placement.offsets / np.array(placement.spacing_mm[:2])
    return shifts


def _even_step(along: Float) -> float:
    """Return the slice distance of the even grid in mm: the smallest, or the median if that gives too many slices."""
    steps = np.diff(along)
    median = float(np.median(steps))
    finest = float(steps.min())
    if np.abs(steps - median).max() <= SPACING_TOLERANCE * median:
        return float(along[-1] / (len(along) - 1))
    if finest >= median * (1 - SPACING_TOLERANCE):
        return median
    return finest if along[-1] / finest <= MAX_GROWTH * len(along) else median


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
