"""Data sets of one series in, volumes and refusals out: filter, split, arrange, place, fill.

Every frame of every instance is in a volume, in an exclusion or in a refusal; that is checked before anything is
returned.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from pydicom import Dataset

from node.dicom.values import CONVERSION_ERRORS
from node.errors import ConversionRefused, VoxelnodeError
from node.volume import objects
from node.volume.clock import go_past_midnight
from node.volume.dimensions import arrange
from node.volume.elements import number, text
from node.volume.frames import frames_of
from node.volume.intensities import FrameRefused, read
from node.volume.model import Assembly, Frame, Kind, Volume
from node.volume.reasons import Exclusion, Reason, Refusal, Warn, Warning
from node.volume.stacks import Stack, placeless, split, unscaled
from node.volume.twins import is_copy, same_pixels
from node.volume.volumes import DatasetOf, volumes_of

DAMAGE = (*CONVERSION_ERRORS, ArithmeticError)
"""What pydicom and numpy raise when they meet a value that cannot be what its header says."""

PLACELESS = (
    "Image Position, Image Orientation (Patient) or Pixel Spacing is missing (PS3.3 C.7.6.2), though the other slices "
    "of the stack have them"
)

UNSCALED = (
    "Rescale Slope (0028,1053) or Intercept (0028,1052) is missing (PS3.3 C.8.2.1, C.8.9.4), though the other slices "
    "of the stack have them"
)

LACKING = ((placeless, Reason.BAD_GEOMETRY, PLACELESS), (unscaled, Reason.CONTRADICTORY, UNSCALED))
"""How slices are found that lack what the others of their stack have, and why they are left out then."""

LeftOut = tuple[Frame, Reason, str]


@dataclass(frozen=True, slots=True)
class _Instance:
    """What one data set gave: frames, volumes if it is one by itself, or why neither."""

    order: tuple[float, str]  # does not depend on the order of arrival
    frames: Sequence[Frame] = ()
    volumes: tuple[Volume, ...] = ()
    exclusion: Exclusion | None = None
    concatenation: tuple[str, int, int] | None = None  # its UID, the number of this part, how many there are at least


@dataclass(slots=True)
class _Series:
    """What is known of one series while it is being assembled."""

    dataset_of: DatasetOf
    uids: set[str] = field(default_factory=set)
    frames: list[Frame] = field(default_factory=list)
    volumes: list[Volume] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    exclusions: list[Exclusion] = field(default_factory=list)
    concatenations: dict[str, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    refused_frames: int = 0
    stacks: int = 0

    def exclude(self, left_out: Sequence[LeftOut]) -> None:
        """Record frames that are in no volume, one exclusion for each instance and reason."""
        counts = Counter((frame.sop_instance_uid, reason, detail) for frame, reason, detail in left_out)
        self.exclusions += [Exclusion(uid, count, reason, detail) for (uid, reason, detail), count in counts.items()]

    def refuse(self, reason: Reason, detail: str, frames: Sequence[Frame]) -> None:
        """Record that a stack gives no volume."""
        uids = tuple(dict.fromkeys(frame.sop_instance_uid for frame in frames))
        self.refusals.append(Refusal(reason, detail, uids, self.stacks))
        self.refused_frames += len(frames)
        self.stacks += 1


def assemble(datasets: Iterable[Dataset], dataset_of: DatasetOf | None = None) -> Assembly:
    """Return the volumes of one series, and why what is in none of them is not.

    Parameters
    ----------
    datasets : iterable of Dataset
        Instances that share one Series Instance UID, in any order; copies of one instance count once. Of each only
        the pixels are held, as they are stored.
    dataset_of : callable (SOP Instance UID) -> Dataset, optional
        Gives the first data set of a UID again, for those few that a volume takes its facts from. Without it all
        data sets are held, which are a multiple of the pixels where instances are small.

    Returns
    -------
    Assembly
        The same for every order of `datasets`.

    Raises
    ------
    VoxelnodeError
        A frame is nowhere, or twice: a fault of this program, never of the data.
    """
    if dataset_of is None:
        datasets = list(datasets)
        dataset_of = {text(ds, "SOPInstanceUID") or "": ds for ds in reversed(datasets)}.__getitem__
    series = _Series(dataset_of)
    for instance in sorted(_distinct(datasets, series), key=lambda each: each.order):
        _collect(instance, series)
    twins = sum(exclusion.reason is Reason.SAME_POSITION_TWICE for exclusion in series.exclusions)
    if series.frames and twins > len(series.uids):  # some anonymisers give one UID to all
        told = f"{twins} instances have the SOP Instance UID (0008,0018) of another one, with other pixels"
        series.refuse(Reason.CONTRADICTORY, told, series.frames)
    else:
        _assemble_stacks(series)
    if not series.volumes:
        _refuse_all(series)
    _account(series)
    return Assembly(_with_unique_suffixes(series.volumes), tuple(series.refusals), tuple(series.exclusions))


# Instances


def _distinct(datasets: Iterable[Dataset], series: _Series) -> list[_Instance]:
    """What each SOP Instance UID gave; another data set under the same UID is told unless it is a copy."""
    instances = []
    for ds in datasets:
        uid = text(ds, "SOPInstanceUID") or ""
        if uid not in series.uids:
            series.uids.add(uid)
            instances.append(_instance(ds, uid))
        elif not same_pixels(series.dataset_of(uid), ds):
            detail = "this SOP Instance UID came again with other pixels; the first one was taken"
            series.exclusions.append(Exclusion(uid, 0, Reason.SAME_POSITION_TWICE, detail))
    return instances


def _instance(ds: Dataset, uid: str) -> _Instance:
    """Return the frames of one instance, or its volumes if it is one by itself, or why it gives none."""
    instance_number = number(ds, "InstanceNumber")
    order = float("inf") if instance_number is None else instance_number, uid
    try:
        if not objects.is_image(ds):
            raise objects.without_pixels(ds)
        special = objects.special_volumes(ds, 0)
        if special is not None:
            return _Instance(order, volumes=special)
        return _Instance(order, frames_of(ds), concatenation=_concatenation(ds))
    except ConversionRefused as refused:
        return _Instance(order, exclusion=Exclusion(uid, 0, Reason(refused.reason), refused.detail))
    except DAMAGE as error:
        return _Instance(order, exclusion=Exclusion(uid, 0, Reason.UNREADABLE, _damage(error)))


def _concatenation(ds: Dataset) -> tuple[str, int, int] | None:
    """The part that an instance is of a concatenation (PS3.3 C.7.6.16.2.2.4); None of a whole one."""
    uid, part = text(ds, "ConcatenationUID"), number(ds, "InConcatenationNumber")
    if uid is None or part is None:
        return None
    return uid, int(part), int(number(ds, "InConcatenationTotalNumber") or part)


def _collect(instance: _Instance, series: _Series) -> None:
    """Add what one instance gave."""
    series.frames += instance.frames
    if instance.concatenation is not None:
        uid, *part = instance.concatenation
        series.concatenations[uid].append((part[0], part[1]))
    if instance.exclusion is not None:
        series.exclusions.append(instance.exclusion)
    if instance.volumes:
        _add_object(instance.volumes, series)


def _add_object(volumes: Sequence[Volume], series: _Series) -> None:
    """Add the volumes of an instance that is one by itself, unless it came before under another UID."""
    uid = volumes[0].sources[0].sop_instance_uid
    for first in series.volumes:
        if np.array_equal(first.voxels, volumes[0].voxels) and is_copy(
            series.dataset_of(first.sources[0].sop_instance_uid), series.dataset_of(uid)
        ):
            detail = "the same object as another instance, under a SOP Instance UID of its own"
            series.exclusions.append(Exclusion(uid, 0, Reason.DUPLICATE_SLICE, detail))
            told = Warning(Warn.DUPLICATE_SLICE, "an instance came again under another SOP Instance UID")
            series.volumes = [
                replace(volume, warnings=(*volume.warnings, told))
                if volume.stack == first.stack and told not in volume.warnings
                else volume
                for volume in series.volumes
            ]
            return
    series.volumes += [replace(volume, stack=series.stacks) for volume in volumes]
    series.stacks += 1


def _damage(error: Exception) -> str:
    """A sentence about a damaged value; the error's own words may hold patient data."""
    return f"a value is not what its header says ({type(error).__name__})"


