"""Split a stack that consists of several: shifted fields of view, variants, interleaved acquisitions.

Every split is proved by the positions of the frames: the parts share positions or interleave, and each part is whole
and even by itself.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from pydicom.datadict import keyword_for_tag

from node.errors import ConversionRefused
from node.volume.arrange.sources import COUNTING_KEYS
from node.volume.arrange.whole_times import Bin
from node.volume.geometry import (
    DRIFT_TOLERANCE_PIXELS,
    cluster_numbers,
    distinct_distances,
    group_by_position,
    is_even,
    missing_slices,
    position_labels,
    stack_axes,
)
from node.volume.model import Frame, grouped
from node.volume.read.meaning import BOLUS, differs
from node.volume.reasons import Reason

ACQUISITIONS = ("acquisition_number", "temporal_position", "acquisition_time")
"""Attributes that separate acquisitions whose positions do not fit together."""

PASSES = {
    "acquisition_number": "Acquisition Number (0020,0012)",
    "contrast": "Contrast/Bolus Agent (0018,0010)",
    "kernel": "Convolution Kernel (0018,1210)",
    "acquisition_time": "a pause between their acquisition times",
}
"""What tells passes apart whose slices alternate, and its name in warnings."""

COLLAPSE_FLAG = "collapse_flag"
"""A variant of GE, which in diffusion series numbers directions and weightings: those are times."""

VARIANTS = (
    *("image_type", "kernel", "kvp", "energy", "flip_angle", "velocity", "coil", "stack"),
    *("slice_thickness", "repetition_time", "intercept", "lossy", COLLAPSE_FLAG, "signed"),
)
"""Attributes that separate volumes at the same positions."""

MEASURED = frozenset({"repetition_time", "intercept"})
"""Variants that a gated scan measures, or an archive computes, for each time; such values separate no volumes."""

_TOLD_BY_TRAITS = ("RepetitionTime", "EchoTime", "EffectiveEchoTime", "InversionTime", "InversionTimes", "SequenceName")
"""Attributes that traits compare, with a tolerance for what is measured; the name of a sequence may be that of a
weighting, which is a time."""

MAX_HEART_BEAT_RATIO = 3.0
"""Largest ratio of repetition times that heart beats can explain. Larger ratios are chosen, to map relaxation times."""

MIN_PASS = 3
"""Fewest slices of a pass: two slices are always even."""

STEP_TOLERANCE = 0.01
"""Relative difference between the distances of slices of passes that are planned alike."""

MIN_VARIANT_SHARE = 0.5
"""Share of the positions that a volume must have to be separated by a variant if slices were lost."""

STACKS = frozenset({"stack"})
"""Variants that name stacks: frames that belong together (PS3.3 C.7.6.16.2.2.7)."""

STATED = STACKS | {"slice_thickness", "repetition_time"}
"""Variants of which a frame without a value says nothing."""


def split_stack(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Split a stack that holds several: shifted fields of view, variants, interleaved acquisitions.

    `frames`: frames with position and orientation.

    One part if the frames are one stack.
    """
    distances, labels = position_labels(frames)
    if len(set(labels.tolist())) < len(frames):
        moved = _moved_fields(frames, labels)
        if len(moved) > 1:
            return moved
        if parts := _split_by_whole_variant(frames, labels):
            return parts
    elif len((passes := alternating_passes(frames))[1]) > 1:
        return passes[0]
    elif is_even(distinct_distances(distances)):
        return [list(frames)]
    if len(set(Counter(labels.tolist()).values())) > 1 or not is_even(distinct_distances(distances, labels)):
        return _split_uneven(frames, labels)
    return [list(frames)]


def _split_by_whole_variant(frames: Sequence[Frame], labels: Any) -> list[list[Frame]]:
    """Split frames that share positions by an attribute whose parts are whole; empty if none does."""
    for name in VARIANTS:
        for parts in _divisions(frames, (name,)):
            if _are_whole_variants(parts, frames, labels, measured=_is_measured(name, frames)):
                return parts
    if parts := _split_by_meaning(frames, labels):
        return parts
    return next((parts for parts in _divisions(frames, ("sequence",)) if _are_phases(parts, frames, labels)), [])


