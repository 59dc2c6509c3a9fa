"""Lay the frames of a stack on a grid of times and slices: what shares a position is a series in time.

Planes are binned by their distance along the normal. A stack may turn out to be several: fields of view that are moved
against each other, variants of the same places, acquisitions that lie within each other.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from node.errors import ConversionRefused
from node.volume.completeness import Bin, by_instance
from node.volume.geometry import (
    DRIFT_TOLERANCE_PIXELS,
    Axes,
    cluster_numbers,
    is_even,
    position_numbers,
    position_tolerance,
    stack_axes,
)
from node.volume.model import Float, Frame
from node.volume.order import same_diffusion
from node.volume.reasons import Reason, Warn, Warning
from node.volume.times import Arrangement, repeated, uneven

ACQUISITIONS = ("acquisition_number", "temporal_position", "acquisition_time")
"""Attributes that tell acquisitions apart whose positions do not fit together."""

VARIANTS = ("image_type", "kernel", "kvp", "flip_angle", "stack", "slice_thickness", "repetition_time", "intercept")
"""Attributes that tell volumes at the same places apart."""

MEASURED = frozenset({"repetition_time", "intercept"})
"""Those that a gated scan measures, or an archive computes, anew for each time, so that a value of each time's own
divides nothing."""

WHOLE_ENOUGH = 0.5
"""Part of the positions that a volume must have to be told by a variant, where slices were lost."""

STACKS = frozenset({"stack"})
"""Those that name stacks: frames that belong together (PS3.3 C.7.6.16.2.2.7)."""


def arrange(frames: Sequence[Frame]) -> list[Arrangement]:
    """Return the grids of one stack, mostly one.

    Raises
    ------
    ConversionRefused
        ``same-position-twice`` or ``incomplete``: planes share positions and nothing tells them apart;
        ``contradictory``: they share one position, but not their location.
    """
    if frames[0].position is None:
        return [_without_place(frames)]
    parts = _parts_of_several_places(frames)
    if len(parts) > 1:
        numbered = enumerate((grid for part in parts for grid in arrange(part)), start=1)
        return [Arrangement(grid.planes, grid.left_out, grid.warnings, str(number)) for number, grid in numbered]
    bins = _bins(frames)
    counts = set(map(len, bins))
    if counts == {1}:
        return _of_each_weighting([only for (only,) in bins])
    if len(bins) == 1 and _are_of_several_places(frames):
        raise ConversionRefused(
            Reason.CONTRADICTORY,
            f"Image Position (Patient) (0020,0032) is the same for {len(frames)} frames, but each has a Slice Location "
            "(0020,1041) of its own: slices of a volume, or times of one slice",
        )
    try:
        return [repeated(bins) if len(counts) == 1 else uneven(bins)]
    except ConversionRefused:
        parts = _parts_that_lack_slices(frames, len(bins))
        if not parts:
            raise
        numbered = enumerate((grid for part in parts for grid in arrange(part)), start=1)
        return [Arrangement(grid.planes, grid.left_out, grid.warnings, str(number)) for number, grid in numbered]


def _of_each_weighting(frames: list[Frame]) -> list[Arrangement]:
    """The grids of frames that share no position: one, unless slices of several diffusion weightings were lost."""
    weightings: list[list[Frame]] = []
    for frame in frames:
        alike = next((part for part in weightings if same_diffusion([[part[0]], [frame]])), None)
        if alike is None:
            weightings.append([frame])
        else:
            alike.append(frame)
    if len(weightings) == 1:
        return [Arrangement([frames])]
    if len(weightings) == len(frames):
        told = "each slice has a diffusion weighting of its own"
        return [Arrangement([frames], warnings=(Warning(Warn.PARAMETER_VARIES, told),))]
    return [Arrangement([part], variant=str(number)) for number, part in enumerate(weightings, start=1)]


def _parts_that_lack_slices(frames: Sequence[Frame], positions: int) -> list[list[Frame]]:
    """Frames by a variant that tells apart all that share a position, though some of its volumes lost slices."""
    for parts in _divisions(frames, VARIANTS):
        if all(len(_bins(part)) == len(part) >= WHOLE_ENOUGH * positions for part in parts):
            return parts
    return []


def _are_of_several_places(frames: Sequence[Frame]) -> bool:
    """Whether each of three or more frames has a Slice Location of its own."""
    known = {location for frame in frames if (location := frame.time_key.get("slice_location")) is not None}
    return len(known) == len(frames) > 2 and len(set(cluster_numbers(np.array(list(known)), 0.1))) == len(known)


def _without_place(frames: Sequence[Frame]) -> Arrangement:
    """The grid of frames without a place in the patient: by the slices that they count, else a series in time."""
    slices: dict[float | None, Bin] = defaultdict(list)
    for frame in frames:
        slices[frame.time_key.get("slice")].append(frame)
    if None in slices or len(slices) == 1:
        return Arrangement([[frame] for frame in sorted(frames, key=by_instance)])
    bins = [own for _, own in sorted(slices.items(), key=lambda entry: entry[0] or 0.0)]
    if set(map(len, bins)) == {1}:
        return Arrangement([[only for (only,) in bins]])
    return repeated(bins) if len(set(map(len, bins))) == 1 else uneven(bins)


# Binning


def _distances(frames: Sequence[Frame]) -> tuple[Float, Axes, float]:
    """Distance of each frame along the stack's normal, its axes, and the tolerance for one position, in mm."""
    axes = stack_axes(np.array([frame.orientation for frame in frames]))
    positions = np.array([frame.position for frame in frames])
    return positions @ axes.normal, axes, position_tolerance(frames[0].pixel_spacing or (1.0, 1.0))


