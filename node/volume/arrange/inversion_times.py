"""Inversion times that each slice has of its own: after a trigger of its own (MOLLI), or one after the other."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import pairwise

from node.volume.arrange.plane_positions import bins_of
from node.volume.model import Frame

NEAR = 0.02
"""Part by which echo or inversion times may differ from slice to slice of one volume, where they are measured."""

HEART_BEATS = 2.0
"""Largest inversion time of one turn over the least, up to which the lengths of heart beats may make them differ."""

Groups = dict[tuple[Hashable, ...], list[Frame]]
"""Frames by their traits."""


def by_turn(groups: Groups, trait: int) -> Groups:
    """Groups in which the first inversion times of all slices are one, the second ones another, and so on.

    Only where the times themselves do not make whole volumes, and every slice has equally many of them, all different,
    and nothing says that slices which share their times lost some.

    Parameters
    ----------
    groups : Groups
    trait : int
        Where the keys of groups have a number of the inversion time, ascending with it; it becomes that of the turn.
    """
    alike: dict[Hashable, list[tuple[Hashable, ...]]] = {}
    for key, frames in groups.items():
        alike.setdefault((_time_ms(frames[0]) > 0, *key[:trait], *key[trait + 1 :]), []).append(key)
    found: Groups = {}
    for keys in alike.values():
        turns = _turns([groups[key] for key in keys])
        if turns is None:
            found |= {key: groups[key] for key in keys}
        else:
            found |= {(*keys[0][:trait], turn, *keys[0][trait + 1 :]): own for turn, own in enumerate(turns)}
    return found


def _turns(groups: Sequence[list[Frame]]) -> list[list[Frame]] | None:
    """Frames of all groups by the rank of their inversion time at their position; None where that is no division."""
    frames = [frame for group in groups for frame in group]
    if len(groups) < 2 or any(frame.position is None or not _time_ms(frame) for frame in frames):
        return None
    slices = bins_of(frames)
    turns = len(slices[0])
    if turns == 1 or all(len(group) == len(slices) for group in groups):
        return None
    if any(len({_time_ms(frame) for frame in own}) != turns or len(own) != turns for own in slices):
        return None
    ordered = [sorted(own, key=_time_ms) for own in slices]
    if any(_time_ms(later) < (1 + NEAR) * _time_ms(frame) for own in ordered for frame, later in pairwise(own)):
        return None  # one time, measured for each image
    rank = {id(frame): turn for own in ordered for turn, frame in enumerate(own)}
    if any(len({rank[id(frame)] for frame in group}) > 1 for group in groups):
        return None
    found = [list(turn) for turn in zip(*ordered, strict=True)]
    return found if all(map(_is_turn, found)) else None


def _is_turn(frames: Sequence[Frame]) -> bool:
    """Whether inversion times are those of one turn: near each other, or another one in each slice."""
    times_ms = [_time_ms(frame) for frame in frames]
    return max(times_ms) <= HEART_BEATS * min(times_ms) or len(set(times_ms)) == len(times_ms)


def _time_ms(frame: Frame) -> float:
    return float(frame.split_key.get("inversion_time") or 0.0)
