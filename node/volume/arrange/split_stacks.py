"""What makes a stack several: fields of view moved against each other, variants of the same places, acquisitions.

Each is proved by the places of its frames: parts share positions or lie within each other, and are whole and even by
themselves.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from node.volume.arrange.plane_positions import ascending, bins_of, labelled
from node.volume.arrange.whole_times import COUNTS, Bin
from node.volume.geometry import (
    DRIFT_TOLERANCE_PIXELS,
    cluster_numbers,
    is_even,
    missing_slices,
    stack_axes,
)
from node.volume.model import Frame

ACQUISITIONS = ("acquisition_number", "temporal_position", "acquisition_time")
"""Attributes that tell acquisitions apart whose positions do not fit together."""

VARIANTS = (
    *("image_type", "kernel", "kvp", "flip_angle", "velocity", "stack", "slice_thickness"),
    *("repetition_time", "intercept", "lossy"),
)
"""Attributes that tell volumes at the same places apart."""

MEASURED = frozenset({"repetition_time", "intercept"})
"""Those that a gated scan measures, or an archive computes, anew for each time, so that a value of each time's own
divides nothing."""

HEART_BEATS = 3.0
"""Largest repetition time over the least, up to which they may be those of heart beats; farther apart they are chosen,
for a map of relaxation times."""

WHOLE_ENOUGH = 0.5
"""Part of the positions that a volume must have to be told by a variant, where slices were lost."""

STACKS = frozenset({"stack"})
"""Those that name stacks: frames that belong together (PS3.3 C.7.6.16.2.2.7)."""


def parts_of_several_places(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Return frames by what makes them several stacks: moved fields of view, variants, interleaved acquisitions."""
    distances, labels = labelled(frames)
    if len(set(labels.tolist())) < len(frames):
        moved = _moved_fields(frames, labels)
        if len(moved) > 1:
            return moved
        for name in VARIANTS:
            for parts in _divisions(frames, (name,)):
                if _explains(parts, frames, labels, measured=_is_measured(name, frames)):
                    return parts
        for parts in _divisions(frames, ("sequence",)):
            if _are_phases(parts, frames, labels):
                return parts
    elif is_even(ascending(distances)):
        return [list(frames)]
    if len(set(Counter(labels.tolist()).values())) > 1 or not is_even(ascending(distances, labels)):
        return _parts_that_do_not_fit_together(frames, labels)
    return [list(frames)]


def parts_of_variants(frames: Sequence[Frame], bins: Sequence[Bin]) -> list[list[Frame]]:
    """Return frames by a variant that was chosen for each volume, of which some lost slices; none where there is none.

    Parameters
    ----------
    bins : sequence of list of Frame
        The frames by their positions.
    """
    chosen = [name for name in VARIANTS if not _is_measured(name, frames)]
    return _parts_beside_a_whole_one(frames, bins, chosen) or parts_that_lack_slices(frames, bins, chosen, sure=True)


def _parts_beside_a_whole_one(
    frames: Sequence[Frame], bins: Sequence[Bin], variants: Sequence[str]
) -> list[list[Frame]]:
    """Frames by a variant of which one value makes whole volumes, or of which all have as many at each position."""
    labels = {id(frame): place for place, own in enumerate(bins) for frame in own}
    for parts in _divisions(frames, variants):
        counts = [Counter(labels[id(frame)] for frame in part) for part in parts]
        whole = any(len(set(count.values())) == 1 and len(count) == len(bins) for count in counts)
        if whole or all(count == counts[0] for count in counts):
            return parts
    return []


def _is_measured(name: str, frames: Sequence[Frame]) -> bool:
    """Whether a variant may have a value of each time's own; repetition times, if they are as near as heart beats."""
    if name != "repetition_time":
        return name in MEASURED
    times_ms = [time for frame in frames if (time := frame.variant_key.get(name))]
    return not times_ms or max(times_ms) < HEART_BEATS * min(times_ms)


def parts_that_lack_slices(
    frames: Sequence[Frame], bins: Sequence[Bin], variants: Sequence[str] = VARIANTS, *, sure: bool = False
) -> list[list[Frame]]:
    """Return frames by a variant that tells apart all that share a position, though some of its volumes lost slices.

    `sure`: each has more than half of the positions, so that they do not go from slice to slice of one volume.
    """
    least = WHOLE_ENOUGH * len(bins) + sure / 2
    for parts in _divisions(frames, variants):
        if all(len(bins_of(part)) == len(part) >= least for part in parts):
            return parts
    return []