def _bins(frames: Sequence[Frame]) -> list[Bin]:
    """Frames by position, ascending along the normal."""
    distances, _, tolerance = _distances(frames)
    labels = position_numbers(distances, tolerance)
    bins: list[Bin] = [[] for _ in range(int(labels.max()) + 1)]
    for frame, label in zip(frames, labels, strict=True):
        bins[label].append(frame)
    return bins


def _parts_of_several_places(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Frames by what makes them several stacks: moved fields of view, variants, interleaved acquisitions."""
    distances, axes, tolerance = _distances(frames)
    labels = position_numbers(distances, tolerance)
    if len(set(labels.tolist())) < len(frames):
        moved = _moved_fields(frames, labels, axes)
        if len(moved) > 1:
            return moved
        for name in VARIANTS:
            for parts in _divisions(frames, (name,)):
                if _explains(parts, frames, labels, measured=name in MEASURED):
                    return parts
    elif is_even(_ascending(distances)):
        return [list(frames)]
    if len(set(Counter(labels.tolist()).values())) > 1 or not is_even(_ascending(distances, labels)):
        return _parts_that_do_not_fit_together(frames, labels)
    return [list(frames)]


def _parts_that_do_not_fit_together(frames: Sequence[Frame], labels: Any) -> list[list[Frame]]:
    """Frames by what divides an uneven stack into even ones; one part where nothing does."""
    for parts in _divisions(frames, ACQUISITIONS):
        if _are_acquisitions(parts, frames, labels):
            return parts
    for name in VARIANTS:
        for parts in _divisions(frames, (name,)):
            if _are_stacks(parts, frames, labels, beside=name in STACKS):
                return parts
    return [list(frames)]


def _divisions(frames: Sequence[Frame], names: Sequence[str]) -> Iterator[list[list[Frame]]]:
    """Frames by each of the attributes that differ between them, in order of first appearance."""
    for name in names:
        parts: dict[Hashable, list[Frame]] = defaultdict(list)
        for frame in frames:
            parts[frame.variant_key.get(name) if name in VARIANTS else frame.time_key.get(name)].append(frame)
        if len(parts) > 1:
            yield list(parts.values())


def _ascending(distances: Float, labels: Any = None) -> Float:
    """Ascending distances, one for each position."""
    if labels is None:
        return np.sort(distances)
    return np.asarray(np.bincount(labels, distances) / np.bincount(labels))


def _by(frames: Sequence[Frame], trait: Callable[[Frame], Hashable]) -> list[list[Frame]]:
    """Frames that agree in a trait, in order of first appearance."""
    parts: dict[Hashable, list[Frame]] = defaultdict(list)
    for frame in frames:
        parts[trait(frame)].append(frame)
    return list(parts.values())


def _moved_fields(frames: Sequence[Frame], labels: Any, axes: Axes) -> list[list[Frame]]:
    """Frames by their offset within the plane, where planes at one distance are moved against each other."""
    positions = np.array([frame.position for frame in frames])
    offsets = np.stack([positions @ axes.row, positions @ axes.column], axis=1)
    rows_mm, columns_mm = frames[0].pixel_spacing or (1.0, 1.0)
    tolerance = DRIFT_TOLERANCE_PIXELS * min(rows_mm, columns_mm)
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    spread = np.maximum.reduceat(offsets[order], starts) - np.minimum.reduceat(offsets[order], starts)
    if spread.max() <= tolerance:
        return [list(frames)]
    across, down = (cluster_numbers(offsets[:, axis], tolerance) for axis in (0, 1))
    places = {id(frame): (int(a), int(d)) for frame, a, d in zip(frames, across, down, strict=True)}
    return _by(frames, lambda frame: places[id(frame)])


def _positions_of(parts: list[list[Frame]], frames: Sequence[Frame], labels: Any) -> list[Counter[int]]:
    """For each part, how many frames it has at each position."""
    where = {id(frame): int(label) for frame, label in zip(frames, labels, strict=True)}
    return [Counter(where[id(frame)] for frame in part) for part in parts]


def _explains(parts: list[list[Frame]], frames: Sequence[Frame], labels: Any, *, measured: bool) -> bool:
    """Whether a variant makes whole volumes: at shared places, each with equal counts and even distances."""
    counts = _positions_of(parts, frames, labels)
    if sum(map(len, counts)) == len(set().union(*counts)):
        return False  # they share no position: parts of one volume
    if measured and len(parts) > 2 and all(max(count.values()) == 1 for count in counts):
        return False
    return all(len(set(count.values())) == 1 for count in counts) and all(
        is_even(_ascending(*_with_labels(part))) for part in parts
    )


def _are_acquisitions(parts: list[list[Frame]], frames: Sequence[Frame], labels: Any) -> bool:
    """Whether acquisitions lie within each other, each whole, and are no times of one volume.

    Side by side they are one volume, of varying spacing perhaps. Where every position has several frames and an
    acquisition has only places of another, that one is a time which was interrupted.
    """
    counts = _positions_of(parts, frames, labels)
    ranges = sorted((min(count), max(count)) for count in counts)
    interleaved = all(after[0] < before[1] for before, after in pairwise(ranges))
    within = any(a.keys() <= b.keys() for a in counts for b in counts if a is not b)
    single = min(Counter(labels.tolist()).values()) == 1
    return (
        interleaved
        and (single or not within)
        and all(
            len(part) > 2 and len(set(map(len, _bins(part)))) == 1 and is_even(_ascending(*_with_labels(part)))
            for part in parts
        )
    )


def _are_stacks(parts: list[list[Frame]], frames: Sequence[Frame], labels: Any, *, beside: bool) -> bool:
    """Whether parts that are not even together are so by themselves; `beside`: even if they lie beside each other."""
    counts = _positions_of(parts, frames, labels)
    ranges = sorted((min(count), max(count)) for count in counts)
    interleaved = all(after[0] < before[1] for before, after in pairwise(ranges))
    return (interleaved or beside) and all(
        len(set(count.values())) == 1 and len(count) > (1 if beside else 2) and is_even(_ascending(*_with_labels(part)))
        for part, count in zip(parts, counts, strict=True)
    )


def _with_labels(frames: Sequence[Frame]) -> tuple[Float, Any]:
    distances, _, tolerance = _distances(frames)
    return distances, position_numbers(distances, tolerance)
