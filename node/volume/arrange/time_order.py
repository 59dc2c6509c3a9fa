"""Find the attribute that orders the frames that share positions, and check that it groups the frames of one time.

The first attribute that separates the frames of every position can give an order. That does not prove that the first
frame of one position and the first frame of another belong to one time; `is_time_order` checks that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import numpy as np

from node.volume.arrange.whole_times import Bin, are_instances, instance_order
from node.volume.model import Frame

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
"""Attributes that can order the planes at one position; the first usable one is used."""

SHARED_TIME_KEYS = {
    "temporal_position": "Temporal Position Identifier (0020,0100)",
    "time_slice": "time slices by Image Index (0054,1330)",
    "frame_reference_time": "Frame Reference Time (0054,1300)",
    "acquisition_number": "Acquisition Number (0020,0012)",
    "acquisition_time": "Acquisition Time (0008,0032)",
}
"""Attributes that frames of one time may share, by their time key."""

RUNNING_KEYS = frozenset({"content_time", "instance"})
"""Attributes that differ in every frame, and say nothing of how it was acquired."""

B_VALUE_TOLERANCE = 0.01  # relative, or 5 s/mm2 if that is more: scanners write measured values
DIRECTION_TOLERANCE = 0.01

COUNTS = {
    "temporal_position": "Temporal Position Index (0020,9128) or Identifier (0020,0100)",
    "dimensions": "Dimension Index Values (0020,9157) or the vectors of the frames",
}
"""Attributes that count times, by their time key."""

BESIDE_FRAME_REFERENCE = {"acquisition_time": "acquisition times", "time_slice": "Image Index (0054,1330)"}
"""What runs with Frame Reference Time, which counts from the start of the series."""

NUMBERED_KEYS = {
    "temporal_position": "Temporal Position Identifier (0020,0100)",
    "frame_reference_time": "Frame Reference Time (0054,1300)",
    "acquisition_time": "Acquisition Time (0008,0032)",
    "acquisition_number": "Acquisition Number (0020,0012)",
}
"""Attributes, by their time key, with whose times Instance Numbers run if they count times at all."""

MAX_ASTRAY = 1 / 3
"""Largest share of slices whose frames are out of order by mistake; beyond it an instance has an order of its own."""

PHASE_KEYS = frozenset({"trigger_time", "cardiac_phase", "frame_time"})
"""Attributes that count from an event which each position has separately."""

MAX_VALUES_PER_TIME = 1.5
"""The values of an attribute can name shared times only if they are at most this many times as many as the frames per
position."""


def time_orders(bins: list[Bin]) -> Iterator[tuple[str, list[Bin]]]:
    """Yield the name of each attribute that can order the frames in time, and the bins in that order."""
    for name in TIME_KEYS:
        ordered = _ordered_by(bins, name)
        if ordered is None or not same_diffusion(ordered):
            continue
        if name != "trigger_time" or _is_cardiac_order(ordered):
            yield name, ordered


def without_wrong_clocks(name: str, bins: list[Bin]) -> tuple[str, list[Bin]]:
    """Return the order by a clock; the one by Acquisition Number if that puts other frames into one time.

    A clock that is wrong by a whole time still follows the others. All positions have the same Acquisition Numbers.
    """
    numbered = _ordered_by(bins, "acquisition_number") if name == "acquisition_time" else None
    if numbered is None or not same_diffusion(numbered) or not is_time_order(numbered, "acquisition_number"):
        return name, bins
    return (name, bins) if _times(bins) == _times(numbered) else ("acquisition_number", numbered)


def doubt_of_counts(name: str, bins: list[Bin]) -> str | None:
    """Return what contradicts an order by an attribute that counts times, or their seconds; None if nothing does.

    Slices may not share its values, or the other count may put frames into other times. Frames of one instance that
    nearly all slices have in the order of times are so in the others too: those may have exchanged all that they say of
    their times.

    `bins`: frames by position; within a bin in the order of the attribute. All bins have equally many frames.
    """
    if name == "frame_reference_time":
        doubt = _doubt_of_order(bins, NUMBERED_KEYS[name], BESIDE_FRAME_REFERENCE)
        return doubt or _doubt_by_others(name, bins)
    if name not in COUNTS:
        return _doubt_by_others(name, bins)
    if len({frozenset(frame.time_key[name] for frame in frames) for frames in bins}) > 1:
        return f"the slices do not share values of {COUNTS[name]}: only the order of these says which are of one time"
    is_lone = len(bins) == 1 and name == "temporal_position"  # slices may have clocks of their own, and phases wrap
    others = COUNTS | ({"acquisition_time": "acquisition times"} if is_lone else {})
    others = {other: attribute for other, attribute in others.items() if other != name}
    if (doubt := _doubt_of_order(bins, COUNTS[name], others)) is not None:
        return doubt
    is_one_instance = len({frame.sop_instance_uid for frames in bins for frame in frames}) == 1
    if not is_one_instance and (name != "dimensions" or len(bins) > 1):
        return _doubt_by_others(name, bins)
    astray = sum(frames != sorted(frames, key=instance_order) for frames in bins)
    if not is_one_instance or not 0 < astray <= MAX_ASTRAY * len(bins):
        clock = _ordered_by(bins, "acquisition_time")
        if clock in (None, bins) or clock != _ordered_by(bins, "instance"):
            return None
        return f"acquisition times and the order of the frames tell other times than {COUNTS[name]}"
    return (
        f"by {COUNTS[name]} the frames of {astray} of {len(bins)} slices are not in the order of the instance, but all "
        "others are: frames of these may have each other's times"
    )


def _doubt_of_order(bins: list[Bin], attribute: str, others: dict[str, str]) -> str | None:
    """Return which of other attributes, by their time keys, has another order than bins that `attribute` ordered."""
    for other, of_other in others.items():
        if _ordered_by(bins, other) not in (None, bins):
            return f"{attribute}, by which the frames were ordered, and {of_other} put them into different orders"
    return None


def _doubt_by_others(name: str, bins: list[Bin]) -> str | None:
    """Return what puts frames into other times than an attribute that nothing confirms; None if nothing does.

    Instance Numbers count times if they run through all of them in one order of slices. Weightings are recognised by
    themselves, and the clock of a phase says when its heart beat was.
    """
    if name not in NUMBERED_KEYS or any(frame.diffusion is not None for frames in bins for frame in frames):
        return None
    orders = {NUMBERED_KEYS[other]: _ordered_by(bins, other) for other in NUMBERED_KEYS if other != name}
    numbered = _ordered_by(bins, "instance")
    if numbered is not None and _follow_each_other(numbered, "instance"):
        orders["Instance Numbers (0020,0013)"] = numbered
    elif name not in ("frame_reference_time", "acquisition_number"):
        return None
    labels = [frame.time_key[name] for frame in bins[0]]
    if name == "acquisition_number" and orders[NUMBERED_KEYS["acquisition_time"]] is None and labels != sorted(labels):
        return f"{NUMBERED_KEYS[name]} and Instance Numbers (0020,0013) put the times into different orders"
    if bins in orders.values():
        return None
    times = _times(bins)
    for other, ordered in orders.items():
        if ordered is not None and (ordered is numbered or _times(ordered) != times):
            return f"{NUMBERED_KEYS[name]}, by which the frames were ordered, and {other} tell different times"
    return None


def _times(bins: list[Bin]) -> set[frozenset[int]]:
    """Return the frames of each time, by their `id`."""
    return {frozenset(map(id, time)) for time in zip(*bins, strict=True)}


def _is_cardiac_order(bins: list[Bin]) -> bool:
    """Return whether trigger times count phases.

    If one frame is acquired per heart beat, trigger times scatter while beats ascend.
    """
    beats = _ordered_by(bins, "acquisition_time")
    return beats is None or beats == bins or _ordered_by(bins, "instance") != beats


def _ordered_by(bins: list[Bin], name: str) -> list[Bin] | None:
    """Return the bins in order of an attribute; None unless it separates the frames of every bin."""
    for frames in bins:
        values = [frame.time_key.get(name) for frame in frames]
        if None in values or len(set(values)) < len(values):
            return None
    ranks = _ranks(bins, name)
    return [sorted(frames, key=lambda frame: ranks[frame.time_key[name]]) for frames in bins]


def _ranks(bins: list[Bin], name: str) -> dict[Any, int]:
    """Return the rank of each value of an attribute."""
    frames = [frame for own in bins for frame in own]
    if name != "acquisition_number":
        return {value: rank for rank, value in enumerate(sorted({frame.time_key[name] for frame in frames}))}
    # Acquisition Number names acquisitions (PS3.3 C.7.6.1), it does not count: Instance Numbers tell their order,
    # unless they tell another one at each position.
    orders = {tuple(frame.time_key[name] for frame in sorted(own, key=instance_order)) for own in bins}
    if len(orders) > 1 and len({frozenset(order) for order in orders}) == 1:
        return {number: rank for rank, number in enumerate(sorted(set(next(iter(orders)))))}
    first: dict[Any, tuple[int, int]] = {}
    for frame in frames:
        number = frame.time_key[name]
        first[number] = min(first.get(number, instance_order(frame)), instance_order(frame))
    return {number: rank for rank, number in enumerate(sorted(first, key=lambda number: (first[number], number)))}


def is_time_order(bins: list[Bin], name: str) -> bool:
    """Return whether frames of one rank in an attribute, one at each position, belong to one time.

    They do if every position has the same values. If each frame has a different value, as from a clock or a counter,
    the frames of one time must follow each other: time by time, slice by slice, or package by package. Phases are
    counted anew from each trigger, for each slice separately; a phase that most positions share must have one rank in
    all of them. Instances with exactly one frame at every position are a time each. A number puts no frames into one
    time that attributes of the acquisition tell apart.

    `bins`: frames by position; within a bin in order of the attribute. All bins have equally many frames. `name`: one
    of `TIME_KEYS`.
    """
    if _are_whole_instances(bins) or (name == "instance" and are_instances(bins)):
        return all(len({frame.sop_instance_uid for frame in time}) == 1 for time in zip(*bins, strict=True))
    if name in RUNNING_KEYS and distinguishing(bins) is not None:
        return False
    values = [{frame.time_key[name] for frame in frames} for frames in bins]
    if all(own == values[0] for own in values[1:]):
        return True
    are_names = len(set.union(*values)) <= MAX_VALUES_PER_TIME * len(bins[0])  # names of times; some lack slices
    if name in PHASE_KEYS:
        return not are_names or _have_one_rank(bins, name)
    return not are_names and _follow_each_other(bins, name)


def _follow_each_other(bins: list[Bin], name: str) -> bool:
    """Return whether values that differ in each frame run time by time, slice by slice, or package by package."""
    ranks = _ranks(bins, name)
    sequence = sorted(
        (ranks[frame.time_key[name]], time, position)
        for position, frames in enumerate(bins)
        for time, frame in enumerate(frames)
    )
    package: list[int] = []
    for index, (time, run) in enumerate(groupby(sequence, key=lambda entry: entry[1])):
        slices = [position for _, _, position in run]
        slices = slices if name == "instance" else sorted(slices)  # numbers go through the slices in one order
        package = package if time else slices
        if time != index % len(bins[0]) or slices != package:
            return False
    return True


def distinguishing(bins: list[Bin]) -> str | None:
    """Return the attribute that tells frames of one rank apart; None if none does.

    Its values name times, although several may share one, if every position has the same ones equally often: as those
    of two acquisitions do, each from its start.
    """
    for key, attribute in SHARED_TIME_KEYS.items():
        values = [[frame.time_key.get(key) for frame in frames] for frames in bins]
        if any(own != values[0] for own in values) and all(Counter(own) == Counter(values[0]) for own in values):
            return attribute
    return None


def _are_whole_instances(bins: list[Bin]) -> bool:
    """Return whether every instance has exactly one frame at each position."""
    uids = [{frame.sop_instance_uid for frame in frames} for frames in bins]
    return all(own == uids[0] and len(own) == len(frames) for own, frames in zip(uids, bins, strict=True))


def _have_one_rank(bins: list[Bin], name: str) -> bool:
    """Return whether each value of an attribute has the same rank at all positions that have the value."""
    ranks: dict[Any, int] = {}
    return all(
        ranks.setdefault(frame.time_key[name], rank) == rank for frames in bins for rank, frame in enumerate(frames)
    )


def same_diffusion(bins: list[Bin]) -> bool:
    """Return whether the frames of each time have one diffusion weighting."""
    if all(frame.diffusion is None for frames in bins for frame in frames):
        return True
    table = np.full((len(bins), max(map(len, bins)), 4), np.nan)
    for position, frames in enumerate(bins):
        for time, frame in enumerate(frames):
            table[position, time] = weighting(frame)
    b_values, directions = table[..., 0], table[..., 1:]
    with np.errstate(invalid="ignore"):
        near = np.abs(b_values - b_values[:1]) <= np.maximum(B_VALUE_TOLERANCE * np.abs(b_values[:1]), 5)
        # A direction and its opposite give the same weighting.
        aligned = np.abs((directions * directions[:1]).sum(axis=-1)) > 1 - DIRECTION_TOLERANCE
    unweighted = np.linalg.norm(directions, axis=-1) < 0.5
    same = near & (aligned | (unweighted & unweighted[:1]))
    return bool((same | np.isnan(b_values) | np.isnan(b_values[:1])).all())


def weighting(frame: Frame) -> tuple[float, float, float, float]:
    """Return b-value in s/mm2 and direction (LPS); (0, 0, 0) stands for no direction."""
    if frame.diffusion is None:
        return (0.0, 0.0, 0.0, 0.0)
    direction = frame.diffusion.direction_lps
    x, y, z = (0.0, 0.0, 0.0) if direction is None else map(float, direction)
    return (frame.diffusion.b_value, x, y, z)


def order_by_diffusion(bins: list[Bin]) -> list[Bin] | None:
    """Return the bins in order of diffusion weighting; None if the weighting does not separate the times.

    Frames of one weighting at one position are ordered by a time attribute, or each must come from one instance.
    """
    if all(frame.diffusion is None for frames in bins for frame in frames):
        return None
    ordered = [
        sorted(frames, key=lambda frame: (*weighting(frame), *instance_order(frame), frame.sop_instance_uid))
        for frames in bins
    ]
    if not same_diffusion(ordered):
        return None
    start = 0
    for _, alike in groupby(ordered[0], key=weighting):
        end = start + len(list(alike))
        parts = [frames[start:end] for frames in ordered]
        if len({tuple(frame.sop_instance_uid for frame in part) for part in parts}) > 1 and end - start > 1:
            in_time = next((order for name, order in time_orders(parts) if is_time_order(order, name)), None)
            if in_time is None:
                return None
            for frames, part in zip(ordered, in_time, strict=True):
                frames[start:end] = part
        start = end
    return ordered