def _parts_that_do_not_fit_together(frames: Sequence[Frame], labels: Any) -> list[list[Frame]]:
    """Frames by what divides an uneven stack into even ones; one part where nothing does."""
    for name in ACQUISITIONS:
        for parts in _divisions(frames, (name,)):
            if _are_acquisitions(parts, frames, labels, of_times=name in COUNTS):
                return parts
    for name in VARIANTS:
        for parts in _divisions(frames, (name,)):
            if _are_stacks(parts, frames, labels, beside=name in STACKS):
                return parts
    for parts in _divisions(frames, ACQUISITIONS):
        if _have_gaps_of_their_own(parts, frames, labels):
            return parts
    return [list(frames)]


def _divisions(frames: Sequence[Frame], names: Sequence[str]) -> Iterator[list[list[Frame]]]:
    """Frames by each of the attributes that differ between them, in order of first appearance."""
    for name in names:
        parts = _by(frames, partial(_told, name))
        if len(parts) > 1:
            yield parts


def _told(name: str, frame: Frame) -> Hashable:
    """What a frame tells of a variant or of its time."""
    told: Hashable = frame.variant_key.get(name, frame.time_key.get(name))
    return told


def _by(frames: Sequence[Frame], trait: Callable[[Frame], Hashable]) -> list[list[Frame]]:
    """Frames that agree in a trait, in order of first appearance."""
    parts: dict[Hashable, list[Frame]] = defaultdict(list)
    for frame in frames:
        parts[trait(frame)].append(frame)
    return list(parts.values())


def _moved_fields(frames: Sequence[Frame], labels: Any) -> list[list[Frame]]:
    """Frames by their offset within the plane, where planes at one distance are moved against each other."""
    axes = stack_axes(np.array([frame.orientation for frame in frames]))
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
        is_even(ascending(*labelled(part))) for part in parts
    )


def _are_phases(parts: list[list[Frame]], frames: Sequence[Frame], labels: Any) -> bool:
    """Whether each part has the same number of cardiac phases, two or more, at every position.

    Sequence Name (0018,0024) tells the encodings of flow apart. It names diffusion weightings too, which are times.
    """
    counts = _positions_of(parts, frames, labels)
    if any(count.keys() != counts[0].keys() for count in counts):
        return False
    each = {number for count in counts for number in count.values()}
    phases = [_by(own, lambda frame: frame.time_key.get("trigger_time")) for part in parts for own in bins_of(part)]
    return len(each) == 1 and min(each) > 1 and {len(own) for own in phases} == each


def _are_acquisitions(parts: list[list[Frame]], frames: Sequence[Frame], labels: Any, *, of_times: bool) -> bool:
    """Whether acquisitions lie within each other, each whole, and are no times of one volume.

    One place that they share is enough, unless they are counted as times, which may have lost their other slices. Side
    by side they are one volume, of varying spacing perhaps. Where every position has several frames and an
    acquisition has only places of another, that one is a time which was interrupted.
    """
    counts = _positions_of(parts, frames, labels)
    ranges = sorted((min(count), max(count)) for count in counts)
    shared = max(Counter(labels.tolist()).values()) > 1  # they are no one volume, though some lie side by side
    interleaved = (any if shared else all)(after[0] < before[1] + (not of_times) for before, after in pairwise(ranges))
    within = any(a.keys() <= b.keys() for a in counts for b in counts if a is not b)
    single = min(Counter(labels.tolist()).values()) == 1
    return (
        interleaved
        and (single or not within)
        and all(
            len(part) > 2 and len(set(map(len, bins_of(part)))) == 1 and is_even(ascending(*labelled(part)))
            for part in parts
        )
    )


def _have_gaps_of_their_own(parts: list[list[Frame]], frames: Sequence[Frame], labels: Any) -> bool:
    """Whether acquisitions between each other that share no position are even but for lost slices, and all are not."""
    along = ascending(*labelled(frames))
    ranges = sorted((min(count), max(count)) for count in _positions_of(parts, frames, labels))
    if len(along) < len(frames) or missing_slices(along) is not None:
        return False
    return all(after[0] < before[1] for before, after in pairwise(ranges)) and all(
        len(part) > 2 and (is_even(own) or missing_slices(own) is not None)
        for part in parts
        for own in (ascending(*labelled(part)),)
    )


def _are_stacks(parts: list[list[Frame]], frames: Sequence[Frame], labels: Any, *, beside: bool) -> bool:
    """Whether parts that are not even together are so by themselves; `beside`: even if they lie beside each other."""
    counts = _positions_of(parts, frames, labels)
    ranges = sorted((min(count), max(count)) for count in counts)
    interleaved = all(after[0] < before[1] for before, after in pairwise(ranges))
    return (interleaved or beside) and all(
        len(set(count.values())) == 1 and len(count) > (1 if beside else 2) and is_even(ascending(*labelled(part)))
        for part, count in zip(parts, counts, strict=True)
    )
