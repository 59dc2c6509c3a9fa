"""The truth machine: random series whose voxels tell what they are, and a check that no volume lies in silence.

hypothesis draws cases (`tests.reference.truth_series`): kind, dimensions, labels of time, numbering, and changes such
as losses, copies, drift, jitter and false or missing attributes. `lies` compares the volumes with the truth, voxel by
voxel. By hand, with as many cases as one has time for:

    python -m tests.reference.truth_machine --examples 20000 --seed 1

It lists the kinds of lies that it found, each with the smallest case, to be kept in test_truth_machine.py.
"""

import argparse
import logging
import math
import re
import sys
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence

import hypothesis
import numpy as np
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from pydicom.datadict import tag_for_keyword as tag_of

from node.api import Assembly, Geometry, Reason, Volume, VolumeKind, WarningKind, assemble
from node.volume.arrange.sources import SOURCES, Kind
from node.volume.read.meaning import OF_DIFFUSION, PER_FRAME, name_of
from tests.reference.real_series import PLACE_TOLERANCE_MM, PLACE_TOLERANCE_SHARE, judged, verdict_and_findings
from tests.reference.truth_series import (
    CLASSIC,
    ENHANCED,
    ENHANCED_LABELS,
    GATE,
    KINDS,
    LABELS,
    MEANINGS,
    NUMBERINGS,
    ORIENTATIONS,
    OTHERS,
    PIXEL_SPACING_MM,
    SEQUENCES,
    STEP_S,
    TELLING_NUMBERINGS,
    Case,
    Change,
    Plane,
    Series,
    build,
    every,
)

SHOWN = 4
"""How many cases of one kind of lie are listed, the smallest first."""

MAX_PLANES = 72
PLACE_TOLERANCE_PIXELS = 0.11
"""How far it may be within its plane."""

MOVED_BY = re.compile(r"volumes move by up to ([0-9.]+) mm")
MOVEMENT_TOLERANCE_MM = 0.006
"""The movement of a volume as its warning has it, and how far it may be off: it has two decimals."""

CROWDED = 0.2
"""Planes closer than this share of their thickness are no slices of one time, as `node.conversion.evidence` says."""

SAYS_OF_TIMES = frozenset(
    {
        *(WarningKind.INCOMPLETE_VOLUME, WarningKind.MISSING_TIME, WarningKind.SAME_POSITION_TWICE),
        *(WarningKind.TIMES_ASSUMED, WarningKind.PARAMETER_VARIES, WarningKind.IRREGULAR_TIME_STEPS),
        *(WarningKind.EQUAL_TIMES, WarningKind.NO_GEOMETRY, WarningKind.SEVERAL_MATRICES),
    }
)
"""Warnings by which a volume says that something is wrong with its times."""

SAYS_OF_PLACE = frozenset(
    {WarningKind.IRREGULAR_SPACING, WarningKind.MISSING_SLICE, WarningKind.INCOMPLETE_VOLUME, WarningKind.NO_GEOMETRY}
)

SAYS_OF_PARTS = SAYS_OF_TIMES | SAYS_OF_PLACE | {WarningKind.UNEQUAL_STACKS, WarningKind.SEVERAL_ORIENTATIONS}
"""Warnings by which a volume says why it is not all of what the series has."""

CLOCKS = frozenset(
    keyword for source in SOURCES if source.kind in (Kind.CLOCK, Kind.PHASE, Kind.EXPORT) for keyword in source.keywords
) - {"FrameReferenceTime"}
"""What each slice may have for itself."""

NAMES = frozenset({"AcquisitionNumber", "FrameAcquisitionNumber"})
"""What names times, and counts none."""


TELL_ECHOES = frozenset({"EchoTime", "EffectiveEchoTime"})
TELL_COMPONENTS = frozenset({"ImageType", "ComplexImageComponent"})
"""Attributes that tell echoes, or components, apart."""

