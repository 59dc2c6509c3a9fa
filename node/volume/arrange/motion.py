"""Volumes that follow a moving head: prospective motion correction places each time of a series anew.

The scanner writes where it put the slices of each time, so positions and orientations of a series differ a little from
volume to volume. It is one series in time all the same, in the frame of the head; its place is that of the first time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import starmap

import numpy as np

from node.volume.arrange.whole_times import by_instance
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
from node.volume.reasons import Warn, Warning

FARTHEST_MM = 20.0
FARTHEST_DEGREES = 10.0
"""How far the middle of a volume may move, and how far it may turn, within one series: more than a head can in its
coil, less than lies between volumes that were planned at several places."""

FARTHEST_SHARE = 0.5
"""As a part of the height of the stack: volumes beside each other are no times of one."""

FEWEST_TIMES = 3
"""Two stacks that lie near each other may as well have been planned so."""

_Label = Callable[[Frame], Hashable]

_TIMES: tuple[_Label, ...] = (
    lambda frame: frame.time_key.get("temporal_position"),
    lambda frame: frame.time_key.get("dimensions"),
    lambda frame: (frame.sop_instance_uid, frame.frame_number),  # a mosaic
    lambda frame: frame.sop_instance_uid,  # an enhanced instance of one volume
    lambda frame: frame.time_key.get("acquisition_number"),
    lambda frame: frame.time_key.get("acquisition_time"),
)
"""What the frames of one time share."""


@dataclass(frozen=True, slots=True, eq=False)
class _Time:
    """The planes of one time, ascending along their normal; axes (3, 3) are row, column and normal as columns."""

    frames: list[Frame]
    positions: Float
    axes: Float

    @property
    def middle(self) -> Float:
        """Centre of the volume in mm, LPS."""
        rows_mm, columns_mm = self.frames[0].pixel_spacing or (1.0, 1.0)
        across, down = (self.frames[0].columns - 1) * columns_mm / 2, (self.frames[0].rows - 1) * rows_mm / 2
        centre: Float = self.positions.mean(axis=0) + self.axes @ (across, down, 0.0)
        return centre

    def only(self, slices: Sequence[int]) -> _Time:
        """The same without its other slices."""
        return _Time([self.frames[slice_] for slice_ in slices], self.positions[list(slices)], self.axes)

    @property
    def local(self) -> Float:
        """Positions as the volume itself has them: (N, 3) mm from their mean along its axes."""
        along: Float = (self.positions - self.positions.mean(axis=0)) @ self.axes
        return along


def settled(frames: Sequence[Frame]) -> tuple[list[Frame], Warning | None]:
    """Return the frames with the place of the first time, if their series drifts from time to time; else as they are.

    Parameters
    ----------
    frames : sequence of Frame
        Alike in all but place and time.

    Returns
    -------
    list of Frame, in the same order
        Diffusion directions turn with their frames, so that they stay along the same axes of the image.
    Warning or None
        How far the series drifts.
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
            moved = {id(frame): other for pair in pairs for frame, other in _settled(*pair)}
            return [moved[id(frame)] for frame in frames], _told(pairs)
    return list(frames), None


def _groups(frames: Sequence[Frame]) -> Iterator[list[list[Frame]]]:
    """Frames by what those of one time may share, in order of Instance Number."""
    for label in _TIMES:
        found: dict[Hashable, list[Frame]] = defaultdict(list)
        for frame in frames:
            found[label(frame)].append(frame)
        if None not in found and FEWEST_TIMES <= len(found) <= len(frames) / 2:
            yield sorted(found.values(), key=lambda group: min(map(by_instance, group)))


def _time(frames: Sequence[Frame]) -> _Time | None:
    """The planes of one time; None where they are no stack of planes."""
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
    """Each time, and the first whole one with those slices that it has; None where these are not certain.

    Slices of a time that is not whole are those that lie nearest in the whole time nearest to it.
    """
    count = max((len(time.frames) for time in times), default=0)
    whole = [time for time in times if len(time.frames) == count]
    if count < 2 or len(whole) < 2:
        return None
    pairs = []
    for time in times:
        slices = _slices_of(time, min(whole, key=lambda other: _apart(time, other)))
        if slices is None:
            return None
        pairs.append((time, whole[0].only(slices)))
    return pairs


