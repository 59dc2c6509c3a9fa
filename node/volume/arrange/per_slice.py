"""Traits that change from slice to slice of one volume, and so must not split it.

Inversion times do so if each slice has its own trigger (MOLLI), or if slices are acquired in sequence.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import pairwise

import numpy as np

from node.volume.geometry import distinct_distances, group_by_position, is_even, missing_slices, position_labels
from node.volume.model import Frame

SLICE_TRAITS = (("echo",), ("derived",))
"""Traits that some scanners and archives set in single slices of one volume: Echo Number, and being derived."""

SLICE_OR_VOLUME_TRAITS = (
    ("inversion_time",),
    ("echo_time",),
    ("echo", "echo_time"),
    ("echo", "echo_time", "inversion_time"),
)
"""Traits that separate volumes, unless they change from slice to slice of one volume: a multi-slice inversion recovery
acquires each slice at a different time after one pulse."""

MIN_PLANNED_DIFFERENCE = 0.1
"""Minimum relative difference between planned echo or inversion times. Smaller differences are measurement noise, so
slices with one value may fill the gaps of another."""

MEASURED_TOLERANCE = 0.02
"""Relative difference of echo or inversion times between the slices of one volume, where the times are measured."""

MAX_HEART_BEAT_RATIO = 2.0
"""Largest ratio of the inversion times of one turn that different heart beats can explain."""

Groups = dict[tuple[Hashable, ...], list[Frame]]
"""Frames by their traits."""


def merge_per_slice_groups(groups: Groups, names: Sequence[str]) -> Groups:
    """Return groups of frames after merging those that are the slices of one volume, although some traits change.

    `names`: names of the parts of the keys of `groups`.
    """
    for traits in (*SLICE_TRAITS, *SLICE_OR_VOLUME_TRAITS):
        if set(traits) <= set(names):
            indices = [names.index(name) for name in traits]
            may_separate = traits in SLICE_OR_VOLUME_TRAITS
            if may_separate and len(traits) == 1:
                groups = _merge_groups(groups, indices, _near_values(groups, traits[0]), gaps=True)
            groups = _merge_groups(groups, indices, gaps=may_separate, per_slice=may_separate)
    return groups


def _merge_groups(
    groups: Groups,
    traits: Sequence[int],
    near: Mapping[tuple[Hashable, ...], int] | None = None,
    *,
    gaps: bool = False,
    per_slice: bool = False,
) -> Groups:
    """Merge groups that differ only in these traits and are the slices of one volume.

    `near`: only groups with the same number may merge. Such groups may share positions if none of them is a volume by
    itself. `gaps`: slices, and frames at them, may be missing. `per_slice`: there must be more groups than positions in
    any group, or one group must lack slices that the others have.
    """
    alike: dict[Hashable, list[tuple[Hashable, ...]]] = {}
    for key in groups:
        rest = tuple(part for index, part in enumerate(key) if index not in traits)
        alike.setdefault((rest, None if near is None else near[key]), []).append(key)
    merged: Groups = {}
    for keys in alike.values():
        frames = [frame for key in keys for frame in groups[key]]
        counts = [len(groups[key]) for key in keys]
        if len(keys) > 1 and (
            _are_slices(frames, counts, gaps=gaps, per_slice=per_slice)
            or (near is not None and _are_noise(frames, counts))
        ):
            merged[keys[0]] = frames
        else:
            merged |= {key: groups[key] for key in keys}
    return merged


def _near_values(groups: Groups, name: str) -> dict[tuple[Hashable, ...], int]:
    """Return a number for each group, equal for near values of a trait; missing values equal a single known one."""
    values = {key: max(frames[0].split_key.get(name) or 0.0, 0.0) for key, frames in groups.items()}
    known = sorted({value for value in values.values() if value})
    clusters = np.cumsum(np.diff(np.log(known), prepend=-np.inf) > MEASURED_TOLERANCE)
    labels = dict(zip(known, clusters.tolist(), strict=True))
    only = next(iter(labels.values()), 0) if len(set(labels.values())) < 2 else 0
    return {key: labels[value] if value else only for key, value in values.items()}


def _are_slices(frames: Sequence[Frame], counts: Sequence[int], *, gaps: bool, per_slice: bool) -> bool:
    """Return whether groups share no position and together are even; see `_merge_groups`.

    `counts` are the numbers of frames in the groups, in order.
    """
    if len(frames) < 3 or any(frame.position is None for frame in frames):
        return False
    distances, labels = position_labels(frames)
    along = distinct_distances(distances, labels)
    frames_at_position = np.bincount(labels)
    parts = np.split(labels, np.cumsum(counts)[:-1])
    positions = [len(set(part.tolist())) for part in parts]
    if sum(positions) > len(frames_at_position):
        return False
    if per_slice and len(counts) <= max(positions):
        fills = is_even(along) and not all(is_even(along[np.unique(part)]) for part in parts)
        return fills and _are_measured(frames)
    if gaps:
        return is_even(along) or missing_slices(along) is not None
    return is_even(along) and bool((frames_at_position == frames_at_position[0]).all())


def _are_noise(frames: Sequence[Frame], counts: Sequence[int]) -> bool:
    """Return whether groups together are whole times of an even stack, while no group is a volume by itself.

    `counts` are the numbers of frames in the groups, in order.
    """
    if len(frames) < 3 or any(frame.position is None for frame in frames):
        return False
    distances, labels = position_labels(frames)
    along = distinct_distances(distances, labels)
    parts = np.split(labels, np.cumsum(counts)[:-1])
    frames_at_position = np.bincount(labels)
    if len(along) == 1 or not is_even(along) or (frames_at_position != frames_at_position[0]).any():
        return False
    return all(len(set(np.bincount(part, minlength=len(along)).tolist())) > 1 for part in parts)


def _are_measured(frames: Sequence[Frame]) -> bool:
    """Return whether echo and inversion times are closer to each other than planned times would be."""
    for name in ("echo_time", "inversion_time"):
        times = [time for frame in frames if (time := frame.split_key.get(name))]
        if times and max(times) > (1 + MIN_PLANNED_DIFFERENCE) * min(times):
            return False
    return True


def group_by_inversion_rank(groups: Groups, trait: int) -> Groups:
    """Return groups in which the first inversion times of all slices form one group, the second ones another, etc.

    This is done only if inversion times alone do not give whole volumes, every slice has equally many of them, all
    different, and nothing suggests that slices with shared times were lost.

    `trait`: index in the keys of `groups` of the number of the inversion time, which ascends with the time. In the
    result it is the rank.
    """
    alike: dict[Hashable, list[tuple[Hashable, ...]]] = {}
    for key, frames in groups.items():
        alike.setdefault((_time_ms(frames[0]) > 0, *key[:trait], *key[trait + 1 :]), []).append(key)
    regrouped: Groups = {}
    for keys in alike.values():
        ranked = _by_rank([groups[key] for key in keys])
        if ranked is None:
            regrouped |= {key: groups[key] for key in keys}
        else:
            regrouped |= {(*keys[0][:trait], rank, *keys[0][trait + 1 :]): own for rank, own in enumerate(ranked)}
    return regrouped


def _by_rank(groups: Sequence[list[Frame]]) -> list[list[Frame]] | None:
    """Return the frames of all groups by the rank of their inversion time at their position; None if that fails."""
    frames = [frame for group in groups for frame in group]
    if len(groups) < 2 or any(frame.position is None or not _time_ms(frame) for frame in frames):
        return None
    slices = group_by_position(frames)
    ranks = len(slices[0])
    if ranks == 1 or all(len(group) == len(slices) for group in groups):
        return None
    if any(len({_time_ms(frame) for frame in own}) != ranks or len(own) != ranks for own in slices):
        return None
    ordered = [sorted(own, key=_time_ms) for own in slices]
    factor = 1 + MEASURED_TOLERANCE
    if any(_time_ms(later) < factor * _time_ms(frame) for own in ordered for frame, later in pairwise(own)):
        return None  # one time, measured for each image
    rank_of = {id(frame): rank for own in ordered for rank, frame in enumerate(own)}
    if any(len({rank_of[id(frame)] for frame in group}) > 1 for group in groups):
        return None
    ranked = [list(frames_of_rank) for frames_of_rank in zip(*ordered, strict=True)]
    return ranked if all(map(_is_one_rank, ranked)) else None


def _is_one_rank(frames: Sequence[Frame]) -> bool:
    """Return whether inversion times are those of one rank: close to each other, or different in each slice."""
    times_ms = [_time_ms(frame) for frame in frames]
    return max(times_ms) <= MAX_HEART_BEAT_RATIO * min(times_ms) or len(set(times_ms)) == len(times_ms)


def _time_ms(frame: Frame) -> float:
    return float(frame.split_key.get("inversion_time") or 0.0)
