"""MetaImage: an ``.mhd`` header with ``.zraw`` or ``.raw`` voxels, in DICOM's LPS+.

SimpleITK makes the header from a one-voxel image of the same grid; the voxels are streamed to their own file. Writing
the volume through SimpleITK would need one copy for its image and one for the compressed data, and takes four times as
long.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from isal import isal_zlib

from node.volume.model import Volume
from node.writers.base import Grid, NewFile, WrittenFile, grid_of, real_dtype, real_slabs, write_file
from node.writers.options import WriteOptions

COMPRESSION_LEVEL = 1
"""Compression level of isal, as for NIfTI. The result is a zlib stream, as MetaIO expects of compressed data."""


def write_metaimage(volume: Volume, folder: Path, stem: str, options: WriteOptions) -> WrittenFile:
    """Write an ``.mhd`` header and its data file.

    MetaImage has no slope and intercept, so real values are written: integers if these are exact, else floating point.
    A single slice without a position in the patient becomes a 2-D image, and several times become a 4-D image. Colour
    has three channels.
    """
    dtype = real_dtype(volume)
    data = folder / f"{stem}.{'zraw' if options.compress else 'raw'}"
    with NewFile(data) as stream:
        _write_data(stream, real_slabs(volume, dtype), options)
    fields = _header(volume, dtype, folder) | {"CompressedData": str(options.compress), "ElementDataFile": data.name}
    if options.compress:
        fields["CompressedDataSize"] = str(data.stat().st_size)
    fields["ElementDataFile"] = fields.pop("ElementDataFile")  # the format requires it in the last line
    text = "".join(f"{name} = {value}\n" for name, value in fields.items())
    header = write_file(folder / f"{stem}.mhd", text.encode("utf-8"))
    return header.written(volume.kind, "mhd", _grid(volume, dtype), (data,))


def _write_data(stream: NewFile, slabs: Iterable[memoryview], options: WriteOptions) -> None:
    if not options.compress:
        for slab in slabs:
            stream.write(slab)
        return
    packer = isal_zlib.compressobj(COMPRESSION_LEVEL)
    for slab in slabs:
        stream.write(packer.compress(slab))
    stream.write(packer.flush())


def _grid(volume: Volume, dtype: np.dtype[Any]) -> Grid:
    grid = grid_of(volume, dtype)
    return replace(grid, shape=grid.shape[:2], spacing_mm=grid.spacing_mm[:2]) if _is_flat(volume) else grid


def _is_flat(volume: Volume) -> bool:
    """Return whether `volume` becomes a 2-D image: one slice without a position in the patient."""
    return volume.affine_lps is None and len(volume.shape) == 3 and volume.shape[2] == 1


def _header(volume: Volume, dtype: np.dtype[Any], folder: Path) -> dict[str, str]:
    """Return the header fields that SimpleITK writes for this grid, by way of a file in `folder`.

    ITK keeps a sheared matrix unchanged (TransformMatrix lists the direction of the first axis, then the second, ...).
    """
    affine = np.diag([*volume.spacing_mm, 1.0]) if volume.affine_lps is None else volume.affine_lps
    size = volume.shape
    axes = 2 if _is_flat(volume) else 3
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    direction, origin = np.eye(len(size)), np.zeros(len(size))
    direction[:3, :3] = affine[:3, :3] / spacing
    origin[:3] = affine[:3, 3]
    if len(size) == 4:
        spacing, axes = np.append(spacing, volume.time_step_s or 1.0), 4  # ITK has no unknown spacing
    import SimpleITK as sitk  # here, because the import takes longer than a small volume

    pixel = sitk.GetImageFromArray(np.zeros((1,) * axes + (3,) * volume.colour, dtype), isVector=volume.colour)
    pixel.SetSpacing(spacing[:axes])
    pixel.SetOrigin(origin[:axes])
    pixel.SetDirection(direction[:axes, :axes].ravel())
    with TemporaryDirectory(dir=folder) as temporary:
        path = Path(temporary) / "pixel.mhd"
        sitk.WriteImage(pixel, path)
        lines = path.read_text("ascii").splitlines()
    fields = dict(line.split(" = ", 1) for line in lines)
    return fields | {"DimSize": " ".join(map(str, size[:axes]))}
