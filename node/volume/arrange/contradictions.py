"""Ask every other attribute before the times of a stack are ordered by one, and say which of them disagree.

No attribute is believed alone. Each one of `node.volume.arrange.sources` that tells the frames of all positions apart
has an order of its own. If another one has a different order, or puts other frames into one time, the volume says so,
with both names; if two that have nothing to do with each other agree against the first, their order is taken.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from node.volume.arrange.sources import RUNNING_KEYS, SOURCE_OF, SOURCES, Kind, Source
from node.volume.arrange.whole_times import (
    MAX_VALUES_PER_TIME,
    Bin,
    follow_each_other,
    instance_order,
    is_cardiac_order,
    is_time_order,
    ordered_by,
    same_diffusion,
    time_orders,
    weighting,
)
from node.volume.geometry import group_by_position, is_even
from node.volume.model import Frame

FULL, HALF, FAINT = 1.0, 0.5, 0.4
"""What an attribute weighs against an order: alone, only beside another one, or only if nothing confirms the order."""

MAX_ASTRAY = 1 / 3
"""Largest share of slices whose frames are out of order by mistake; beyond it an instance has an order of its own."""

_PHASES = tuple(source.key for source in SOURCES if source.kind is Kind.PHASE)


class Settled(NamedTuple):
    """The attribute by which times are ordered, their frames by position, and what contradicts that, if anything."""

    name: str
    bins: list[Bin]
    doubt: str | None


class _Witness(NamedTuple):
    source: Source
    bins: list[Bin]


def settle(name: str, bins: list[Bin]) -> Settled:
    """Return the order of times by an attribute, or a better one, and what all other attributes have against it.

    `name`: one of `TIME_KEYS`. `bins`: frames by position; within a bin in the order of the attribute. All bins have
    equally many frames.
    """
    name, bins = _by_shared_numbers(name, bins)
    witnesses = [_Witness(source, order) for source in SOURCES if (order := _order_by(source, name, bins)) is not None]
    others = [witness for witness in witnesses if witness.bins != bins]
    if others:
        confirming = [witness.source for witness in witnesses if witness.bins == bins and witness.source.key != name]
        better = _better(name, confirming, others)
        if better is not None:
            first, order = better
            return Settled(
                first.key, order, f"{_words(name)} contradicts the times by which {first.attribute} and others agree"
            )
        against = _weightiest(name, bins, confirming, others)
        if against is not None:
            return Settled(name, bins, _worded(name, bins, against))
    return Settled(name, bins, _doubt_of_frames(name, bins) or _doubt_of_names(bins) or _doubt_of_repeats(name, bins))


def order_by_diffusion(bins: list[Bin]) -> Settled | None:
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
    doubt = None
    for _, alike in groupby(ordered[0], key=weighting):
        end = start + len(list(alike))
        parts = [frames[start:end] for frames in ordered]
        if len({tuple(frame.sop_instance_uid for frame in part) for part in parts}) > 1 and end - start > 1:
            in_time = next((settle(*order) for order in time_orders(parts) if is_time_order(order[1], order[0])), None)
            if in_time is None:
                return None
            doubt = doubt or in_time.doubt
            for frames, part in zip(ordered, in_time.bins, strict=True):
                frames[start:end] = part
        start = end
    return Settled("diffusion", ordered, doubt)


def parts_in_time(parts: Sequence[Sequence[Frame]]) -> tuple[str | None, bool]:
    """Return what is wrong with parts of a stack in time, in words, and whether times of one follow times of others.

    Parts contradict an attribute by which they have slices of several times each. Content Time counts only if nothing
    else tells the times.

    `parts`: frames that are volumes, by something else than time.
    """
    bins = group_by_position([frame for part in parts for frame in part])
    if len(set(map(len, bins))) > 1 or len(bins[0]) == 1:
        return None, False
    part_of = {id(frame): number for number, part in enumerate(parts) for frame in part}
    orders = [order for order in time_orders(bins) if is_time_order(order[1], order[0])]
    for name, ordered in orders:
        is_mixed = any(len({part_of[id(frame)] for frame in time}) > 1 for time in zip(*ordered, strict=True))
        if is_mixed and (SOURCE_OF[name].kind is not Kind.EXPORT or len(orders) == 1):
            doubt = f"the volumes into which the stack was divided have slices of several times by {_words(name)}"
            return doubt, True
    turns = [len(list(groupby(ordered[0], key=lambda frame: part_of[id(frame)]))) for _, ordered in orders[:1]]
    return None, max(turns, default=0) > len(parts)


def _by_shared_numbers(name: str, bins: list[Bin]) -> tuple[str, list[Bin]]:
    """Return the order by a clock; the one by Acquisition Number if that puts other frames into one time.

    A clock that is wrong by a whole time still follows the others. All positions have the same Acquisition Numbers.
    """
    numbered = ordered_by(bins, "acquisition_number") if name == "acquisition_time" else None
    if numbered is None or not same_diffusion(numbered) or not is_time_order(numbered, "acquisition_number"):
        return name, bins
    return (name, bins) if _times(bins) == _times(numbered) else ("acquisition_number", numbered)


def _order_by(source: Source, name: str, bins: list[Bin]) -> list[Bin] | None:
    """Return bins in the order of another attribute, those given if it is theirs; None if it tells no times.

    Instance Numbers tell times if they run through all of them in one order of slices, Trigger Time if it counts
    phases, or if its values are even steps.
    """
    if source.key == "labelling":  # its values have no order of their own
        return ordered_by(bins, source.key)
    ordered = []
    for frames in bins:
        values: list[Any] = [frame.time_key.get(source.key) for frame in frames]
        if None in values or len(set(values)) < len(values):
            return None
        ranks = sorted(range(len(frames)), key=values.__getitem__)
        is_in_order = all(rank == index for index, rank in enumerate(ranks))
        ordered.append(frames if is_in_order else [frames[rank] for rank in ranks])
    if all(own is frames for own, frames in zip(ordered, bins, strict=True)):
        return bins
    if source.key == "instance" and not follow_each_other(ordered, "instance"):
        return None
    if source.key == "trigger_time" and not (is_cardiac_order(ordered) or _are_steps_of_a_beat(ordered)):
        return None
    is_phased = source.kind is Kind.CLOCK and _are_phases(name, bins)
    return None if is_phased and all(map(_is_turned, bins, ordered)) else ordered


def _are_steps_of_a_beat(bins: list[Bin]) -> bool:
    """Return whether ascending Trigger Times of each slice are even steps that begin close to the beat.

    If each beat has one frame, Trigger Times scatter by chance, and by less than the delay after the beat.
    """
    moments = np.array([[frame.time_key["trigger_time"] for frame in frames] for frames in bins], float)
    begin_early = np.ptp(moments, axis=1) >= moments[:, 0]
    return bool(begin_early.all()) and all(map(is_even, moments))


def _are_phases(name: str, bins: list[Bin]) -> bool:
    """Return whether an order counts the phases of a beat, whose clock says when its heart beat was."""
    is_counted = SOURCE_OF[name].kind in (Kind.COUNT, Kind.PHASE)
    return is_counted and any(frame.time_key.get(key) is not None for key in _PHASES for frame in bins[0])


def _is_turned(frames: Bin, others: Bin) -> bool:
    """Return whether three or more phases only begin elsewhere in the beat."""
    first = next(index for index, frame in enumerate(frames) if frame is others[0])
    return len(frames) > 2 and frames[first:] + frames[:first] == others


def _weight(name: str, bins: list[Bin], confirming: list[Source], source: Source) -> float:
    """Return what an attribute weighs against an order by another one.

    An instance may store its frames in an order of its own, and each dimension counts more than time. Acquisition
    Number names acquisitions (PS3.3 C.7.6.1), it does not count them.
    """
    if source.kind is Kind.EXPORT or (source.kind is Kind.CLOCK and _are_phases(name, bins)):
        return FAINT
    if name == "dimensions" and source.kind in (Kind.CLOCK, Kind.NUMBER):
        return HALF
    is_one_slice = len(bins) == 1 and len({frame.sop_instance_uid for frame in bins[0]}) == 1
    if source.key == "instance" and is_one_slice and SOURCE_OF[name].kind is Kind.COUNT:
        return 0.0  # frames of one slice follow each other in any order
    is_clocked = any(other.kind is Kind.CLOCK for other in confirming) or SOURCE_OF[name].kind is Kind.CLOCK
    return FAINT if source.key == "acquisition_number" and is_clocked else FULL


def _groups(others: list[_Witness]) -> list[list[_Witness]]:
    """Return the attributes that have one order, together."""
    groups: list[list[_Witness]] = []
    for witness in others:
        alike = next((group for group in groups if group[0].bins == witness.bins), None)
        if alike is None:
            groups.append([witness])
        else:
            alike.append(witness)
    return groups


def _better(name: str, confirming: list[Source], others: list[_Witness]) -> tuple[Source, list[Bin]] | None:
    """Return an order that attributes of two kinds have, if nothing but `name` has the one by that."""
    if name == "dimensions" or any(source.kind is not Kind.EXPORT for source in confirming):
        return None
    for group in _groups(others):
        kinds = {witness.source.kind for witness in group} - {Kind.EXPORT}
        first = next((one for one in group if one.source.orders and is_time_order(one.bins, one.source.key)), None)
        if first is not None and len(kinds) > 1 and same_diffusion(first.bins):
            return first
    return None


def _weightiest(name: str, bins: list[Bin], confirming: list[Source], others: list[_Witness]) -> _Witness | None:
    """Return an attribute whose order weighs enough to be reported; None if none does."""
    least = FULL if confirming or name == "dimensions" else FAINT
    for group in _groups(others):
        if sum(_weight(name, bins, confirming, witness.source) for witness in group) >= least:
            return group[0]
    return None


def _words(name: str) -> str:
    return SOURCE_OF[name].attribute if name in SOURCE_OF else "the diffusion weighting"


def _worded(name: str, bins: list[Bin], against: _Witness) -> str:
    what = "put the times into different orders" if _times(bins) == _times(against.bins) else "tell different times"
    if against.source.key == name:  # numbers of instances ordered its names
        return f"{_words(name)} and {SOURCE_OF['instance'].attribute} {what}"
    return f"{_words(name)}, by which the frames were ordered, and {against.source.attribute} {what}"


def _doubt_of_frames(name: str, bins: list[Bin]) -> str | None:
    """Return what the order of the frames of one instance has against a count that nearly all slices follow; else None.

    The others may have exchanged all that they say of their times.
    """
    if SOURCE_OF[name].kind is not Kind.COUNT or len({frame.sop_instance_uid for own in bins for frame in own}) > 1:
        return None
    astray = sum(frames != sorted(frames, key=instance_order) for frames in bins)
    if not 0 < astray <= MAX_ASTRAY * len(bins):
        return None
    return (
        f"by {_words(name)} the frames of {astray} of {len(bins)} slices are not in the order of the instance, but all "
        "others are: frames of these may have each other's times"
    )


def _doubt_of_names(bins: list[Bin]) -> str | None:
    """Return an attribute of which slices share values, but not all of them, in words: times of some are missing.

    Those that are left of each slice may be equally many, and in one order. Clocks and phases of one time differ by
    less than half of a step. A clock that names no times runs on by equal steps in all slices, unless these were
    acquired one after the other; in MR, as the table of a CT may go to and fro.
    """
    for source in SOURCES:
        values: list[set[Any]] = [{frame.time_key.get(source.key) for frame in frames} for frames in bins]
        if source.key in RUNNING_KEYS or any(None in own or len(own) < len(bins[0]) for own in values):
            continue
        is_count = source.kind is Kind.COUNT
        are_names = is_count or len(set.union(*values)) <= MAX_VALUES_PER_TIME * len(bins[0])
        if all(own == values[0] for own in values):
            continue
        if not are_names and (source.kind is not Kind.CLOCK or bins[0][0].split_key.get("modality") != "MR"):
            continue
        if is_count or _are_steps_apart([sorted(own) for own in values], are_names=are_names):
            return f"the slices do not share all values of {source.attribute}: frames of one time may be of several"
    return None


def _are_steps_apart(moments: list[list[float]], *, are_names: bool) -> bool:
    """Return whether moments of one rank are half of a step apart, or more, by position and rank.

    If they are no names of times, each slice has them from its first one, and the slices follow each other in each
    time; else False.
    """
    table = np.array(moments, float)
    if not are_names:
        if (table[:, 1:].min(axis=0) <= table[:, :-1].max(axis=0)).any():
            return False
        table -= table[:, :1]
    return bool(np.ptp(table, axis=0).max() >= np.diff(table, axis=1).min() / 2)


def _doubt_of_repeats(name: str, bins: list[Bin]) -> str | None:
    """Return what repeats at every position under an order that counts no times, as phases of several encodings do."""
    if SOURCE_OF[name].kind is Kind.COUNT:
        return None
    for source in SOURCES:
        if source.kind in (Kind.COUNT, Kind.PHASE) and bins[0][0].time_key.get(source.key) is not None:
            values = [Counter(frame.time_key.get(source.key) for frame in frames) for frames in bins]
            if 1 < len(values[0]) < len(bins[0]) and all(own == values[0] for own in values):
                return (
                    f"frames of one position repeat each {source.attribute}: they may differ in more than time, such "
                    "as in the direction of velocity encoding (0018,9090), of Philips (2001,xx1A)"
                )
    return None


def _times(bins: list[Bin]) -> set[frozenset[int]]:
    """Return the frames of each time, by their `id`."""
    return {frozenset(map(id, time)) for time in zip(*bins, strict=True)}
