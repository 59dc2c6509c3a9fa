"""Volumes that [convert] asks for beside each volume, on its grid: the mask of a range of values, projections."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import inf

import numpy as np

from node.volume.model import Array, Display, Volume, VolumeKind
from node.volume.rendering import Plane, Projection, nearest_axes
from node.writers.options import WriteOptions


def derived_volumes(volume: Volume, options: WriteOptions) -> Iterator[tuple[str, Volume]]:
    """Yield what `options` ask for, each with the words behind the stem of its files; of colours nothing."""
    if volume.colour:
        return
    if options.mask_above is not None or options.mask_below is not None:
        yield "range_mask", _range_mask(volume, options)
    if volume.affine_lps is None:
        return
    for name in options.projected_planes:
        for projection in Projection:
            yield f"{projection}_{name}_projected", _projected(volume, Plane[name.upper()], projection)


def _range_mask(volume: Volume, options: WriteOptions) -> Volume:
    """Return a volume with 1 in every voxel whose real value is in the range, connected or not, and 0 elsewhere."""
    lower = -inf if options.mask_above is None else options.mask_above
    upper = inf if options.mask_below is None else options.mask_below
    masks = np.empty(volume.voxels.shape, np.uint8)
    for slices, inside in zip(volume.voxels, masks, strict=True):
        for plane, mask in zip(slices, inside, strict=True):  # real values of one plane at a time
            real = plane * np.float64(volume.slope) + volume.intercept
            mask[...] = (real >= lower) & (real <= upper)
    ends = {"above": options.mask_above, "below": options.mask_below}
    attributes = {**volume.attributes, "range": {name: end for name, end in ends.items() if end is not None}}
    return replace(
        volume, voxels=masks, kind=VolumeKind.MASK, slope=1.0, intercept=0.0, diffusion=None, display=Display(),
        attributes=attributes,
    )  # fmt: skip


def _projected(volume: Volume, plane: Plane, projection: Projection) -> Volume:
    """Return one slice, in the place of the first along the axis, with the largest or smallest values of all."""
    assert volume.affine_lps is not None
    axis = 3 - nearest_axes(volume.affine_lps[:3, :3]).index(plane)  # of (times, slices, rows, columns)
    largest = (projection is Projection.MIP) == (volume.slope > 0)
    extreme = np.fmax if largest else np.fmin
    voxels: Array = extreme.reduce(volume.voxels, axis=axis, keepdims=True)
    return replace(volume, voxels=voxels, kind=VolumeKind.PROJECTED, diffusion=None)
