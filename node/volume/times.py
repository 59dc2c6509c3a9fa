"""Order in time: what frames that share a position are to each other.

The order is given by the first attribute that tells the frames of every position apart. Where counts are unequal there
are copies, a scan that was interrupted, or a place that was taken twice: nothing is dropped without a word.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from node.errors import ConversionRefused
from node.volume.completeness import COUNTS, Bin, by_instance, labels_by_attribute, labels_by_number, whole_times
from node.volume.intensities import read
from node.volume.model import Frame, Reason, Warn, Warning

TIME_KEYS = (
    "temporal_position",
    "dimensions",
    "trigger_time",
    "cardiac_phase",
    "frame_reference_time",
    "acquisition_time",
    "acquisition_number",
    "content_time",
    "frame_time",
    "instance",
)
"""Attributes that order the planes of one place, the first that can being taken."""

B_VALUE_TOLERANCE = 0.01  # as a part, or 5 s/mm2 if that is more: scanners write measured values
DIRECTION_TOLERANCE = 0.01

MAY_DIFFER_IN_COPIES = ("content_time", "instance")
"""Attributes that a second sending or reconstruction of the same image changes."""

MOST_TAKEN_TWICE = 0.25
"""Part of the positions that may be taken twice; with more of them, two volumes would be mixed."""


@dataclass(frozen=True, slots=True, eq=False)
class Arrangement:
    """A stack on its grid: `planes[time][slice]`, and the frames that found no place there."""

    planes: list[list[Frame]]
    left_out: list[tuple[Frame, Reason, str]] = field(default_factory=list)
    warnings: tuple[Warning, ...] = ()
    variant: str = ""  # what tells it from others of its stack: a number

    @property
    def frames(self) -> list[Frame]:
        return [frame for time in self.planes for frame in time]


def _time_order(bins: list[Bin]) -> tuple[str, list[Bin]] | None:
    """Bins with their frames in order of time, and the attribute that gives it; None where none can."""
    for name in TIME_KEYS:
        ordered = _ordered_by(bins, name)
        if ordered is None or not _same_diffusion(ordered):
            continue
        if name != "trigger_time" or _is_cardiac_order(ordered):
            return name, ordered
    return None


def _is_cardiac_order(bins: list[Bin]) -> bool:
    """Whether trigger times count phases; of a frame in each heart beat they scatter, and beats follow each other."""
    beats = _ordered_by(bins, "acquisition_time")
    return beats is None or beats == bins or _ordered_by(bins, "instance") != beats


def _ordered_by(bins: list[Bin], name: str) -> list[Bin] | None:
    """Bins in order of an attribute, if it tells the frames of every bin apart."""
    for frames in bins:
        values = [frame.time_key.get(name) for frame in frames]
        if None in values or len(set(values)) < len(values):
            return None
    if name == "acquisition_number":  # names an acquisition (PS3.3 C.7.6.1), it does not count them
        first: dict[Any, tuple[int, int]] = {}
        for frame in (frame for frames in bins for frame in frames):
            number = frame.time_key[name]
            first[number] = min(first.get(number, by_instance(frame)), by_instance(frame))
        ranks = {number: rank for rank, number in enumerate(sorted(first, key=lambda number: (first[number], number)))}
        return [sorted(frames, key=lambda frame: ranks[frame.time_key[name]]) for frames in bins]
    return [sorted(frames, key=lambda frame: frame.time_key[name]) for frames in bins]


def _same_diffusion(bins: list[Bin]) -> bool:
    """Whether the frames of each time have one diffusion weighting."""
    if all(frame.diffusion is None for frames in bins for frame in frames):
        return True
    table = np.full((len(bins), max(map(len, bins)), 4), np.nan)
    for place, frames in enumerate(bins):
        for time, frame in enumerate(frames):
            table[place, time] = _weighting(frame)
    b_values, directions = table[..., 0], table[..., 1:]
    with np.errstate(invalid="ignore"):
        near = np.abs(b_values - b_values[:1]) <= np.maximum(B_VALUE_TOLERANCE * np.abs(b_values[:1]), 5)
        # A direction and its opposite weight alike.
        aligned = np.abs((directions * directions[:1]).sum(axis=-1)) > 1 - DIRECTION_TOLERANCE
    unweighted = np.linalg.norm(directions, axis=-1) < 0.5
    same = near & (aligned | (unweighted & unweighted[:1]))
    return bool((same | np.isnan(b_values) | np.isnan(b_values[:1])).all())


def _weighting(frame: Frame) -> tuple[float, float, float, float]:
    """b-value and direction; no direction is (0, 0, 0)."""
    if frame.diffusion is None:
        return (0.0, 0.0, 0.0, 0.0)
    direction = frame.diffusion.direction_lps
    x, y, z = (0.0, 0.0, 0.0) if direction is None else map(float, direction)
    return (frame.diffusion.b_value, x, y, z)


def repeated(bins: list[Bin]) -> Arrangement:
    """Return the grid of a stack with equally many frames, above one, at every position.

    Raises
    ------
    ConversionRefused
        ``same-position-twice``: nothing puts them in order.
    """
    found = _time_order(bins)
    if found is None or found[0] in MAY_DIFFER_IN_COPIES:  # no time tells them apart: they may be copies
        unique = len(_unique(bins[0])[0])
        copies = _without_copies(bins, unique) if unique < len(bins[0]) else None
        if copies is not None:
            return _told_of_copies(*copies)
    if found is None and any(frame.diffusion is not None for frames in bins for frame in frames):
        by_weighting = [sorted(frames, key=lambda frame: (*_weighting(frame), *by_instance(frame))) for frames in bins]
        if _same_diffusion(by_weighting):
            found = "diffusion", by_weighting
    if found is None:
        raise ConversionRefused(
            Reason.SAME_POSITION_TWICE,
            f"{len(bins[0])} frames at each of {len(bins)} positions, and no attribute that puts them in order",
        )
    whole = _whole_of_incomplete(*found, clocks=False)
    return whole or Arrangement([list(time) for time in zip(*found[1], strict=True)])


# Copies


def _told_of_copies(bins: list[Bin], copies: list[Frame]) -> Arrangement:
    """The grid that is left when copies are left out, with their warning."""
    grid = Arrangement([[only for (only,) in bins]]) if len(bins[0]) == 1 else repeated(bins)
    warning = Warning(Warn.DUPLICATE_SLICE, f"{len(copies)} frames came again under another SOP Instance UID")
    detail = "the same pixels at the same position as another instance"
    left_out = [*grid.left_out, *((frame, Reason.DUPLICATE_SLICE, detail) for frame in copies)]
    return Arrangement(grid.planes, left_out, (*grid.warnings, warning))


def _without_copies(bins: list[Bin], wanted: int) -> tuple[list[Bin], list[Frame]] | None:
    """Bins without frames of equal pixels, and those; None if that does not leave as many as wanted in each."""
    kept: list[Bin] = []
    copies: list[Frame] = []
    for frames in bins:
        own, again = _unique(frames) if len(frames) > wanted else (frames, [])
        if len(own) != wanted:
            return None
        kept.append(own)
        copies += again
    return kept, copies


def _unique(frames: Bin) -> tuple[Bin, list[Frame]]:
    """Frames of which no two have the same pixels, and the others."""
    own: Bin = []
    copies: list[Frame] = []
    seen: set[bytes] = set()
    for frame in sorted(frames, key=by_instance):
        pixels = _digest(frame)
        (copies if pixels in seen else own).append(frame)
        seen.add(pixels)
    return own, copies


def _digest(frame: Frame) -> bytes:
    """A digest of the stored values and of how they are scaled."""
    pixels = np.ascontiguousarray(read(frame))
    scaling = f"{pixels.shape} {pixels.dtype} {frame.slope} {frame.intercept}"
    return hashlib.sha256(pixels.tobytes() + scaling.encode()).digest()


# Unequal counts


def uneven(bins: list[Bin]) -> Arrangement:
    """Return the grid of a stack with more frames at some positions than at others.

    Raises
    ------
    ConversionRefused
        ``incomplete`` or ``same-position-twice``: nothing tells which of them belong together.
    """
    least = min(map(len, bins))
    copies = _without_copies(bins, least)
    if copies is not None:
        return _told_of_copies(*copies)
    found = _time_order(bins)
    whole = None if found is None else _whole_of_incomplete(*found, clocks=True)
    if whole is not None:
        return whole
    if least > 1:
        raise ConversionRefused(
            Reason.INCOMPLETE,
            f"from {least} to {max(map(len, bins))} frames at {len(bins)} positions, and no attribute that tells which "
            "belong to one time",
        )
    return _first_of_each(bins)


def _whole_of_incomplete(name: str, bins: list[Bin], *, clocks: bool) -> Arrangement | None:
    """The grid of the times that are whole, if some are and others are not; None where that cannot be told."""
    labels = labels_by_attribute(bins, name) if clocks or name in COUNTS else None
    labels = labels or labels_by_number(bins)
    whole = None if labels is None else whole_times(bins, labels)
    if whole is None or not _same_diffusion(whole[0]):
        return None
    kept, dropped = whole
    detail = f"belongs to a time of which not every one of {len(bins)} slices is there"
    warning = Warning(
        Warn.INCOMPLETE_VOLUME,
        f"{len(dropped)} frames of times that lack slices were left out; {len(kept[0])} times are whole",
    )
    grid = [list(time) for time in zip(*kept, strict=True)]
    return Arrangement(grid, [(frame, Reason.INCOMPLETE, detail) for frame in dropped], (warning,))


def _first_of_each(bins: list[Bin]) -> Arrangement:
    """One time of the first frame at each position; all others are told."""
    ordered = [sorted(frames, key=lambda frame: (*by_instance(frame), frame.sop_instance_uid)) for frames in bins]
    dropped = [frame for frames in ordered for frame in frames[1:]]
    if len(dropped) > max(1, MOST_TAKEN_TWICE * len(bins)):
        raise ConversionRefused(
            Reason.SAME_POSITION_TWICE,
            f"{len(dropped)} of {len(bins)} positions have several frames with different pixels, and nothing tells "
            "which belong together",
        )
    warning = Warning(
        Warn.SAME_POSITION_TWICE,
        f"{len(dropped)} frames lie where another with other pixels lies, and were left out",
    )
    detail = "another instance with other pixels lies at the same position"
    return Arrangement(
        [[frames[0] for frames in ordered]],
        [(frame, Reason.SAME_POSITION_TWICE, detail) for frame in dropped],
        (warning,),
    )