DOUBTS_PLACE = frozenset({"geometry", "spacing"})
DOUBTS_TIMES = frozenset({"geometry", "spacing", "times", "headers", "instance-numbers"})
"""Rules of a verdict that name the kind of what is wrong: places, or times. No verdict names wrong gradients."""


# The property


def lies(series: Series) -> Iterator[str]:
    """Yield what the volumes of a series say wrongly, and nothing else says is wrong."""
    assembly = assemble(series.datasets)
    verdict, findings = verdict_and_findings(series.datasets, assembly)
    doubts = frozenset() if verdict.state == "complete" else {verdict.rule, *(each.rule for each in findings)}
    seen: Counter[int] = Counter()
    volumes = [volume for volume in assembly.volumes if volume.kind is VolumeKind.VOLUME]
    for volume in volumes:
        if series.case.kind == "seg":
            yield from _lies_of_labels(volume, series)
            continue
        planes = _told(volume, series)
        if planes is None and any(warning.name is WarningKind.VALUES_AS_STORED for warning in volume.warnings):
            continue
        if planes is None:
            yield "voxels are those of no plane of their instance"
            continue
        seen.update(id(plane) for time in planes for plane in time)
        yield from _lies_of_volume(volume, planes, series, doubts)
    if series.case.kind != "seg":
        yield from _lies_of_account(assembly, series, seen, is_doubted=bool(doubts & DOUBTS_TIMES))


def _told(volume: Volume, series: Series) -> list[list[Plane]] | None:
    """Return the planes that the voxels are of, by time and slice; None if some are those of no plane."""
    planes: list[list[Plane | None]] = [[None] * volume.shape[2] for _ in range(volume.times)]
    for source in volume.sources:
        plane = series.planes.get((source.sop_instance_uid, source.frame_number))
        stored = volume.voxels[source.time_index, source.slice_index]
        real = stored * np.float64(volume.slope) + volume.intercept
        if plane is None or real.shape != plane.values.shape or not np.allclose(real, plane.values, rtol=1e-6):
            return None
        planes[source.time_index][source.slice_index] = plane
    reported = [[plane for plane in time if plane is not None] for time in planes]
    return reported if all(len(time) == volume.shape[2] for time in reported) else None


def _lies_of_volume(
    volume: Volume, planes: list[list[Plane]], series: Series, doubts: Collection[str]
) -> Iterator[str]:
    said = {warning.name for warning in volume.warnings}
    yield from _lies_of_groups(volume, planes, series)
    yield from _lies_of_meaning(volume, planes)
    is_place_stated = series.case.kind != "nm" or series.false.isdisjoint({"SpacingBetweenSlices", "SliceVector"})
    if is_place_stated and DOUBTS_PLACE.isdisjoint(doubts) and not said & SAYS_OF_PLACE:
        yield from _lies_of_place(volume, planes, is_moved=WarningKind.POSITIONS_VARY_IN_TIME in said)
        yield from _lies_of_movement(volume, planes)
    if said & SAYS_OF_TIMES:
        return
    if volume.diffusion is not None:
        yield from _lies_of_diffusion(volume, planes, is_b_value_known="DiffusionBValue" not in series.false)
    if not DOUBTS_TIMES.isdisjoint(doubts):
        return
    known = set(series.honest_labels)
    if known and not _are_apart(series):
        yield from _lies_of_time(volume, planes, series, is_order_known=bool(known - NAMES))


def _are_remains(series: Series) -> bool:
    """Return whether so much was lost that no position is left twice, and nothing that is left counts its times.

    A clock may be that of each slice, of a package of slices or of a bed. An Acquisition Number that each slice has for
    itself may number slices. Without labels, the numbers of instances that are left may be those of one time.
    Acquisitions of a CT or a PET that follow each other along the patient may be the stations of its table.
    """
    left = Counter((plane.group, plane.slice) for plane in every(series))
    counts = {*LABELS.values(), *ENHANCED_LABELS.values()} - CLOCKS
    times: dict[object, list[int]] = {}
    for plane in sorted(every(series), key=lambda plane: plane.slice):
        times.setdefault(plane.group, []).append(plane.time)
    is_station_by_station = series.case.modality != "MR" and all(
        own in (sorted(own), sorted(own, reverse=True)) for own in times.values()
    )
    if is_station_by_station or all(len(set(own)) == len(own) for own in times.values()):
        counts -= NAMES
    return bool(series.lost) and max(left.values(), default=0) == 1 and counts.isdisjoint(series.honest_labels)


