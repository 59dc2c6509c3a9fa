"""Times of one series at slightly different positions, as prospective motion correction or a drifting table leave them.

The scanner records where it placed the slices of each time, so positions and orientations differ slightly from volume
to volume. The series is still one time series, in the frame of the head or of the table. Its planes get one position
before they are put into stacks: they would interleave to a stack that nobody acquired. Once the order of times is
known, `at_first_time` gives them the position of the first.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, starmap
from typing import Any, Self

import numpy as np

from node.volume.arrange.times import Arrangement
from node.volume.arrange.whole_times import instance_order, weighting
from node.volume.geometry import (
    DRIFT_TOLERANCE_PIXELS,
    JITTER_SHARE,
    JITTER_TOLERANCE_MM,
    ORIENTATION_TOLERANCE,
    POSITION_TOLERANCE_MM,
    ROUNDING,
    is_even,
    off_grid,
    position_numbers,
    position_tolerance,
    stack_axes,
)
from node.volume.model import Diffusion, Float, Frame
from node.volume.reasons import VolumeWarning, WarningKind

MAX_TRANSLATION_MM = 20.0
MAX_ROTATION_DEGREES = 10.0
"""Limits of movement and rotation of a volume within one series: more than a head can move in its coil, but less than
the distance between volumes planned at different positions."""

MAX_TRANSLATION_SHARE = 0.5
"""Limit of movement relative to the height of the stack: volumes side by side are not times of one volume."""

MIN_FREE_TIMES = 3
"""Fewer times, or those of another modality than MR, may move by a fraction of a slice only: two neighbouring stacks
may have been planned, and a table does not follow the patient."""

MAX_STEPS = 1.0
MAX_STEPS_UNDECLARED = 0.5
MAX_TABLE_ROTATION_DEGREES = 2.0
"""Limits of movement, relative to the distance between slices, and of rotation of such times. The smaller one holds for
other modalities if no attribute counts the times."""

MIN_OVERLAP = 0.5
"""Share of their thickness by which the times of a slice overlap if they are numbered one after the other."""

NEAR_SLICE = 0.1
"""Largest distance from the place of another slice, as a share of that between slices, of a slice that may be it."""

MIN_NUMBERED = 4
"""Planes that make two times of two slices, the fewest that a stack has."""

CONTIGUOUS = 1.1
"""Slices that lie no farther apart than this many thicknesses leave no room for others between them."""

MIN_PACKAGE_SHARE = 0.4
"""Packages make up a stack whose slices lie farther apart than this share of their thickness: half of it is common."""

STATED_TOLERANCE = 0.03
"""Relative deviation of a distance from Spacing Between Slices (0018,0088)."""

MAX_COPIES = 0.25
"""Largest share of frames that may be copies of others; beyond it they may be times that did not move."""

KIND = ("image_type", "kernel", "kvp", "flip_angle", "slice_thickness")
"""Variants that the times of one volume share."""

_Label = Callable[[Frame], Hashable]

_COUNTS = ("temporal_position", "dimensions", "time_slice", "frame_reference_time", "cardiac_phase")
"""Attributes that count times; the frames of one time may share them."""

_OTHERS: tuple[_Label, ...] = (
    lambda frame: (frame.sop_instance_uid, frame.frame_number),  # a mosaic
    lambda frame: frame.sop_instance_uid,  # an enhanced instance of one volume
    lambda frame: frame.time_key.get("acquisition_number"),
    lambda frame: frame.time_key.get("acquisition_time"),
    lambda frame: None if frame.diffusion is None else weighting(frame),
)
"""Other labels that the frames of one time may share."""


@dataclass(frozen=True, slots=True, eq=False)
class _Time:
    """The planes of one time, ascending along their normal. The columns of `axes` (3, 3) are row, column and normal."""

    frames: list[Frame]
    positions: Float
    axes: Float

    @property
    def centre(self) -> Float:
        """Centre of the volume in mm, LPS."""
        rows_mm, columns_mm = self.frames[0].pixel_spacing or (1.0, 1.0)
        across, down = (self.frames[0].columns - 1) * columns_mm / 2, (self.frames[0].rows - 1) * rows_mm / 2
        point: Float = self.positions.mean(axis=0) + self.axes @ (across, down, 0.0)
        return point

    def only(self, slices: Sequence[int]) -> Self:
        """Return the same time without its other slices."""
        return replace(self, frames=[self.frames[slice_] for slice_ in slices], positions=self.positions[list(slices)])

    @property
    def local(self) -> Float:
        """Positions (N, 3) in mm relative to their mean, along the axes of the volume."""
        along: Float = (self.positions - self.positions.mean(axis=0)) @ self.axes
        return along


def undo_motion(frames: Sequence[Frame]) -> list[Frame]:
    """Return the frames at the position of one time if their series moves between times, else unchanged.

    `frames`: alike in all traits except position and time.

    Positions in mm, LPS. Diffusion directions turn with their frames, so that they keep their direction relative to the
    image. `Frame.acquired` has the position before.
    """
    if any(frame.position is None for frame in frames):
        return list(frames)
    return _still(frames) or _still_without_copies(frames) or list(frames)


def at_first_time(grid: Arrangement) -> Arrangement:
    """Return a stack whose motion was undone at the position of its first time, with a warning on how far it moves."""
    if all(frame.acquired is None for frame in grid.frames):
        return grid
    times = [_plane_stack(list(map(_as_acquired, time))) for time in grid.planes]
    first, common = times[0], _plane_stack(grid.planes[0])
    if np.abs(first.local - common.local).max() > JITTER_TOLERANCE_MM:  # losses left slices of several times
        first = common
    planes = [[copy for _, copy in _at_first_position(time, first)] for time in times]
    warning = _motion_warning([(time, first) for time in times])
    return replace(grid, planes=planes, warnings=(*grid.warnings, *([] if warning is None else [warning])))


def _as_acquired(frame: Frame) -> Frame:
    """Return a frame where its header places it."""
    if frame.acquired is None:
        return frame
    place = frame.acquired
    return replace(frame, position=place.position, orientation=place.orientation, diffusion=place.diffusion)


def _plane_stack(frames: list[Frame]) -> _Time:
    """Return planes that are in the order of their positions as one time."""
    axes = stack_axes(np.array([frame.orientation for frame in frames]))
    positions = np.array([frame.position for frame in frames])
    return _Time(frames, positions, np.stack([axes.row, axes.column, axes.normal], axis=1))


def _still_without_copies(frames: Sequence[Frame]) -> list[Frame] | None:
    """Return the frames at the position of one time if copies of a few hide the times; else None.

    No two times that move have a plane at exactly one place, but a copy has that of its original.
    """
    planes = np.array([(*frame.position, *frame.orientation) for frame in frames]).tolist()  # type: ignore[misc]
    keys = [(*plane, *weighting(frame)) for plane, frame in zip(planes, frames, strict=True)]
    originals = dict(zip(reversed(keys), reversed(frames), strict=True))
    if not 0 < len(frames) - len(originals) <= MAX_COPIES * len(frames):
        return None
    found = _still(list(originals.values()))
    if found is None:
        return None
    still = dict(zip(originals, found, strict=True))
    return [_at(frame, copy, copy.diffusion) for frame, copy in zip(frames, map(still.__getitem__, keys), strict=True)]


def _still(frames: Sequence[Frame]) -> list[Frame] | None:
    """Return the frames at the position of one time; None if nothing shows which the times are."""
    for groups, are_counted in _groups(frames):
        times = [time for group in groups if (time := _time(group)) is not None]
        pairs = _pairs(times) if len(times) == len(groups) else None
        if pairs is None:
            continue
        if not any(_differ(*pair) for pair in pairs):
            return list(frames)
        if _is_rigid(pairs, _limits(frames, pairs, are_counted=are_counted)) and not _are_packages(frames, pairs):
            still = {id(frame): copy for pair in pairs for frame, copy in _at_first_position(*pair)}
            return [still[id(frame)] for frame in frames]
    return None


def _groups(frames: Sequence[Frame]) -> Iterator[tuple[list[list[Frame]], bool]]:
    """Yield the frames grouped by each label that one time may share, in order of time.

    Each with whether the label counts times. Without labels, the order of Instance Numbers tells.
    """
    counts: list[list[Hashable]] = [[frame.time_key.get(name) for frame in frames] for name in _COUNTS]
    others: list[list[Hashable]] = [list(map(label, frames)) for label in _OTHERS]
    for rank, values in enumerate((*counts, *others)):
        groups: dict[Hashable, list[Frame]] = defaultdict(list)
        for frame, value in zip(frames, values, strict=True):
            groups[value].append(frame)
        if None not in groups and 2 <= len(groups) <= len(frames) / 2:
            yield _in_time(groups, are_counted=rank < len(counts)), rank < len(counts)
    for numbered in _numbered(frames):
        yield numbered, False


def _in_time(groups: dict[Hashable, list[Frame]], *, are_counted: bool) -> list[list[Frame]]:
    """Return groups in the order of their label if it counts times, else of their clocks, else of Instance Numbers.

    Instance Numbers that go back and forth between the groups tell no order: then the label does, if it is a number, or
    those of a diffusion weighting.
    """
    clocks = [[frame.time_key.get("acquisition_time") for frame in group] for group in groups.values()]
    numbers = [sorted(map(instance_order, group)) for group in groups.values()]
    apart = all(before[-1] < after[0] for before, after in pairwise(sorted(numbers)))
    ranks: Sequence[Any] = [own[0] for own in numbers]
    if are_counted:
        ranks = list(groups)
    elif all(None not in own for own in clocks):
        ranks = [
            (min(clock for clock in own if clock is not None), rank) for own, rank in zip(clocks, ranks, strict=True)
        ]
    elif not apart and all(_is_number(label) for label in groups):
        ranks = list(groups)
    return [group for _, group in sorted(zip(ranks, groups.values(), strict=True), key=lambda entry: entry[0])]


def _is_number(label: Hashable) -> bool:
    return all(isinstance(part, float) for part in (label if isinstance(label, tuple) else (label,)))


def _numbered(frames: Sequence[Frame]) -> Iterator[list[list[Frame]]]:
    """Yield the frames grouped into equal stacks that Instance Numbers count: time by time, or slice by slice.

    An even stack whose numbers follow its positions is one.
    """
    if len(frames) < MIN_NUMBERED:
        return
    ordered = sorted(frames, key=instance_order)
    if len(set(map(instance_order, ordered))) < len(ordered):
        return
    orientations = np.array([frame.orientation for frame in ordered])
    positions = np.array([frame.position for frame in ordered])
    normal = stack_axes(orientations).normal
    steps = np.diff(positions @ normal)
    if ((steps > 0).all() or (steps < 0).all()) and is_even(np.sort(positions @ normal)):
        return
    count = len(ordered)
    numbers = np.arange(count)
    overlap_mm = MIN_OVERLAP * (ordered[0].slice_thickness_mm or np.inf)
    for slices in (number for number in range(2, count // 2 + 1) if count % number == 0):
        for grid, within_mm in ((numbers.reshape(-1, slices), np.inf), (numbers.reshape(slices, -1).T, overlap_mm)):
            if _are_equal_stacks(positions[grid], normal, within_mm):
                yield [[ordered[index] for index in time] for time in grid]


def _are_equal_stacks(positions: Float, normal: Float, within_mm: float) -> bool:
    """Return whether stacks (times, slices, 3) are even, equal and at most so far apart."""
    centres = positions.mean(axis=1, keepdims=True)
    local = positions - centres
    if np.abs(local - local[0]).max() > JITTER_TOLERANCE_MM or not is_even(np.sort(positions[0] @ normal)):
        return False
    return float(np.linalg.norm(centres - centres[0], axis=2).max()) < within_mm


def _time(frames: Sequence[Frame]) -> _Time | None:
    """Return the planes of one time; None if they are not a stack of planes."""
    orientations = np.array([frame.orientation for frame in frames])
    if np.abs(orientations - orientations[0]).max() > ORIENTATION_TOLERANCE:
        return None
    axes = stack_axes(orientations)
    positions = np.array([frame.position for frame in frames])
    order = np.argsort(positions @ axes.normal)
    if len(frames) > 1 and np.diff((positions @ axes.normal)[order]).min() <= JITTER_TOLERANCE_MM:
        return None
    ordered = [frames[index] for index in order]
    return _Time(ordered, positions[order], np.stack([axes.row, axes.column, axes.normal], axis=1))


def _pairs(times: Sequence[_Time]) -> list[tuple[_Time, _Time]] | None:
    """Return each time with the same slices of the first whole time; None if the slices are uncertain.

    The slices of an incomplete time are those nearest to its planes in the whole time nearest to it.
    """
    count = max((len(time.frames) for time in times), default=0)
    whole = [time for time in times if len(time.frames) == count]
    if count < 2 or len(whole) < 2:
        return None
    pairs = []
    for time in times:
        slices = _slices_of(time, whole)
        if slices is None:
            return None
        pairs.append((time, whole[0].only(slices)))
    return pairs


def _slices_of(time: _Time, whole: Sequence[_Time]) -> list[int] | None:
    """Return the slice numbers of the planes of a time, by the nearest whole time; None if they are uncertain."""
    if len(time.frames) == len(whole[0].frames):
        return list(range(len(time.frames)))
    number = instance_order(time.frames[0])[0]
    nearby = min(whole, key=lambda other: abs(number - instance_order(other.frames[0])[0]))
    normal = nearby.axes[:, 2]
    steps = np.abs((time.positions @ normal)[:, None] - nearby.positions @ normal)
    nearest: list[int] = steps.argmin(axis=1).tolist()
    half = float(np.diff(nearby.positions @ normal).min()) / 2
    return nearest if steps.min(axis=1).max() < half and len(set(nearest)) == len(nearest) else None


def _moves(time: _Time, first: _Time) -> bool:
    """Return whether the planes of two times are farther apart than planes that share a position."""
    least_mm = min(first.frames[0].pixel_spacing or (1.0, 1.0))
    return _are_apart(time, first, min(JITTER_TOLERANCE_MM, DRIFT_TOLERANCE_PIXELS * least_mm))


def _differ(time: _Time, first: _Time) -> bool:
    """Return whether the planes of two times are so far apart that they need not share a position."""
    return _are_apart(time, first, position_tolerance(first.frames[0].pixel_spacing or (1.0, 1.0)))


def _are_apart(time: _Time, first: _Time, tolerance_mm: float) -> bool:
    return bool(
        np.linalg.norm(time.positions - first.positions, axis=1).max() > tolerance_mm * ROUNDING
        or np.abs(time.axes - first.axes).max() > ORIENTATION_TOLERANCE
    )


def _limits(frames: Sequence[Frame], pairs: Sequence[tuple[_Time, _Time]], *, are_counted: bool) -> tuple[float, float]:
    """Return the largest movement in mm and rotation in degrees of the times of one series."""
    largest = max((first for _, first in pairs), key=lambda first: len(first.frames))
    steps = len(largest.frames) - 1
    step_mm = float(np.ptp(largest.local[:, 2])) / steps
    is_mr = all(frame.split_key.get("component") is not None for frame in frames)
    if is_mr and len(pairs) >= MIN_FREE_TIMES:
        height_mm = step_mm * (steps + 1)
        return min(MAX_TRANSLATION_MM, MAX_TRANSLATION_SHARE * height_mm), MAX_ROTATION_DEGREES
    if len({tuple(map(frame.variant_key.get, KIND)) for frame in frames}) > 1:
        return 0.0, 0.0
    return step_mm * (MAX_STEPS if is_mr or are_counted else MAX_STEPS_UNDECLARED), MAX_TABLE_ROTATION_DEGREES


def _is_rigid(pairs: Sequence[tuple[_Time, _Time]], limits: tuple[float, float]) -> bool:
    """Return whether all times are the same stack, moved and rotated within limits in mm and degrees."""
    limit_mm, limit_degrees = limits
    return all(
        np.abs(time.local - first.local).max() <= JITTER_TOLERANCE_MM
        and np.linalg.norm(time.centre - first.centre) <= limit_mm
        and _degrees(time, first) <= limit_degrees
        for time, first in pairs
    )


def _degrees(time: _Time, other: _Time) -> float:
    """Return the angle of the rotation from one time to the other, in degrees."""
    cosine = (np.trace(time.axes.T @ other.axes) - 1) / 2
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def _are_packages(frames: Sequence[Frame], pairs: Sequence[tuple[_Time, _Time]]) -> bool:
    """Return whether all planes form one even stack with more slices: they are then packages or slabs without motion.

    A mosaic is a whole volume. Planes that would lie far closer than stated, or than they are thick, are no stack.
    """
    orientations = np.array([frame.orientation for frame in frames])
    if len({(frame.sop_instance_uid, frame.frame_number) for frame in frames}) < len(frames):
        return False
    if np.abs(orientations - orientations[0]).max() > ORIENTATION_TOLERANCE:
        return False
    distances = np.array([frame.position for frame in frames]) @ stack_axes(orientations).normal
    labels = position_numbers(distances, POSITION_TOLERANCE_MM)
    along = np.bincount(labels, distances) / np.bincount(labels)
    largest = max((first for _, first in pairs), key=lambda first: len(first.frames))
    step_mm = float(np.median(np.diff(along)))
    if len(along) <= len(largest.frames) or off_grid(along) > JITTER_SHARE * step_mm:
        return False
    return _is_credible(step_mm, float(np.median(np.diff(largest.local[:, 2]))), frames[0])


def _is_credible(step_mm: float, own_mm: float, frame: Frame) -> bool:
    """Return whether slices lie `step_mm` apart, and not `own_mm` as those of each time do.

    Some senders write the gap between slices into Spacing Between Slices.
    """
    thickness, stated = frame.slice_thickness_mm, frame.spacing_between_slices_mm
    if stated:
        readings = np.array([abs(stated), abs(stated) + (thickness or 0.0)])
        if np.abs(readings / step_mm - 1).min() <= STATED_TOLERANCE:
            return True
        if np.abs(readings / own_mm - 1).min() <= STATED_TOLERANCE:
            return False
    return not thickness or own_mm > CONTIGUOUS * thickness or step_mm > MIN_PACKAGE_SHARE * thickness


def _at_first_position(time: _Time, first: _Time) -> Iterator[tuple[Frame, Frame]]:
    """Yield each frame of a time, and its copy at the position of the same slice of `first`."""
    between = first.axes @ time.axes.T
    for frame, target in zip(time.frames, first.frames, strict=True):
        diffusion = frame.diffusion
        if diffusion is not None and diffusion.direction_lps is not None:
            diffusion = replace(diffusion, direction_lps=between @ diffusion.direction_lps)
        yield frame, _at(frame, target, diffusion)


def _at(frame: Frame, target: Frame, diffusion: Diffusion | None) -> Frame:
    """Return a frame at the position of `target`, with the weighting that it has there."""
    return replace(frame, position=target.position, orientation=target.orientation, diffusion=diffusion, acquired=frame)


def _motion_warning(pairs: Sequence[tuple[_Time, _Time]]) -> VolumeWarning | None:
    """Return a warning if times move by more than the jitter of planes that share a position."""
    if not any(starmap(_moves, pairs)):
        return None
    farthest_mm = max(float(np.linalg.norm(time.centre - first.centre)) for time, first in pairs)
    degrees = max(_degrees(time, first) for time, first in pairs)
    if all(_is_slices_away(*pair) for pair in pairs if _moves(*pair)):
        return VolumeWarning(
            WarningKind.INCOMPLETE_VOLUME,
            f"the volumes move by up to {farthest_mm:.2f} mm between times, which is nearly the distance of slices: "
            "they may lack slices at opposite ends instead; all volumes get the position of the first",
        )
    return VolumeWarning(
        WarningKind.POSITIONS_VARY_IN_TIME,
        f"the volumes move by up to {farthest_mm:.2f} mm and turn by up to {degrees:.2f} degrees between times, as "
        "with prospective motion correction; all volumes get the position of the first",
    )


def _is_slices_away(time: _Time, first: _Time) -> bool:
    """Return whether a time lies nearly a whole number of slices away, as if it and the first lacked others."""
    if len(first.frames) < 2:
        return False
    step_mm = float(np.ptp(first.local[:, 2])) / (len(first.frames) - 1)
    slices = abs(float((time.centre - first.centre) @ first.axes[:, 2])) / step_mm
    return slices > 0.5 and abs(slices - round(slices)) <= NEAR_SLICE