def _told_of_exclusions(exclusions: Sequence[Exclusion]) -> tuple[Warning, ...]:
    """Warnings for the volumes of a series of which some instances are in none."""
    reasons = Counter(exclusion.reason for exclusion in exclusions)
    no_images = reasons.pop(Reason.NOT_AN_IMAGE, 0)
    twins = reasons.pop(Reason.SAME_POSITION_TWICE, 0)
    reasons.pop(Reason.DUPLICATE_SLICE, 0)  # told on the volume of which they are copies
    unread = sum(reasons.values())
    warnings = []
    if twins:
        warnings.append(Warning(Warn.SAME_POSITION_TWICE, f"{twins} instances came again with other pixels"))
    if no_images:
        warnings.append(Warning(Warn.PARTLY_NOT_AN_IMAGE, f"{no_images} instances of the series are no images"))
    if unread:
        warnings.append(Warning(Warn.INCOMPLETE_VOLUME, f"{unread} instances of the series are in no volume"))
    return tuple(warnings)


def _told_of_parts(concatenations: Mapping[str, Sequence[tuple[int, int]]]) -> tuple[Warning, ...]:
    """A warning where parts of concatenations have not come."""
    missing = sum(
        max(total for _, total in parts) - len({part for part, _ in parts}) for parts in concatenations.values()
    )
    detail = f"{missing} instances of a concatenation (0020,9161) are missing"
    return (Warning(Warn.INCOMPLETE_VOLUME, detail),) if missing > 0 else ()