def _are_echoes_unknown(series: Series) -> bool:
    """Return whether attributes that tell echoes or components apart were falsified."""
    return bool(series.false & (TELL_ECHOES | {"EchoNumbers"} | TELL_COMPONENTS))


def _lies_of_groups(volume: Volume, planes: Sequence[Sequence[Plane]], series: Series) -> Iterator[str]:
    """Yield what a volume mixes, unless a warning names it or what tells it was falsified; matrices are never mixed.

    Falsified Echo Numbers excuse nothing: Echo Time tells the echoes too.
    """
    echoes, components, matrices = zip(*(plane.group for time in planes for plane in time), strict=True)
    is_told = any(
        warning.name is WarningKind.PARAMETER_VARIES and "echo time" in warning.detail.lower()
        for warning in volume.warnings
    )
    if len(set(echoes)) > 1 and not is_told and series.false.isdisjoint(TELL_ECHOES):
        yield "a volume mixes echoes"
    if len(set(components)) > 1 and series.false.isdisjoint(TELL_COMPONENTS):
        yield "a volume mixes components"
    if len(set(matrices)) > 1:
        yield "a volume mixes matrices"


def _lies_of_meaning(volume: Volume, planes: Sequence[Sequence[Plane]]) -> Iterator[str]:
    """Yield that a volume mixes images that differ in an attribute, unless a warning names it."""
    stated: dict[str, set[object]] = defaultdict(set)
    for plane in (plane for own in planes for plane in own):
        for path, value in plane.states:
            stated[path].add(value)
    is_weighted = any(entry.b_value > 0 for entry in volume.diffusion or ())
    for path in (path for path, values in stated.items() if len(values) > 1):
        tags = tuple(int(tag_of(keyword.rstrip("+")) or 0) for keyword in path.split("/"))
        name = name_of(*(PER_FRAME, *tags) if path == GATE else tags)
        if not (is_weighted and path in OF_DIFFUSION) and not any(name in own.detail for own in volume.warnings):
            yield "a volume mixes images that differ in an attribute"


def _lies_of_place(volume: Volume, planes: Sequence[Sequence[Plane]], *, is_moved: bool) -> Iterator[str]:
    if volume.affine_lps is None:
        yield "the volume has no place, and does not say so"
        return
    if volume.geometry is Geometry.IRREGULAR:
        yield "the volume is irregular, and does not say so"
        return
    rows, columns = volume.voxels.shape[2:4]
    along_mm = max(PLACE_TOLERANCE_MM, PLACE_TOLERANCE_SHARE * volume.spacing_mm[2])
    between_rows, between_columns = PIXEL_SPACING_MM
    limits_mm = np.array([PLACE_TOLERANCE_PIXELS * between_columns, PLACE_TOLERANCE_PIXELS * between_rows, along_mm])
    for own in planes[:1] if is_moved else planes:
        for slice_, plane in enumerate(own):
            for row, column in ((0, 0), (rows - 1, 0), (0, columns - 1)):
                place = (volume.affine_lps @ (column, row, slice_, 1.0))[:3]
                if (np.abs(plane.axes @ (place - plane.place(row, column))) > limits_mm).any():
                    yield "slices are away from their place"
                    return


def _lies_of_movement(volume: Volume, planes: Sequence[Sequence[Plane]]) -> Iterator[str]:
    """Yield a movement that is told otherwise than from the first time of the volume."""
    centres = np.array([np.mean([plane.position for plane in own], axis=0) for own in planes])
    farthest_mm = float(np.linalg.norm(centres - centres[0], axis=1).max())
    for warning in volume.warnings:
        reported = MOVED_BY.search(warning.detail) if warning.name is WarningKind.POSITIONS_VARY_IN_TIME else None
        if reported is not None and abs(float(reported[1]) - farthest_mm) > MOVEMENT_TOLERANCE_MM:
            yield "the movement is not that from the first time"


