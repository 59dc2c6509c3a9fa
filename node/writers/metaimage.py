"""MetaImage: an ``.mhd`` header with ``.zraw`` or ``.raw`` voxels, in DICOM's LPS+.

The header is the one that SimpleITK would write. SimpleITK is not used, because loading it takes longer than writing a
small volume, and because it would need one copy of a volume for its image and one for the compressed data.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from isal import isal_zlib

from node.volume.model import Float, Volume
from node.writers.base import Grid, NewFile, WrittenFile, grid_of, real_dtype, real_slabs, write_file
from node.writers.options import WriteOptions

COMPRESSION_LEVEL = 1
"""Compression level of isal, as for NIfTI. The result is a zlib stream, as MetaIO expects of compressed data."""

ELEMENT_TYPES = {
    "int8": "MET_CHAR",
    "uint8": "MET_UCHAR",
    "int16": "MET_SHORT",
    "uint16": "MET_USHORT",
    "int32": "MET_INT",
    "uint32": "MET_UINT",
    "int64": "MET_LONG_LONG",
    "uint64": "MET_ULONG_LONG",
    "float32": "MET_FLOAT",
    "float64": "MET_DOUBLE",
}
"""Names of the types of voxels."""


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
    fields = _header(volume, dtype) | {"CompressedData": str(options.compress), "ElementDataFile": data.name}
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


def _header(volume: Volume, dtype: np.dtype[Any]) -> dict[str, str]:
    """Return the header fields of this grid, in the order and the notation of ITK.

    ITK keeps a sheared matrix unchanged (TransformMatrix lists the direction of the first axis, then the second, ...).
    """
    affine = np.diag([*volume.spacing_mm, 1.0]) if volume.affine_lps is None else volume.affine_lps
    size = volume.shape
    axes = 2 if _is_flat(volume) else len(size)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    direction, origin = np.eye(len(size)), np.zeros(len(size))
    direction[:3, :3] = affine[:3, :3] / spacing
    origin[:3] = affine[:3, 3]
    if len(size) == 4:
        spacing = np.append(spacing, volume.time_step_s or 1.0)  # ITK has no unknown spacing
    fields = {
        "ObjectType": "Image",
        "NDims": str(axes),
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "TransformMatrix": _numbers(direction[:axes, :axes].T.ravel()),
        "Offset": _numbers(origin[:axes]),
        "CenterOfRotation": _numbers(np.zeros(axes)),
        "AnatomicalOrientation": _orientation(direction) if axes == 3 else "?" * axes,
        "ElementSpacing": _numbers(spacing[:axes]),
        "DimSize": " ".join(map(str, size[:axes])),
    }
    if axes != 3:
        fields["AnatomicalOrientation"] = fields.pop("AnatomicalOrientation")
    if volume.colour:
        fields["ElementNumberOfChannels"] = "3"
    return fields | {"ElementType": ELEMENT_TYPES[dtype.name]}


def _numbers(values: Float) -> str:
    """Return numbers as ITK writes them: 17 digits, of which every double is read back; no negative zero."""
    return " ".join(f"{value + 0.0:.17g}" for value in values.tolist())


def _orientation(direction: Float) -> str:
    """Return for each axis of the voxels the letter of the side where it begins, such as ``RAI`` for LPS+ axes.

    The largest cosine assigns its two axes to each other first; of equal ones, the last.
    """
    letters = [""] * 3
    left = {(world, axis) for world in range(3) for axis in range(3)}
    while left:
        world, axis = max(left, key=lambda pair: (abs(direction[pair]), pair))
        letters[axis] = ("RL", "AP", "IS")[world][int(direction[world, axis] < 0)]
        left = {pair for pair in left if pair[0] != world and pair[1] != axis}
    return "".join(letters)
