"""Split the frames of a series into stacks: frames that one volume may hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from node.volume.arrange.inversion_times import NEAR, Groups, by_turn
from node.volume.arrange.motion import settled
from node.volume.arrange.per_slice import joined
from node.volume.geometry import cluster_numbers, cluster_orientations
from node.volume.model import Frame
from node.volume.reasons import Warn, Warning

ECHO_TIME_TOLERANCE_MS = 0.05
INVERSION_TIME_TOLERANCE_MS = 1.0
PIXEL_SPACING_TOLERANCE = 1e-3  # as a part of the spacing

UNPLACED = -1
UNKNOWN = -1
LABELLED = ("echo_time", "inversion_time")
COMPONENT_SUFFIXES = {"magnitude": "", "phase": "ph", "real": "real", "imaginary": "imag"}
"""Complex Image Component (0008,9208) in lower case, in the order of their stacks; others follow."""

OF_A_SERIES = ("frame_of_reference", "patient", "modality")
"""Traits that images of a series have in common (PS3.3 A.1.2, C.7.3.1); one that lacks them has those of the others."""

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
    return _lacking(frames, whole, OF_PLACES)


def unscaled(frames: Sequence[Frame]) -> list[Frame]:
    """Return the frames that lack the scaling that as many frames alike in all else have: their values are unknown."""
    return _lacking(frames, [frame.split_key.get("scaled", True) for frame in frames], frozenset({"scaled"}))


def _lacking(frames: Sequence[Frame], whole: Sequence[bool], names: frozenset[str]) -> list[Frame]:
    """Frames that are not whole, where as many that are alike in all traits but these are."""
    if all(whole) or not any(whole):
        return []
    traits = {name: values for name, values in _traits(frames).items() if name not in names}
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
    unrelated = _is_of_each_instance(frames, "frame_of_reference")
    if unrelated:
        traits["frame_of_reference"] = [None] * len(frames)
    if _is_of_each_instance(frames, "patient"):
        traits["patient"] = [None] * len(frames)
    frames, warnings = _settled(frames, traits)
    names = list(traits)
    groups: Groups = {}
    for frame, key in zip(frames, zip(*traits.values(), strict=True), strict=True):
        groups.setdefault(key, []).append(frame)
    groups = joined(by_turn(groups, names.index("inversion_time")), names)
    groups = dict(sorted(groups.items(), key=lambda entry: _rank(dict(zip(names, entry[0], strict=True)))))
    varying = {name: len({key[index] for key in groups}) > 1 for index, name in enumerate(names)}
    suffixes = [
        _suffix({name: value for name, value in zip(names, key, strict=True) if varying[name]}) for key in groups
    ]
    stacks = [Stack(tuple(group), suffix) for group, suffix in zip(groups.values(), suffixes, strict=True)]
    warnings += _told_of_several(groups, names, frames)
    if unrelated:
        told = "each instance names a frame of reference (0020,0052) of its own, as some anonymisers do; one is assumed"
        warnings.append(Warning(Warn.FRAME_OF_REFERENCE_VARIES, told))
    return stacks, tuple(warnings)


def _settled(frames: Sequence[Frame], traits: dict[str, list[Hashable]]) -> tuple[Sequence[Frame], list[Warning]]:
    """Frames of which those that drift in time have the place of the first; `traits` gets their orientations then."""
    alike: dict[Hashable, list[int]] = {}
    others = [values for name, values in traits.items() if name != "orientation"]
    for index, key in enumerate(zip(*others, strict=True)):
        alike.setdefault(key, []).append(index)
    moved = list(frames)
    warnings = []
    for indices in alike.values():
        own, told = settled([frames[index] for index in indices])
        if told is not None:
            warnings.append(told)
            for index, frame in zip(indices, own, strict=True):
                moved[index] = frame
    if warnings:
        traits["orientation"] = _orientations(moved)
    return moved, warnings


def _is_of_each_instance(frames: Sequence[Frame], name: str) -> bool:
    """Whether each instance has a Frame of Reference UID, or a Patient ID, of its own, which says nothing then.

    PS3.3 C.7.4.1.1.1: the frame of reference is one for the images of a series that are related in space; A.1.2: a
    series is of one patient. Two instances that are a volume each may well be unrelated, and of two patients any two.
    """
    instances = {frame.sop_instance_uid for frame in frames}
    distinct = {frame.split_key.get(name) for frame in frames}
    two_may_differ = len(frames) > len(instances) or name == "patient"
    return None not in distinct and len(distinct) == len(instances) > (2 if two_may_differ else 1)


def _millimetres(spacing: tuple[float, ...]) -> str:
    """Pixel spacing (rows, columns) in words, that between columns first as widths are."""
    return " x ".join(f"{distance:.4g}" for distance in reversed(spacing)) + " mm" if spacing else "unknown size"


def _told_of_several(groups: Groups, names: Sequence[str], frames: Sequence[Frame]) -> list[Warning]:
    """What divides a series that nobody would expect in one: orientations, sizes, patients."""
    values = {name: {key[index] for key in groups} for index, name in enumerate(names)}
    warnings = []
    count = len(values["orientation"] - {UNPLACED})
    if count > 1:
        warnings.append(Warning(Warn.SEVERAL_ORIENTATIONS, f"{count} orientations in one series"))
    if max(len(values["matrix"]), len(values["spacing"])) > 1:
        sizes = sorted({(frame.columns, frame.rows, frame.pixel_spacing or ()) for frame in frames})
        told = ", ".join(f"{columns} x {rows} of {_millimetres(spacing)}" for columns, rows, spacing in sizes[:20])
        warnings.append(Warning(Warn.SEVERAL_MATRICES, f"several matrices or pixel spacings in one series: {told}"))
    if len(values["patient"]) > 1:
        told = f"{len(values['patient'])} Patient IDs (0010,0020) in one series: a volume of each"
        warnings.append(Warning(Warn.SEVERAL_PATIENTS, told))
    return warnings


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
    for name in OF_A_SERIES:
        traits[name] = _filled(traits.get(name), len(frames))
    shortest_ms = min((float(str(time)) for time in traits.get("echo_time", []) if time), default=np.inf)
    tolerance_ms = min(ECHO_TIME_TOLERANCE_MS, NEAR * shortest_ms)
    traits["echo_time"] = _clustered(traits.get("echo_time"), tolerance_ms, len(frames))
    traits["inversion_time"] = _clustered(traits.get("inversion_time"), INVERSION_TIME_TOLERANCE_MS, len(frames))
    return traits


def _filled(found: list[Hashable] | None, count: int) -> list[Hashable]:
    """Values, and the only one there is for those that are None."""
    known = {} if found is None else dict.fromkeys(value for value in found if value is not None)
    return [next(iter(known), None)] * count if found is None or len(known) < 2 else found


def _clustered(found: list[Hashable] | None, tolerance: float, count: int) -> list[Hashable]:
    """Cluster numbers of times; `UNKNOWN` for None."""
    known = [index for index, value in enumerate(found or ()) if value is not None]
    labels: list[Hashable] = [UNKNOWN] * count
    if found is not None and known:
        numbers = cluster_numbers(np.array([found[index] for index in known], float), tolerance)
        for index, number in zip(known, numbers, strict=True):
            labels[index] = int(number)
    return labels


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
    if varying.get("echo_time", UNKNOWN) != UNKNOWN:
        parts.append(f"e{int(str(varying['echo_time'])) + 1}")
    elif varying.get("echo"):
        echo = varying["echo"]
        parts.append(f"e{int(echo[0])}" if isinstance(echo, tuple) and np.isfinite(echo[0]) else "")
    if varying.get("inversion_time", UNKNOWN) != UNKNOWN:
        parts.append(f"ti{int(str(varying['inversion_time'])) + 1}")
    if varying.get("orientation", UNPLACED) != UNPLACED:
        parts.append(f"i{int(str(varying['orientation'])) + 1}")
    if varying.get("map"):
        parts.append("map")
    elif varying.get("derived"):
        parts.append("derived")
    return "-".join(part for part in parts if part)
