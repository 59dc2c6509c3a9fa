"""Which frames make whole times, where some were lost: by an attribute that all of a time share, or by their numbers.

A frame that is missing moves all later ones at its position up by one place: putting frames in order position by
position would then mix times. What labels the times is therefore asked first.
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

COUNTS = frozenset({"temporal_position", "dimensions", "cardiac_phase"})
"""Attributes that number the times, so that each position must have the same ones."""


def by_instance(frame: Frame) -> tuple[int, int]:
    """Instance Number, then frame number."""
    order: tuple[int, int] = frame.time_key["instance"]
    return order


def labels_by_attribute(bins: Sequence[Bin], name: str) -> Labels | None:
    """Return the values of an attribute as labels, if positions have some in common; None where they have none.

    Of an attribute that counts the times it is enough that two positions agree. Clocks may agree by chance: there must
    be a value that every position has.
    """
    values = [{frame.time_key[name] for frame in frames} for frames in bins]
    shared = any(a & b for a, b in pairwise(values)) if name in COUNTS else bool(set.intersection(*values))
    return {id(frame): frame.time_key[name] for frames in bins for frame in frames} if shared else None


def labels_by_number(bins: Sequence[Bin]) -> Labels | None:
    """Return labels by Instance Number, if numbers count either the times of each slice, or the slices of each time.

    Lost instances leave holes in the numbers, so that those that are there keep their time. None where the numbers
    follow neither rule, or where it cannot be known with which of its slices a time began.
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
        for frames, own in zip(bins, labels, strict=True)
        for frame, label in zip(frames, own, strict=True)
    }


def _numbers(bins: Sequence[Bin]) -> list[list[int]] | None:
    """Running numbers from 0 of the frames of each position; None where two have the same."""
    instances = {frame.sop_instance_uid for frames in bins for frame in frames}
    which = 1 if len(instances) == 1 else 0
    numbers = [[by_instance(frame)[which] for frame in frames] for frames in bins]
    known = sorted(number for own in numbers for number in own)
    if len(set(known)) < len(known):
        return None
    stride = math.gcd(*(later - known[0] for later in known)) or 1
    # Numbering begins at 1; at 0 it does so rarely that no more is made of it.
    first = 1 if known[0] >= 1 and (known[0] - 1) % stride == 0 else known[0]
    return [[(number - first) // stride for number in own] for own in numbers]


def _labels_time_by_time(numbers: list[list[int]]) -> list[list[int]] | None:
    """Labels where all slices of a time were numbered before those of the next, always in one order of positions."""
    slices = len(numbers)
    places = [{number % slices for number in own} for own in numbers]
    if any(len(place) != 1 for place in places) or len(set.union(*places)) != slices:
        return None
    least = min(number for own in numbers for number in own)
    labels = [[number // slices for number in own] for own in numbers]
    if least % slices == 0:
        return labels
    # The first number is not that of a first slice: slices were lost before it, or the numbering has another origin.
    from_first = [[(number - least) // slices for number in own] for own in numbers]
    complete = len({*map(frozenset, from_first)}) == 1
    in_order = _is_monotonic([(place - least) % slices for (place,) in places])
    if complete and in_order:
        return from_first
    anchored = _is_monotonic([place for (place,) in places])
    if least < slices and anchored:
        return labels
    return from_first if complete or (in_order and not anchored) else None


def _is_monotonic(order: list[int]) -> bool:
    return order in (sorted(order), sorted(order, reverse=True))


def _labels_slice_by_slice(numbers: list[list[int]]) -> list[list[int]] | None:
    """Labels where all times of a slice were numbered before those of the next slice; some may have been lost."""
    most = max(map(len, numbers))
    ranges = [(min(own), max(own)) for own in numbers]
    least = min(low for low, _ in ranges)
    for times, first in product(range(most, 2 * most), sorted({0, least})):
        blocks = {(low - first) // times for low, high in ranges if (low - first) // times == (high - first) // times}
        if len(blocks) == len(numbers):
            return [[(number - first) % times for number in own] for own in numbers]
    return None


def whole_times(bins: Sequence[Bin], labels: Labels, *, sure: bool = False) -> tuple[list[Bin], list[Frame]] | None:
    """Return the bins of the times that are at every position just once, and all other frames.

    None where no time is whole or all are; unless the labels are `sure` to be those of times, also where less than half
    are whole, and where one frame lies at a place of another one: it is no time.
    """
    per_bin = [Counter(labels[id(frame)] for frame in frames) for frames in bins]
    whole = {label for label in per_bin[0] if all(own[label] == 1 for own in per_bin)}
    dropped = [frame for frames in bins for frame in frames if labels[id(frame)] not in whole]
    least = min(map(len, bins))
    if not whole or not dropped:
        return None
    if not sure and ((len(dropped) == 1 and least == 1) or 2 * len(whole) < least):
        return None
    order = {labels[id(frame)]: rank for rank, frame in enumerate(bins[0])}
    kept = [
        sorted((frame for frame in frames if labels[id(frame)] in whole), key=lambda frame: order[labels[id(frame)]])
        for frames in bins
    ]
    return kept, dropped
