"""Inversion times that differ by slice: each slice has its own trigger (MOLLI), or slices are acquired in sequence."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import pairwise

from node.volume.arrange.plane_positions import group_by_position
from node.volume.model import Frame

MEASURED_TOLERANCE = 0.02
"""Relative difference of echo or inversion times between the slices of one volume, where the times are measured."""

MAX_HEART_BEAT_RATIO = 2.0
"""Largest ratio of the inversion times of one turn that different heart beats can explain."""

Groups = dict[tuple[Hashable, ...], list[Frame]]
"""Frames by their traits."""


def group_by_inversion_rank(groups: Groups, trait: int) -> Groups:
    """Return groups in which the first inversion times of all slices form one group, the second ones another, etc.

    This is done only if inversion times alone do not give whole volumes, every slice has equally many of them, all
    different, and nothing suggests that slices with shared times were lost.

    Parameters
    ----------
    groups : dict of tuple to list of Frame
    trait : int
        Index in the keys of `groups` of the number of the inversion time, which ascends with the time. In the result it
        is the rank.
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
