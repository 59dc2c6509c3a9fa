"""Positions that were rounded to whole millimetres: the places of the slices by what else states them.

Rounded positions are uneven, and slices seem to be lost between them. Slice Location (0020,1041) may have kept its
digits; else Instance Number (0020,0013) counts the slices, and a distance is stated. Two of these must agree, and the
positions must be exactly what rounding makes of the places.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from node.volume.geometry import POSITION_TOLERANCE_MM, SPACING_TOLERANCE, is_even, missing_slices
from node.volume.model import Float, Frame
from node.volume.read.planes import is_distance
from node.volume.reasons import VolumeWarning, WarningKind

UNIT_MM = 1.0
"""Unit of rounded positions."""

MIN_SLICES = 3
"""Fewest slices that can be uneven."""

MIN_LONG_STEPS = 2
"""Fewest steps of the rarer of two lengths from which numbers prove rounding: a single one may be a lost slice."""

INSTANCE_NUMBER = "Instance Number (0020,0013)"

MIN_OFF_MM = 0.1
"""Least range of the rounding errors of even positions; the positions themselves are right within less."""

EXACT_MM = 1e-6
"""Largest deviation of a whole number from a whole number, in mm."""


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
    places: Float = true + (in_plane if fits else middle)
    return places