def _lies_of_time(
    volume: Volume, planes: Sequence[Sequence[Plane]], series: Series, *, is_order_known: bool
) -> Iterator[str]:
    times = [{plane.time for plane in own} for own in planes]
    if any(len(own) > 1 for own in times):
        if not _are_remains(series):
            yield "a time has slices of several times"
        return
    order = [own.pop() for own in times]
    if len(set(order)) < len(order):
        yield "a time comes twice"
    if order != sorted(order) and volume.diffusion is None:
        if is_order_known:
            yield "times are not in their order"
        return
    if len({tuple(plane.slice for plane in own) for own in planes}) > 1:
        yield "times have other slices than the first"
    tells_starts = not set(series.honest_labels) <= NAMES | {"ContentTime"}
    if (
        is_order_known and tells_starts and CLOCKS.isdisjoint(series.false)
    ):  # Acquisition Number names times, and counts none
        yield from _lies_of_starts(volume, order, is_repetition_known="RepetitionTime" not in series.false)


def _lies_of_starts(volume: Volume, order: Sequence[int], *, is_repetition_known: bool) -> Iterator[str]:
    """Yield what is wrong with starts. A false repetition is denied by a clock alone, which has whole seconds."""
    step_tolerance_s = 0.01 if is_repetition_known else 1.0 if volume.times_s else math.inf
    true = STEP_S * (np.array(order) - order[0])
    if volume.diffusion is None or list(order) == sorted(order):
        if volume.times_s and len(volume.times_s) == len(order) and np.abs(true - volume.times_s).max() > 1.0:
            yield "the starts of times are false"
        if volume.time_step_s is not None and np.abs(np.diff(true) - volume.time_step_s).max() > step_tolerance_s:
            yield "the step between times is false"


def _lies_of_diffusion(volume: Volume, planes: Sequence[Sequence[Plane]], *, is_b_value_known: bool) -> Iterator[str]:
    """Yield what is wrong with weightings. No second attribute states a b-value: a falsified one cannot be noticed."""
    for entry, own in zip(volume.diffusion or (), planes, strict=True):
        plane = own[0]
        if len({(other.b_value, other.direction) for other in own}) > 1:
            if is_b_value_known:
                yield "a time has slices of several weightings"
            continue
        if is_b_value_known and abs(entry.b_value - (plane.b_value or 0.0)) > 1:
            yield "a b-value is false"
        elif (
            plane.direction is not None
            and entry.direction_lps is not None
            and abs(np.dot(entry.direction_lps, plane.direction)) < 0.999
        ):
            yield "a gradient direction is false"


def _lies_of_labels(volume: Volume, series: Series) -> Iterator[str]:
    """Yield what is wrong with a label volume: each plane holds the segments of its place, or nothing."""
    if volume.affine_lps is None:
        yield "the labels have no place"
        return
    places = volume.affine_lps[:3, 3] + np.arange(volume.shape[2])[:, None] * volume.affine_lps[:3, 2]
    expected = np.zeros(volume.voxels.shape[1:])
    for plane in every(series):
        away = np.linalg.norm(places - plane.position, axis=1)
        if away.min() > PLACE_TOLERANCE_MM:
            yield "a plane of a segment has no place in its volume"
            return
        expected[away.argmin()] += plane.values
    if not np.array_equal(expected, volume.voxels[0]):
        yield "labels are not those of their place"


