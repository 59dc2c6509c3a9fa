"""Arrange the frames of a stack on a grid of times and slices: frames that share a position are a time series.

Planes are binned by their distance along the normal. A stack may turn out to consist of several
(`node.volume.arrange.split_stacks`).
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from pydicom.uid import CTImageStorage

from node.errors import ConversionRefused
from node.volume.arrange.contradictions import parts_in_time, settle
from node.volume.arrange.sources import COUNTING_KEYS, EVENT_KEYS
from node.volume.arrange.split_stacks import (
    alternating_passes,
    split_by_chosen_variant,
    split_incomplete_variants,
    split_stack,
)
from node.volume.arrange.times import Arrangement, arrange_times, arrange_unequal_times
from node.volume.arrange.whole_times import (
    Bin,
    are_of_one_instance,
    instance_order,
    lost_between_slices,
    same_diffusion,
    times_by_slice_numbers,
)
from node.volume.geometry import cluster_numbers, group_by_position
from node.volume.model import Frame, grouped
from node.volume.read.vectors import assumption
from node.volume.reasons import Reason, VolumeWarning, WarningKind

TIMES_OF_SLICES = {
    "temporal_position": "temporal positions (0020,0100)",
    "time_index": "temporal positions by Dimension Index Values (0020,9157)",
    "time_slice": "time slices by Image Index (0054,1330)",
}
"""Time keys that all slices of a volume share, and their names."""

READ_TOGETHER = {"image_type", "kernel", "coil", "collapse_flag", "signed", "raw_data_run", "intercept", "lossy"}
"""Variants in which images of one excitation may differ: how it was read, reconstructed and kept."""

FIRST_ECHO_WARNING = VolumeWarning(
    WarningKind.PARAMETER_VARIES,
    "all echoes carry the Echo Time (0018,0081) of the first; they were separated by their runs of raw data",
)


def arrange(frames: Sequence[Frame]) -> list[Arrangement]:
    """Return the grids of one stack, usually one.

    `frames`: frames that agree in all `split_key` traits.

    Together with their `left_out`, they hold every frame exactly once.

    Raises ConversionRefused ``same-position-twice`` or ``incomplete``: planes share positions and no attribute
    separates them; ``contradictory``: they share one position, but have different locations.
    """
    if frames[0].position is None:
        return [_arrange_without_position(frames)]
    parts = split_stack(frames)
    if len(parts) > 1:
        return _arrange_parts(parts)
    bins = group_by_position(frames)
    counts = set(map(len, bins))
    if counts == {1}:
        return _arrange_single_frames([only for (only,) in bins])
    echoes = _split_by_raw_data_run(bins)
    if echoes:
        return _arrange_echoes(echoes)
    if len(bins) == 1 and _have_distinct_locations(frames):
        raise ConversionRefused(
            Reason.CONTRADICTORY,
            f"all {len(frames)} frames have the same Image Position (Patient) (0020,0032), but each has a different "
            "Slice Location (0020,1041): they may be slices of a volume or times of one slice",
        )
    parts = split_by_chosen_variant(frames, bins)
    if parts:
        return _arrange_parts(parts)
    try:
        return [arrange_times(bins)] if len(counts) == 1 else _split_grid(arrange_unequal_times(bins))
    except ConversionRefused:
        parts = split_incomplete_variants(frames, bins)
        if not parts:
            raise
        return _arrange_parts(parts)


def _arrange_parts(parts: Sequence[Sequence[Frame]]) -> list[Arrangement]:
    """Return the grids of several parts of a stack, numbered from 1."""
    doubt, alternate = parts_in_time(parts)
    doubts = () if doubt is None else (VolumeWarning(WarningKind.PARAMETER_VARIES, doubt),)
    keys = [frame.variant_key for part in parts for frame in part]
    apart = {name for name in set().union(*keys) if len({key.get(name) for key in keys}) > 1}  # none: by their meaning
    in_turns = alternate and not (apart and apart <= READ_TOGETHER)
    grids = (grid for part in parts for grid in arrange(part))
    return [
        replace(grid, variant=str(number), warnings=(*grid.warnings, *doubts), in_turns=grid.in_turns or in_turns)
        for number, grid in enumerate(grids, start=1)
    ]


def _split_by_raw_data_run(bins: Sequence[Bin]) -> list[list[Frame]]:
    """Return frames by echo, in order of acquisition; empty unless each position has as many runs as there are echoes.

    Research sequences of GE write number and time of the first echo into all images (dcm2niix, issue 359). But images
    of one position and different echoes come from different runs of raw data.

    `bins`: frames that share a position. `variant_key` ``raw_data_run`` holds the number of echoes and the run.
    """
    keys = {frame.variant_key.get("raw_data_run") for frames in bins for frame in frames}
    echo_counts = {None if key is None else key[0] for key in keys}
    if len(echo_counts) != 1 or None in echo_counts:
        return []
    parts: dict[int, list[Frame]] = defaultdict(list)
    for frames in bins:
        runs = sorted({frame.variant_key["raw_data_run"] for frame in frames})
        if len(runs) not in echo_counts:
            return []
        for frame in frames:
            parts[runs.index(frame.variant_key["raw_data_run"])].append(frame)
    return [parts[echo] for echo in sorted(parts)]


def _arrange_echoes(echoes: Sequence[Sequence[Frame]]) -> list[Arrangement]:
    """Return the grids of echoes that carry one echo number and time in their headers."""
    grids = ((f"e{echo}", grid) for echo, frames in enumerate(echoes, start=1) for grid in arrange(frames))
    return [
        replace(
            grid, variant="-".join(filter(None, (name, grid.variant))), warnings=(*grid.warnings, FIRST_ECHO_WARNING)
        )
        for name, grid in grids
    ]


def _split_grid(grid: Arrangement) -> list[Arrangement]:
    """Return a grid of whole times, or the grids of the variants that these times turn out to be."""
    parts = split_stack(grid.frames) if len(grid.planes) > 1 else []
    if len(parts) < 2:
        return [grid]
    first, *others = (replace(own, warnings=(*own.warnings, *grid.warnings)) for own in _arrange_parts(parts))
    return [replace(first, left_out=[*first.left_out, *grid.left_out]), *others]


def _arrange_single_frames(frames: list[Frame]) -> list[Arrangement]:
    """Return the grids of frames without shared positions: usually one.

    There are several, each with a warning, if slices of several diffusion weightings were lost: otherwise a position
    would have all weightings.
    """
    weightings: list[list[Frame]] = []
    for frame in frames:
        alike = next((part for part in weightings if same_diffusion([[part[0]], [frame]])), None)
        if alike is None:
            weightings.append([frame])
        else:
            alike.append(frame)
    if len(weightings) == 1:
        return [Arrangement([frames], warnings=_time_warnings(frames))]
    if len(weightings) == len(frames):
        detail = "each slice of the volume has a different diffusion weighting"
        return [Arrangement([frames], warnings=(VolumeWarning(WarningKind.PARAMETER_VARIES, detail),))]
    detail = (
        f"the slices have {len(weightings)} diffusion weightings, but no position has two of them: slices of each "
        "weighting are missing"
    )
    lost = VolumeWarning(WarningKind.INCOMPLETE_VOLUME, detail)
    return [
        Arrangement([part], variant=str(number), warnings=(lost,)) for number, part in enumerate(weightings, start=1)
    ]


def _time_warnings(frames: Sequence[Frame]) -> tuple[VolumeWarning, ...]:
    """Return warnings if frames without shared positions belong to several times (PS3.3 C.8.3.1, C.8.9.4.1.9)."""
    warnings = []
    for key, name in TIMES_OF_SLICES.items():
        times = {frame.time_key.get(key) for frame in frames} - {None}
        if len(times) > 1:
            detail = f"the slices of the volume belong to {len(times)} {name}"
            warnings.append(VolumeWarning(WarningKind.PARAMETER_VARIES, detail))
    numbers = [number for frame in frames if (number := frame.time_key.get("acquisition_number")) is not None]
    acquisitions = set(numbers)
    # Each slice may have its own, and the stations of a table, such as the beds of a PET, follow each other.
    is_told = frames[0].split_key.get("modality") == "MR" or sorted(numbers) not in (numbers, numbers[::-1])
    if is_told and 1 < len(acquisitions) < len(frames):
        detail = f"the slices of the volume have {len(acquisitions)} Acquisition Numbers (0020,0012)"
        warnings.append(VolumeWarning(WarningKind.PARAMETER_VARIES, detail))
    slots = {frame.time_key.get("dimensions") for frame in frames if frame.split_key.get("modality") == "NM"}
    if len(slots) > 1:
        detail = f"the slices of the volume belong to {len(slots)} times by the vectors of nuclear medicine"
        warnings.append(VolumeWarning(WarningKind.PARAMETER_VARIES, detail))
    came_alone = not are_of_one_instance(frames)
    if came_alone and not warnings and (lost := lost_between_slices(frames)):
        detail = (
            f"the slices of the volume seem to belong to two times: {lost} Instance Numbers (0020,0013) are missing "
            "between them, and their acquisition times are apart"
        )
        warnings.append(VolumeWarning(WarningKind.INCOMPLETE_VOLUME, detail))
    elif came_alone and not warnings and (count := times_by_slice_numbers(frames)) > 1:
        detail = (
            f"the slices of the volume seem to belong to {count} times: Instance Numbers (0020,0013) count them one by "
            "one, as if others had been lost between them"
        )
        warnings.append(VolumeWarning(WarningKind.INCOMPLETE_VOLUME, detail))
    passes, evidence = alternating_passes(frames)
    if evidence:
        detail = f"slices of {len(passes)} passes alternate by {evidence[0]} alone: they may be of separate volumes"
        warnings.append(VolumeWarning(WarningKind.INCOMPLETE_VOLUME, detail))
    return tuple(warnings)


def _have_distinct_locations(frames: Sequence[Frame]) -> bool:
    """Return whether each of three or more frames has a different Slice Location."""
    known = {location for frame in frames if (location := frame.time_key.get("slice_location")) is not None}
    return len(known) == len(frames) > 2 and len(set(cluster_numbers(np.array(list(known)), 0.1))) == len(known)


def _arrange_without_position(frames: Sequence[Frame]) -> Arrangement:
    """Return the grid of frames without a position in the patient: by their slice numbers, else as a time series."""
    slices = grouped(frames, lambda frame: frame.time_key.get("slice"))
    if _are_sections(frames):
        warning = assumption(frames[0].spacing_between_slices_mm or 0.0, is_placed=False)
        warning = replace(warning, detail=warning.detail.replace("the frames of the instance", "the images"))
        return Arrangement([sorted(frames, key=instance_order)], warnings=(warning,))
    if None in slices or len(slices) == 1:
        _, [ordered], doubt = settle("instance", [sorted(frames, key=instance_order)])
        if doubt is None and len(set(map(instance_order, frames))) < len(frames):
            doubt = "Instance Numbers (0020,0013), which alone could order the images, are missing or equal"
        doubts = () if doubt is None else (VolumeWarning(WarningKind.TIMES_ASSUMED, doubt),)
        return Arrangement([[frame] for frame in ordered], warnings=doubts)
    bins = [own for _, own in sorted(slices.items(), key=lambda entry: entry[0] or 0.0)]
    if set(map(len, bins)) == {1}:
        return Arrangement([[only for (only,) in bins]])
    return arrange_times(bins) if len(set(map(len, bins))) == 1 else arrange_unequal_times(bins)


def _are_sections(frames: Sequence[Frame]) -> bool:
    """Return whether images of CT without a place are slices, as frames of one instance would be: nothing counts times.

    Their numbers order them.
    """
    first, numbers = frames[0], {frame.instance_number for frame in frames} - {None}
    is_section = first.split_key.get("sop_class") == CTImageStorage and not first.split_key.get("localizer")
    counts = [{frame.time_key.get(key) for frame in frames} for key in COUNTING_KEYS | EVENT_KEYS]
    is_counted = any(len(values) > 1 for values in counts) or (first.time_key.get("temporal_positions") or 1) > 1
    is_placed = any(frame.time_key.get("slice") is not None for frame in frames)
    return is_section and not (is_counted or is_placed) and 1 < len(frames) == len(numbers)
