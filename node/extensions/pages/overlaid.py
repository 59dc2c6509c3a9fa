"""A picture of masks over the slice of an image on which they have most, to see where a segmentation lies."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from node.volume.derived import viewed
from node.volume.model import Array, Float
from node.volume.planes import PlaneName
from node.volume.rendering import nearest_axes
from node.writers.reading import read_voxels

COLOURS = ((230, 75, 60), (70, 190, 120), (80, 150, 240), (240, 190, 60), (190, 110, 220), (70, 200, 210))
"""Red, green and blue of the first masks, or labels of one mask; further ones begin again."""

OPACITY = 0.5

SOFT_TISSUE_HU = (-160.0, 240.0)
"""Window of CT: lower and upper end."""

SHARE_INSIDE = 0.25
"""Least share of the slice of a mask that the image must cover."""

PLANES: tuple[tuple[PlaneName, int, int], ...] = (("sagittal", 2, 1), ("coronal", 2, 0), ("axial", 1, 0))
"""Plane of slices that are stacked along x, y or z, and the patient axes of its rows and columns."""


def overlaid(masks: Sequence[Path], image: Path, *, is_ct: bool, pixels: int) -> bytes:
    """Return a PNG of masks over an image.

    `masks`: volumes of labels, as `node.writers.reading.read_voxels` reads them; 0 is outside. Those on another grid
        than the first one are left out.
    `image`: a volume in the same frame of reference; of several times, the first one is shown.
    `is_ct`: show the window of soft tissue rather than the range of the slice.
    `pixels`: longer side of the picture.

    Raises ValueError: a file cannot be read, the image has colours, or it is elsewhere.
    """
    first, affine = read_voxels(masks[0])
    labels = [_one_time(first)]
    for path in masks[1:]:
        others, where = read_voxels(path)
        if others.shape == first.shape and np.allclose(where, affine, atol=1e-3):
            labels.append(_one_time(others))
    index = int(np.argmax(sum(np.count_nonzero(one, axis=(0, 1)) for one in labels)))
    grey = _sampled(image, affine, (*labels[0].shape[:2], index), SOFT_TISSUE_HU if is_ct else None)
    shown = np.repeat(grey[..., None], 3, axis=-1)
    for number, one in enumerate(labels):
        for label in np.unique(one[..., index]):
            if label:
                inside = one[..., index] == label
                colour = COLOURS[(number + int(label) - 1) % len(COLOURS)]
                shown[inside] = (1 - OPACITY) * shown[inside] + OPACITY * np.array(colour)
    return _png(shown.astype(np.uint8), affine, pixels)


def _one_time(voxels: Array) -> Array:
    return voxels[..., 0] if voxels.ndim == 4 else voxels


def _sampled(path: Path, affine: Float, place: tuple[int, int, int], window: tuple[float, float] | None) -> Array:
    """Return (i, j) grey levels, 0 to 255, of an image at the voxels of a slice: the nearest value of each."""
    voxels, own = read_voxels(path)
    voxels = _one_time(voxels)
    if voxels.dtype.names is not None:
        raise ValueError("the image has colours")
    columns, rows, index = place
    i, j = np.indices((columns, rows))
    at = np.stack([i, j, np.full_like(i, index), np.ones_like(i)], axis=-1) @ (np.linalg.inv(own) @ affine).T
    nearest = np.rint(at[..., :3]).astype(int)
    inside = np.all((nearest >= 0) & (nearest < voxels.shape), axis=-1)
    if inside.mean() < SHARE_INSIDE:
        raise ValueError("the image is elsewhere")
    values = voxels[tuple(np.moveaxis(np.where(inside[..., None], nearest, 0), -1, 0))].astype(float)
    low, high = window or np.nanpercentile(values[inside], (1, 99)).tolist()
    levels: Array = np.clip((values - low) / max(high - low, 1e-9), 0, 1) * 255
    return np.where(inside, np.nan_to_num(levels), 0)


def _png(shown: Array, affine: Float, pixels: int) -> bytes:
    """Return (i, j, 3) colours as radiologists view their plane, with square pixels."""
    axes = nearest_axes(affine[:3, :3])
    plane, of_rows, of_columns = PLANES[axes[2]]
    oriented = np.stack([viewed(shown[:, :, None, colour], affine, plane)[0] for colour in range(3)], axis=-1)
    spacing = [float(np.linalg.norm(affine[:3, axes.index(axis)])) for axis in (of_rows, of_columns)]
    height, width = (size * step for size, step in zip(oriented.shape[:2], spacing, strict=True))
    scale = pixels / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    content = BytesIO()
    Image.fromarray(np.ascontiguousarray(oriented)).resize(size, Image.Resampling.LANCZOS).save(content, "PNG")
    return content.getvalue()
