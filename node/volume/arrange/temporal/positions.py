"""What frames that share a position are to each other: times, copies, or a place that was taken twice.

`node.volume.arrange.temporal.ordering` tells which attribute puts them in order. Where counts are unequal there are
copies, a scan that was interrupted, or a place that was taken twice: nothing is dropped without a word.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np

from node.errors import ConversionRefused
from node.volume.arrange.temporal.ordering import (
    TIME_KEYS,
    belong_together,
    by_weighting,
    same_diffusion,
    time_orders,
    weighting,
)
from node.volume.arrange.whole_times import (
    COUNTS,
    Bin,
    Labels,
    by_instance,
    labels_by_attribute,
    labels_by_number,
    whole_times,
)
from node.volume.intensities import read
from node.volume.model import Frame
from node.volume.reasons import Reason, Warn, Warning

MAY_DIFFER_IN_COPIES = ("content_time", "instance")
"""Attributes that a second sending or reconstruction of the same image changes."""

NAMES_OF_TIMES = ("temporal_position", "acquisition_number", "acquisition_time")
"""Attributes that frames of one time share, if any."""

MOST_TAKEN_TWICE = 0.25
"""Part of the positions that may be taken twice; with more of them, two volumes would be mixed."""


@dataclass(frozen=True, slots=True, eq=False)
class Arrangement:
    """A stack on its grid: `planes[time][slice]`, and the frames that found no place there."""

    planes: list[list[Frame]]
    left_out: list[tuple[Frame, Reason, str]] = field(default_factory=list)
    warnings: tuple[Warning, ...] = ()
    variant: str = ""  # what tells it from others of its stack: a number

    @property
    def frames(self) -> list[Frame]:
        return [frame for time in self.planes for frame in time]


def repeated(bins: list[Bin]) -> Arrangement:
    """Return the grid of a stack with equally many frames, above one, at every position.

    Raises
    ------
    ConversionRefused
        ``same-position-twice``: nothing puts them in order.
    """
    found = None
    for name, ordered in time_orders(bins):
        if belong_together(ordered, name):
            found = name, ordered
            break
        whole = _whole_of_incomplete(name, ordered, clocks=True)
        if whole is not None:
            return whole
    if found is None or found[0] in MAY_DIFFER_IN_COPIES:  # no time tells them apart: they may be copies
        unique = len(_unique(bins[0])[0])
        copies = _without_copies(bins, unique) if unique < len(bins[0]) else None
        if copies is not None:
            return _told_of_copies(*copies)
    if found is None and (weighted := by_weighting(bins)) is not None:
        found = "diffusion", weighted
    if found is None:
        raise ConversionRefused(
            Reason.SAME_POSITION_TWICE,
            f"{len(bins[0])} frames at each of {len(bins)} positions, and no attribute that puts them in order so that "
            "those of one time follow each other",
        )
    whole = _whole_of_incomplete(*found, clocks=False)
    return whole or Arrangement([list(time) for time in zip(*found[1], strict=True)])


# Copies


def _told_of_copies(bins: list[Bin], copies: list[Frame]) -> Arrangement:
    """The grid that is left when copies are left out, with their warning."""
    counts = set(map(len, bins))
    if counts == {1}:
        grid = Arrangement([[only for (only,) in bins]])
    else:
        grid = repeated(bins) if len(counts) == 1 else uneven(bins)
    warning = Warning(Warn.DUPLICATE_SLICE, f"{len(copies)} frames came again under another SOP Instance UID")
    detail = "the same pixels at the same position as another instance"
    left_out = [*grid.left_out, *((frame, Reason.DUPLICATE_SLICE, detail) for frame in copies)]
    return Arrangement(grid.planes, left_out, (*grid.warnings, warning))


def _without_copies(bins: list[Bin], wanted: int) -> tuple[list[Bin], list[Frame]] | None:
    """Bins without frames of equal pixels, and those; None if that does not leave as many as wanted in each."""
    kept: list[Bin] = []
    copies: list[Frame] = []
    for frames in bins:
        own, again = _unique(frames) if len(frames) > wanted else (frames, [])
        if len(own) != wanted:
            return None
        kept.append(own)
        copies += again
    return kept, copies


def _unique(frames: Bin) -> tuple[Bin, list[Frame]]:
    """Frames of which no two have the same pixels, and the others."""
    own: Bin = []
    copies: list[Frame] = []
    seen: set[bytes] = set()
    for frame in sorted(frames, key=by_instance):
        pixels = _digest(frame)
        (copies if pixels in seen else own).append(frame)
        seen.add(pixels)
    return own, copies


def _digest(frame: Frame) -> bytes:
    """A digest of the stored values and of how they are scaled."""
    pixels = np.ascontiguousarray(read(frame))
    scaling = f"{pixels.shape} {pixels.dtype} {frame.slope} {frame.intercept}"
    return hashlib.sha256(pixels.tobytes() + scaling.encode()).digest()


# Unequal counts


def uneven(bins: list[Bin]) -> Arrangement:
    """Return the grid of a stack with more frames at some positions than at others.

    Raises
    ------
    ConversionRefused
        ``incomplete`` or ``same-position-twice``: nothing tells which of them belong together.
    """
    least = min(map(len, bins))
    once = [_unique(frames) for frames in bins] if least > 1 else []
    if once and all(len(own) <= len(again) for own, again in once):  # all of it came again
        return _told_of_copies([own for own, _ in once], [frame for _, again in once for frame in again])
    copies = _without_copies(bins, least)
    if copies is not None:
        return _told_of_copies(*copies)
    found = next(time_orders(bins), None)
    whole = None if found is None else _whole_of_incomplete(*found, clocks=True)
    whole = whole or _whole_by_number(bins) or _whole_weightings(bins)
    if whole is not None:
        return whole
    if least > 1:
        raise ConversionRefused(
            Reason.INCOMPLETE,
            f"from {least} to {max(map(len, bins))} frames at {len(bins)} positions, and no attribute that tells which "
            "belong to one time",
        )
    return _first_of_each(bins)


def _whole_of_incomplete(name: str, bins: list[Bin], *, clocks: bool) -> Arrangement | None:
    """The grid of the times that are whole, if some are and others are not; None where that cannot be told."""
    labels = labels_by_attribute(bins, name) if clocks or name in COUNTS else None
    return _whole_by(bins, labels) if labels else _whole_by_number(bins)


def _whole_by_number(bins: list[Bin]) -> Arrangement | None:
    """The grid of the times that are whole by their Instance Numbers."""
    labels = labels_by_number(bins)
    return None if labels is None else _whole_by(bins, labels)


def _whole_by(bins: list[Bin], labels: Labels) -> Arrangement | None:
    """The grid of the times that are whole; None where all are, or where they mix diffusion weightings."""
    whole = whole_times(bins, labels)
    if whole is None or not same_diffusion(whole[0]):
        return None
    return _told_of_lost(*whole)


def _whole_weightings(bins: list[Bin]) -> Arrangement | None:
    """The grid of the diffusion weightings that every position has just once, if some lack slices."""
    frames = [frame for own in bins for frame in own]
    if all(frame.diffusion is None for frame in frames):
        return None
    labels = {id(frame): _named_weighting(frame) for frame in frames}
    if len(set(labels.values())) < 2 or any(len({labels[id(frame)] for frame in own}) < len(own) for own in bins):
        return None
    whole = whole_times([sorted(own, key=weighting) for own in bins], labels, sure=True)
    return None if whole is None else _told_of_lost(*whole)


def _told_of_lost(kept: list[Bin], dropped: list[Frame]) -> Arrangement:
    """The grid of times that are whole, with a warning of the frames of the others."""
    detail = f"belongs to a time of which not every one of {len(kept)} slices is there"
    warning = Warning(
        Warn.INCOMPLETE_VOLUME,
        f"{len(dropped)} frames of times that lack slices were left out; {len(kept[0])} times are whole",
    )
    grid = [list(time) for time in zip(*kept, strict=True)]
    return Arrangement(grid, [(frame, Reason.INCOMPLETE, detail) for frame in dropped], (warning,))


def _first_of_each(bins: list[Bin]) -> Arrangement:
    """One time of the first frame at each position, or of the frames that are of one time; all others are told."""
    if _are_of_several_times(bins):
        raise ConversionRefused(
            Reason.INCOMPLETE,
            f"frames of several times or diffusion weightings, none of which has all of {len(bins)} slices",
        )
    whole = _frames_of_a_whole_time(bins)
    ordered = [
        sorted(frames, key=lambda frame: (id(frame) not in whole, *by_instance(frame), frame.sop_instance_uid))
        for frames in bins
    ]
    dropped = [frame for frames in ordered for frame in frames[1:]]
    if len(dropped) > max(1, MOST_TAKEN_TWICE * len(bins)):
        raise ConversionRefused(
            Reason.SAME_POSITION_TWICE,
            f"{len(dropped)} of {len(bins)} positions have several frames with different pixels, and nothing tells "
            "which belong together",
        )
    warning = Warning(
        Warn.SAME_POSITION_TWICE,
        f"{len(dropped)} frames lie where another with other pixels lies, and were left out",
    )
    detail = "another instance with other pixels lies at the same position"
    return Arrangement(
        [[frames[0] for frames in ordered]],
        [(frame, Reason.SAME_POSITION_TWICE, detail) for frame in dropped],
        (warning,),
    )


def _frames_of_a_whole_time(bins: list[Bin]) -> set[int]:
    """Frames, by their `id`, that share a value of an attribute of time which each position has just once, if any."""
    for name in TIME_KEYS:
        values = [Counter(frame.time_key.get(name) for frame in frames) for frames in bins]
        for value in values[0]:
            if value is not None and all(own[value] == 1 for own in values):
                return {id(frame) for frames in bins for frame in frames if frame.time_key.get(name) == value}
    return set()


def _are_of_several_times(bins: list[Bin]) -> bool:
    """Whether frames belong to times or weightings, by an attribute that some of them share, and none is whole."""
    frames = [frame for own in bins for frame in own]
    names = [[frame.time_key.get(name) for frame in frames] for name in NAMES_OF_TIMES]
    for labels in ([_named_weighting(frame) for frame in frames], *names):
        shared = [count for label, count in Counter(labels).items() if label is not None and count > 1]
        if len(shared) > 1 and max(shared) < len(bins):
            return True
    return False


def _named_weighting(frame: Frame) -> Hashable:
    return None if frame.diffusion is None else tuple(round(part, 2) for part in weighting(frame))
