"""Split the frames of a series into stacks: frames that one volume may hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from node.volume.geometry import (
    cluster_numbers,
    cluster_orientations,
    is_even,
    missing_slices,
    position_numbers,
    position_tolerance,
    stack_axes,
)
from node.volume.model import Frame
from node.volume.reasons import Warn, Warning

ECHO_TIME_TOLERANCE_MS = 0.05
INVERSION_TIME_TOLERANCE_MS = 1.0
PIXEL_SPACING_TOLERANCE = 1e-3  # as a part of the spacing

UNPLACED = -1
LABELLED = ("echo_time", "inversion_time")
COMPONENT_SUFFIXES = {"magnitude": "", "phase": "ph", "real": "real", "imaginary": "imag"}
"""Complex Image Component (0008,9208) in lower case, in the order of their stacks; others follow."""


OF_SLICES = (("echo",), ("derived",))
"""Traits that some scanners and archives give to single slices of one volume: Echo Numbers, and what is derived."""

OF_EACH_SLICE = (("inversion_time",), ("echo_time",), ("echo", "echo_time"), ("echo", "echo_time", "inversion_time"))
"""Traits that divide volumes, unless they go from slice to slice of one: a multi-slice inversion recovery acquires each
slice at another time after one pulse."""

NEAR = 0.02
"""Part by which echo or inversion times may differ from slice to slice of one volume, where they are measured."""

OF_PLACES = frozenset({"orientation", "spacing"})
"""Traits that a frame lacks where its place or size was left out."""


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """Frames of one kind; `suffix` says what tells it from the other stacks of its series, ``""`` for an only one."""

    frames: tuple[Frame, ...]
    suffix: str


def placeless(frames: Sequence[Frame]) -> list[Frame]:
    """Return the frames that lack a place or Pixel Spacing, where as many frames alike in all else have it.

    They are slices of a volume that nobody can put there, and no pictures of their own.
    """
    whole = [frame.orientation is not None and frame.pixel_spacing is not None for frame in frames]
    if all(whole) or not any(whole):
        return []
    traits = {name: values for name, values in _traits(frames).items() if name not in OF_PLACES}
    keys = list(zip(*traits.values(), strict=True))
    placed = Counter(key for key, is_whole in zip(keys, whole, strict=True) if is_whole)
    lacking = Counter(key for key, is_whole in zip(keys, whole, strict=True) if not is_whole)
    return [
        frame
        for frame, key, is_whole in zip(frames, keys, whole, strict=True)
        if not is_whole and placed[key] >= lacking[key]
    ]


def split(frames: Sequence[Frame]) -> tuple[list[Stack], tuple[Warning, ...]]:
    """Return the stacks of a series, and what is to be told of there being several.

    They are in order of orientation (by first appearance), component, echo and inversion time, then of first frame.
    """
    traits = _traits(frames)
    unrelated = _is_of_each_instance(frames)
    if unrelated:
        traits["frame_of_reference"] = [None] * len(frames)
    names = list(traits)
    groups: Groups = {}
    for frame, key in zip(frames, zip(*traits.values(), strict=True), strict=True):
        groups.setdefault(key, []).append(frame)
    for together in (*OF_SLICES, *OF_EACH_SLICE):
        if set(together) <= traits.keys():
            indices = [names.index(name) for name in together]
            if together in OF_EACH_SLICE and len(together) == 1:
                groups = _joined(groups, indices, _near_values(groups, together[0]), gaps=True)
            groups = _joined(groups, indices, gaps=together in OF_EACH_SLICE, each=together in OF_EACH_SLICE)
    groups = dict(sorted(groups.items(), key=lambda entry: _rank(dict(zip(names, entry[0], strict=True)))))
    varying = {name: len({key[index] for key in groups}) > 1 for index, name in enumerate(names)}
    suffixes = [
        _suffix({name: value for name, value in zip(names, key, strict=True) if varying[name]}) for key in groups
    ]
    stacks = [Stack(tuple(group), suffix) for group, suffix in zip(groups.values(), suffixes, strict=True)]
    warnings = []
    count = len({key[names.index("orientation")] for key in groups} - {UNPLACED})
    if count > 1:
        warnings.append(Warning(Warn.SEVERAL_ORIENTATIONS, f"{count} orientations in one series"))
    if varying["matrix"] or varying["spacing"]:
        sizes = sorted({(frame.columns, frame.rows, *(frame.pixel_spacing or (0.0, 0.0))) for frame in frames})
        told = ", ".join(f"{columns} x {rows} of {x:.4g} x {y:.4g} mm" for columns, rows, y, x in sizes[:20])
        warnings.append(Warning(Warn.SEVERAL_MATRICES, f"several matrices or pixel spacings in one series: {told}"))
    if unrelated:
        told = "each instance names a frame of reference (0020,0052) of its own, as some anonymisers do; one is assumed"
        warnings.append(Warning(Warn.FRAME_OF_REFERENCE_VARIES, told))
    return stacks, tuple(warnings)


def _is_of_each_instance(frames: Sequence[Frame]) -> bool:
    """Whether each instance has a Frame of Reference UID of its own, which says nothing then.

    PS3.3 C.7.4.1.1.1: it is one for the images of a series that are related in space. Two instances that are a volume
    each may well be unrelated.
    """
    instances = {frame.sop_instance_uid for frame in frames}
    distinct = {frame.split_key.get("frame_of_reference") for frame in frames}
    several_frames = len(frames) > len(instances)
    return None not in distinct and len(distinct) == len(instances) > (2 if several_frames else 1)


Groups = dict[tuple[Hashable, ...], list[Frame]]
"""Frames by their traits."""


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
        Only groups of one number may be joined.
    gaps : bool
        Slices, and frames at them, may be missing.
    each : bool
        The groups must be more than the positions of any of them.
    """
    alike: dict[Hashable, list[tuple[Hashable, ...]]] = {}
    for key in groups:
        rest = tuple(part for index, part in enumerate(key) if index not in traits)
        alike.setdefault((rest, None if near is None else near[key]), []).append(key)
    joined = {}
    for keys in alike.values():
        together = [frame for key in keys for frame in groups[key]]
        counts = [len(groups[key]) for key in keys]
        if len(keys) > 1 and _are_slices(together, counts, gaps=gaps, each=each):
            joined[keys[0]] = together
        else:
            joined |= {key: groups[key] for key in keys}
    return joined


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
    axes = stack_axes(np.array([frame.orientation for frame in frames]))
    distances = np.array([frame.position for frame in frames]) @ axes.normal
    labels = position_numbers(distances, position_tolerance(frames[0].pixel_spacing or (1.0, 1.0)))
    at_each = np.bincount(labels)
    positions = [len(set(part.tolist())) for part in np.split(labels, np.cumsum(counts)[:-1])]
    if sum(positions) > len(at_each) or (each and len(counts) <= max(positions)):
        return False
    ascending = np.bincount(labels, distances) / at_each
    if gaps:
        return is_even(ascending) or missing_slices(ascending) is not None
    return is_even(ascending) and bool((at_each == at_each[0]).all())


