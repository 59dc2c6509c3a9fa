"""Separate the quantities of one series: field maps beside magnitudes, signed times beside unsigned ones.

Trace images beside unweighted ones are one quantity: one stack of several b-values, if the series has no directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from node.volume.arrange.times import Arrangement
from node.volume.model import Array, Frame
from node.volume.reasons import VolumeWarning, WarningKind

FIELD_MAP = "fieldmap"

MIN_NEGATIVE_SHARE = 0.05
"""Share of the voxels of a slice, without zeros, that are negative in a signed quantity. A magnitude has fewer, after
interpolation."""

SIGN_WARNING = VolumeWarning(
    WarningKind.SEVERAL_QUANTITIES,
    "some times have negative values in all slices and the others have none: they are separate volumes",
)


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
