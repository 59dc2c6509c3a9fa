"""MetaImage and NRRD, in DICOM's LPS+: SimpleITK writes the headers, and the voxels are streamed behind them.

SimpleITK writes an image only from a copy of all voxels. Compressed, that takes a second copy, and three times as long
as isal. So it writes the image of one voxel at the place of the volume, and its header becomes that of the volume: only
the sizes and the name of the data file differ.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from node.volume.model import Array, Float, Volume
from node.writers.base import (
    GZIP,
    ZLIB,
    NewFile,
    WrittenFile,
    grid_of,
    real_dtype,
    real_slabs,
    write_file,
    write_packed,
)
from node.writers.options import WriteOptions

NOWHERE = "3D-right-handed"
"""The space of NRRD whose axes have no meaning."""


def write_metaimage(volume: Volume, folder: Path, stem: str, options: WriteOptions) -> WrittenFile:
    """Write an ``.mhd`` header and its data file, ``.zraw`` or ``.raw``.

    MetaImage has no slope and intercept, so real values are written: integers if these are exact, else floating point.
    A single slice without a position in the patient becomes a 2-D image, and several times become a 4-D image. Colour
    has three channels.
    """
    dtype = real_dtype(volume)
    grid = grid_of(volume, dtype)
    if volume.affine_lps is None and volume.shape[2:] == (1,):
        grid = replace(grid, shape=grid.shape[:2], spacing_mm=grid.spacing_mm[:2])
    data = folder / f"{stem}.{'zraw' if options.compress else 'raw'}"
    slabs = real_slabs(volume, dtype)
    with NewFile(data, digested=False) as stream:
        write_packed(stream, slabs, ZLIB) if options.compress else stream.writelines(slabs)
    head = _header(volume, dtype, len(grid.shape), folder / f"{stem}_header.mha", options)
    head = _changed(head, "DimSize = ", grid.shape)
    head = _changed(head, "CompressedDataSize = ", [data.stat().st_size])
    head = _changed(head, "ElementDataFile = ", [data.name])
    header = write_file(folder / f"{stem}.mhd", head.encode("utf-8"))
    return header.written(volume.kind, "mhd", grid, (data,))


def write_nrrd(volume: Volume, folder: Path, stem: str, options: WriteOptions) -> WrittenFile:
    """Write a ``.nrrd`` (https://teem.sourceforge.net/nrrd/format.html).

    NRRD has no slope and intercept, so real values are written: integers if these are exact, else floating point. Times
    are the last axis, of kind list as in Slicer's sequences, and the three channels of colour the first one.
    """
    dtype = real_dtype(volume)
    head = _header(volume, dtype, len(volume.shape), folder / f"{stem}_header.nrrd", options)
    head = _changed(head, "sizes: ", [3] * volume.colour + [*volume.shape])
    slabs = real_slabs(volume, dtype)
    with NewFile(folder / f"{stem}.nrrd") as stream:
        stream.write(f"{head}\n".encode("ascii"))
        write_packed(stream, slabs, GZIP) if options.compress else stream.writelines(slabs)
    return stream.written(volume.kind, "nrrd", grid_of(volume, dtype))


def _header(volume: Volume, dtype: np.dtype[Any], axes: int, path: Path, options: WriteOptions) -> str:
    """Return the lines of the header that SimpleITK writes for one voxel of `volume`, by way of a file at `path`.

    A sheared matrix stays one: ITK keeps it unchanged.
    """
    pixel = sitk.GetImageFromArray(np.zeros([1] * axes + [3] * volume.colour, dtype), isVector=volume.colour)
    affine = np.diag([*volume.spacing_mm, 1.0]) if volume.affine_lps is None else volume.affine_lps
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    direction, origin = np.eye(4), np.zeros(4)
    direction[:3, :3] = affine[:3, :3] / spacing
    origin[:3] = affine[:3, 3]
    lengths = [*spacing.tolist(), volume.time_step_s or 1.0]  # ITK has no unknown spacing
    pixel.SetSpacing(lengths[:axes])
    pixel.SetDirection((direction[:axes, :axes] + 0.0).ravel().tolist())  # + 0.0: no negative zeros
    pixel.SetOrigin((origin[:axes] + 0.0).tolist())
    if path.suffix == ".nrrd":
        if volume.affine_lps is None:
            pixel.SetMetaData("NRRD_space", NOWHERE)
        if axes == 4:
            pixel.SetMetaData("NRRD_kinds[3]", "list")
    sitk.WriteImage(pixel, str(path), useCompression=options.compress)
    content = path.read_bytes()
    path.unlink()
    last = rb"\nElementDataFile = .*\n" if path.suffix == ".mha" else rb"\n(?=\n)"
    found = re.search(last, content)
    assert found is not None
    return content[: found.end()].decode("ascii")


def _changed(head: str, name: str, values: Any) -> str:
    """Return a header with other values in the line that begins with `name`, if there is one."""
    line = name + " ".join(map(str, values))
    return re.sub(f"^{name}.*$", lambda _: line, head, flags=re.MULTILINE)


def write_voxels(path: Path, voxels: Array, affine_lps: Float) -> None:
    """Write an array as a volume file whose format its suffix says, in place of what is there.

    `voxels`, (i, j, k) or (i, j, k, time) array: first axis of the file first.
    `affine_lps`, (4, 4) float, mm: from (i, j, k) to LPS+.

    Raises OSError: the folder is missing, or cannot be written.
    Raises ValueError: SimpleITK writes no such file: the suffix, the type of the voxels, or axes that are not
        perpendicular.
    """
    spacing = np.linalg.norm(affine_lps[:3, :3], axis=0)
    time = (1.0,) * (voxels.ndim - 3)
    direction = np.eye(voxels.ndim)
    direction[:3, :3] = affine_lps[:3, :3] / spacing
    try:
        image = sitk.GetImageFromArray(np.ascontiguousarray(voxels.transpose()), isVector=False)
        image.SetOrigin((*affine_lps[:3, 3].tolist(), *(0.0 for _ in time)))
        image.SetSpacing((*spacing.tolist(), *time))
        image.SetDirection(direction.ravel().tolist())
        sitk.WriteImage(image, str(path), useCompression=True)
    except (RuntimeError, TypeError, KeyError) as error:
        if not path.absolute().parent.is_dir():
            raise FileNotFoundError(2, "there is no such folder", str(path.parent)) from error
        raise ValueError(f"{path} cannot be written as a volume: name a .nii.gz, .mha or .nrrd file") from error
