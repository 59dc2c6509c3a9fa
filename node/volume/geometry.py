"""Where planes lie: orientation clusters, positions along the normal, and the affine of a stack.

All in LPS+ millimetres (PS3.3 C.7.6.2.1.1); positions are centres of the first voxel of a plane.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from node.volume.model import Float, Geometry
from node.volume.reasons import Warn, Warning

ORIENTATION_TOLERANCE = 5e-4
"""Largest difference of a direction cosine within one orientation: 0.03 degrees, which is a tenth of a millimetre over
the widest field of view. Scanners jitter by 1e-7, files of few digits by 1e-4; no two scans are planned so near."""

POSITION_TOLERANCE_MM = 0.01
"""Planes nearer than this share a position; 3D Slicer takes the same. Of pixels below 0.1 mm: a tenth of a pixel."""

JITTER_TOLERANCE_MM = 0.05
"""Farthest that planes of several times may lie apart and still be one position: five times the tolerance of positions,
also where that is a part of a pixel; taken only where it leaves an even stack with equally many planes at each
position."""

SPACING_TOLERANCE = 0.01
"""Largest departure of a slice distance from the median, as a part of it (as highdicom), or 0.01 mm if that is more."""

FINE_SHARE = 0.1
"""Most of a slice distance that those 0.01 mm may be: slices of microscopic scans lie nearer to each other."""

ROUNDING = 1 + 1e-6
"""Distances of few digits lie on the tolerance itself."""

JITTER_SHARE = 0.2
"""Planes that lie nearer than this to the even grid, as a part of its step, with distances that differ by no more,
jitter around it: none is missing."""

DRIFT_TOLERANCE_PIXELS = 0.1
"""Largest movement of planes within themselves over the whole stack; above it the stack is sheared."""


@dataclass(frozen=True, slots=True, eq=False)
class Axes:
    """Unit vectors of a stack: along a row, down a column, and the normal on which distances count."""

    row: Float
    column: Float
    normal: Float


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """How a stack of planes lies.

    `step_mm` is the distance between planes along the normal that holds for most of them; `along` are the distances
    of the planes from the first, `offsets` (N, 2) how far each is moved along its rows and columns, both in mm.
    """

    geometry: Geometry
    affine_lps: Float
    spacing_mm: tuple[float, float, float]
    step_mm: float
    axes: Axes
    along: Float
    offsets: Float
    warnings: tuple[Warning, ...]


def cluster_orientations(orientations: Float) -> NDArray[np.intp]:
    """Return a cluster number for each of (N, 6) orientations; numbers count by first appearance."""
    labels = np.full(len(orientations), -1, np.intp)
    left = np.arange(len(orientations))
    cluster = 0
    while len(left):
        same = np.abs(orientations[left] - orientations[left[0]]).max(axis=1) <= ORIENTATION_TOLERANCE
        labels[left[same]] = cluster
        left = left[~same]
        cluster += 1
    return labels


def cluster_numbers(values: Float, tolerance: float) -> NDArray[np.intp]:
    """Return a cluster number for each of (N,) values, ascending; gaps above `tolerance` divide clusters."""
    order = np.argsort(values, kind="stable")
    labels = np.empty(len(values), np.intp)
    labels[order] = np.concatenate(([0], np.cumsum(np.diff(values[order]) > tolerance)))
    return labels


def position_numbers(distances: Float, tolerance: float) -> NDArray[np.intp]:
    """Return a number for each of (N,) distances along the normal, ascending: planes of one number share a position.

    Distances within `tolerance` share one. Those that jitter by more, up to five times as far, do so as well where that
    alone makes an even stack of equally many planes at each position.
    """
    near = cluster_numbers(distances, tolerance)
    if _is_whole(distances, near):
        return near
    jitter = tolerance * JITTER_TOLERANCE_MM / POSITION_TOLERANCE_MM
    loose = cluster_numbers(distances, jitter)
    if loose.max() == near.max() or not _is_whole(distances, loose):
        return near
    order = np.argsort(loose, kind="stable")
    starts = np.flatnonzero(np.diff(loose[order], prepend=-1))
    spread = np.maximum.reduceat(distances[order], starts) - np.minimum.reduceat(distances[order], starts)
    return loose if spread.max() <= jitter else near


def _is_whole(distances: Float, labels: NDArray[np.intp]) -> bool:
    """Whether there are equally many planes at each of several evenly spaced positions."""
    counts = np.bincount(labels)
    return bool((counts == counts[0]).all()) and is_even(np.bincount(labels, distances) / counts)


def stack_axes(orientations: Float) -> Axes:
    """Return the orthonormal axes nearest to the mean of (N, 6) orientations of one cluster."""
    mean = orientations.mean(axis=0).reshape(2, 3)
    left, _, right = np.linalg.svd(mean, full_matrices=False)  # polar decomposition: turns neither vector alone
    row, column = left @ right
    return Axes(row, column, np.cross(row, column))


def position_tolerance(pixel_spacing: tuple[float, float]) -> float:
    """Return how near planes must lie to share a position, in mm."""
    return min(POSITION_TOLERANCE_MM, 0.1 * min(pixel_spacing))


def place(
    positions: Float,
    axes: Axes,
    pixel_spacing: tuple[float, float],
    single_spacing_mm: float,
    *,
    equally_thick: bool = True,
) -> Placement:
    """Return how planes at distinct positions lie.

    Parameters
    ----------
    positions : (N, 3) mm
        *Image Position (Patient)* in ascending order along the normal.
    axes : Axes
    pixel_spacing : (float, float), mm
        Between rows, then between columns.
    single_spacing_mm : float
        Between slices, where there is only one.
    equally_thick : bool
        All slices have one thickness, so that a distance of several steps is a gap.

    Notes
    -----
    PS3.3 C.7.6.2.1.1. The slice column of the affine is measured from the first to the last position. Where distances
    are uneven it is the median step instead, or the one between slices of which none is missing, so that nothing is
    stretched; the first plane is in place then. Planes
    that only jitter around an even grid keep that grid.
    """
    relative = positions - positions[0]
    along = relative @ axes.normal
    offsets = np.stack([relative @ axes.row, relative @ axes.column], axis=1)
    count = len(positions)
    warnings: tuple[Warning, ...] = ()
    if count == 1:
        step, step_mm, geometry = axes.normal * single_spacing_mm, single_spacing_mm, Geometry.SINGLE
    else:
        geometry, warnings = _classify(along, offsets, pixel_spacing, equally_thick)
        step_mm = usual_step(along, equally_thick=equally_thick)
        step = relative[-1] / along[-1] * step_mm
    between_rows, between_columns = pixel_spacing
    affine = np.eye(4)
    affine[:3, 0] = axes.row * between_columns
    affine[:3, 1] = axes.column * between_rows
    affine[:3, 2] = step
    affine[:3, 3] = positions[0]
    spacing = (float(between_columns), float(between_rows), float(np.linalg.norm(step)))
    return Placement(geometry, affine, spacing, step_mm, axes, along, offsets, warnings)


def is_even(along: Float) -> bool:
    """Return whether ascending distances are even within tolerance."""
    if len(along) < 3:
        return True
    steps = np.diff(along)
    median = float(np.median(steps))
    least = min(POSITION_TOLERANCE_MM, FINE_SHARE * median)
    tolerance = max(SPACING_TOLERANCE * median, least)
    return bool(np.abs(steps - median).max() <= tolerance or off_grid(along) <= least * ROUNDING)


def missing_slices(along: Float) -> tuple[float, NDArray[np.intp]] | None:
    """Return the step of an even stack that has gaps of whole slices, and how many are missing after each slice.

    The step is the usual distance, or the least one where all are multiples of that and more slices are there than
    missing. None where the distances are no multiples, and where nothing is missing.
    """
    steps = np.diff(along)
    for step_mm in (float(np.median(steps)), float(steps.min())):
        times = np.maximum(np.rint(steps / step_mm), 1).astype(np.intp)
        tolerance = max(SPACING_TOLERANCE * step_mm, min(POSITION_TOLERANCE_MM, FINE_SHARE * step_mm))
        missing = int((times - 1).sum())
        if missing == 0 or (np.abs(steps - times * step_mm) > tolerance * times).any():
            continue
        if step_mm == float(np.median(steps)) or missing < len(along):
            return step_mm, times - 1
    return None


def usual_step(along: Float, *, equally_thick: bool = True) -> float:
    """Return the distance that holds for most of two or more ascending distances; see `place`."""
    step_mm = float(np.median(np.diff(along)))
    if is_even(along) or _jitters(along, step_mm):
        return float((along[-1] - along[0]) / (len(along) - 1))
    found = missing_slices(along) if equally_thick else None
    return step_mm if found is None else found[0]


def unevenness(along: Float, *, equally_thick: bool = True) -> list[Warning]:
    """Return what is to be told of two or more ascending distances: nothing where they are even.

    Slices are missing (distances are multiples of the usual one), or lie unevenly, or it may be either.
    """
    steps = np.diff(along)
    step_mm = float(np.median(steps))
    if is_even(along) and off_grid(along) <= JITTER_SHARE * step_mm:
        return []
    uneven = Warning(
        Warn.IRREGULAR_SPACING,
        f"distances between slices go from {steps.min():.4g} to {steps.max():.4g} mm, {step_mm:.4g} mm in the middle",
    )
    found = missing_slices(along) if equally_thick else None
    if found is None:
        return [uneven]
    least_mm, missing = found
    gaps = ", ".join(str(index + 1) for index in np.flatnonzero(missing)[:20])
    told = f"{missing.sum()} slices are missing at {least_mm:.4g} mm spacing, after slices {gaps}"
    gap = Warning(Warn.MISSING_SLICE, told)
    return [gap] if least_mm == step_mm else [gap, uneven]


def off_grid(along: Float) -> float:
    """Return how far ascending distances lie at most from the even grid between the first and the last, in mm."""
    return float(np.abs(along - np.linspace(along[0], along[-1], len(along))).max())


def _jitters(along: Float, step_mm: float) -> bool:
    """Whether ascending distances are those of an even grid but for noise that does not add up."""
    within = JITTER_SHARE * step_mm
    return bool(np.abs(np.diff(along) - step_mm).max() <= within and off_grid(along) <= within)


def _classify(
    along: Float, offsets: Float, pixel_spacing: tuple[float, float], equally_thick: bool
) -> tuple[Geometry, tuple[Warning, ...]]:
    """The geometry of two or more planes, and what is to be told of it."""
    pixel = np.array([pixel_spacing[1], pixel_spacing[0]])
    share = (along / along[-1])[:, None]
    straight = np.abs((offsets - share * offsets[-1]) / pixel).max() <= DRIFT_TOLERANCE_PIXELS
    sheared = np.abs(offsets[-1] / pixel).max() > DRIFT_TOLERANCE_PIXELS
    warnings = []
    if sheared and straight:
        degrees = np.degrees(np.arctan2(np.linalg.norm(offsets[-1]), along[-1]))
        warnings.append(Warning(Warn.GANTRY_TILT, f"planes are tilted against their stack by {degrees:.2f} degrees"))
    uneven = unevenness(along, equally_thick=equally_thick)
    if not uneven and not straight:
        uneven = [Warning(Warn.IRREGULAR_SPACING, "planes are not moved evenly along their rows and columns")]
    warnings += uneven
    if uneven:
        return Geometry.IRREGULAR, tuple(warnings)
    return (Geometry.SHEARED if sheared else Geometry.REGULAR), tuple(warnings)
