"""The body in a CT as a label volume, by threshold; table and clothes are removed, and holes are filled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import SimpleITK as sitk

from node.volume.model import Array, Display, Kind, Volume

BODY_HU = -300.0
"""Threshold between lung and fat in HU; air and most cushions are below."""

COARSE_MM = 2.0
"""Pixel size at which the body is located; its outline is then taken at full resolution."""

OPENING_MM = 4.0
"""Radius of the opening that separates the patient from the table."""


def body_mask(volume: Volume) -> Volume:
    """Return a volume on the same grid with 1 in the body and 0 outside, for every time.

    The body is the largest connected component above `BODY_HU` after an opening within each slice. Air enclosed in a
    slice (lungs, bowel, airways) counts as body.
    """
    masks = np.zeros(volume.voxels.shape, np.uint8)
    for voxels, mask in zip(volume.voxels, masks, strict=True):
        np.greater(voxels, (BODY_HU - volume.intercept) / volume.slope, out=mask, casting="unsafe")
        _keep_body(mask, volume.spacing_mm)
    return replace(volume, voxels=masks, kind=Kind.MASK, slope=1.0, intercept=0.0, diffusion=None, display=Display())


def _keep_body(above: Array, spacing_mm: tuple[float, float, float]) -> None:
    """Clear everything but the body in the mask (slices, rows, columns), and fill its holes, in place."""
    shrink = [max(1, int(COARSE_MM / spacing_mm[axis])) for axis in (1, 0)]
    radius = [max(1, round(OPENING_MM / (spacing_mm[axis] * shrink[1 - axis]))) for axis in (0, 1)]
    coarse = sitk.GetImageFromArray(np.ascontiguousarray(above[:, :: shrink[0], :: shrink[1]]))
    opened = sitk.BinaryMorphologicalOpening(coarse, [*radius, 0], sitk.sitkBall)
    largest = sitk.RelabelComponent(sitk.ConnectedComponent(opened), sortByObjectSize=True) == 1
    around = sitk.GetArrayFromImage(sitk.BinaryDilate(largest, [1, 1, 0], sitk.sitkBox))
    for plane, near in zip(above, around, strict=True):
        plane &= near.repeat(shrink[0], axis=0).repeat(shrink[1], axis=1)[: plane.shape[0], : plane.shape[1]]
        plane[...] = _filled(plane)


def _filled(plane: Array) -> Any:
    return sitk.GetArrayFromImage(sitk.BinaryFillhole(sitk.GetImageFromArray(plane)))
