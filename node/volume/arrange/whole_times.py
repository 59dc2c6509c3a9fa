"""Find the complete times after frames were lost, by an attribute that all frames of a time share, or by number.

A missing frame moves all later frames at its position forward by one, so ordering the frames of each position on its
own would mix times. Attributes that label times are therefore tried first.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from itertools import pairwise, product

from node.volume.model import Frame

Bin = list[Frame]
"""Frames that share a position."""

Labels = Mapping[int, Hashable]
"""The time that a frame belongs to, by the frame's `id`."""

COUNTING_KEYS = frozenset({"temporal_position", "dimensions", "cardiac_phase"})
"""Attributes that number the times, so that each position must have the same values."""


def instance_order(frame: Frame) -> tuple[int, int]:
    """Return Instance Number and frame number of a frame."""
    order: tuple[int, int] = frame.time_key["instance"]
    return order


def labels_by_attribute(bins: Sequence[Bin], name: str) -> Labels | None:
    """Return the values of an attribute as labels, if positions share values; else None.

    If the attribute counts the times, two positions must share a value. Clocks may agree by chance: there, all
    positions must share a value.
    """
    values = [{frame.time_key[name] for frame in frames} for frames in bins]
    shared = any(a & b for a, b in pairwise(values)) if name in COUNTING_KEYS else bool(set.intersection(*values))
    return {id(frame): frame.time_key[name] for frames in bins for frame in frames} if shared else None


def labels_by_number(bins: Sequence[Bin]) -> Labels | None:
    """Return labels by Instance Number, if the numbers count the times of each slice, or the slices of each time.

    Lost instances leave gaps in the numbers, so the remaining ones keep their time. None if the numbers follow neither
    rule, or if it is unknown which slice came first in a time.
    """
    numbers = _numbers(bins)
    if numbers is None:
        return None
    by_time = _labels_time_by_time(numbers)
    labels = _labels_slice_by_slice(numbers) if by_time is None else by_time
    if labels is None:
        return None
    return {
        id(frame): label
        for frames, bin_labels in zip(bins, labels, strict=True)
        for frame, label in zip(frames, bin_labels, strict=True)
    }


def _numbers(bins: Sequence[Bin]) -> list[list[int]] | None:
    """Return running numbers from 0 for the frames of each position; None if two frames have the same number."""
    instances = {frame.sop_instance_uid for frames in bins for frame in frames}
    part = 1 if len(instances) == 1 else 0  # of one instance, frame numbers count
    numbers = [[instance_order(frame)[part] for frame in frames] for frames in bins]
    known = sorted(number for own in numbers for number in own)
    if len(set(known)) < len(known):
        return None
    stride = math.gcd(*(later - known[0] for later in known)) or 1
    # Numbering begins at 1; it begins at 0 too rarely to matter.
    first = 1 if known[0] >= 1 and (known[0] - 1) % stride == 0 else known[0]
    return [[(number - first) // stride for number in own] for own in numbers]


def _labels_time_by_time(numbers: list[list[int]]) -> list[list[int]] | None:
    """Return labels if all slices of a time were numbered before those of the next, in one order of positions."""
    slices = len(numbers)
    ranks = [{number % slices for number in own} for own in numbers]
    if any(len(rank) != 1 for rank in ranks) or len(set.union(*ranks)) != slices:
        return None
    least = min(number for own in numbers for number in own)
    labels = [[number // slices for number in own] for own in numbers]
    if least % slices == 0:
        return labels
    # The first number is not that of a first slice: earlier slices were lost, or the numbering has another origin.
    from_first = [[(number - least) // slices for number in own] for own in numbers]
    complete = len({*map(frozenset, from_first)}) == 1
    in_order = _is_monotonic([(rank - least) % slices for (rank,) in ranks])
    if complete and in_order:
        return from_first
    anchored = _is_monotonic([rank for (rank,) in ranks])
    if least < slices and anchored:
        return labels
    return from_first if complete or (in_order and not anchored) else None


def _is_monotonic(order: list[int]) -> bool:
    return order in (sorted(order), sorted(order, reverse=True))


def _labels_slice_by_slice(numbers: list[list[int]]) -> list[list[int]] | None:
    """Return labels if all times of a slice were numbered before those of the next slice; some may have been lost."""
    most = max(map(len, numbers))
    ranges = [(min(own), max(own)) for own in numbers]
    least = min(low for low, _ in ranges)
    for times, first in product(range(most, 2 * most), sorted({0, least})):
        blocks = {(low - first) // times for low, high in ranges if (low - first) // times == (high - first) // times}
        if len(blocks) == len(numbers):
            return [[(number - first) % times for number in own] for own in numbers]
    return None


def whole_times(
    bins: Sequence[Bin], labels: Labels, *, are_times: bool = False
) -> tuple[list[Bin], list[Frame]] | None:
    """Return the bins of the times that every position has exactly once, and all other frames.

    None if no time is whole, or all are. If labels may agree by chance, the result is also None if less than half of
    the times are whole, or if a single frame is left over at a position with only one other frame, since that is not a
    time.

    Parameters
    ----------
    bins : sequence of list of Frame
        Frames that share a position.
    labels : mapping
        The time of each frame, by the frame's `id`.
    are_times : bool
        The labels are known to be times.
    """
    per_bin = [Counter(labels[id(frame)] for frame in frames) for frames in bins]
    whole = {label for label in per_bin[0] if all(own[label] == 1 for own in per_bin)}
    dropped = [frame for frames in bins for frame in frames if labels[id(frame)] not in whole]
    least = min(map(len, bins))
    if not whole or not dropped:
        return None
    if not are_times and ((len(dropped) == 1 and least == 1) or 2 * len(whole) < least):
        return None
    order = {labels[id(frame)]: rank for rank, frame in enumerate(bins[0])}
    kept = [
        sorted((frame for frame in frames if labels[id(frame)] in whole), key=lambda frame: order[labels[id(frame)]])
        for frames in bins
    ]
    return kept, dropped
