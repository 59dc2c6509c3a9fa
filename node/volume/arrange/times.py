"""Separate the frames that share a position (times, or a position that was acquired twice), and quantities of a series.

`node.volume.arrange.whole_times` finds the attribute that orders them. Unequal counts mean an interrupted scan,
or a position that was acquired twice. Every frame that is left out gets a reason. Copies are already set aside
(`node.volume.arrange.duplicates`).

Field maps are apart from magnitudes, and signed times from unsigned ones. Trace images beside unweighted ones are one
quantity: one stack of several b-values, if the series has no directions.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from node.errors import ConversionRefused, counted
from node.volume.arrange.contradictions import Settled, order_by_diffusion, settle
from node.volume.arrange.sources import COUNTING_KEYS, SHARED_TIME_KEYS, TIME_KEYS
from node.volume.arrange.whole_times import (
    COUNTED,
    Bin,
    Labels,
    are_mixed,
    are_of_one_instance,
    distinguishing,
    instance_order,
    is_time_order,
    labels_by_attribute,
    labels_by_each_number,
    labels_by_number,
    labels_of_remains,
    may_be_shifted,
    pauses_of_times,
    same_diffusion,
    time_orders,
    weighting,
    whole_times,
)
from node.volume.model import Array, Frame
from node.volume.reasons import Reason, VolumeWarning, WarningKind

MAX_TAKEN_TWICE = 0.25
"""Largest share of positions that may have been acquired twice; beyond it, two volumes might be mixed."""

ORDERED_ALONE = frozenset({"acquisition_time", "instance"})
"""Attributes whose order puts the frames of one rank into one time, although these have different values."""

SEND_AGAIN = "send the instances with all attributes that the scanner wrote, or each part as a series of its own"
"""What to do if no attribute says which frames belong together."""

SKIPPED_DETAIL = (
    "Instance Numbers (0020,0013) skip numbers, and the instances between may have been lost: slices may then be of an "
    "earlier or later time"
)

SHIFTED_DETAIL = (
    "Instance Numbers (0020,0013), which alone order the times of each slice, are missing between slices: some slices "
    "may be of an earlier or later time"
)

FIELD_MAP = "fieldmap"

MIN_NEGATIVE_SHARE = 0.05
"""Share of the voxels of a slice, without zeros, that are negative in a signed quantity. A magnitude has fewer, after
interpolation."""

SIGN_WARNING = VolumeWarning(
    WarningKind.SEVERAL_QUANTITIES,
    "some times have negative values in all slices and the others have none: they are separate volumes",
)


@dataclass(frozen=True, slots=True, eq=False)
class Arrangement:
    """A stack on its grid: `planes[time][slice]`, and the frames that have no place in it.

    `variant` separates the stack from others of its series: a number, or empty. `in_turns`: excitations of others lie
    between its times.
    """

    planes: list[list[Frame]]
    left_out: list[tuple[Frame, Reason, str]] = field(default_factory=list)
    warnings: tuple[VolumeWarning, ...] = ()
    variant: str = ""
    in_turns: bool = False

    @property
    def frames(self) -> list[Frame]:
        return [frame for time in self.planes for frame in time]

    @property
    def numbers_left_out(self) -> set[int]:
        """Instance Numbers of the frames whose time lacks slices: the volume lacks them as if they had been lost."""
        numbers = {frame.instance_number for frame, reason, _ in self.left_out if reason is Reason.INCOMPLETE}
        return {number for number in numbers if number is not None}


def arrange_times(bins: list[Bin]) -> Arrangement:
    """Return the grid of a stack with equally many frames, more than one, at every position.

    `bins`: frames by position, ascending along the normal.

    Raises ConversionRefused ``same-position-twice``: no attribute orders the frames.
    """
    order: Settled | None = None
    for name, ordered in time_orders(bins):
        if is_time_order(ordered, name):
            order = settle(name, ordered)
            break
        whole = _whole_of_incomplete(name, ordered, clocks=True)
        if whole is not None:
            return whole
    order = order or order_by_diffusion(bins)
    if order is None:
        raise ConversionRefused(Reason.SAME_POSITION_TWICE, f"{_why_no_times(bins)}; {SEND_AGAIN}")
    name, bins, doubt = order
    warnings = _number_warnings(bins) if name == "instance" else ()
    if (doubt := doubt or _doubt_of_pauses(name, bins)) is not None:
        warnings = (VolumeWarning(WarningKind.TIMES_ASSUMED, doubt),)
    by_number = labels_by_each_number(bins) if name in COUNTED else None
    labels = labels_of_remains(name, bins) or _labels_of_announced(bins, by_number)
    is_whole = _announced(bins) == len(bins[0]) or are_of_one_instance([frame for own in bins for frame in own])
    if labels is None and by_number is not None and not is_whole:
        warnings = (*warnings, VolumeWarning(WarningKind.INCOMPLETE_VOLUME, SKIPPED_DETAIL))
    if labels is not None:
        return _arrange_without_remains(bins, labels)
    whole = _whole_of_incomplete(name, bins, clocks=False)
    return whole or Arrangement([list(time) for time in zip(*bins, strict=True)], warnings=warnings)


def _labels_of_announced(bins: list[Bin], by_number: Labels | None) -> Labels | None:
    """Return the times of frames if more are announced than each position has, and frames of one rank are of several.

    Temporal Position Identifiers name the times. Without them, `by_number` does: the labels of `labels_by_each_number`.
    """
    announced = _announced(bins)
    if announced <= len(bins[0]):
        return None
    named: Labels = {id(frame): frame.time_key.get("temporal_position") for frames in bins for frame in frames}
    labels = by_number if None in named.values() else named if are_mixed(bins, named) else None
    return labels if labels is not None and len(set(labels.values())) <= announced else None


def _announced(bins: list[Bin]) -> float:
    return max(frame.time_key.get("temporal_positions") or 0 for frames in bins for frame in frames)


def _doubt_of_pauses(name: str, bins: list[Bin]) -> str | None:
    """Return what the pauses of the clock make doubtful about an order that no count of times confirms; else None."""
    pauses = pauses_of_times(bins) if name in ORDERED_ALONE else None
    if pauses is None or any(frame.diffusion is not None for frames in bins for frame in frames):
        return None
    within, between = pauses
    return (
        f"the clock pauses for {within:.3g} s within each time, but at most for {between:.3g} s between two: slices "
        "may be of an earlier or later time, if the first times of some and the last times of the others are missing"
    )


def _why_no_times(bins: list[Bin]) -> str:
    """Return why no attribute orders the frames of a stack with equally many at every position."""
    numbered = dict(time_orders(bins)).get("instance")
    if numbered is not None and (attribute := distinguishing(numbered)) is not None:
        return f"Instance Numbers (0020,0013) put frames into one time that differ in {attribute}"
    return (
        f"each of {len(bins)} positions has {len(bins[0])} frames, but no attribute (such as Temporal Position "
        "Identifier (0020,0100), Acquisition Time (0008,0032), or Instance Numbers (0020,0013) that run time by time "
        "or slice by slice) assigns them to times"
    )


def _arrange_without_remains(bins: list[Bin], labels: Labels) -> Arrangement:
    """Return the grid of the times that are not what losses left of two.

    Raises ConversionRefused ``incomplete``: no time is whole.
    """
    whole = whole_times(bins, labels, are_times=True)
    if whole is None:
        raise ConversionRefused(
            Reason.INCOMPLETE,
            f"the frames seem to be what is left of several times, none of which has all {len(bins)} slices; send the "
            "missing instances",
        )
    return _arrange_whole(*whole)


def _number_warnings(bins: list[Bin]) -> tuple[VolumeWarning, ...]:
    """Return a warning if only numbers say that frames are times, and they do not prove which.

    `bins` are in the order of the numbers.

    Several instances that go through several positions without a hole do.

    Raises ConversionRefused ``unproven-layout``: all frames are of one instance and at one position. They may be
    metabolites or coils.
    """
    instances = {frame.sop_instance_uid for frame in bins[0]}
    placed = bins[0][0].position is not None
    weighted = any(frame.diffusion is not None and frame.diffusion.b_value > 0 for frame in bins[0])
    if not placed or weighted:
        return ()
    if len(instances) > 1 and len(bins) > 1:
        return (VolumeWarning(WarningKind.INCOMPLETE_VOLUME, SHIFTED_DETAIL),) if may_be_shifted(bins) else ()
    if len(instances) == len(bins) == 1:
        raise ConversionRefused(
            Reason.UNPROVEN_LAYOUT,
            f"the instance has {len(bins[0])} frames at one Image Position (Patient) (0020,0032), and no attribute "
            "(such as Temporal Position Index (0020,9128) or Dimension Index Values (0020,9157)) says whether they "
            "differ in time",
        )
    detail = (
        f"only the numbers of the {len(bins[0])} frames at each position say that they are times, and in which order"
    )
    return (VolumeWarning(WarningKind.TIMES_ASSUMED, detail),)


def arrange_unequal_times(bins: list[Bin]) -> Arrangement:
    """Return the grid of a stack with more frames at some positions than at others; `bins` as in `arrange_times`.

    Raises ConversionRefused ``incomplete`` or ``same-position-twice``: no attribute groups the frames.
    """
    least = min(map(len, bins))
    order = next(time_orders(bins), None)
    whole = None if order is None else _whole_of_incomplete(*order, clocks=True)
    whole = whole or _whole_by_number(bins) or _whole_weightings(bins)
    if whole is not None:
        return whole
    if least > 1:
        raise ConversionRefused(
            Reason.INCOMPLETE,
            f"the {len(bins)} positions have from {least} to {max(map(len, bins))} frames, and no attribute (such as "
            "Temporal Position Identifier (0020,0100)) says which frames belong to one time; send the missing "
            "instances",
        )
    return _arrange_first_frames(bins)


def _whole_of_incomplete(name: str, bins: list[Bin], *, clocks: bool) -> Arrangement | None:
    """Return the grid of the whole times, if some are whole and others are not; None if that cannot be decided."""
    labels = labels_by_attribute(bins, name) if clocks or name in COUNTING_KEYS else None
    return _whole_by(bins, labels) if labels else _whole_by_number(bins)


def _whole_by_number(bins: list[Bin]) -> Arrangement | None:
    """Return the grid of the times that are whole by Instance Number."""
    labels = labels_by_number(bins)
    return None if labels is None else _whole_by(bins, labels)


def _whole_by(bins: list[Bin], labels: Labels) -> Arrangement | None:
    """Return the grid of the whole times; None if all are whole, or if one mixes weightings or acquisitions."""
    whole = whole_times(bins, labels)
    if whole is None or not same_diffusion(whole[0]) or distinguishing(whole[0]) is not None:
        return None
    return _arrange_whole(*whole)


def _whole_weightings(bins: list[Bin]) -> Arrangement | None:
    """Return the grid of the diffusion weightings that every position has exactly once, if some lack slices."""
    frames = [frame for own in bins for frame in own]
    if all(frame.diffusion is None for frame in frames):
        return None
    labels = {id(frame): _rounded_weighting(frame) for frame in frames}
    if len(set(labels.values())) < 2 or any(len({labels[id(frame)] for frame in own}) < len(own) for own in bins):
        return None
    whole = whole_times([sorted(own, key=weighting) for own in bins], labels, are_times=True)
    return None if whole is None else _arrange_whole(*whole)


def _arrange_whole(whole_bins: list[Bin], dropped: list[Frame]) -> Arrangement:
    """Return the grid of whole times, with a warning about the frames of the others."""
    detail = f"the frame belongs to a time that lacks some of its {len(whole_bins)} slices"
    warning = VolumeWarning(
        WarningKind.INCOMPLETE_VOLUME,
        f"{counted(len(dropped), 'frame was', 'frames were')} left out because of a time that lacks slices; "
        f"{counted(len(whole_bins[0]), 'time is', 'times are')} whole",
    )
    grid = [list(time) for time in zip(*whole_bins, strict=True)]
    return Arrangement(grid, [(frame, Reason.INCOMPLETE, detail) for frame in dropped], (warning,))


def _arrange_first_frames(bins: list[Bin]) -> Arrangement:
    """Return one time: the first frame of each position, or the frames of a whole time; all others are excluded."""
    if _are_of_several_times(bins):
        raise ConversionRefused(
            Reason.INCOMPLETE,
            f"the frames belong to several times or diffusion weightings, but none of these has all {len(bins)} "
            "slices; send the missing instances",
        )
    whole = _frames_of_a_whole_time(bins)
    ordered = [
        sorted(frames, key=lambda frame: (id(frame) not in whole, *instance_order(frame), frame.sop_instance_uid))
        for frames in bins
    ]
    dropped = [frame for frames in ordered for frame in frames[1:]]
    if len(dropped) > max(1, MAX_TAKEN_TWICE * len(bins)):
        several = sum(len(frames) > 1 for frames in bins)
        fact = (
            f"{several} of {len(bins)} positions have several frames that are not copies, and no attribute says which "
            "frames belong together"
        )
        if missing := _numbers_of_missing_frames(bins):
            one, more = "Instance Number (0020,0013) is", "Instance Numbers (0020,0013) are"
            numbers = f"{counted(missing, one, more)} missing between theirs"
            raise ConversionRefused(Reason.INCOMPLETE, f"{fact}; {numbers}; send the missing instances")
        raise ConversionRefused(Reason.SAME_POSITION_TWICE, f"{fact}; {SEND_AGAIN}")
    warning = VolumeWarning(
        WarningKind.SAME_POSITION_TWICE,
        f"{counted(len(dropped), 'frame was', 'frames were')} left out because another, no copy, has the same position",
    )
    detail = "another instance, of which it is not a copy, has the same position"
    return Arrangement(
        [[frames[0] for frames in ordered]],
        [(frame, Reason.SAME_POSITION_TWICE, detail) for frame in dropped],
        (warning,),
    )


def _numbers_of_missing_frames(bins: list[Bin]) -> int:
    """Return how many Instance Numbers the stack lacks between its own; 0 if they are fewer than the missing frames.

    A frame is missing where a position has fewer than others, if the stack is what a loss has left of several times.
    """
    numbers = {frame.instance_number for frames in bins for frame in frames}
    known = {number for number in numbers if number is not None}
    frames = sum(map(len, bins))
    if len(known) < frames:
        return 0
    missing = max(known) - min(known) + 1 - frames
    return missing if missing >= max(map(len, bins)) * len(bins) - frames else 0


def _frames_of_a_whole_time(bins: list[Bin]) -> set[int]:
    """Return the frames, by `id`, that share a time value which each position has exactly once; else empty."""
    for name in TIME_KEYS:
        values = [Counter(frame.time_key.get(name) for frame in frames) for frames in bins]
        for value in values[0]:
            if value is not None and all(own[value] == 1 for own in values):
                return {id(frame) for frames in bins for frame in frames if frame.time_key.get(name) == value}
    return set()


def _are_of_several_times(bins: list[Bin]) -> bool:
    """Return whether a label that some frames share assigns them to several times or weightings, none of them whole."""
    frames = [frame for own in bins for frame in own]
    names = [[frame.time_key.get(name) for frame in frames] for name in SHARED_TIME_KEYS]
    for labels in ([_rounded_weighting(frame) for frame in frames], *names):
        shared = [count for label, count in Counter(labels).items() if label is not None and count > 1]
        if len(shared) > 1 and max(shared) < len(bins):
            return True
    return False


def _rounded_weighting(frame: Frame) -> Hashable:
    return None if frame.diffusion is None else tuple(round(part, 2) for part in weighting(frame))


def join_unweighted_images(frames: Sequence[Frame]) -> None:
    """Let trace and isotropic images share a stack with the unweighted images of their series.

    Scanners write such a series instead of single directions, and its volumes differ in their b-values alone. If images
    are weighted in a direction, the unweighted ones belong to these, and trace images are a map of them.
    """
    known = [frame.diffusion for frame in frames if frame.diffusion is not None]
    if any(diffusion.b_value > 0 and not diffusion.derived for diffusion in known):
        return
    for frame in frames:
        if frame.diffusion is not None and frame.diffusion.trace:
            frame.split_key = {**frame.split_key, "map": False}


def with_field_maps(frames: Sequence[Frame]) -> Sequence[Frame]:
    """Return frames with the component ``fieldmap`` for the field maps of GE, in hertz, beside their magnitudes.

    Both look alike in the standard's attributes, but differ in (0043,xx30), which is 0 for the map.
    """
    flags = {frame.variant_key.get("collapse_flag") for frame in frames if frame.split_key.get("maps_field")}
    if 0 not in flags or len(flags) < 2:
        return frames
    return [
        replace(frame, split_key={**frame.split_key, "component": FIELD_MAP})
        if frame.split_key.get("maps_field") and frame.variant_key.get("collapse_flag") == 0
        else frame
        for frame in frames
    ]


def split_by_sign(grid: Arrangement, voxels: Array, slope: float, intercept: float) -> list[Arrangement]:
    """Return the times of an MR grid that are signed, and those that are not, as two grids; empty if all are alike.

    `voxels`: (times, slices, rows, columns[, 3]) array; stored values of the grid. `slope`, `intercept`: rescaling of
    `voxels`.
    """
    if len(grid.planes) < 2 or not _are_unweighted_mr(grid.frames) or _lowest(voxels, slope, intercept) >= 0:
        return []
    signs = [_sign(time, slope, intercept) for time in voxels]
    if None in signs or len(set(signs)) < 2:
        return []
    parts = [
        [time for time, sign in zip(grid.planes, signs, strict=True) if sign == wanted]
        for wanted in (signs[0], not signs[0])
    ]
    first, *others = (
        replace(
            grid,
            planes=part,
            left_out=[],
            variant="-".join(filter(None, (grid.variant, str(number)))),
            warnings=(*grid.warnings, SIGN_WARNING),
        )
        for number, part in enumerate(parts, start=1)
    )
    return [replace(first, left_out=grid.left_out), *others]


def _are_unweighted_mr(frames: Sequence[Frame]) -> bool:
    return (
        frames[0].split_key.get("component") is not None
        and not frames[0].colour
        and all(frame.diffusion is None or frame.diffusion.b_value == 0 for frame in frames)
    )


def _lowest(voxels: Array, slope: float, intercept: float) -> float:
    return min(float(end) * slope + intercept for end in (voxels.min(), voxels.max()))


def _sign(slices: Array, slope: float, intercept: float) -> bool | None:
    """Return whether a time has negative values in all slices that are not blank (True), or in none (False)."""
    shares: list[float] = []
    for plane in slices:
        if plane.max() > plane.min():
            values = plane * np.float64(slope) + intercept
            shares.append(float(np.count_nonzero(values < 0)) / max(1, int(np.count_nonzero(values))))
    if not any(shares):
        return False
    return True if min(shares) >= MIN_NEGATIVE_SHARE else None
