"""Turn the data sets of one series into volumes and refusals: filter, split, arrange, place, fill."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np
from pydicom import Dataset

from node.dicom.values import CONVERSION_ERRORS, number
from node.errors import ConversionRefused, counted
from node.volume import objects
from node.volume.arrange.dimensions import arrange
from node.volume.arrange.doubtful_places import unrounded
from node.volume.arrange.duplicates import COPY_DETAIL, copy_warnings, find_copies, has_same_pixels, stated_difference
from node.volume.arrange.motion import at_first_time
from node.volume.arrange.stacks import Stack, frames_without_position, frames_without_rescale, split
from node.volume.arrange.times import Arrangement, join_unweighted_images, split_by_sign
from node.volume.arrange.timing import on_one_clock
from node.volume.elements import text
from node.volume.intensities import FrameRefused, fill, read_frame
from node.volume.model import Array, Assembly, Float, Frame, Volume
from node.volume.read.diffusion import settle_unweighted, without_repair
from node.volume.read.frames import frames_of
from node.volume.reasons import Exclusion, Reason, VolumeWarning, WarningKind
from node.volume.series import ExcludedFrame, SeriesUnderAssembly, SourceInstance
from node.volume.vendors import first_reversed_volume, is_encoded_upwards
from node.volume.volumes import DatasetOf, volumes_of
from node.volume.widths import read_as_bytes

DAMAGE = (*CONVERSION_ERRORS, ArithmeticError)
"""Exceptions that pydicom and numpy raise for a value that contradicts its header."""

MISSING_POSITION = (
    "Image Position (Patient) (0020,0032), Image Orientation (Patient) (0020,0037) or Pixel Spacing (0028,0030) is "
    "missing or impossible (PS3.3 C.7.6.2), although the other slices of the stack have it"
)

MISSING_RESCALE = (
    "Rescale Slope (0028,1053) is missing or 0, or Rescale Intercept (0028,1052) or the real world value mapping is "
    "missing (PS3.3 C.11.1), although other slices of the stack have it"
)

INCOMPLETE_FRAMES = (
    (frames_without_position, Reason.BAD_GEOMETRY, MISSING_POSITION),
    (frames_without_rescale, Reason.CONTRADICTORY, MISSING_RESCALE),
)
"""Functions that find slices without an attribute that the rest of their stack has, and the reasons for exclusion."""


OTHER_FILE = "as another file with this SOP Instance UID (0008,0018)"


def assemble(datasets: Iterable[Dataset], dataset_of: DatasetOf | None = None, *, repair: bool = True) -> Assembly:
    """Return the volumes of one series, and the reasons why other instances are in none.

    Every frame of every instance is in exactly one volume, exclusion or refusal. The result does not depend on the
    order of `datasets`.

    `datasets`: instances of one Series Instance UID, in any order; copies of an instance count once. Only their stored
        pixels are kept in memory.
    `dataset_of`: returns the first data set with a UID again; only the few that supply the fields of a volume are
        requested. Without it, all data sets are kept in memory, which takes several times the size of the pixels if
        instances are small.
    `repair`: correct wrong headers where other values prove it; the volumes have the warning ``repaired``.

    Volumes in LPS and mm, refusals and exclusions.

    Raises VoxelnodeError: a frame was lost or duplicated: a bug in this program, never a fault of the data.
    """
    if dataset_of is None:
        datasets = list(datasets)
        dataset_of = {text(ds, "SOPInstanceUID") or "": ds for ds in reversed(datasets)}.__getitem__
    series = SeriesUnderAssembly(dataset_of, repair)
    for instance in sorted(_distinct(datasets, series), key=lambda instance: instance.order):
        series.add(instance)
    if series.frames and series.versions > len(series.uids):  # some anonymisers give all instances one UID
        detail = (
            f"{series.versions} instances have the SOP Instance UID (0008,0018) of another instance, but different "
            "pixels; each instance must have its own UID"
        )
        series.refuse(Reason.CONTRADICTORY, detail, series.frames)
    else:
        _assemble_stacks(series)
    if not series.volumes:
        series.refuse_all()
    return series.assembly()


@dataclass(slots=True)
class _Used:
    """The content that is used of one SOP Instance UID, and the files that have it; empty for a data set of no file."""

    instance: SourceInstance
    files: list[str]


def _distinct(datasets: Iterable[Dataset], series: SeriesUnderAssembly) -> list[SourceInstance]:
    """Return the content of each SOP Instance UID: of the first data set that can be decoded, else of the first.

    A data set with another content is excluded, under the name of its file (`filename`).
    """
    used: dict[str, _Used] = {}
    first_of, later = series.dataset_of, dict[str, Dataset]()  # few: they stay in memory
    series.dataset_of = lambda uid: later[uid] if uid in later else first_of(uid)
    for ds in datasets:
        uid, file = text(ds, "SOPInstanceUID") or "", str(getattr(ds, "filename", None) or "")
        if uid not in used:
            series.uids.add(uid)
            used[uid] = _Used(_instance(ds, uid), [file])
            continue
        own = used[uid]
        if (differs := _difference(series.dataset_of(uid), ds)) is None:
            own.files.append(file)
            continue
        other = _Used(_instance(ds, uid), [file])
        own_fault, fault = _fault(own.instance), _fault(other.instance)
        if own_fault and not fault:
            later[uid] = ds
            used[uid], other, fault = other, own, own_fault
        reason, detail = fault or (Reason.SAME_POSITION_TWICE, f"{differs} {OTHER_FILE}, which is used")
        series.exclusions += [Exclusion(uid, 0, reason, detail, name) for name in other.files]
        series.versions += len(other.files)
        series.unusable += len(other.files) if fault else 0
    return [own.instance for own in used.values()]


def _difference(first: Dataset, second: Dataset) -> str | None:
    """Return what the second of two data sets of one SOP Instance UID has not, as the first; None if it is the same."""
    if not has_same_pixels(first, second):
        return "not the same pixels"
    stated = stated_difference(first, second)
    return f"not the same {stated}" if stated else None


def _fault(instance: SourceInstance) -> tuple[Reason, str] | None:
    """Return why an instance has no pixels, or none that can be decoded; None if it has."""
    if instance.exclusion is not None:
        return instance.exclusion.reason, instance.exclusion.detail
    return next(((reason, detail) for _, reason, detail in _decodable(instance.frames)[1]), None)


def _instance(ds: Dataset, uid: str) -> SourceInstance:
    """Return the frames of an instance, its volumes if it is a volume by itself, or the reason why it has neither."""
    instance_number = number(ds, "InstanceNumber")
    order = float("inf") if instance_number is None else instance_number, uid
    try:
        if not objects.is_image(ds):
            raise objects.without_pixels(ds)
        special = objects.special_volumes(ds, 0)
        if special is not None:
            return SourceInstance(order, volumes=special)
        return SourceInstance(order, frames_of(ds), concatenation=_concatenation(ds))
    except ConversionRefused as refused:
        return SourceInstance(order, exclusion=Exclusion(uid, 0, Reason(refused.reason), refused.detail))
    except DAMAGE as error:
        return SourceInstance(order, exclusion=Exclusion(uid, 0, Reason.UNREADABLE, damage_detail(error)))


def _concatenation(ds: Dataset) -> tuple[str, int, int] | None:
    """Return UID, number and count of an instance that is part of a concatenation (PS3.3 C.7.6.16.2.2.4); else None."""
    uid, part = text(ds, "ConcatenationUID"), number(ds, "InConcatenationNumber")
    if uid is None or part is None:
        return None
    return uid, int(part), int(number(ds, "InConcatenationTotalNumber") or part)


def damage_detail(error: Exception) -> str:
    """Return a sentence about a damaged value. The text of the exception may contain patient data."""
    return f"the data set is damaged: a value contradicts its header ({type(error).__name__})"


def _assemble_stacks(series: SeriesUnderAssembly) -> None:
    """Add the volumes of all stacks, with the warnings that concern all of them."""
    frames = series.frames
    _unplace_projections(frames)
    if not series.repair:
        frames[:] = [without_repair(frame) for frame in frames]
    on_one_clock(frames)
    settle_unweighted(frames)
    join_unweighted_images(frames)
    for lacking, reason, detail in INCOMPLETE_FRAMES:
        left_out = {id(frame): frame for frame in lacking(frames)}
        series.exclude([(frame, reason, detail) for frame in left_out.values()])
        frames = [frame for frame in frames if id(frame) not in left_out]
    series_warnings = series.warnings()
    if frames:
        stacks, split_warnings = split(frames)
        for stack in stacks:
            _assemble_stack(stack, series, (*split_warnings, *series_warnings))


def _unplace_projections(frames: Sequence[Frame]) -> None:
    """Take the position from images of a run whose positioner turns: projections from several angles are no slices."""
    with_angles = [frame for frame in frames if frame.time_key.get("angles") is not None]
    if len({frame.time_key["angles"] for frame in with_angles}) > 1:
        for frame in with_angles:
            frame.position = frame.orientation = None


def _assemble_stack(stack: Stack, series: SeriesUnderAssembly, warnings: tuple[VolumeWarning, ...]) -> None:
    """Add the volumes of one stack; frames that cannot be decoded are excluded."""
    frames: Sequence[Frame] = unrounded(stack.frames) if series.repair else stack.frames
    try:
        try:
            volumes, left_out, count = _volumes(frames, stack.suffix, series, warnings)
        except FrameRefused:
            frames, undecodable = _decodable(frames)
            if not frames:
                _, reason, detail = undecodable[0]
                series.refuse(reason, detail, stack.frames)
                return
            series.exclude(undecodable)
            incomplete = VolumeWarning(
                WarningKind.INCOMPLETE_VOLUME, counted(len(undecodable), "frame") + " could not be decoded: left out"
            )
            volumes, left_out, count = _volumes(frames, stack.suffix, series, (*warnings, incomplete))
    except ConversionRefused as refused:
        series.refuse(Reason(refused.reason), refused.detail, frames)
    except DAMAGE as error:
        series.refuse(Reason.UNREADABLE, damage_detail(error), frames)
    else:
        series.volumes += volumes
        series.stacks += count
        series.exclude(left_out)


def _volumes(
    frames: Sequence[Frame], suffix: str, series: SeriesUnderAssembly, warnings: tuple[VolumeWarning, ...]
) -> tuple[list[Volume], list[ExcludedFrame], int]:
    """Return the volumes of one stack, the frames that are in none, and the number of stacks found in it."""
    volumes: list[Volume] = []
    copies = find_copies(frames, series.dataset_of)
    left_out: list[ExcludedFrame] = [(copy.frame, Reason.DUPLICATE_SLICE, COPY_DETAIL) for copy in copies]
    copied = {id(copy.frame) for copy in copies}
    waiting = deque(arrange([frame for frame in frames if id(frame) not in copied]))
    stack = series.stacks
    while waiting:
        grid = waiting.popleft()
        filled = fill(grid.planes)
        if read_as_bytes(frame.widths for frame in grid.frames):
            filled = fill(grid.planes)
        quantities = split_by_sign(grid, *filled)
        if quantities:
            waiting.extendleft(reversed(quantities))
            continue
        if series.repair:
            polarities = split_by_polarity(grid, filled[0], series.dataset_of(grid.frames[0].sop_instance_uid))
            if polarities:
                waiting.extendleft(reversed(polarities))
                continue
        name = "-".join(part for part in (suffix, grid.variant) if part)
        own = (*warnings, *copy_warnings(grid.frames, copies))
        volumes += volumes_of(at_first_time(grid), filled, stack, name, series.dataset_of, own, series.numbers)
        left_out += grid.left_out
        stack += 1
    return volumes, left_out, stack - series.stacks


def _decodable(frames: Sequence[Frame]) -> tuple[list[Frame], list[ExcludedFrame]]:
    """Return the frames that can be decoded, and the others."""
    decodable, undecodable = [], []
    for frame in frames:
        try:
            read_frame(frame)
        except FrameRefused as refused:
            undecodable.append((frame, Reason(refused.reason), refused.detail))
        else:
            decodable.append(frame)
    return decodable, undecodable


MIN_GAIN = 0.05
"""Least gain of the correlation of two neighbouring volumes if one of them is turned."""

_NAMES = (("RL", "LR"), ("AP", "PA"), ("IS", "SI"))
"""Names of directions along and against each axis of the patient, as BIDS has them in ``dir-AP``."""


def split_by_polarity(grid: Arrangement, voxels: Array, ds: Dataset) -> list[Arrangement]:
    """Return the volumes of each polarity, mirrored ones turned back; empty unless header and pixels prove them.

    GE's sequence ``epi_pepolar`` encodes every second volume against the phase direction that all headers state. It
    stores these volumes with the rows in reverse order, but with the position and orientation of the others. User Data
    12 (0019,xxB3) says which they are; the pixels must confirm it, since a lost volume moves all later ones.

    `voxels`, (times, slices, rows, columns) array: the stored values of its frames.
    `ds`: the data set of its first frame.
    """
    first, forward = first_reversed_volume(ds), is_encoded_upwards(ds)
    frame = grid.planes[0][0]
    if first is None or forward is None or len(grid.planes) < 2 or voxels.ndim > 4 or frame.orientation is None:
        return []
    if text(ds, "InPlanePhaseEncodingDirection") not in ("COL", "COLUMN") or "polarity" in frame.variant_key:
        return []
    # How much better each volume correlates with the next one if that is mirrored.
    gains = [_correlation(one, next_[:, ::-1]) - _correlation(one, next_) for one, next_ in pairwise(voxels)]
    if min(gains) < MIN_GAIN:
        return []
    along: Float = frame.orientation[3:] * (1 if forward else -1)
    axis = int(np.abs(along).argmax())
    names = _NAMES[axis] if along[axis] > 0 else _NAMES[axis][::-1]
    detail = (
        f"User Data 12 (0019,xxB3) of epi_pepolar is {first + 2}: every second volume from volume {first + 1} on was "
        "encoded with reversed polarity and stored mirrored. Each correlates better with its neighbours once turned, "
        f"by at least {min(gains):.2f}. They were turned back, and are volumes of their own"
    )
    warning = VolumeWarning(WarningKind.REPAIRED, detail)
    parts = []
    for is_reversed, name in zip((False, True), names, strict=True):
        planes = [time for index, time in enumerate(grid.planes) if (index % 2 == first) == is_reversed]
        parts.append(
            replace(
                grid,
                planes=[[_marked(frame, is_reversed=is_reversed) for frame in time] for time in planes],
                left_out=[] if is_reversed else grid.left_out,
                warnings=(*grid.warnings, warning),
                variant="-".join(filter(None, (grid.variant, f"dir{name}"))),
            )
        )
    return parts


def _correlation(one: Array, other: Array) -> float:
    if min(np.ptp(one), np.ptp(other)) == 0:
        return 0.0
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def _marked(frame: Frame, *, is_reversed: bool) -> Frame:
    """Return a frame with its polarity; a reversed one with its rows in the order that its position means."""
    variant = {**frame.variant_key, "polarity": "reversed" if is_reversed else "forward"}
    return replace(frame, read=partial(_reversed, frame) if is_reversed else frame.read, variant_key=variant)


def _reversed(frame: Frame) -> Array:
    return np.ascontiguousarray(frame.read()[::-1])
