"""Which attribute orders the frames that share positions, and whether it puts those of one time together.

The first attribute that tells the frames of every position apart can give an order. That alone does not prove that the
first frame of one position and the first of another are of one time: `belong_together` asks for that proof.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import numpy as np

from node.volume.arrange.whole_times import Bin, by_instance
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
"""Attributes that order the planes of one place, the first that can being taken."""

B_VALUE_TOLERANCE = 0.01  # as a part, or 5 s/mm2 if that is more: scanners write measured values
DIRECTION_TOLERANCE = 0.01

PHASES = frozenset({"trigger_time", "cardiac_phase", "frame_time"})
"""Attributes that count from an event of each position's own."""

SHARED_VALUES = 1.5
"""Values of an attribute for each frame of a position, up to which they name the times that positions share."""


def time_orders(bins: list[Bin]) -> Iterator[tuple[str, list[Bin]]]:
    """Bins with their frames in order of time, by each attribute that can give it, and its name."""
    for name in TIME_KEYS:
        ordered = _ordered_by(bins, name)
        if ordered is None or not same_diffusion(ordered):
            continue
        if name != "trigger_time" or _is_cardiac_order(ordered):
            yield name, ordered


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
    ranks = _ranks(bins, name)
    return [sorted(frames, key=lambda frame: ranks[frame.time_key[name]]) for frames in bins]


def _ranks(bins: list[Bin], name: str) -> dict[Any, int]:
    """The place of each value of an attribute among all of them."""
    frames = [frame for own in bins for frame in own]
    if name != "acquisition_number":
        return {value: rank for rank, value in enumerate(sorted({frame.time_key[name] for frame in frames}))}
    first: dict[Any, tuple[int, int]] = {}  # it names an acquisition (PS3.3 C.7.6.1), it does not count them
    for frame in frames:
        number = frame.time_key[name]
        first[number] = min(first.get(number, by_instance(frame)), by_instance(frame))
    return {number: rank for rank, number in enumerate(sorted(first, key=lambda number: (first[number], number)))}


def belong_together(bins: list[Bin], name: str) -> bool:
    """Whether frames of one rank in an attribute, each at its position, are of one time.

    They are where every position has the same values. Where each frame has a value of its own, as of a clock or a
    counter, the frames of one time must follow each other: time by time, slice by slice, or package by package. Phases
    are counted from each trigger anew, at each slice by itself; those that most positions share have one rank in all.
    Instances of which each has a frame at every position are a time each.
    """
    if _are_whole_instances(bins):
        return all(len({frame.sop_instance_uid for frame in time}) == 1 for time in zip(*bins, strict=True))
    values = [{frame.time_key[name] for frame in frames} for frames in bins]
    if all(own == values[0] for own in values[1:]):
        return True
    are_names = len(set.union(*values)) <= SHARED_VALUES * len(bins[0])  # of times, of which some lack slices
    if name in PHASES:
        return not are_names or _have_one_rank(bins, name)
    if are_names:
        return False
    ranks = _ranks(bins, name)
    in_turn = sorted(
        (ranks[frame.time_key[name]], time, place)
        for place, frames in enumerate(bins)
        for time, frame in enumerate(frames)
    )
    package: list[int] = []
    for turn, (time, run) in enumerate(groupby(in_turn, key=lambda entry: entry[1])):
        slices = [place for _, _, place in run]
        slices = slices if name == "instance" else sorted(slices)  # numbers go through the slices in one order
        package = package if time else slices
        if time != turn % len(bins[0]) or slices != package:
            return False
    return True


def _are_whole_instances(bins: list[Bin]) -> bool:
    """Whether every instance has just one frame at each position."""
    uids = [{frame.sop_instance_uid for frame in frames} for frames in bins]
    return all(own == uids[0] and len(own) == len(frames) for own, frames in zip(uids, bins, strict=True))


def _have_one_rank(bins: list[Bin], name: str) -> bool:
    """Whether each value of an attribute has the same rank at all positions that have it."""
    ranks: dict[Any, int] = {}
    return all(
        ranks.setdefault(frame.time_key[name], rank) == rank for frames in bins for rank, frame in enumerate(frames)
    )


def same_diffusion(bins: list[Bin]) -> bool:
    """Whether the frames of each time have one diffusion weighting."""
    if all(frame.diffusion is None for frames in bins for frame in frames):
        return True
    table = np.full((len(bins), max(map(len, bins)), 4), np.nan)
    for place, frames in enumerate(bins):
        for time, frame in enumerate(frames):
            table[place, time] = weighting(frame)
    b_values, directions = table[..., 0], table[..., 1:]
    with np.errstate(invalid="ignore"):
        near = np.abs(b_values - b_values[:1]) <= np.maximum(B_VALUE_TOLERANCE * np.abs(b_values[:1]), 5)
        # A direction and its opposite weight alike.
        aligned = np.abs((directions * directions[:1]).sum(axis=-1)) > 1 - DIRECTION_TOLERANCE
    unweighted = np.linalg.norm(directions, axis=-1) < 0.5
    same = near & (aligned | (unweighted & unweighted[:1]))
    return bool((same | np.isnan(b_values) | np.isnan(b_values[:1])).all())


def weighting(frame: Frame) -> tuple[float, float, float, float]:
    """b-value and direction; no direction is (0, 0, 0)."""
    if frame.diffusion is None:
        return (0.0, 0.0, 0.0, 0.0)
    direction = frame.diffusion.direction_lps
    x, y, z = (0.0, 0.0, 0.0) if direction is None else map(float, direction)
    return (frame.diffusion.b_value, x, y, z)


def by_weighting(bins: list[Bin]) -> list[Bin] | None:
    """Bins in order of diffusion weighting; None where that does not tell which frames are of one time.

    Frames of one weighting at one position are put in order by what orders times, or they are of one instance each.
    """
    if all(frame.diffusion is None for frames in bins for frame in frames):
        return None
    ordered = [
        sorted(frames, key=lambda frame: (*weighting(frame), *by_instance(frame), frame.sop_instance_uid))
        for frames in bins
    ]
    if not same_diffusion(ordered):
        return None
    start = 0
    for _, alike in groupby(ordered[0], key=weighting):
        end = start + len(list(alike))
        parts = [frames[start:end] for frames in ordered]
        if len({tuple(frame.sop_instance_uid for frame in part) for part in parts}) > 1 and end - start > 1:
            told = next((order for name, order in time_orders(parts) if belong_together(order, name)), None)
            if told is None:
                return None
            for frames, part in zip(ordered, told, strict=True):
                frames[start:end] = part
        start = end
    return ordered
