"""What the node derives from a volume file for a request; each function runs in a child of `node.children.decoder`.

The first argument is the volume file, the second its data file (the same, unless it is a header): a child reads
nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from node.errors import ConversionRefused

if TYPE_CHECKING:
    from node.volume.model import Array, Float
    from node.volume.planes import PlaneName, ProjectionName

PERCENTILES = (1, 99.5)
"""Values at black and white, if a request has none."""

MAX_SIDE = 4096
"""Longest side of a picture, in pixels."""

AXES: dict[PlaneName, tuple[int, int]] = {"axial": (1, 0), "coronal": (2, 0), "sagittal": (2, 1)}
"""Of the rows and the columns of a plane: the axis of the patient (x, y, z) along which they follow each other."""


@contextmanager
def _refused() -> Iterator[None]:
    """Turn the ValueError of a wrong request into a refusal, whose reason the caller reads."""
    try:
        yield
    except ValueError as error:
        raise ConversionRefused("underivable", str(error)) from error


def _volume(path: Path, time: int | None = None) -> tuple[Array, Float]:
    from node.writers.reading import read_voxels

    try:
        voxels, affine = read_voxels(path)
    except ValueError as error:  # names the path
        raise ConversionRefused("unreadable", "the file cannot be read as a volume") from error
    times = voxels.shape[3] if voxels.ndim == 4 else 1
    if time is not None and time >= times:
        raise ConversionRefused("underivable", f"time = {time}: the volume has {times}, counted from 0")
    return (voxels[..., time] if time is not None and voxels.ndim == 4 else voxels), affine


def projection_picture(
    path: Path, _: Path, plane: PlaneName, projection: ProjectionName, time: int, low: float | None, high: float | None
) -> bytes:
    """Return a projection as PNG with square pixels; `low` and `high` are the values at black and white."""
    from node.volume.derived import project

    voxels, affine = _volume(path, time)
    with _refused():
        return _png(project(voxels, affine, plane, projection), affine, plane, low, high)


def montage_picture(
    path: Path, _: Path, plane: PlaneName, step: int, columns: int, time: int, low: float | None, high: float | None
) -> bytes:
    """Return slices in a grid as PNG; see `node.volume.derived.montage` and `projection_picture`."""
    from node.volume.derived import montage

    voxels, affine = _volume(path, time)
    with _refused():
        return _png(montage(voxels, affine, plane, step, columns), affine, plane, low, high)


def _png(values: Array, affine: Float, plane: PlaneName, low: float | None, high: float | None) -> bytes:
    import numpy as np

    from node.volume.rendering import Picture, nearest_axes
    from node.writers.pictures import resized

    finite = values[np.isfinite(values)]
    known = np.percentile(finite, PERCENTILES) if finite.size else (0.0, 1.0)
    black, white = (float(known[0]) if low is None else low), (float(known[1]) if high is None else high)
    scaled = (np.nan_to_num(values.astype(np.float64), nan=black) - black) / max(white - black, 1e-9)
    spacing, order = np.linalg.norm(affine[:3, :3], axis=0), nearest_axes(affine[:3, :3])
    rows, columns = (float(spacing[order.index(axis)]) for axis in AXES[plane])
    stream = BytesIO()
    grey = (255 * np.clip(scaled, 0, 1)).astype(np.uint8)
    resized(Picture(grey, (rows, columns)), MAX_SIDE).save(stream, "PNG")
    return stream.getvalue()


def projection_file(path: Path, _: Path, plane: PlaneName, projection: ProjectionName, into: Path) -> bytes:
    """Write a projection of each time as a volume of one slice, with the values of the volume."""
    from node.volume.derived import collapse
    from node.writers.writing import write_voxels

    voxels, affine = _volume(path)
    with _refused():
        write_voxels(into, collapse(voxels, affine, plane, projection), affine)
    return b""


def mask_file(
    path: Path, _: Path, above: float | None, below: float | None, outside: float | None, into: Path
) -> bytes:
    """Write the mask of the values from `above` to `below`, or the volume with `outside` where it is 0."""
    from node.volume.derived import masked
    from node.writers.writing import write_voxels

    voxels, affine = _volume(path)
    with _refused():
        mask = _mask(voxels, above, below)
        write_voxels(into, mask if outside is None else masked(voxels, mask, outside), affine)
    return b""


def contours_file(path: Path, _: Path, above: float | None, below: float | None, time: int, into: Path) -> bytes:
    """Write the outlines of such a mask at one time as JSON: ``slice`` and ``points_lps_mm`` of each polygon."""
    from node.writers.contours import outlines, points_lps

    voxels, affine = _volume(path, time)
    with _refused():
        mask = _mask(voxels, above, below)
    with into.open("w", encoding="ascii") as file:
        file.write('{"contours": [')
        separator = "\n"
        for index in range(mask.shape[2]):
            for outline in outlines(mask[:, :, index].T):
                polygon = {"slice": index, "points_lps_mm": points_lps(outline, index, affine).tolist()}
                file.write(separator + json.dumps(polygon))
                separator = ",\n"
        file.write("\n]}\n")
    return b""


def _mask(voxels: Array, above: float | None, below: float | None) -> Array:
    from node.volume.derived import threshold

    return threshold(voxels, -inf if above is None else above, inf if below is None else below)