def _lies_of_account(assembly: Assembly, series: Series, seen: Counter[int], *, is_doubted: bool) -> Iterator[str]:
    """Yield planes that come twice or vanish, volumes that fell apart, and losses of which nothing is said."""
    if any(count > 1 for count in seen.values()):
        yield "a plane is in two volumes"
    if assembly.unaccounted({str(ds.SOPInstanceUID) for ds in series.datasets}):
        yield "an instance is nowhere"
    said = {warning.name for volume in assembly.volumes for warning in volume.warnings}
    explained = is_doubted or bool(assembly.refusals) or bool(said & SAYS_OF_PARTS)
    excluded = {exclusion.sop_instance_uid for exclusion in assembly.exclusions}
    by_reason = {exclusion.reason for exclusion in assembly.exclusions}
    copies = {uid for (uid, _), plane in series.planes.items() if plane.is_copy}
    if Reason.DUPLICATE_SLICE in by_reason and not copies:
        yield "a plane that is no copy was left out as one"
    if explained:
        return
    if excluded and not by_reason <= {Reason.DUPLICATE_SLICE}:
        yield "an exclusion without a warning"
    if _are_echoes_unknown(series):
        return
    if WarningKind.SEVERAL_MATRICES not in said:
        yield from _lies_of_parts(assembly, series)
    if _is_loss_evident(series):
        yield "planes are missing, and nothing says so"


def _lies_of_parts(assembly: Assembly, series: Series) -> Iterator[str]:
    groups: dict[object, set[int]] = defaultdict(set)
    for number, volume in enumerate(assembly.volumes):
        if volume.kind is VolumeKind.VOLUME:
            for source in volume.sources:
                plane = series.planes[source.sop_instance_uid, source.frame_number]
                groups[plane.group].add(number)
    if (
        any(len(own) > 1 for own in groups.values())
        and len({plane.states for plane in series.planes.values()}) < 2
        and not _are_apart(series)
        and series.false.isdisjoint({"SliceThickness", "RepetitionTime", "RescaleSlope"})
    ):
        yield "what is one volume fell apart"


def _are_apart(series: Series) -> bool:
    """Return whether times moved so far that they may have been planned apart, or are single planes."""
    case = series.case
    offsets = [
        plane.position - first.position
        for plane in every(series)
        for first in every(series)
        if first.slice == plane.slice and first.group == plane.group
    ]
    farthest_mm = max((float(np.linalg.norm(offset)) for offset in offsets), default=0.0)
    return farthest_mm > case.spacing_mm * (CROWDED if case.slices == 1 else 0.5)


def _is_loss_evident(series: Series) -> bool:
    """Return whether losses show: a time without some of its slices, or a hole in numbers that tell the order."""
    if not series.lost or series.case.kind in OTHERS:
        return False
    kept: dict[tuple[int, object], set[int]] = defaultdict(set)
    for plane in series.planes.values():
        kept[plane.time, plane.group].add(plane.slice)
    held = Counter((group, slice_) for (_, group), own in kept.items() for slice_ in own)
    is_ordered = bool(series.honest_labels) or len(set(held.values())) > 1
    if is_ordered and len({frozenset(own) for own in kept.values()}) > 1 < max(held.values()):
        return True
    is_numbered = series.case.kind in CLASSIC and series.case.numbering in TELLING_NUMBERINGS
    if _are_remains(series) or not is_numbered or "InstanceNumber" in series.false:
        return False
    times = {plane.time for plane in every(series)}
    between = range(min(times, default=0), max(times, default=0))
    is_time_lost = any(plane.time in between and plane.time not in times for plane in series.lost)
    if series.case.times > 1 and not is_time_lost:
        return False  # slices at an end of all times: some senders skip numbers between times
    numbers = sorted({int(ds.InstanceNumber) for ds in series.datasets})
    holes = numbers[-1] - numbers[0] + 1 - len(numbers)
    return 0 < holes < len(numbers) and math.gcd(*np.diff(numbers).tolist()) == 1


# The cases