def _apart(one: _Time, other: _Time) -> int:
    """How far two times lie apart in Instance Number."""
    return abs(by_instance(one.frames[0])[0] - by_instance(other.frames[0])[0])


def _slices_of(time: _Time, whole: _Time) -> list[int] | None:
    """Which slices the planes of a time are, by a whole one; None where that is not certain."""
    if len(time.frames) == len(whole.frames):
        return list(range(len(time.frames)))
    normal = whole.axes[:, 2]
    steps = np.abs((time.positions @ normal)[:, None] - whole.positions @ normal)
    nearest: list[int] = steps.argmin(axis=1).tolist()
    half = float(np.diff(whole.positions @ normal).min()) / 2
    return nearest if steps.min(axis=1).max() < half and len(set(nearest)) == len(nearest) else None


def _moves(time: _Time, first: _Time) -> bool:
    """Whether the planes of two times lie farther apart than those that share a position."""
    tolerance = min(JITTER_TOLERANCE_MM, DRIFT_TOLERANCE_PIXELS * min(first.frames[0].pixel_spacing or (1.0, 1.0)))
    return bool(
        np.abs(time.positions - first.positions).max() > tolerance
        or np.abs(time.axes - first.axes).max() > ORIENTATION_TOLERANCE
    )


def _is_rigid(pairs: Sequence[tuple[_Time, _Time]]) -> bool:
    """Whether all times are the same stack, moved and turned by little."""
    largest = max((first for _, first in pairs), key=lambda first: len(first.frames))
    height = float(np.ptp(largest.local[:, 2])) * len(largest.frames) / (len(largest.frames) - 1)
    farthest_mm = min(FARTHEST_MM, FARTHEST_SHARE * height)
    return all(
        np.abs(time.local - first.local).max() <= JITTER_TOLERANCE_MM
        and np.linalg.norm(time.middle - first.middle) <= farthest_mm
        and _degrees(time, first) <= FARTHEST_DEGREES
        for time, first in pairs
    )


def _degrees(one: _Time, other: _Time) -> float:
    """The angle that turns one into the other."""
    cosine = (np.trace(one.axes.T @ other.axes) - 1) / 2
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def _are_packages(frames: Sequence[Frame], slices: int) -> bool:
    """Whether all planes make one even stack of more slices: then they are packages or slabs, and nothing moved.

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


def _settled(time: _Time, first: _Time) -> Iterator[tuple[Frame, Frame]]:
    """Each frame of a time, and the same at the place that its slice has in the first one."""
    turn = first.axes @ time.axes.T
    for frame, place in zip(time.frames, first.frames, strict=True):
        yield frame, _at(frame, place, turn)


def _at(frame: Frame, place: Frame, turn: Float) -> Frame:
    """A frame at the place of another one; `turn` takes directions from its orientation to that."""
    diffusion = frame.diffusion
    if diffusion is not None and diffusion.direction_lps is not None:
        diffusion = Diffusion(diffusion.b_value, turn @ diffusion.direction_lps, diffusion.derived)
    return replace(frame, position=place.position, orientation=place.orientation, diffusion=diffusion)


def _told(pairs: Sequence[tuple[_Time, _Time]]) -> Warning:
    farthest_mm = max(float(np.linalg.norm(time.middle - first.middle)) for time, first in pairs)
    degrees = max(_degrees(time, first) for time, first in pairs)
    return Warning(
        Warn.POSITIONS_VARY_IN_TIME,
        f"the volumes move by up to {farthest_mm:.2f} mm and turn by up to {degrees:.2f} degrees from time to time, as "
        "prospective motion correction makes them; the place is that of the first",
    )
