"""Lay the frames of a stack on a grid of times and slices: what shares a position is a series in time.

Planes are binned by their distance along the normal. A stack may turn out to be several
(`node.volume.arrange.split_stacks`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from node.errors import ConversionRefused
from node.volume.arrange.echo_runs import FIRST_ECHO, by_raw_data_run
from node.volume.arrange.plane_positions import bins_of
from node.volume.arrange.split_stacks import parts_of_several_places, parts_of_variants, parts_that_lack_slices
from node.volume.arrange.temporal.ordering import same_diffusion
from node.volume.arrange.temporal.positions import Arrangement, repeated, uneven
from node.volume.arrange.whole_times import Bin, by_instance
from node.volume.geometry import cluster_numbers
from node.volume.model import Frame
from node.volume.reasons import Reason, Warn, Warning


def arrange(frames: Sequence[Frame]) -> list[Arrangement]:
    """Return the grids of one stack, mostly one.

    Raises
    ------
    ConversionRefused
        ``same-position-twice`` or ``incomplete``: planes share positions and nothing tells them apart;
        ``contradictory``: they share one position, but not their location.
    """
    if frames[0].position is None:
        return [_without_place(frames)]
    parts = parts_of_several_places(frames)
    if len(parts) > 1:
        return _numbered(parts)
    bins = bins_of(frames)
    counts = set(map(len, bins))
    if counts == {1}:
        return _of_each_weighting([only for (only,) in bins])
    echoes = by_raw_data_run(bins)
    if echoes:
        return _of_echoes(echoes)
    if len(bins) == 1 and _are_of_several_places(frames):
        raise ConversionRefused(
            Reason.CONTRADICTORY,
            f"Image Position (Patient) (0020,0032) is the same for {len(frames)} frames, but each has a Slice Location "
            "(0020,1041) of its own: slices of a volume, or times of one slice",
        )
    parts = parts_of_variants(frames, bins)
    if parts:
        return _numbered(parts)
    try:
        return [repeated(bins)] if len(counts) == 1 else _divided(uneven(bins))
    except ConversionRefused:
        parts = parts_that_lack_slices(frames, bins)
        if not parts:
            raise
        return _numbered(parts)


def _numbered(parts: Sequence[Sequence[Frame]]) -> list[Arrangement]:
    """The grids of several parts of a stack, each with a number of its own."""
    grids = (grid for part in parts for grid in arrange(part))
    return [replace(grid, variant=str(number)) for number, grid in enumerate(grids, start=1)]


def _of_echoes(echoes: Sequence[Sequence[Frame]]) -> list[Arrangement]:
    """The grids of echoes that have one number and time by their headers."""
    grids = ((f"e{echo}", grid) for echo, frames in enumerate(echoes, start=1) for grid in arrange(frames))
    return [
        replace(grid, variant="-".join(filter(None, (name, grid.variant))), warnings=(*grid.warnings, FIRST_ECHO))
        for name, grid in grids
    ]


def _divided(grid: Arrangement) -> list[Arrangement]:
    """A grid of what is whole of its times, or the grids of the variants that these turn out to be."""
    parts = parts_of_several_places(grid.frames) if len(grid.planes) > 1 else []
    if len(parts) < 2:
        return [grid]
    first, *others = (replace(own, warnings=(*own.warnings, *grid.warnings)) for own in _numbered(parts))
    return [replace(first, left_out=[*first.left_out, *grid.left_out]), *others]


def _of_each_weighting(frames: list[Frame]) -> list[Arrangement]:
    """The grids of frames that share no position: one, unless slices of several diffusion weightings were lost."""
    weightings: list[list[Frame]] = []
    for frame in frames:
        alike = next((part for part in weightings if same_diffusion([[part[0]], [frame]])), None)
        if alike is None:
            weightings.append([frame])
        else:
            alike.append(frame)
    if len(weightings) == 1:
        return [Arrangement([frames], warnings=_told_of_times(frames))]
    if len(weightings) == len(frames):
        told = "each slice has a diffusion weighting of its own"
        return [Arrangement([frames], warnings=(Warning(Warn.PARAMETER_VARIES, told),))]
    return [Arrangement([part], variant=str(number)) for number, part in enumerate(weightings, start=1)]


def _told_of_times(frames: Sequence[Frame]) -> tuple[Warning, ...]:
    """A warning where frames that share no position are of several times of a series in time (PS3.3 C.8.3.1)."""
    times = {frame.time_key.get("temporal_position") for frame in frames} - {None}
    told = f"slices of {len(times)} temporal positions (0020,0100)"
    return (Warning(Warn.PARAMETER_VARIES, told),) if len(times) > 1 else ()


def _are_of_several_places(frames: Sequence[Frame]) -> bool:
    """Whether each of three or more frames has a Slice Location of its own."""
    known = {location for frame in frames if (location := frame.time_key.get("slice_location")) is not None}
    return len(known) == len(frames) > 2 and len(set(cluster_numbers(np.array(list(known)), 0.1))) == len(known)


def _without_place(frames: Sequence[Frame]) -> Arrangement:
    """The grid of frames without a place in the patient: by the slices that they count, else a series in time."""
    slices: dict[float | None, Bin] = defaultdict(list)
    for frame in frames:
        slices[frame.time_key.get("slice")].append(frame)
    if None in slices or len(slices) == 1:
        return Arrangement([[frame] for frame in sorted(frames, key=by_instance)])
    bins = [own for _, own in sorted(slices.items(), key=lambda entry: entry[0] or 0.0)]
    if set(map(len, bins)) == {1}:
        return Arrangement([[only for (only,) in bins]])
    return repeated(bins) if len(set(map(len, bins))) == 1 else uneven(bins)