def _changes(kind: str) -> st.SearchStrategy[Change]:
    index = st.integers(0, MAX_PLANES - 1)
    some = st.lists(index, min_size=1, max_size=4, unique=True).map(tuple)
    seed = st.integers(0, 99)
    whole = st.one_of(
        st.integers(0, 5).map(lambda time: ("lose-time", time)),
        st.integers(0, 5).map(lambda slice_: ("lose-slice", slice_)),
        seed.map(lambda own: ("lose-but-one", own)),
    )
    losses = st.one_of(some.map(lambda own: ("lose", *own)), whole)
    how = st.sampled_from(("constant", "exchange", "mix", "reverse", "wrong"))
    may_be_false = [keyword for keyword in _KEYWORDS[kind] if keyword != "RescaleSlope"]  # nothing else tells
    false = st.tuples(st.just("lie"), st.sampled_from(may_be_false), how, seed)
    missing = st.builds(
        lambda keyword, own: ("drop", keyword, *own), st.sampled_from(_KEYWORDS[kind]), st.one_of(st.just(()), some)
    )
    if kind in ("nm", "us", "dose", "seg"):
        return st.one_of(losses, false, missing)
    movement = st.one_of(
        st.tuples(st.just("drift"), st.sampled_from((0.004, 0.02, 0.05, 0.2, 0.6, 1.25, 2.5)), st.integers(0, 2)),
        st.tuples(st.just("jitter"), st.sampled_from((0.004, 0.02, 0.045, 0.2)), seed, st.booleans()),
    )
    copies = st.builds(lambda own, is_numbered: ("copy", is_numbered, *own), some, st.booleans())
    inside = st.tuples(st.sampled_from(SEQUENCES), st.sampled_from(("/", "+/")), st.sampled_from(MEANINGS)).map("".join)
    paths = st.one_of(st.sampled_from(MEANINGS), inside)
    differ = st.builds(lambda path, of_time, own: ("differ", path, of_time, *own), paths, st.booleans(), some)
    if kind in ENHANCED:
        return st.one_of(losses, false, missing, movement, copies, differ, st.just(("gate",)))
    return st.one_of(losses, false, missing, movement, copies, differ, some.map(lambda own: ("matrix", *own)))


_OF_CLASSIC = (
    *("InstanceNumber", "TemporalPositionIdentifier", "NumberOfTemporalPositions", "AcquisitionTime"),
    *("AcquisitionNumber", "SliceLocation", "SpacingBetweenSlices", "SliceThickness", "FrameOfReferenceUID"),
    *sorted(set(LABELS.values()) - {"AcquisitionNumber", "TemporalPositionIdentifier", "AcquisitionTime"}),
)
_OF_MR = (*_OF_CLASSIC, "EchoTime", "EchoNumbers", "RepetitionTime")
_OF_GROUPS = (
    *("TemporalPositionIndex", "InStackPositionNumber", "DimensionIndexValues", "FrameAcquisitionDateTime"),
    *("StackID", "DimensionIndexSequence", "SpacingBetweenSlices", "FrameContentSequence"),
    *sorted(set(ENHANCED_LABELS.values()) - {"TemporalPositionIndex", "DimensionIndexValues"}),
)
_KEYWORDS = {
    "mr": _OF_MR,
    "dwi": (*_OF_MR, "DiffusionBValue"),
    "ct": (*_OF_CLASSIC, "RescaleSlope"),
    "pt": (*_OF_CLASSIC, "FrameReferenceTime", "ImageIndex", "NumberOfSlices", "NumberOfTimeSlices", "RescaleSlope"),
    **dict.fromkeys(ENHANCED, _OF_GROUPS),
    "nm": ("SliceVector", "TimeSlotVector", "NumberOfSlices", "FrameIncrementPointer", "SpacingBetweenSlices"),
    "us": ("FrameTime", "FrameIncrementPointer"),
    "dose": ("GridFrameOffsetVector", "DoseUnits", "FrameIncrementPointer"),
    "seg": ("DimensionIndexSequence", "DimensionIndexValues", "SpacingBetweenSlices", "SliceThickness"),
}
"""Attributes that may be false or missing, by kind."""


