"""PNG pictures of a volume in physical proportions (thumbnail, three planes, projections, montage), and contours.

A contour is the outline of the body in a slice of a CT, as closed polygons in the patient's millimetres.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from node.volume import rendering
from node.volume.model import Array, Float, Geometry, Volume, VolumeKind
from node.volume.rendering import Picture, Plane, Projection, Shades
from node.writers.base import FileGrid, WrittenFile, grid_of, write_file
from node.writers.options import WriteOptions

PLANE_PIXELS = 512
"""Longest side of one plane of a preview or a projection."""

SLICE_PIXELS = 4096
"""Longest side of a slice by itself; nearly all have a pixel for each voxel of their finer spacing."""

TILE_PIXELS = 128
"""Longest side of one slice in a montage."""

MONTAGE_STEP = 5
"""A montage shows every fifth slice."""

GAP_PIXELS = 2

DISTORTED = (Geometry.SHEARED, Geometry.IRREGULAR)
"""Geometries in which planes across the stack would distort the patient's shape."""

STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))
"""Directions along the edges of pixels (column, row); each next one turns right, as rows point down."""

DECIMALS = 3
"""Decimals of a coordinate in mm."""


def write_pictures(volume: Volume, folder: Path, stem: str, options: WriteOptions) -> list[WrittenFile]:
    """Write the pictures that `options` request.

    Planes and projections need several slices with a position in the patient. For a sheared or uneven volume, they are
    made from the resampled volume, which preserves the patient's shape.
    """
    shades = Shades(volume)
    written = []
    if options.thumbnails:
        small = resized(rendering.thumbnail(volume, shades), options.thumbnail_pixels)
        written.append(_write(small, folder / f"{stem}_thumbnail.png", VolumeKind.THUMBNAIL))
    if volume.shape[2] > 1 and options.montages:
        tiles = [resized(picture, TILE_PIXELS) for picture in rendering.montage(volume, shades, MONTAGE_STEP)]
        columns = int(np.ceil(np.sqrt(len(tiles))))
        written.append(_write(arranged(tiles, columns), folder / f"{stem}_montage.png", VolumeKind.MONTAGE))
    if options.slices:
        count = volume.shape[2] if volume.shape[2] > 1 else volume.times
        for number, picture in enumerate(rendering.each_slice(volume, shades), 1):
            path = folder / f"{stem}_slice{number:0{len(str(count))}}.png"
            written.append(_write(resized(picture, SLICE_PIXELS), path, VolumeKind.SLICE))
    if volume.shape[2] == 1 or volume.affine_lps is None or volume.geometry in DISTORTED:
        return written
    if options.previews:
        planes = to_scale(rendering.preview(volume, shades), PLANE_PIXELS)
        written.append(_write(arranged(planes, len(planes)), folder / f"{stem}_preview.png", VolumeKind.PREVIEW))
    if options.projections and not volume.colour:
        from node.writers.bodymask import foreground  # here: importing SimpleITK takes longer than a small volume

        inside = {Projection.MINIP: foreground(volume, options.body_threshold_hu)}
        for projection in Projection:
            for plane in Plane:
                seen = rendering.project(volume, shades, projection, plane, inside.get(projection))
                image = resized(seen, PLANE_PIXELS)
                path = folder / f"{stem}_{projection}_{plane.name.lower()}.png"
                written.append(_write(image, path, VolumeKind.PROJECTION))
    return written


def resized(picture: Picture, max_pixels: int) -> Image.Image:
    """Return a picture with square pixels, of the finer of its two spacings if the result fits into `max_pixels`."""
    return to_scale([picture], max_pixels)[0]


def to_scale(pictures: Sequence[Picture], max_pixels: int) -> list[Image.Image]:
    """Return pictures with square pixels of one common size, none longer than `max_pixels`."""
    extents = np.array([np.multiply(picture.pixels.shape[:2], picture.pixel_size) for picture in pictures])
    finest = min(min(picture.pixel_size) for picture in pictures)
    per_mm = min(1 / finest, max_pixels / extents.max())
    sizes = np.maximum(1, np.rint(extents * per_mm)).astype(int)
    return [
        Image.fromarray(np.ascontiguousarray(picture.pixels)).resize((width, height), Image.Resampling.LANCZOS)
        for picture, (height, width) in zip(pictures, sizes.tolist(), strict=True)
    ]