def _split_by_meaning(frames: Sequence[Frame], labels: Any) -> list[list[Frame]]:
    """Split frames that share positions by any other attribute of what their values mean; empty if none does.

    Each part must be whole. Values of which each time has its own may be of a time series, and so is a bolus.
    """
    if any(frame.diffusion is not None and frame.diffusion.b_value > 0 for frame in frames):
        return []
    for path in differs(frames):
        keywords = list(map(keyword_for_tag, path))
        if keywords[-1] in _TOLD_BY_TRAITS or any(keyword.startswith(BOLUS) for keyword in keywords):
            continue
        values = [frame.meaning.get(path) for frame in frames]
        alike = grouped(range(len(frames)), values.__getitem__)
        parts = [[frames[index] for index in own] for own in alike.values()]
        if _are_whole_variants(parts, frames, labels, measured=True):
            return parts
    return []


def alternating_passes(frames: Sequence[Frame]) -> tuple[list[list[Frame]], list[str]]:
    """Return passes whose slices alternate along the normal, and the names of what tells them apart.

    `frames`: frames that share no position.

    Each pass is an even stack, and all have the same distance between slices. One kind of evidence proves nothing. An
    acquisition of MR may excite the odd slices long before the even ones, and number them apart: that is one kind, and
    none without the numbers.
    """
    if len(frames) < 2 * MIN_PASS:
        return [], []
    found: dict[Hashable, tuple[list[list[Frame]], list[str]]] = {}
    for name in PASSES:
        parts = _by_pause(frames) if name == "acquisition_time" else _by(frames, partial(_key, name))
        if len(parts) > 1 and _alternate(parts, frames):
            own = frozenset(frozenset(map(id, part)) for part in parts)
            found.setdefault(own, (parts, []))[1].append(name)
    parts, names = max(found.values(), key=lambda entry: len(entry[1]), default=([], []))
    if frames[0].split_key.get("modality") == "MR" and "contrast" not in names:
        names = [name for name in names if name != "acquisition_time"]
    return parts, [PASSES[name] for name in names]


