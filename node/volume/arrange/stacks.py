"""Split the frames of a series into stacks, each of which can become a volume."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from node.volume.arrange.motion import undo_motion
from node.volume.arrange.times import with_field_maps
from node.volume.geometry import (
    cluster_numbers,
    cluster_orientations,
    distinct_distances,
    group_by_position,
    is_even,
    missing_slices,
    position_labels,
)
from node.volume.model import Float, Frame, grouped
from node.volume.reasons import VolumeWarning, WarningKind

ECHO_TIME_TOLERANCE_MS = 0.05
INVERSION_TIME_TOLERANCE_MS = 1.0
PIXEL_SPACING_TOLERANCE = 1e-3  # relative

UNPLACED = -1
UNKNOWN = -1
NUMBERED = {"echo_time": "e", "inversion_time": "ti", "coil_element": "c"}
"""Traits whose values are numbered from the least, and the letters of their suffixes."""
COMPONENT_SUFFIXES = {"magnitude": "", "phase": "ph", "real": "real", "imaginary": "imag", "fieldmap": "fieldmap"}
"""Suffix by Complex Image Component (0008,9208) in lower case, or field map, in the order of their stacks; others
follow."""

SERIES_TRAITS = ("frame_of_reference", "patient", "modality")
"""Traits that the images of a series share (PS3.3 A.1.2, C.7.3.1); an image without one takes it from the others."""

UNIT_TRAITS = ("units", "rescale_type", "corrected", "real_world")
"""Traits that say what values mean; a frame without a unit or a Rescale Type takes that of the others."""

RESCALED_MODALITIES = frozenset({"CT", "PT"})
"""Modalities whose images must carry their rescaling (PS3.3 C.8.2.1, C.8.9.4): absent values do not mean 1 and 0."""

POSITION_TRAITS = frozenset({"orientation", "spacing"})
"""Traits that a frame lacks if its position or pixel spacing was left out."""

Groups = dict[tuple[Hashable, ...], list[Frame]]
"""Frames by their traits."""


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """Frames of one kind. `suffix` distinguishes the stack within its series; ``""`` if it is the only one."""

    frames: tuple[Frame, ...]
    suffix: str


def frames_without_position(frames: Sequence[Frame]) -> list[Frame]:
    """Return the frames that lack position or Pixel Spacing, if at least as many otherwise alike frames have both.

    They are slices of a volume whose place in it is unknown, not separate pictures.
    """
    complete = [frame.orientation is not None and frame.pixel_spacing is not None for frame in frames]
    return _lacking(frames, complete, POSITION_TRAITS)


def frames_without_rescale(frames: Sequence[Frame]) -> list[Frame]:
    """Return the frames that lack rescaling, if an otherwise alike frame has it: their values are unknown.

    Other images than those of `RESCALED_MODALITIES` may leave out a slope of 1 and an intercept of 0.
    """
    has_another = [
        frame.split_key.get("scaled", True)
        and (frame.split_key.get("modality") in RESCALED_MODALITIES or (frame.slope, frame.intercept) != (1, 0))
        for frame in frames
    ]
    lacking = _lacking(frames, has_another, frozenset({"quantity"}), least_share=0.0)
    return [frame for frame in lacking if not frame.split_key.get("scaled", True)]


def _lacking(
    frames: Sequence[Frame], complete: Sequence[bool], names: frozenset[str], least_share: float = 1.0
) -> list[Frame]:
    """Return the incomplete frames, if complete frames agree with them in all traits but `names`.

    `least_share`: least number of those for each of the incomplete frames; at least one.
    """
    if all(complete) or not any(complete):
        return []
    traits = {name: values for name, values in _traits(frames).items() if name not in names}
    keys = list(zip(*traits.values(), strict=True))
    having = Counter(key for key, is_complete in zip(keys, complete, strict=True) if is_complete)
    lacking = Counter(key for key, is_complete in zip(keys, complete, strict=True) if not is_complete)
    return [
        frame
        for frame, key, is_complete in zip(frames, keys, complete, strict=True)
        if not is_complete and having[key] >= max(1, least_share * lacking[key])
    ]


def split(frames: Sequence[Frame]) -> tuple[list[Stack], tuple[VolumeWarning, ...]]:
    """Return the stacks of a series, and warnings about their number.

    `frames`: all frames of one series.

    Stacks are in order of orientation (by first appearance), component, echo time, inversion time and coil element,
    then of the first frame.
    """
    frames = with_field_maps(frames)
    traits = _traits(frames)
    unrelated = _is_of_each_instance(frames, "frame_of_reference")
    if unrelated:
        traits["frame_of_reference"] = [None] * len(frames)
    if _is_of_each_instance(frames, "patient"):
        traits["patient"] = [None] * len(frames)
    frames = _undo_motion(frames, traits)
    names = list(traits)
    groups: Groups = {}
    for frame, key in zip(frames, zip(*traits.values(), strict=True), strict=True):
        groups.setdefault(key, []).append(frame)
    groups = merge_per_slice_groups(group_by_inversion_rank(groups, names.index("inversion_time")), names)
    groups = dict(sorted(groups.items(), key=lambda entry: _rank(dict(zip(names, entry[0], strict=True)))))
    varying = {name: len({key[index] for key in groups}) > 1 for index, name in enumerate(names)}
    suffixes = [
        _suffix({name: value for name, value in zip(names, key, strict=True) if varying[name]}) for key in groups
    ]
    stacks = [Stack(tuple(group), suffix) for group, suffix in zip(groups.values(), suffixes, strict=True)]
    warnings = _split_warnings(groups, names, frames)
    if unrelated:
        detail = (
            "each instance has its own Frame of Reference UID (0020,0052), as some anonymisers write them; one frame "
            "of reference is assumed"
        )
        warnings.append(VolumeWarning(WarningKind.FRAME_OF_REFERENCE_VARIES, detail))
    return stacks, tuple(warnings)


def _undo_motion(frames: Sequence[Frame], traits: dict[str, list[Hashable]]) -> Sequence[Frame]:
    """Return the frames with motion undone; `traits` gets the new orientations."""
    others = [values for name, values in traits.items() if name != "orientation"]
    keys = list(zip(*others, strict=True))
    moved = list(frames)
    for indices in grouped(range(len(frames)), keys.__getitem__).values():
        for index, frame in zip(indices, undo_motion([frames[index] for index in indices]), strict=True):
            moved[index] = frame
    if any(frame is not before for frame, before in zip(moved, frames, strict=True)):
        traits["orientation"] = _orientations(moved)
    return moved


def _is_of_each_instance(frames: Sequence[Frame], name: str) -> bool:
    """Return whether each instance has its own Frame of Reference UID, or Patient ID, which then means nothing.

    PS3.3 C.7.4.1.1.1: spatially related images of a series share a frame of reference. A.1.2: a series has one patient.
    Two instances that are a volume each may be unrelated, and any two may be of two patients.
    """
    instances = {frame.sop_instance_uid for frame in frames}
    distinct = {frame.split_key.get(name) for frame in frames}
    two_may_differ = len(frames) > len(instances) or name == "patient"
    return None not in distinct and len(distinct) == len(instances) > (2 if two_may_differ else 1)


def _millimetres(spacing: tuple[float, ...]) -> str:
    """Return pixel spacing (rows, columns) as text, the spacing between columns first, as widths are."""
    return " x ".join(f"{distance:.4g}" for distance in reversed(spacing)) + " mm" if spacing else "unknown size"


def _split_warnings(groups: Groups, names: Sequence[str], frames: Sequence[Frame]) -> list[VolumeWarning]:
    """Return warnings about unexpected splits of one series: orientations, sizes, patients."""
    values = {name: {key[index] for key in groups} for index, name in enumerate(names)}
    warnings = []
    count = len(values["orientation"] - {UNPLACED})
    if count > 1:
        detail = f"the series has {count} orientations (0020,0037); each is a separate volume"
        warnings.append(VolumeWarning(WarningKind.SEVERAL_ORIENTATIONS, detail))
    if max(len(values["matrix"]), len(values["spacing"])) > 1:
        sizes = sorted({(frame.columns, frame.rows, frame.pixel_spacing or ()) for frame in frames})
        shown = ", ".join(f"{columns} x {rows} of {_millimetres(spacing)}" for columns, rows, spacing in sizes[:20])
        detail = f"the series has several matrices or pixel spacings, each a separate volume: {shown}"
        warnings.append(VolumeWarning(WarningKind.SEVERAL_MATRICES, detail))
    places = [index for index, name in enumerate(names) if name not in UNIT_TRAITS]
    if len({tuple(key[index] for index in places) for key in groups}) < len(groups):
        detail = (
            "the images differ in Units (0054,1001), Rescale Type (0028,1054), Corrected Image (0028,0051) or the unit "
            "of Real World Value Mapping Sequence (0040,9096); each kind of values is a separate volume"
        )
        warnings.append(VolumeWarning(WarningKind.SEVERAL_QUANTITIES, detail))
    if len(values["patient"]) > 1:
        detail = f"the series has {len(values['patient'])} Patient IDs (0010,0020); each is a separate volume"
        warnings.append(VolumeWarning(WarningKind.SEVERAL_PATIENTS, detail))
    return warnings


def _traits(frames: Sequence[Frame]) -> dict[str, list[Hashable]]:
    """Return, by name, one value for each frame; frames that differ in any value belong to different stacks."""
    names = list(dict.fromkeys(name for frame in frames for name in frame.split_key if name != "scaled"))
    traits: dict[str, list[Hashable]] = {
        "matrix": [(frame.rows, frame.columns) for frame in frames],
        "colour": [frame.colour for frame in frames],
        "spacing": _spacings(frames),
        "orientation": _orientations(frames),
    }
    for name in names:
        traits[name] = [frame.split_key.get(name) for frame in frames]
    for name in (*SERIES_TRAITS, *UNIT_TRAITS):
        traits[name] = _filled(traits.get(name), len(frames))
    shortest_ms = min((float(str(time)) for time in traits.get("echo_time", []) if time), default=np.inf)
    tolerance_ms = min(ECHO_TIME_TOLERANCE_MS, MEASURED_TOLERANCE * shortest_ms)
    traits["echo_time"] = _clustered(traits.get("echo_time"), tolerance_ms, len(frames))
    traits["echo"] = _filled_within(traits.get("echo", [None] * len(frames)), traits["echo_time"])
    traits["inversion_time"] = _clustered(traits.get("inversion_time"), INVERSION_TIME_TOLERANCE_MS, len(frames))
    elements: list[tuple[str, int] | None] = [frame.split_key.get("coil_element") for frame in frames]
    ranks = {element: rank for rank, element in enumerate(sorted(set(filter(None, elements))))}
    traits["coil_element"] = [UNKNOWN if element is None else ranks[element] for element in elements]
    return traits


def _filled(values: list[Hashable] | None, count: int) -> list[Hashable]:
    """Return values with None replaced, if all others are equal."""
    known = {} if values is None else dict.fromkeys(value for value in values if value is not None)
    return [next(iter(known), None)] * count if values is None or len(known) < 2 else values


def _filled_within(values: list[Hashable], groups: Sequence[Hashable]) -> list[Hashable]:
    """Return values with None replaced in each group whose others are equal, such as numbers of echoes of one time."""
    known: dict[Hashable, set[Hashable]] = {}
    for value, group in zip(values, groups, strict=True):
        known.setdefault(group, set()).update(() if value is None else (value,))
    return [
        next(iter(known[group])) if value is None and len(known[group]) == 1 else value
        for value, group in zip(values, groups, strict=True)
    ]


def _clustered(values: list[Hashable] | None, tolerance: float, count: int) -> list[Hashable]:
    """Return cluster numbers of times; `UNKNOWN` for None."""
    return _labels(values or [None] * count, UNKNOWN, lambda known: cluster_numbers(known, tolerance).tolist())


def _orientations(frames: Sequence[Frame]) -> list[Hashable]:
    """Return cluster numbers of orientations; `UNPLACED` for frames without a position."""
    orientations = [frame.orientation for frame in frames]
    return _labels(orientations, UNPLACED, lambda known: cluster_orientations(known).tolist())


def _spacings(frames: Sequence[Frame]) -> list[Hashable]:
    """Return cluster numbers of pixel spacings; (-1, -1) for frames without one."""

    def clustered(known: Float) -> Iterable[Hashable]:
        logs = np.log(known)  # with which the tolerance is relative to the spacing
        return zip(*(cluster_numbers(logs[:, axis], PIXEL_SPACING_TOLERANCE).tolist() for axis in (0, 1)), strict=True)

    return _labels([frame.pixel_spacing for frame in frames], (-1, -1), clustered)


def _labels(
    values: Sequence[Any], of_none: Hashable, clustered: Callable[[Float], Iterable[Hashable]]
) -> list[Hashable]:
    """Return the clusters of the known values, in their places, and a label for each None."""
    known = [value for value in values if value is not None]
    labels = iter(clustered(np.array(known, float)) if known else ())
    return [of_none if value is None else next(labels) for value in values]


def _rank(traits: dict[str, Hashable]) -> tuple[int, ...]:
    """Return the sort key of a stack in its series."""
    components = [*COMPONENT_SUFFIXES, traits.get("component")]
    labels = (traits["orientation"], components.index(traits.get("component")), *map(traits.get, NUMBERED))
    return tuple(int(str(label)) for label in labels)


def _suffix(varying: dict[str, Hashable]) -> str:
    """Return a short name of the traits that vary between the stacks of a series."""
    parts = []
    if "component" in varying:
        component = varying["component"]
        parts.append(COMPONENT_SUFFIXES.get(str(component), "other"))
    if varying.get("noise"):
        parts.append("norf")
    if varying.get("echo_time", UNKNOWN) != UNKNOWN:
        parts.append(f"e{int(str(varying['echo_time'])) + 1}")
    elif varying.get("echo"):
        echo = varying["echo"]
        parts.append(f"e{int(echo[0])}" if isinstance(echo, tuple) and np.isfinite(echo[0]) else "")
    parts += [
        f"{NUMBERED[name]}{int(str(varying[name])) + 1}"
        for name in ("inversion_time", "coil_element")
        if varying.get(name, UNKNOWN) != UNKNOWN
    ]
    if varying.get("orientation", UNPLACED) != UNPLACED:
        parts.append(f"i{int(str(varying['orientation'])) + 1}")
    if varying.get("map"):
        parts.append("map")
    elif varying.get("derived"):
        parts.append("derived")
    return "-".join(part for part in parts if part)


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


def merge_per_slice_groups(groups: Groups, names: Sequence[str]) -> Groups:
    """Return groups of frames after merging those that are the slices of one volume, although some traits change.

    Inversion times do so if each slice has its own trigger (MOLLI), or if slices are acquired in sequence.

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
    alike = grouped(list(groups), lambda key: (_time_ms(groups[key][0]) > 0, *key[:trait], *key[trait + 1 :]))
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
