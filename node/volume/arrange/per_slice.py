"""Traits that change from slice to slice of one volume, and so divide none."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from node.volume.arrange.inversion_times import NEAR, Groups
from node.volume.arrange.plane_positions import ascending, labelled
from node.volume.geometry import is_even, missing_slices
from node.volume.model import Frame

OF_SLICES = (("echo",), ("derived",))
"""Traits that some scanners and archives give to single slices of one volume: Echo Numbers, and what is derived."""

OF_EACH_SLICE = (("inversion_time",), ("echo_time",), ("echo", "echo_time"), ("echo", "echo_time", "inversion_time"))
"""Traits that divide volumes, unless they go from slice to slice of one: a multi-slice inversion recovery acquires each
slice at another time after one pulse."""

ALIKE = 0.1
"""Part by which they may differ where one value has gaps that the others fill: planned echoes differ by more."""


def joined(groups: Groups, names: Sequence[str]) -> Groups:
    """Return groups of frames without those that are the slices of one volume, though some of its traits change.

    Parameters
    ----------
    groups : Groups
    names : sequence of str
        What the parts of the keys of `groups` are called.
    """
    for together in (*OF_SLICES, *OF_EACH_SLICE):
        if set(together) <= set(names):
            indices = [names.index(name) for name in together]
            if together in OF_EACH_SLICE and len(together) == 1:
                groups = _joined(groups, indices, _near_values(groups, together[0]), gaps=True)
            groups = _joined(groups, indices, gaps=together in OF_EACH_SLICE, each=together in OF_EACH_SLICE)
    return groups


def _joined(
    groups: Groups,
    traits: Sequence[int],
    near: Mapping[tuple[Hashable, ...], int] | None = None,
    *,
    gaps: bool = False,
    each: bool = False,
) -> Groups:
    """Groups without those that differ in these traits alone and are the slices of one volume.

    Parameters
    ----------
    near : mapping of key to number, optional
        Only groups of one number may be joined; they may then share positions, if none is a volume by itself.
    gaps : bool
        Slices, and frames at them, may be missing.
    each : bool
        The groups must be more than the positions of any of them, or one of them lacks slices that the others have.
    """
    alike: dict[Hashable, list[tuple[Hashable, ...]]] = {}
    for key in groups:
        rest = tuple(part for index, part in enumerate(key) if index not in traits)
        alike.setdefault((rest, None if near is None else near[key]), []).append(key)
    found: Groups = {}
    for keys in alike.values():
        together = [frame for key in keys for frame in groups[key]]
        counts = [len(groups[key]) for key in keys]
        if len(keys) > 1 and (
            _are_slices(together, counts, gaps=gaps, each=each) or (near is not None and _are_noise(together, counts))
        ):
            found[keys[0]] = together
        else:
            found |= {key: groups[key] for key in keys}
    return found


def _near_values(groups: Groups, name: str) -> dict[tuple[Hashable, ...], int]:
    """A number for each group, the same where a trait's values are near; none at all is near to an only one."""
    values = {key: max(frames[0].split_key.get(name) or 0.0, 0.0) for key, frames in groups.items()}
    known = sorted({value for value in values.values() if value})
    labels = dict(zip(known, np.cumsum(np.diff(np.log(known), prepend=-np.inf) > NEAR).tolist(), strict=True))
    only = next(iter(labels.values()), 0) if len(set(labels.values())) < 2 else 0
    return {key: labels[value] if value else only for key, value in values.items()}


def _are_slices(frames: Sequence[Frame], counts: Sequence[int], *, gaps: bool, each: bool) -> bool:
    """Whether groups of so many frames share no position, and lie evenly together; see `_joined`."""
    if len(frames) < 3 or any(frame.position is None for frame in frames):
        return False
    distances, labels = labelled(frames)
    along = ascending(distances, labels)
    at_each = np.bincount(labels)
    parts = np.split(labels, np.cumsum(counts)[:-1])
    positions = [len(set(part.tolist())) for part in parts]
    if sum(positions) > len(at_each):
        return False
    if each and len(counts) <= max(positions):
        fills = is_even(along) and not all(is_even(along[np.unique(part)]) for part in parts)
        return fills and _are_alike(frames)
    if gaps:
        return is_even(along) or missing_slices(along) is not None
    return is_even(along) and bool((at_each == at_each[0]).all())


def _are_noise(frames: Sequence[Frame], counts: Sequence[int]) -> bool:
    """Whether groups of so many frames are whole times of an even stack together, and none is a volume by itself."""
    if len(frames) < 3 or any(frame.position is None for frame in frames):
        return False
    distances, labels = labelled(frames)
    along = ascending(distances, labels)
    parts = np.split(labels, np.cumsum(counts)[:-1])
    at_each = np.bincount(labels)
    if len(along) == 1 or not is_even(along) or (at_each != at_each[0]).any():
        return False
    return all(len(set(np.bincount(part, minlength=len(along)).tolist())) > 1 for part in parts)


def _are_alike(frames: Sequence[Frame]) -> bool:
    """Whether echo and inversion times are nearer than those that a sequence is planned with."""
    for name in ("echo_time", "inversion_time"):
        times = [time for frame in frames if (time := frame.split_key.get(name))]
        if times and max(times) > (1 + ALIKE) * min(times):
            return False
    return True