def _by_pause(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Return frames in two parts if the pause between the parts is longer than either part took; else in one."""
    if any(frame.time_key.get("acquisition_time") is None for frame in frames):
        return [list(frames)]
    ordered = sorted(frames, key=lambda frame: float(frame.time_key["acquisition_time"]))
    times = np.array([frame.time_key["acquisition_time"] for frame in ordered], float)
    pauses = np.diff(times)
    first = int(pauses.argmax()) + 1
    if pauses.max() <= max(times[first - 1] - times[0], times[-1] - times[first]):
        return [ordered]
    return [ordered[:first], ordered[first:]]


def _alternate(parts: list[list[Frame]], frames: Sequence[Frame]) -> bool:
    """Return whether parts interleave, each of them even, and all with one distance between slices."""
    if min(map(len, parts)) < MIN_PASS:
        return False
    counts = _positions_of(parts, frames, position_labels(frames)[1])
    ranges = sorted((min(count), max(count)) for count in counts)
    along = [distinct_distances(*position_labels(part)) for part in parts]
    steps = [float(np.ptp(own)) / (len(own) - 1) for own in along]
    is_one_step = max(steps) - min(steps) <= STEP_TOLERANCE * max(steps)
    return is_one_step and all(after[0] < before[1] for before, after in pairwise(ranges)) and all(map(is_even, along))


def split_by_chosen_variant(frames: Sequence[Frame], bins: Sequence[Bin]) -> list[list[Frame]]:
    """Split a stack whose volumes differ in one chosen parameter, even if some are incomplete.

    `bins`: the frames by position.

    Empty if no parameter explains the repeated positions.
    """
    chosen = [name for name in VARIANTS if not _is_measured(name, frames)]
    return _split_beside_whole_volume(frames, bins, chosen) or split_incomplete_variants(
        frames, bins, chosen, is_chosen=True
    )


def _split_beside_whole_volume(
    frames: Sequence[Frame], bins: Sequence[Bin], variants: Sequence[str]
) -> list[list[Frame]]:
    """Split by a variant if one of its values has a whole volume, or its parts have equal counts at each position."""
    position_of = {id(frame): position for position, own in enumerate(bins) for frame in own}
    for parts in _divisions(frames, variants):
        counts = [Counter(position_of[id(frame)] for frame in part) for part in parts]
        whole = any(len(set(count.values())) == 1 and len(count) == len(bins) for count in counts)
        if whole or all(count == counts[0] for count in counts):
            return parts
    return []


def _is_measured(name: str, frames: Sequence[Frame]) -> bool:
    """Return whether a variant may differ between the times of one volume; repetition times only within heart beats."""
    if name != "repetition_time":
        return name in MEASURED
    times_ms = [time for frame in frames if (time := frame.variant_key.get(name))]
    return not times_ms or max(times_ms) < MAX_HEART_BEAT_RATIO * min(times_ms)


def split_incomplete_variants(
    frames: Sequence[Frame], bins: Sequence[Bin], variants: Sequence[str] = VARIANTS, *, is_chosen: bool = False
) -> list[list[Frame]]:
    """Split by a variant that separates all frames at shared positions, even if some of its volumes lost slices.

    `bins`: the frames by position. `variants`: keys to try. `is_chosen`: each volume must have more than half of the
    positions, which proves that the variant does not change from slice to slice of one volume.

    Empty if no variant does.
    """
    minimum = MIN_VARIANT_SHARE * len(bins) + is_chosen / 2
    for parts in _divisions(frames, variants):
        if all(len(group_by_position(part)) == len(part) >= minimum for part in parts):
            return parts
    return []


def _split_uneven(frames: Sequence[Frame], labels: Any) -> list[list[Frame]]:
    """Split an uneven stack into even ones; return one part if that is impossible."""
    for name in ACQUISITIONS:
        for parts in _divisions(frames, (name,)):
            if _are_acquisitions(parts, frames, labels, of_times=name in COUNTING_KEYS):
                return parts
    for name in VARIANTS:
        for parts in _divisions(frames, (name,)):
            if _are_stacks(parts, frames, labels, beside=name in STACKS):
                return parts
    for parts in _divisions(frames, ACQUISITIONS):
        if _have_gaps_of_their_own(parts, frames, labels):
            return parts
    return [list(frames)]


def _divisions(frames: Sequence[Frame], names: Sequence[str]) -> Iterator[list[list[Frame]]]:
    """Yield the frames split by each attribute that differs between them; parts are in order of first appearance."""
    variants = list({id(frame.variant_key): frame.variant_key for frame in frames}.values())  # equal frames share one
    for name in names:
        if all(name in variant for variant in variants) and len({variant[name] for variant in variants}) < 2:
            continue
        if name in STATED and len({variant.get(name) for variant in variants} - {None}) < 2:
            continue
        parts = [] if name == COLLAPSE_FLAG and _are_weighted(frames) else _by(frames, partial(_key, name))
        if len(parts) > 1:
            yield parts


def _are_weighted(frames: Sequence[Frame]) -> bool:
    return any(
        frame.diffusion is not None and (frame.diffusion.b_value > 0 or frame.diffusion.derived) for frame in frames
    )


def _key(name: str, frame: Frame) -> Hashable:
    """Return a frame's value of a variant or time key."""
    value: Hashable = frame.variant_key.get(name, frame.time_key.get(name))
    return value


def _by(frames: Sequence[Frame], trait: Callable[[Frame], Hashable]) -> list[list[Frame]]:
    return list(grouped(frames, trait).values())


def _moved_fields(frames: Sequence[Frame], labels: Any) -> list[list[Frame]]:
    """Split frames by their in-plane offset if frames at one distance are shifted relative to each other."""
    axes = stack_axes(np.array([frame.orientation for frame in frames]))
    positions = np.array([frame.position for frame in frames])
    offsets = np.stack([positions @ axes.row, positions @ axes.column], axis=1)
    rows_mm, columns_mm = frames[0].pixel_spacing or (1.0, 1.0)
    tolerance = DRIFT_TOLERANCE_PIXELS * min(rows_mm, columns_mm)
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    spread = np.maximum.reduceat(offsets[order], starts) - np.minimum.reduceat(offsets[order], starts)
    if spread.max() <= tolerance:
        return [list(frames)]
    across, down = (cluster_numbers(offsets[:, axis], tolerance) for axis in (0, 1))
    offset_of = {id(frame): (int(column), int(row)) for frame, column, row in zip(frames, across, down, strict=True)}
    fields = _by(frames, lambda frame: offset_of[id(frame)])
    single = sum(len(field) == 1 for field in fields)
    return fields if 2 * single <= len(fields) or len(starts) == 1 else _fields_by_acquisition(frames, labels)


def _fields_by_acquisition(frames: Sequence[Frame], labels: Any) -> list[list[Frame]]:
    """Split tilted stacks that lie beside each other: none of their planes shares its offset with another one.

    Raises ConversionRefused: ``same-position-twice``: no attribute says which planes are of one stack.
    """
    for name in ACQUISITIONS:
        parts = _by(frames, partial(_key, name))
        counts = _positions_of(parts, frames, labels)
        if len(parts) > 1 and all(len(count) > 1 and max(count.values()) == 1 for count in counts):
            return parts
    raise ConversionRefused(
        Reason.SAME_POSITION_TWICE,
        "planes at one distance along the normal lie beside each other, and no attribute (such as Acquisition Number "
        "(0020,0012)) says which of them are of one volume",
    )


def _positions_of(parts: list[list[Frame]], frames: Sequence[Frame], labels: Any) -> list[Counter[int]]:
    """Return, for each part, the number of its frames at each position."""
    position_of = {id(frame): int(label) for frame, label in zip(frames, labels, strict=True)}
    return [Counter(position_of[id(frame)] for frame in part) for part in parts]


def _are_whole_variants(parts: list[list[Frame]], frames: Sequence[Frame], labels: Any, *, measured: bool) -> bool:
    """Return whether parts are whole volumes at shared positions, each with equal counts and even distances."""
    counts = _positions_of(parts, frames, labels)
    if sum(map(len, counts)) == len(set().union(*counts)):
        return False  # without shared positions they are parts of one volume
    if measured and len(parts) > 2 and all(max(count.values()) == 1 for count in counts):
        return False
    return all(len(set(count.values())) == 1 for count in counts) and all(
        is_even(distinct_distances(*position_labels(part))) for part in parts
    )


def _are_phases(parts: list[list[Frame]], frames: Sequence[Frame], labels: Any) -> bool:
    """Return whether each part has the same number of cardiac phases, two or more, at every position.

    Sequence Name (0018,0024) separates flow encodings. It also names diffusion weightings, but those are times.
    """
    counts = _positions_of(parts, frames, labels)
    if any(count.keys() != counts[0].keys() for count in counts):
        return False
    numbers = {number for count in counts for number in count.values()}
    bins = [own for part in parts for own in group_by_position(part)]
    phases = {len(_by(own, lambda frame: frame.time_key.get("trigger_time"))) for own in bins}
    return len(numbers) == 1 and min(numbers) > 1 and phases == numbers


def _are_acquisitions(parts: list[list[Frame]], frames: Sequence[Frame], labels: Any, *, of_times: bool) -> bool:
    """Return whether acquisitions interleave, are whole, and are not times of one volume.

    One shared position is enough, unless acquisitions are numbered as times, which may have lost their other slices.
    Acquisitions side by side are one volume, perhaps with varying spacing. If every position has several frames, and
    an acquisition only has positions of another one, it is an interrupted time.
    """
    counts = _positions_of(parts, frames, labels)
    ranges = sorted((min(count), max(count)) for count in counts)
    shared = max(Counter(labels.tolist()).values()) > 1  # not one volume, even if some are side by side
    interleaved = (any if shared else all)(after[0] < before[1] + (not of_times) for before, after in pairwise(ranges))
    within = any(a.keys() <= b.keys() for a in counts for b in counts if a is not b)
    single = min(Counter(labels.tolist()).values()) == 1
    return (
        interleaved
        and (single or not within)
        and all(
            len(part) > 2
            and len(set(map(len, group_by_position(part)))) == 1
            and is_even(distinct_distances(*position_labels(part)))
            for part in parts
        )
    )


def _have_gaps_of_their_own(parts: list[list[Frame]], frames: Sequence[Frame], labels: Any) -> bool:
    """Return whether interleaved acquisitions are even by themselves except for lost slices, but uneven together.

    They must not share a position.
    """
    along = distinct_distances(*position_labels(frames))
    ranges = sorted((min(count), max(count)) for count in _positions_of(parts, frames, labels))
    if len(along) < len(frames) or missing_slices(along) is not None:
        return False
    return all(after[0] < before[1] for before, after in pairwise(ranges)) and all(
        len(part) > 2 and (is_even(own) or missing_slices(own) is not None)
        for part in parts
        for own in (distinct_distances(*position_labels(part)),)
    )


def _are_stacks(parts: list[list[Frame]], frames: Sequence[Frame], labels: Any, *, beside: bool) -> bool:
    """Return whether parts that are uneven together are even by themselves.

    `beside`: parts that do not interleave count too.
    """
    counts = _positions_of(parts, frames, labels)
    ranges = sorted((min(count), max(count)) for count in counts)
    interleaved = all(after[0] < before[1] for before, after in pairwise(ranges))
    return (interleaved or beside) and all(
        len(set(count.values())) == 1
        and len(count) > (1 if beside else 2)
        and is_even(distinct_distances(*position_labels(part)))
        for part, count in zip(parts, counts, strict=True)
    )
