"""Volumes that follow a moving head: prospective motion correction places each time of a series anew.

The scanner records where it placed the slices of each time, so positions and orientations differ slightly from volume
to volume. The series is still one time series in the frame of the head. It gets the position of the first time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import starmap

import numpy as np

from node.volume.arrange.whole_times import instance_order
from node.volume.geometry import (
    DRIFT_TOLERANCE_PIXELS,
    JITTER_SHARE,
    JITTER_TOLERANCE_MM,
    ORIENTATION_TOLERANCE,
    POSITION_TOLERANCE_MM,
    off_grid,
    position_numbers,
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

MIN_TIMES = 3
"""Fewer times are not enough evidence: two neighbouring stacks may have been planned that way."""

_Label = Callable[[Frame], Hashable]

_TIMES: tuple[_Label, ...] = (
    lambda frame: frame.time_key.get("temporal_position"),
    lambda frame: frame.time_key.get("dimensions"),
    lambda frame: (frame.sop_instance_uid, frame.frame_number),  # a mosaic
    lambda frame: frame.sop_instance_uid,  # an enhanced instance of one volume
    lambda frame: frame.time_key.get("acquisition_number"),
    lambda frame: frame.time_key.get("acquisition_time"),
)
"""Labels that the frames of one time may share."""


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

    def only(self, slices: Sequence[int]) -> _Time:
        """Return the same time without its other slices."""
        return _Time([self.frames[slice_] for slice_ in slices], self.positions[list(slices)], self.axes)

    @property
    def local(self) -> Float:
        """Positions (N, 3) in mm relative to their mean, along the axes of the volume."""
        along: Float = (self.positions - self.positions.mean(axis=0)) @ self.axes
        return along


def undo_motion(frames: Sequence[Frame]) -> tuple[list[Frame], VolumeWarning | None]:
    """Return the frames at the position of the first time if their series moves between times, else unchanged.

    Parameters
    ----------
    frames : sequence of Frame
        Alike in all traits except position and time.

    Returns
    -------
    list of Frame, in the same order
        Positions in mm, LPS. Diffusion directions turn with their frames, so that they keep their direction relative to
        the image.
    VolumeWarning or None
        How far the series moves.
    """
    if any(frame.position is None or frame.split_key.get("component") is None for frame in frames):
        return list(frames), None
    for groups in _groups(frames):
        times = [time for group in groups if (time := _time(group)) is not None]
        pairs = _pairs(times) if len(times) == len(groups) else None
        if pairs is None:
            continue
        if not any(starmap(_moves, pairs)):
            return list(frames), None
        if _is_rigid(pairs) and not _are_packages(frames, max(map(len, groups))):
            still = {id(frame): copy for pair in pairs for frame, copy in _at_first_position(*pair)}
            return [still[id(frame)] for frame in frames], _motion_warning(pairs)
    return list(frames), None


def _groups(frames: Sequence[Frame]) -> Iterator[list[list[Frame]]]:
    """Yield the frames grouped by each label that one time may share, in order of Instance Number."""
    for label in _TIMES:
        groups: dict[Hashable, list[Frame]] = defaultdict(list)
        for frame in frames:
            groups[label(frame)].append(frame)
        if None not in groups and MIN_TIMES <= len(groups) <= len(frames) / 2:
            yield sorted(groups.values(), key=lambda group: min(map(instance_order, group)))


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


def _number_distance(time: _Time, other: _Time) -> int:
    """Return the distance of two times in Instance Number."""
    return abs(instance_order(time.frames[0])[0] - instance_order(other.frames[0])[0])


def _slices_of(time: _Time, whole: Sequence[_Time]) -> list[int] | None:
    """Return the slice numbers of the planes of a time, by the nearest whole time; None if they are uncertain."""
    if len(time.frames) == len(whole[0].frames):
        return list(range(len(time.frames)))
    nearby = min(whole, key=lambda other: _number_distance(time, other))
    normal = nearby.axes[:, 2]
    steps = np.abs((time.positions @ normal)[:, None] - nearby.positions @ normal)
    nearest: list[int] = steps.argmin(axis=1).tolist()
    half = float(np.diff(nearby.positions @ normal).min()) / 2
    return nearest if steps.min(axis=1).max() < half and len(set(nearest)) == len(nearest) else None


def _moves(time: _Time, first: _Time) -> bool:
    """Return whether the planes of two times are farther apart than planes that share a position."""
    tolerance = min(JITTER_TOLERANCE_MM, DRIFT_TOLERANCE_PIXELS * min(first.frames[0].pixel_spacing or (1.0, 1.0)))
    return bool(
        np.abs(time.positions - first.positions).max() > tolerance
        or np.abs(time.axes - first.axes).max() > ORIENTATION_TOLERANCE
    )


def _is_rigid(pairs: Sequence[tuple[_Time, _Time]]) -> bool:
    """Return whether all times are the same stack, slightly moved and rotated."""
    largest = max((first for _, first in pairs), key=lambda first: len(first.frames))
    height = float(np.ptp(largest.local[:, 2])) * len(largest.frames) / (len(largest.frames) - 1)
    limit_mm = min(MAX_TRANSLATION_MM, MAX_TRANSLATION_SHARE * height)
    return all(
        np.abs(time.local - first.local).max() <= JITTER_TOLERANCE_MM
        and np.linalg.norm(time.centre - first.centre) <= limit_mm
        and _degrees(time, first) <= MAX_ROTATION_DEGREES
        for time, first in pairs
    )


def _degrees(time: _Time, other: _Time) -> float:
    """Return the angle of the rotation from one time to the other, in degrees."""
    cosine = (np.trace(time.axes.T @ other.axes) - 1) / 2
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def _are_packages(frames: Sequence[Frame], slices: int) -> bool:
    """Return whether all planes form one even stack with more slices: they are then packages or slabs without motion.

    A mosaic is a whole volume.
    """
    orientations = np.array([frame.orientation for frame in frames])
    if len({(frame.sop_instance_uid, frame.frame_number) for frame in frames}) < len(frames):
        return False
    if np.abs(orientations - orientations[0]).max() > ORIENTATION_TOLERANCE:
        return False
    distances = np.array([frame.position for frame in frames]) @ stack_axes(orientations).normal
    labels = position_numbers(distances, POSITION_TOLERANCE_MM)
    along = np.bincount(labels, distances) / np.bincount(labels)
    return len(along) > slices and off_grid(along) <= JITTER_SHARE * float(np.median(np.diff(along)))


def _at_first_position(time: _Time, first: _Time) -> Iterator[tuple[Frame, Frame]]:
    """Yield each frame of a time, and its copy at the position of the same slice of the first time."""
    turn = first.axes @ time.axes.T
    for frame, target in zip(time.frames, first.frames, strict=True):
        yield frame, _at(frame, target, turn)


def _at(frame: Frame, target: Frame, turn: Float) -> Frame:
    """Return a frame at the position of `target`, its diffusion direction turned by the rotation `turn` (3, 3)."""
    diffusion = frame.diffusion
    if diffusion is not None and diffusion.direction_lps is not None:
        diffusion = Diffusion(diffusion.b_value, turn @ diffusion.direction_lps, diffusion.derived)
    return replace(frame, position=target.position, orientation=target.orientation, diffusion=diffusion)


def _motion_warning(pairs: Sequence[tuple[_Time, _Time]]) -> VolumeWarning:
    farthest_mm = max(float(np.linalg.norm(time.centre - first.centre)) for time, first in pairs)
    degrees = max(_degrees(time, first) for time, first in pairs)
    return VolumeWarning(
        WarningKind.POSITIONS_VARY_IN_TIME,
        f"the volumes move by up to {farthest_mm:.2f} mm and turn by up to {degrees:.2f} degrees between times, as "
        "with prospective motion correction; all volumes get the position of the first",
    )
