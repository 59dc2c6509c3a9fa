"""Doubts about the positions of slices: other attributes agree against them, or they were rounded.

Image Position (Patient) places every slice. Slice Location, In-Stack Position Numbers and Instance Numbers may run in
an order of their own, as those of interleaved slices do. Positions are doubtful if two of these agree on another order
and none confirms that of the positions, if one has the order of the positions but for few pairs of slices, which
exchanged their positions, or if Slice Location has the distances of the positions in another order. Their distances are
doubtful if two attributes agree on another one. Frames of several times at one position have one Slice Location.

Positions that were rounded to whole millimetres are uneven, and slices seem to be lost between them. Slice Location
(0020,1041) may have kept its digits; else Instance Number (0020,0013) counts the slices, and a distance is stated. Two
of these must agree, and the positions must be exactly what rounding makes of the places.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from node.volume.geometry import POSITION_TOLERANCE_MM, SPACING_TOLERANCE, Placement, is_even, missing_slices
from node.volume.model import Float, Frame
from node.volume.read.planes import is_distance
from node.volume.reasons import VolumeWarning, WarningKind

MIN_SLICES = 3
"""Fewest slices that can be uneven, and that have an order in one direction by more than accident."""

MAX_EXCHANGED = 1 / 3
"""Largest share of slices, of all times, that exchanged positions; beyond it a source has an order of its own."""

_SLICE_LOCATION = "Slice Location (0020,1041)"

_STATED: dict[str, Callable[[Frame], float | None]] = {
    _SLICE_LOCATION: lambda frame: frame.time_key.get("slice_location"),
    "In-Stack Position Number (0020,9057)": lambda frame: frame.time_key.get("in_stack"),
    "Instance Number (0020,0013)": lambda frame: frame.instance_number,
}
"""Attributes that may run with the positions, by their names in sentences."""

UNIT_MM = 1.0
"""Unit of rounded positions."""

MIN_LONG_STEPS = 2
"""Fewest steps of the rarer of two lengths from which numbers prove rounding: a single one may be a lost slice."""

INSTANCE_NUMBER = "Instance Number (0020,0013)"

MIN_OFF_MM = 0.1
"""Least range of the rounding errors of even positions; the positions themselves are right within less."""

EXACT_MM = 1e-6
"""Largest deviation of a whole number from a whole number, in mm."""


def place_warnings(planes: Sequence[Sequence[Frame]], placement: Placement | None) -> list[VolumeWarning]:
    """Return a warning if other attributes agree against the order, or the distances, of the positions of slices.

    `planes`: frames by time and slice; the slices of each time ascend along the normal.
    """
    if placement is None:
        return []
    detail = _other_places(planes, placement)
    if detail is None and len(planes[0]) >= MIN_SLICES:
        detail = _other_order(planes, placement) or next(
            filter(None, (_other_distance(time, placement) for time in planes)), None
        )
    return [] if detail is None else [VolumeWarning(WarningKind.POSITIONS_DOUBTFUL, detail)]


def _other_order(planes: Sequence[Sequence[Frame]], placement: Placement) -> str | None:
    """Return in words which attributes have another order than the positions of slices; None if no doubt is left."""
    in_place = np.broadcast_to(np.arange(len(planes[0])), (len(planes), len(planes[0])))
    against: list[tuple[str, NDArray[np.intp], int]] = []
    for name, ranks in _orders(planes):
        astray = min(int((order != in_place).sum()) for order in (ranks, ranks[:, ::-1]))
        if not astray:
            return None
        against.append((name, ranks, astray))
    for name, ranks, astray in against:
        agreeing = [other for other, order, _ in against if _is_same_order(order, ranks)]
        is_of_places = name == _SLICE_LOCATION and _has_distances_of_places(planes, placement)
        if len(agreeing) > 1 or is_of_places or _are_exchanged(ranks):
            names = " and ".join(agreeing)
            return f"positions (0020,0032) put {astray} of {in_place.size} slices elsewhere than the order by {names}"
    return None


def _other_places(planes: Sequence[Sequence[Frame]], placement: Placement) -> str | None:
    """Return in words that Slice Location puts frames of one position as far apart as slices; None if it does not."""
    locations = np.array([[frame.time_key.get("slice_location") for frame in time] for time in planes], float)
    apart_mm = np.ptp(locations, axis=0)
    doubtful = apart_mm > placement.step_mm / 2
    if not doubtful.any():
        return None
    return (
        f"{_SLICE_LOCATION} puts frames at one position (0020,0032) up to {apart_mm[doubtful].max():.4g} mm apart, at "
        f"{doubtful.sum()} of {len(doubtful)} slices"
    )


def _are_exchanged(ranks: NDArray[np.intp]) -> bool:
    """Return whether the order of each time is that of the positions, or its reverse, but for few pairs of slices.

    A slice that was taken again has a later number, and is no pair. A table that moves to and fro reverses times.
    """
    in_place = np.arange(ranks.shape[1])
    is_against = (ranks[:, ::-1] == in_place).sum(axis=1) > (ranks == in_place).sum(axis=1)
    ranks = np.where(is_against[:, np.newaxis], ranks[:, ::-1], ranks)
    are_pairs = bool((np.take_along_axis(ranks, ranks, axis=1) == in_place).all())
    return are_pairs and 0 < (ranks != in_place).sum() <= MAX_EXCHANGED * ranks.size


def _has_distances_of_places(planes: Sequence[Sequence[Frame]], placement: Placement) -> bool:
    """Return whether Slice Location, in its own order, is as far from slice to slice as positions are."""
    locations = np.sort(np.array([[frame.time_key["slice_location"] for frame in time] for time in planes], float))
    steps_mm = np.diff(locations)
    return any(
        bool((np.abs(steps_mm - step_mm) <= SPACING_TOLERANCE * step_mm).all())
        for step_mm in (placement.step_mm, placement.spacing_mm[2])
    )


def _orders(planes: Sequence[Sequence[Frame]]) -> Iterator[tuple[str, NDArray[np.intp]]]:
    """Yield the ranks of the slices of each time by each attribute of which every slice of a time has another value."""
    for name, value_of in _STATED.items():
        values = [[value_of(frame) for frame in time] for time in planes]
        if all(None not in own and len(set(own)) == len(own) for own in values):
            yield name, np.argsort(np.argsort(np.array(values, float)))


def _is_same_order(one: NDArray[np.intp], other: NDArray[np.intp]) -> bool:
    return bool((one == other).all() or (one == other.max() - other).all())


def _other_distance(slices: Sequence[Frame], placement: Placement) -> str | None:
    """Return in words that Slice Location and Spacing Between Slices agree on another distance than the positions."""
    locations: Float = np.sort(np.array([frame.time_key.get("slice_location") for frame in slices], float))
    spacings = {frame.spacing_between_slices_mm for frame in slices}
    if np.isnan(locations).any() or None in spacings or len(spacings) > 1 or not is_even(locations):
        return None
    located_mm, spacing_mm = float(np.diff(locations).mean()), abs(float(spacings.pop() or 0.0))
    tolerance_mm = SPACING_TOLERANCE * spacing_mm
    by_positions = (placement.step_mm, placement.spacing_mm[2])
    if abs(located_mm - spacing_mm) > tolerance_mm or any(
        abs(step_mm - spacing_mm) <= tolerance_mm for step_mm in by_positions
    ):
        return None
    return (
        f"slices are {placement.step_mm:.4g} mm apart by their positions (0020,0032), but {spacing_mm:.4g} mm by "
        f"Spacing Between Slices (0018,0088) and {_SLICE_LOCATION}"
    )


def unrounded(frames: Sequence[Frame]) -> Sequence[Frame]:
    """Return the frames of one stack, at their true places if their positions were rounded; each then has a warning.

    `frames`: frames of one orientation, in any order.
    """
    first = frames[0]
    if first.position is None or first.orientation is None or len(frames) < MIN_SLICES:
        return frames
    positions: Float = np.array([frame.position for frame in frames])
    normal = np.cross(first.orientation[:3], first.orientation[3:])
    moving = np.ptp(positions, axis=0) > EXACT_MM
    if not moving.any() or np.abs(positions - np.rint(positions))[:, moving].max() > EXACT_MM:
        return frames
    along = positions @ normal
    for true, stated in _stated(frames, along):
        places = _as_rounded(positions, true, normal)
        if places is None:
            continue
        step_mm = float(np.median(np.diff(_distinct(true))))
        detail = f"positions (0020,0032) are rounded to whole mm: slices are {step_mm:.4g} mm apart by {stated}"
        note = VolumeWarning(WarningKind.REPAIRED, detail)
        return [
            replace(frame, position=place, notes=(*frame.notes, note))
            for frame, place in zip(frames, places, strict=True)
        ]
    return frames


def _stated(frames: Sequence[Frame], along: Float) -> Iterator[tuple[Float, str]]:
    """Yield distances along the normal in mm that two sources state, in either direction, and their names.

    `along`: (N,) float, mm; distances by the rounded positions. If these are even, the numbers of slices prove nothing:
    they are proportional to any step.
    """
    stated = _stated_distances(frames)
    numbers = None if is_even(_distinct(along)) else _numbers(frames, along)
    locations = _locations(frames)
    if locations is not None:
        step_mm = float(np.median(np.diff(_distinct(locations))))
        tolerance_mm = SPACING_TOLERANCE * step_mm
        confirmed = [name for distance, name in stated if abs(distance - step_mm) <= tolerance_mm]
        if numbers is not None and np.ptp(np.abs(locations - locations[0]) - np.abs(numbers) * step_mm) <= tolerance_mm:
            confirmed.append(INSTANCE_NUMBER)
        for sign in (1, -1) if confirmed else ():
            yield sign * locations, f"Slice Location (0020,1041) and {confirmed[0]}"
    if numbers is None:
        return
    order = np.argsort(along)
    steps = np.rint(np.diff(along[order]) / UNIT_MM)[np.abs(np.diff(numbers[order])) == 1]
    counts = np.unique(steps, return_counts=True)[1]
    if len(counts) > 1 and counts.min() >= MIN_LONG_STEPS and len(_distinct(along)) == len(frames):
        for distance, name in stated:
            for sign in (1, -1):
                yield sign * numbers * distance, f"{name} and {INSTANCE_NUMBER}"


def _locations(frames: Sequence[Frame]) -> Float | None:
    """Return the Slice Locations in mm if they are even but for gaps and finer than the positions; else None."""
    stated = [frame.time_key.get("slice_location") for frame in frames]
    if None in stated:
        return None
    locations = np.array(stated, float)
    places = _distinct(locations)
    is_grid = len(places) >= MIN_SLICES and (is_even(places) or missing_slices(places) is not None)
    return locations if is_grid and np.abs(locations - np.rint(locations)).max() > EXACT_MM else None


def _numbers(frames: Sequence[Frame], along: Float) -> Float | None:
    """Return Instance Numbers from that of the first frame, if they count the slices in one direction; else None."""
    stated = [frame.instance_number for frame in frames]
    if None in stated or len(set(stated)) < len(stated):
        return None
    numbers = np.array(stated, float)
    steps = np.diff(along[np.argsort(numbers)])
    return numbers - numbers[0] if (steps >= 0).all() or (steps <= 0).all() else None


def _stated_distances(frames: Sequence[Frame]) -> list[tuple[float, str]]:
    """Return the distances that all frames state, and their names: Spacing Between Slices, then Slice Thickness."""
    attributes = (
        ({frame.spacing_between_slices_mm for frame in frames}, "Spacing Between Slices (0018,0088)"),
        ({frame.slice_thickness_mm for frame in frames}, "Slice Thickness (0018,0050)"),
    )
    return [
        (abs(distance), name)
        for distances, name in attributes
        for distance in distances
        if len(distances) == 1 and distance is not None and is_distance(distance)
    ]


def _distinct(along: Float) -> Float:
    """Return ascending distances without those that share a position."""
    ordered = np.sort(along)
    return ordered[np.diff(ordered, prepend=-np.inf) > POSITION_TOLERANCE_MM]


def _as_rounded(positions: Float, along: Float, normal: Float) -> Float | None:
    """Return the true places (N, 3) in mm if the positions are what rounding makes of them; else None.

    `along`: (N,) float, mm; true distances along the normal, from any origin. Rounding moves each coordinate by half a
    millimetre at most. The origin of the distances is that of the positions if it fits; else it is in the middle of
    those that fit.
    """
    true = along[:, None] * normal
    off = positions - true
    apart_mm = np.ptp(off, axis=0).max()
    least_mm = MIN_OFF_MM if is_even(_distinct(positions @ normal)) else POSITION_TOLERANCE_MM
    is_whole = np.abs(true - true[0] - np.rint(true - true[0])).max() <= EXACT_MM  # rounding moves all of them alike
    if is_whole or not least_mm < apart_mm <= UNIT_MM + EXACT_MM:
        return None
    middle: Float = (off.min(axis=0) + off.max(axis=0)) / 2
    in_plane = middle - (middle @ normal) * normal
    fits = np.abs(off - in_plane).max() <= UNIT_MM / 2 + EXACT_MM
    return true + (in_plane if fits else middle)