# Stacks


def _assemble_stacks(series: _Series) -> None:
    """Add the volumes of all stacks, and what is to be told of them together."""
    frames = series.frames
    go_past_midnight(frames)
    for lacking, reason, detail in LACKING:
        left_out = {id(frame): frame for frame in lacking(frames)}
        series.exclude([(frame, reason, detail) for frame in left_out.values()])
        frames = [frame for frame in frames if id(frame) not in left_out]
    told = (*_told_of_exclusions(series.exclusions), *_told_of_parts(series.concatenations))
    if frames:
        stacks, several = split(frames)
        for stack in stacks:
            _assemble_stack(stack, series, (*several, *told))


def _assemble_stack(stack: Stack, series: _Series, warnings: tuple[Warning, ...]) -> None:
    """Add the volumes of one stack; frames that cannot be decoded are left out of it, and told."""
    frames: Sequence[Frame] = stack.frames
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
            lost = Warning(Warn.INCOMPLETE_VOLUME, f"{len(undecodable)} frames could not be decoded and were left out")
            volumes, left_out, count = _volumes(frames, stack.suffix, series, (*warnings, lost))
    except ConversionRefused as refused:
        series.refuse(Reason(refused.reason), refused.detail, frames)
    except DAMAGE as error:
        series.refuse(Reason.UNREADABLE, _damage(error), frames)
    else:
        series.volumes += volumes
        series.stacks += count
        series.exclude(left_out)


def _volumes(
    frames: Sequence[Frame], suffix: str, series: _Series, warnings: tuple[Warning, ...]
) -> tuple[list[Volume], list[LeftOut], int]:
    """The volumes of one stack, the frames that are in none, and how many stacks it is in truth."""
    volumes: list[Volume] = []
    left_out: list[LeftOut] = []
    arrangements = arrange(frames)
    for number_of_arrangement, arrangement in enumerate(arrangements):
        name = "-".join(part for part in (suffix, arrangement.variant) if part)
        stack = series.stacks + number_of_arrangement
        volumes += volumes_of(arrangement, stack, name, series.dataset_of, warnings)
        left_out += arrangement.left_out
    return volumes, left_out, len(arrangements)


def _decodable(frames: Sequence[Frame]) -> tuple[list[Frame], list[LeftOut]]:
    """The frames that can be decoded, and the others."""
    good, bad = [], []
    for frame in frames:
        try:
            read(frame)
        except FrameRefused as refused:
            bad.append((frame, Reason(refused.reason), refused.detail))
        else:
            good.append(frame)
    return good, bad


# The whole series


def _refuse_all(series: _Series) -> None:
    """Turn the exclusions of a series without any volume into refusals, one for each reason."""
    uids: dict[tuple[Reason, str], dict[str, None]] = defaultdict(dict)
    for exclusion in series.exclusions:
        uids[exclusion.reason, exclusion.detail][exclusion.sop_instance_uid] = None
        series.refused_frames += exclusion.frames
    series.exclusions.clear()
    series.refusals += [Refusal(reason, detail, tuple(own)) for (reason, detail), own in uids.items()]


def _with_unique_suffixes(volumes: Sequence[Volume]) -> tuple[Volume, ...]:
    """Volumes of which no two stacks share a suffix."""
    stacks: dict[str, set[int]] = defaultdict(set)
    for volume in volumes:
        stacks[volume.suffix].add(volume.stack)
    return tuple(
        volume
        if len(stacks[volume.suffix]) == 1
        else replace(volume, suffix="-".join(filter(None, (volume.suffix, f"s{volume.stack + 1}"))))
        for volume in volumes
    )


def _account(series: _Series) -> None:
    """Check that every instance is somewhere, and every frame just once."""
    assembly = Assembly(tuple(series.volumes), tuple(series.refusals), tuple(series.exclusions))
    lost = assembly.unaccounted(series.uids)
    if lost:
        raise VoxelnodeError(f"{len(lost)} instances are in no volume, exclusion or refusal")
    known = {id(frame) for frame in series.frames}
    uids = {frame.sop_instance_uid for frame in series.frames}
    placed = sum(
        source.sop_instance_uid in uids
        for volume in series.volumes
        if volume.kind is Kind.VOLUME
        for source in volume.sources
    )
    excluded = sum(exclusion.frames for exclusion in series.exclusions)
    if placed + excluded + series.refused_frames != len(known):
        raise VoxelnodeError(
            f"{len(known)} frames, but {placed} in volumes, {excluded} excluded, {series.refused_frames} refused"
        )
