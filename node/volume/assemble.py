"""Data sets of one series in, volumes and refusals out: filter, split, arrange, place, fill."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydicom import Dataset

from node.dicom.values import CONVERSION_ERRORS
from node.errors import ConversionRefused
from node.volume import objects
from node.volume.arrange.dimensions import arrange
from node.volume.arrange.duplicates import same_pixels
from node.volume.arrange.stacks import Stack, placeless, split, unscaled
from node.volume.arrange.temporal.timing import go_past_midnight
from node.volume.elements import number, text
from node.volume.intensities import FrameRefused, read
from node.volume.model import Assembly, Frame, Volume
from node.volume.read.frames import frames_of
from node.volume.reasons import Exclusion, Reason, Warn, Warning
from node.volume.series import Instance, LeftOut, Series
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
    series = Series(dataset_of)
    for instance in sorted(_distinct(datasets, series), key=lambda each: each.order):
        series.add(instance)
    twins = sum(exclusion.reason is Reason.SAME_POSITION_TWICE for exclusion in series.exclusions)
    if series.frames and twins > len(series.uids):  # some anonymisers give one UID to all
        told = f"{twins} instances have the SOP Instance UID (0008,0018) of another one, with other pixels"
        series.refuse(Reason.CONTRADICTORY, told, series.frames)
    else:
        _assemble_stacks(series)
    if not series.volumes:
        series.refuse_all()
    return series.assembly()


# Instances


def _distinct(datasets: Iterable[Dataset], series: Series) -> list[Instance]:
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


def _instance(ds: Dataset, uid: str) -> Instance:
    """Return the frames of one instance, or its volumes if it is one by itself, or why it gives none."""
    instance_number = number(ds, "InstanceNumber")
    order = float("inf") if instance_number is None else instance_number, uid
    try:
        if not objects.is_image(ds):
            raise objects.without_pixels(ds)
        special = objects.special_volumes(ds, 0)
        if special is not None:
            return Instance(order, volumes=special)
        return Instance(order, frames_of(ds), concatenation=_concatenation(ds))
    except ConversionRefused as refused:
        return Instance(order, exclusion=Exclusion(uid, 0, Reason(refused.reason), refused.detail))
    except DAMAGE as error:
        return Instance(order, exclusion=Exclusion(uid, 0, Reason.UNREADABLE, _damage(error)))


def _concatenation(ds: Dataset) -> tuple[str, int, int] | None:
    """The part that an instance is of a concatenation (PS3.3 C.7.6.16.2.2.4); None of a whole one."""
    uid, part = text(ds, "ConcatenationUID"), number(ds, "InConcatenationNumber")
    if uid is None or part is None:
        return None
    return uid, int(part), int(number(ds, "InConcatenationTotalNumber") or part)


def _damage(error: Exception) -> str:
    """A sentence about a damaged value; the error's own words may hold patient data."""
    return f"a value is not what its header says ({type(error).__name__})"


# Stacks


def _assemble_stacks(series: Series) -> None:
    """Add the volumes of all stacks, and what is to be told of them together."""
    frames = series.frames
    go_past_midnight(frames)
    for lacking, reason, detail in LACKING:
        left_out = {id(frame): frame for frame in lacking(frames)}
        series.exclude([(frame, reason, detail) for frame in left_out.values()])
        frames = [frame for frame in frames if id(frame) not in left_out]
    told = series.told()
    if frames:
        stacks, several = split(frames)
        for stack in stacks:
            _assemble_stack(stack, series, (*several, *told))


def _assemble_stack(stack: Stack, series: Series, warnings: tuple[Warning, ...]) -> None:
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
    frames: Sequence[Frame], suffix: str, series: Series, warnings: tuple[Warning, ...]
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
