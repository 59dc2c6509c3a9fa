"""The body in a CT as a label volume, by threshold, and the CT without the rest: table and clothes are removed."""

from dataclasses import replace
from typing import Any

import numpy as np
import SimpleITK as sitk

from node.volume.model import Array, Display, Volume, VolumeKind
from node.volume.rendering import padded, sample

BODY_HU = -300.0
"""Default threshold between lung and fat in HU; air and most cushions are below."""

AIR_HU = -1000.0

COARSE_MM = 2.0
"""Pixel size at which the body is located; its outline is then taken at full resolution."""

OPENING_MM = 4.0
"""Radius of the opening that separates the patient from the table."""

HOLLOW_PIXEL_MM = 4.0
"""Pixel size at which air spaces are located."""

CRACK_MM = 8.0
"""Widest gap in the wall of an air space that still counts as enclosed."""

MIN_HOLLOW_RADIUS_MM = 15.0
"""Least radius of a circle within an air space of the body, such as a lung or the inside of a hollow phantom."""

MIN_HOLLOW_ROUNDNESS = 0.25
"""Least share of that circle in an air space of the body. The inside of a table is flat, with a share of about 0.1."""

MIN_HOLLOW_AIR = 0.6
"""Least share of air in such a space. The space between a head and a helmet contains the head."""


def body_mask(volume: Volume, threshold_hu: float = BODY_HU) -> Volume:
    """Return a volume on the same grid with 1 in the body and 0 outside, for every time.

    The body is the largest connected component above the threshold after an opening within each slice. Air enclosed in
    a slice (lungs, bowel, airways, the inside of a hollow phantom) counts as body.

    `volume`: a CT, in HU.
    """
    masks = np.empty(volume.voxels.shape, np.uint8)
    for voxels, mask in zip(volume.voxels, masks, strict=True):
        mask[...] = _body(volume, voxels, threshold_hu)
    return replace(
        volume, voxels=masks, kind=VolumeKind.MASK, slope=1.0, intercept=0.0, diffusion=None, display=Display()
    )