@st.composite
def cases(draw: st.DrawFn, kinds: Sequence[str] = KINDS) -> Case:
    """Return cases, the simplest first."""
    kind = draw(st.sampled_from(kinds))
    slices = draw(st.integers(1, 7))
    times = draw(st.integers(1, 6)) if kind not in ("dose", "seg") else 1
    is_mr = kind in ("mr", "mr-enhanced")
    echoes = draw(st.sampled_from((1, 1, 1, 2))) if is_mr else 1
    components = draw(st.sampled_from((1, 1, 1, 2))) if is_mr else 1
    known = (
        (*ENHANCED_LABELS, "instances") if kind in ENHANCED else [label for label in LABELS if label != "dimensions"]
    )
    if kind != "pt":
        known = [label for label in known if label != "frame-reference"]
    labels = draw(st.lists(st.sampled_from(known), max_size=3, unique=True)) if times > 1 else []
    if kind == "us":
        slices = 1
    numberings = NUMBERINGS if kind in CLASSIC else ("times", "slices", "backwards", "echoes", "shuffled")
    return Case(
        kind=kind,
        times=times,
        slices=slices,
        echoes=echoes,
        components=components,
        orientation=draw(st.sampled_from(tuple(ORIENTATIONS))),
        spacing_mm=draw(st.sampled_from((2.5, 1.0, 5.0, 0.4))),
        shear_mm=draw(st.sampled_from((0.0, 0.0, 0.0, 0.3))) if kind in CLASSIC else 0.0,
        labels=tuple(labels),
        numbering="times" if kind == "us" else draw(st.sampled_from(numberings)),
        changes=tuple(draw(st.lists(_changes(kind), max_size=2))),
        arrival=draw(st.integers(0, 9)),
    )


def run(examples: int, seed: int, kinds: Sequence[str] = KINDS) -> dict[str, list[Case]]:
    """Return the cases that lie, by kind of series and lie, after this many examples."""
    found: dict[str, list[Case]] = defaultdict(list)

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    @given(cases(kinds))
    def look(case: Case) -> None:
        for lie in examine(case):
            found[f"{case.kind}: {lie}"].append(case)

    look()
    return found


def examine(case: Case) -> list[str]:
    """Return the lies about one case, each once; an exception is one as well."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return sorted(set(lies(build(case))))
        except Exception as error:
            return [f"{type(error).__name__}: {str(error)[:100]}"]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.reference.truth_machine")
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", metavar="CASE", help="what becomes of one case, as this command lists it")
    parser.add_argument("--kind", action="append", choices=KINDS, help="only these kinds of series")
    options = parser.parse_args(arguments)
    logging.disable()
    if options.show:
        _show(eval(options.show, {"Case": Case}))
        return 0
    began = time.monotonic()
    found = run(options.examples, options.seed, options.kind or KINDS)
    for lie, own in sorted(found.items()):
        print(f"{lie} ({len(own)})")
        for shown in sorted(set(map(repr, own)), key=len)[:SHOWN]:
            print(f"    {shown}")
    print(f"{options.examples} examples, {len(found)} kinds of lies, {time.monotonic() - began:.0f} s")
    return 1 if found else 0


def _show(case: Case) -> None:
    """Print the volumes of a case, what is said of them, and the lies."""
    series = build(case)
    assembly = assemble(series.datasets)
    for volume in assembly.volumes:
        print(f"{volume.kind} {volume.suffix!r} {volume.shape} {volume.geometry} {volume.spacing_mm} {volume.times_s}")
        for own in _told(volume, series) or [] if volume.kind is VolumeKind.VOLUME else []:
            print("   ", *((plane.time, plane.slice, plane.echo, plane.component) for plane in own))
        for warning in volume.warnings:
            print(f"    {warning.name}: {warning.detail}")
    for refusal in assembly.refusals:
        print(f"refused: {refusal.reason}: {refusal.detail}")
    for exclusion in assembly.exclusions:
        print(f"excluded: {exclusion.reason}: {exclusion.detail}")
    verdict = judged(series.datasets, assembly)
    print(f"{verdict.state} ({verdict.rule}): {verdict.reason}")
    for lie in examine(case):
        print(f"LIE: {lie}")


if __name__ == "__main__":
    sys.exit(main())
