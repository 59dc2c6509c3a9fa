"""Split the frames of a series into stacks, each of which can become a volume."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from node.volume.arrange.motion import undo_motion
from node.volume.arrange.per_slice import MEASURED_TOLERANCE, Groups, group_by_inversion_rank, merge_per_slice_groups
from node.volume.arrange.quantities import with_field_maps
from node.volume.geometry import cluster_numbers, cluster_orientations
from node.volume.model import Frame
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
    alike: dict[Hashable, list[int]] = {}
    others = [values for name, values in traits.items() if name != "orientation"]
    for index, key in enumerate(zip(*others, strict=True)):
        alike.setdefault(key, []).append(index)
    moved = list(frames)
    for indices in alike.values():
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
    known = [index for index, value in enumerate(values or ()) if value is not None]
    labels: list[Hashable] = [UNKNOWN] * count
    if values is not None and known:
        numbers = cluster_numbers(np.array([values[index] for index in known], float), tolerance)
        for index, number in zip(known, numbers, strict=True):
            labels[index] = int(number)
    return labels


def _orientations(frames: Sequence[Frame]) -> list[Hashable]:
    """Return cluster numbers of orientations; `UNPLACED` for frames without a position."""
    placed = [index for index, frame in enumerate(frames) if frame.orientation is not None]
    labels: list[Hashable] = [UNPLACED] * len(frames)
    if placed:
        clusters = cluster_orientations(np.array([frames[index].orientation for index in placed]))
        for index, cluster in zip(placed, clusters, strict=True):
            labels[index] = int(cluster)
    return labels


def _spacings(frames: Sequence[Frame]) -> list[Hashable]:
    """Return cluster numbers of pixel spacings; (-1, -1) for frames without one."""
    known = [index for index, frame in enumerate(frames) if frame.pixel_spacing is not None]
    labels: list[Hashable] = [(-1, -1)] * len(frames)
    if known:
        # With logarithms the tolerance is relative to the spacing.
        logs = np.log(np.array([frames[index].pixel_spacing for index in known]))
        rows, columns = (cluster_numbers(logs[:, axis], PIXEL_SPACING_TOLERANCE) for axis in (0, 1))
        for index, row, column in zip(known, rows, columns, strict=True):
            labels[index] = (int(row), int(column))
    return labels


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