def foreground(volume: Volume, threshold_hu: float) -> Array | None:
    """Return the mask (slices, rows, columns) of the body at the middle time; None if it cannot be recognised.

    For MR, the threshold is Otsu's, between the noise of the air and the body; signed values (phases, field maps) have
    no such threshold.
    """
    middle = volume.voxels[volume.times // 2]
    threshold = threshold_hu
    if volume.modality != "CT":
        visible = sample(volume)
        if volume.modality != "MR" or not visible.size or visible.min() < 0:
            return None
        otsu = sitk.OtsuThresholdImageFilter()
        otsu.Execute(sitk.GetImageFromArray(visible[None].astype(np.float32)))
        threshold = otsu.GetThreshold()
    mask = _body(volume, middle, threshold)
    return mask if mask.any() else None


def _body(volume: Volume, voxels: Array, threshold: float) -> Array:
    """Return the mask of the body in one time of a volume; the threshold is in real values."""
    above = np.greater if volume.slope > 0 else np.less
    mask = np.empty(voxels.shape, np.uint8)
    above(voxels, (threshold - volume.intercept) / volume.slope, out=mask, casting="unsafe")
    if volume.display.padding is not None:
        mask[padded(volume, voxels)] = 0
    _keep_body(mask, volume.spacing_mm)
    return mask


def masked(volume: Volume, mask: Volume) -> Volume:
    """Return a CT in which all voxels outside of a mask are air: -1000 HU, or the nearest value that can be stored."""
    air = (AIR_HU - volume.intercept) / volume.slope
    if volume.voxels.dtype.kind in "iu":
        limits = np.iinfo(volume.voxels.dtype)
        air = float(np.clip(round(air), limits.min, limits.max))
    return replace(
        volume, voxels=np.where(mask.voxels != 0, volume.voxels, volume.voxels.dtype.type(air)), kind=VolumeKind.MASKED
    )


def _keep_body(above: Array, spacing_mm: tuple[float, float, float]) -> None:
    """Clear everything but the body in the mask (slices, rows, columns), and fill its holes, in place."""
    coarse = _Grid(above.shape[1:], spacing_mm, COARSE_MM)
    hollows = _Grid(above.shape[1:], spacing_mm, HOLLOW_PIXEL_MM)
    enclosed = _air_spaces(hollows.pooled(above), hollows)
    seeds = sitk.GetImageFromArray(coarse.sampled(above) | coarse.sampled(hollows.enlarged(_with_walls(enclosed))))
    opened = sitk.BinaryMorphologicalOpening(seeds, [*coarse.radius(OPENING_MM), 0], sitk.sitkBall)
    largest = sitk.RelabelComponent(sitk.ConnectedComponent(opened), sortByObjectSize=True) == 1
    around = sitk.GetArrayFromImage(sitk.BinaryDilate(largest, [1, 1, 0], sitk.sitkBox))
    for plane, near, hollow in zip(above, around, enclosed, strict=True):
        body = coarse.enlarged(near)
        plane |= hollows.enlarged(hollow)
        plane &= body
        plane[...] = _filled(plane)


class _Grid:
    """A coarser grid over the planes of a mask, whose pixels are whole numbers of the mask's."""

    def __init__(self, shape: tuple[int, ...], spacing_mm: tuple[float, float, float], pixel_mm: float) -> None:
        self._shape = shape
        self._steps = [max(1, int(pixel_mm / spacing_mm[axis])) for axis in (1, 0)]
        self.pixel_mm = [spacing_mm[axis] * step for axis, step in zip((1, 0), self._steps, strict=True)]
        """Size of a pixel along rows and columns of the array, as spacing between rows, then between columns."""

    def sampled(self, mask: Array) -> Array:
        return np.ascontiguousarray(mask[:, :: self._steps[0], :: self._steps[1]])

    def pooled(self, mask: Array) -> Array:
        """Return the mask, set where any pixel of the finer one is, so that thin walls stay closed."""
        starts = [range(0, size, step) for size, step in zip(self._shape, self._steps, strict=True)]
        return np.maximum.reduceat(np.maximum.reduceat(mask, starts[0], axis=1), starts[1], axis=2)

    def enlarged(self, mask: Array) -> Array:
        """Return planes of this grid on the finer one."""
        fine = mask.repeat(self._steps[0], axis=-2).repeat(self._steps[1], axis=-1)
        return fine[..., : self._shape[0], : self._shape[1]]

    def radius(self, length_mm: float) -> list[int]:
        """Return a length in pixels, as SimpleITK wants it: along columns, then along rows of the array."""
        return [max(1, round(length_mm / pixel_mm)) for pixel_mm in reversed(self.pixel_mm)]


def _air_spaces(above: Array, grid: _Grid) -> Array:
    """Return the air that the mask encloses in each slice and that belongs to the body: wide, and not flat.

    Without it, the opening that separates the patient from the table would take the wall of a hollow object, or the
    thin wall of a chest.
    """
    closed = sitk.BinaryMorphologicalClosing(sitk.GetImageFromArray(above), [*grid.radius(CRACK_MM), 0], sitk.sitkBall)
    enclosed = np.zeros_like(above)
    for plane, walls, found in zip(sitk.GetArrayFromImage(closed), above, enclosed, strict=True):
        air = _filled(plane) & ~walls & 1
        if air.any():
            found[...] = _wide(air, grid)
    return enclosed


def _wide(air: Array, grid: _Grid) -> Array:
    """Return the air of a plane in parts that are wide, not flat, and mostly air."""
    outlined = sitk.GetImageFromArray(_filled(air))
    outlined.SetSpacing(grid.pixel_mm[::-1])
    depth_mm = sitk.GetArrayFromImage(
        sitk.SignedMaurerDistanceMap(outlined, insideIsPositive=True, squaredDistance=False, useImageSpacing=True)
    )
    parts = sitk.GetArrayFromImage(sitk.ConnectedComponent(outlined)).ravel()
    pixels = np.bincount(parts)
    radii_mm = np.zeros(len(pixels))
    np.maximum.at(radii_mm, parts, depth_mm.ravel())
    circles = np.pi * radii_mm**2 / (grid.pixel_mm[0] * grid.pixel_mm[1])
    belongs = (
        (radii_mm >= MIN_HOLLOW_RADIUS_MM)
        & (circles >= MIN_HOLLOW_ROUNDNESS * pixels)
        & (np.bincount(parts, air.ravel()) >= MIN_HOLLOW_AIR * pixels)
    )
    belongs[0] = False
    body_air: Array = air & belongs[parts].reshape(air.shape)
    return body_air


def _with_walls(air: Array) -> Array:
    """Return air spaces with one pixel around them, where their walls are."""
    return np.asarray(sitk.GetArrayFromImage(sitk.BinaryDilate(sitk.GetImageFromArray(air), [1, 1, 0], sitk.sitkBox)))


def _filled(plane: Array) -> Any:
    return sitk.GetArrayFromImage(sitk.BinaryFillhole(sitk.GetImageFromArray(plane)))