def arranged(images: Sequence[Image.Image], columns: int) -> Image.Image:
    """Return images side by side in rows of `columns`, each centred in a cell as large as the largest image."""
    width = max(image.width for image in images)
    height = max(image.height for image in images)
    rows = -(-len(images) // columns)
    sheet = Image.new(images[0].mode, (columns * (width + GAP_PIXELS), rows * (height + GAP_PIXELS)))
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        left = column * (width + GAP_PIXELS) + (width - image.width) // 2
        top = row * (height + GAP_PIXELS) + (height - image.height) // 2
        sheet.paste(image, (left, top))
    return sheet


def _write(image: Image.Image, path: Path, kind: VolumeKind) -> WrittenFile:
    encoded = BytesIO()
    image.save(encoded, "PNG")
    return write_file(path, encoded.getvalue()).written(kind, "png", FileGrid(image.size, (), "uint8"))


def has_exact_affine(volume: Volume) -> bool:
    """Return whether the affine gives the position of every slice, so that outlines can be in mm."""
    return volume.affine_lps is not None and volume.geometry is not Geometry.IRREGULAR


def write_contours(mask: Volume, folder: Path, stem: str, threshold_hu: float) -> WrittenFile:
    """Write ``STEM_contours.json``: the outlines of a mask that has an exact affine."""
    assert mask.affine_lps is not None
    instances = {(source.time_index, source.slice_index): source.sop_instance_uid for source in mask.sources}
    lines = [
        json.dumps(
            {
                "time": time,
                "slice": index,
                "sop_instance_uid": instances.get((time, index)),
                "points_lps_mm": points_lps(outline, index, mask.affine_lps).tolist(),
            }
        )
        for time, slices in enumerate(mask.voxels)
        for index, plane in enumerate(slices)
        for outline in outlines(plane)
    ]
    head = {name: mask.attributes.get(name) for name in ("SeriesInstanceUID", "FrameOfReferenceUID")}
    head["threshold_hu"] = threshold_hu
    text = json.dumps(head)[:-1] + ', "contours": [\n' + ",\n".join(lines) + "\n]}\n"
    grid = grid_of(mask, np.dtype(np.float64))  # that of the slices which the corners lie in
    return write_file(folder / f"{stem}_contours.json", text.encode("utf-8")).written(VolumeKind.CONTOURS, "json", grid)


def points_lps(corners: Array, index: int, affine_lps: Float) -> Float:
    """Return corners of pixels (column, row), whose centres have whole numbers, in LPS and mm."""
    voxels = np.column_stack((corners - 0.5, np.full(len(corners), index), np.ones(len(corners))))
    return np.round(voxels @ affine_lps.T[:, :3] + 0.0, DECIMALS)


def outlines(plane: Array) -> list[Array]:
    """Return the outlines of a mask along the edges of its pixels.

    Pixels that touch only at a corner have outlines of their own.

    `plane`: (rows, columns) array; a mask: not 0 inside.

    Result: list of (corners, 2) integer array; column and row of each corner where the outline turns; pixel (0, 0) lies
    between corners (0, 0) and (1, 1). The inside is on the right, so outlines are clockwise as displayed, and those of
    holes are counterclockwise.
    """
    leaving = _edges(plane)
    found = []
    while leaving:
        start = next(iter(leaving))
        first = direction = leaving[start][0]
        at, corners = start, [start]
        while True:
            leaving[at].remove(direction)
            if not leaving[at]:
                del leaving[at]
            at = (at[0] + STEPS[direction][0], at[1] + STEPS[direction][1])
            right = (direction + 1) % 4
            if at == start and (right == first or at not in leaving):
                break
            onward = right if right in leaving[at] else leaving[at][0]
            if onward != direction:
                corners.append(at)
            direction = onward
        found.append(np.array(corners))
    return found


def _edges(plane: Array) -> dict[tuple[int, int], list[int]]:
    """Return, by corner (column, row), the directions of the edges that leave it with the inside on their right."""
    inside = np.pad(plane != 0, 1)
    here = inside[1:-1, 1:-1]
    # Above, right, below, left; and the first corner (column, row) of the edge there.
    outside = ~inside[:-2, 1:-1], ~inside[1:-1, 2:], ~inside[2:, 1:-1], ~inside[1:-1, :-2]
    first_corner = (0, 0), (1, 0), (1, 1), (0, 1)
    leaving: dict[tuple[int, int], list[int]] = defaultdict(list)
    for direction, (beyond, (column, row)) in enumerate(zip(outside, first_corner, strict=True)):
        for at_row, at_column in np.argwhere(here & beyond).tolist():
            leaving[at_column + column, at_row + row].append(direction)
    return leaving
