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

from node.volume.arrange.sources import EVENT_KEYS, RUNNING_KEYS, SHARED_TIME_KEYS, TIME_KEYS
from node.volume.arrange.whole_times import Bin, are_instances, instance_order
from node.volume.model import Frame

B_VALUE_TOLERANCE = 0.01  # relative, or 5 s/mm2 if that is more: scanners write measured values
DIRECTION_TOLERANCE = 0.01

MAX_VALUES_PER_TIME = 1.5
"""The values of an attribute can name shared times only if they are at most this many times as many as the frames per
position."""


def time_orders(bins: list[Bin]) -> Iterator[tuple[str, list[Bin]]]:
    """Yield the name of each attribute that can order the frames in time, and the bins in that order."""
    for name in TIME_KEYS:
        ordered = ordered_by(bins, name)
        if ordered is None or not same_diffusion(ordered):
            continue
        if name != "trigger_time" or is_cardiac_order(ordered):
            yield name, ordered


def is_cardiac_order(bins: list[Bin]) -> bool:
    """Return whether trigger times count phases.

    If one frame is acquired per heart beat, trigger times scatter while beats ascend.
    """
    beats = ordered_by(bins, "acquisition_time")
    return beats is None or beats == bins or ordered_by(bins, "instance") != beats


def ordered_by(bins: list[Bin], name: str) -> list[Bin] | None:
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
    if name not in ("acquisition_number", "labelling"):
        return {value: rank for rank, value in enumerate(sorted({frame.time_key[name] for frame in frames}))}
    # Acquisition Number names acquisitions (PS3.3 C.7.6.1), it does not count, and label or control may be first:
    # Instance Numbers tell their order, unless they tell another one at each position.
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
    if name in EVENT_KEYS:
        return not are_names or _have_one_rank(bins, name)
    return not are_names and follow_each_other(bins, name)


def follow_each_other(bins: list[Bin], name: str) -> bool:
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
