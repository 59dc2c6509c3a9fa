"""Doubts about the positions of slices: other attributes agree against them.

Image Position (Patient) places every slice. Slice Location, In-Stack Position Numbers and Instance Numbers may run in
an order of their own, as those of interleaved slices do. Positions are doubtful if two of these agree on another order
and none confirms that of the positions, if one has the order of the positions but for few pairs of slices, which
exchanged their positions, or if Slice Location has the distances of the positions in another order. Their distances are
doubtful if two attributes agree on another one.

Frames of several times at one position have one Slice Location.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from node.volume.geometry import SPACING_TOLERANCE, Placement, is_even
from node.volume.model import Float, Frame
from node.volume.reasons import VolumeWarning, WarningKind

MIN_SLICES = 3
"""Fewest slices that have an order in one direction by more than accident."""

MAX_EXCHANGED = 1 / 3
"""Largest share of slices, of all times, that exchanged positions; beyond it a source has an order of its own."""

_SLICE_LOCATION = "Slice Location (0020,1041)"

_STATED: dict[str, Callable[[Frame], float | None]] = {
    _SLICE_LOCATION: lambda frame: frame.time_key.get("slice_location"),
    "In-Stack Position Number (0020,9057)": lambda frame: frame.time_key.get("in_stack"),
    "Instance Number (0020,0013)": lambda frame: frame.instance_number,
}
"""Attributes that may run with the positions, by their names in sentences."""


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