def _traits(frames: Sequence[Frame]) -> dict[str, list[Hashable]]:
    """By name, one value for each frame; frames that differ in any are of several stacks."""
    names = list(dict.fromkeys(name for frame in frames for name in frame.split_key))
    traits: dict[str, list[Hashable]] = {
        "matrix": [(frame.rows, frame.columns) for frame in frames],
        "colour": [frame.colour for frame in frames],
        "spacing": _spacings(frames),
        "orientation": _orientations(frames),
    }
    for name in names:
        traits[name] = [frame.split_key.get(name) for frame in frames]
    traits["frame_of_reference"] = _filled(traits.get("frame_of_reference"), len(frames))
    traits["echo_time"] = _clustered(traits.get("echo_time"), ECHO_TIME_TOLERANCE_MS, len(frames))
    traits["inversion_time"] = _clustered(traits.get("inversion_time"), INVERSION_TIME_TOLERANCE_MS, len(frames))
    return traits


def _filled(found: list[Hashable] | None, count: int) -> list[Hashable]:
    """Values, and the only one there is for those that are None."""
    known = {} if found is None else dict.fromkeys(value for value in found if value is not None)
    return [next(iter(known), None)] * count if found is None or len(known) < 2 else found


def _clustered(found: list[Hashable] | None, tolerance: float, count: int) -> list[Hashable]:
    """Cluster numbers of times that may be None."""
    if found is None or len(set(found)) == 1:
        return [0] * count
    times = np.array([np.nan if value is None else value for value in found], float)
    return [int(label) for label in cluster_numbers(np.nan_to_num(times, nan=-1e9), tolerance)]


def _orientations(frames: Sequence[Frame]) -> list[Hashable]:
    """Numbers of orientation clusters; `UNPLACED` for frames without a place."""
    placed = [index for index, frame in enumerate(frames) if frame.orientation is not None]
    labels: list[Hashable] = [UNPLACED] * len(frames)
    if placed:
        clusters = cluster_orientations(np.array([frames[index].orientation for index in placed]))
        for index, cluster in zip(placed, clusters, strict=True):
            labels[index] = int(cluster)
    return labels


def _spacings(frames: Sequence[Frame]) -> list[Hashable]:
    """Cluster numbers of pixel spacings; frames without are of cluster (-1, -1)."""
    known = [index for index, frame in enumerate(frames) if frame.pixel_spacing is not None]
    labels: list[Hashable] = [(-1, -1)] * len(frames)
    if known:
        # A logarithm makes the tolerance a part of the spacing.
        logs = np.log(np.array([frames[index].pixel_spacing for index in known]))
        rows, columns = (cluster_numbers(logs[:, axis], PIXEL_SPACING_TOLERANCE) for axis in (0, 1))
        for index, row, column in zip(known, rows, columns, strict=True):
            labels[index] = (int(row), int(column))
    return labels


def _rank(traits: dict[str, Hashable]) -> tuple[int, ...]:
    """Where a stack comes in its series."""
    components = [*COMPONENT_SUFFIXES, traits.get("component")]
    labels = (traits["orientation"], components.index(traits.get("component")), *map(traits.get, LABELLED))
    return tuple(int(str(label)) for label in labels)


def _suffix(varying: dict[str, Hashable]) -> str:
    """A short name of what varies between the stacks of a series."""
    parts = []
    if "component" in varying:
        component = varying["component"]
        parts.append(COMPONENT_SUFFIXES.get(str(component), "other"))
    if "echo_time" in varying:
        parts.append(f"e{int(str(varying['echo_time'])) + 1}")
    elif varying.get("echo"):
        echo = varying["echo"]
        parts.append(f"e{int(echo[0])}" if isinstance(echo, tuple) and np.isfinite(echo[0]) else "")
    if "inversion_time" in varying:
        parts.append(f"ti{int(str(varying['inversion_time'])) + 1}")
    if varying.get("orientation", UNPLACED) != UNPLACED:
        parts.append(f"i{int(str(varying['orientation'])) + 1}")
    if varying.get("map"):
        parts.append("map")
    elif varying.get("derived"):
        parts.append("derived")
    return "-".join(part for part in parts if part)
