"""PNG pictures of a volume in physical proportions: thumbnail, three planes, projections, montage."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from node.volume import rendering
from node.volume.model import Geometry, Volume, VolumeKind
from node.volume.rendering import Picture, Plane, Projection, Shades
from node.writers.base import FileGrid, WrittenFile, write_file
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
