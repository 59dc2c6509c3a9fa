"""Analyze 7.5: ``.hdr`` and ``.img`` for programs that cannot read newer formats.

The format has neither slope nor affine, and no unsigned or 8-bit signed integers. Real values are written in the
smallest type that holds them exactly. The voxels are flipped and transposed, never interpolated, into the order that
readers assume: right to left, posterior to anterior, inferior to superior.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.analyze import AnalyzeHeader

from node.volume.model import Volume
from node.volume.rendering import oriented
from node.writers.base import FileGrid, NewFile, WrittenFile, real_dtype, real_slabs, write_file
from node.writers.nifti import MAX_NIFTI1_DIMENSION, RGB
from node.writers.options import WriteOptions

PROMOTED_TYPES = {"int8": "int16", "uint16": "int32", "uint32": "float64"}
"""Types that Analyze lacks, and the smallest type that holds them exactly."""

EXTENTS = 16384
"""The minimum size of the data file that Analyze 7.5 requires in every header; `regular` is ``r`` in every header."""

LOST_AFFINE = "Analyze 7.5 has no position and no oblique orientation; both are in affine_lps"

TOO_LARGE = f"not written: Analyze 7.5 holds at most {MAX_NIFTI1_DIMENSION} voxels along an axis"


def fits_analyze(volume: Volume) -> bool:
    """Return whether the dimensions fit the int16 of the header."""
    return max(volume.shape) <= MAX_NIFTI1_DIMENSION


def write_analyze(volume: Volume, folder: Path, stem: str, options: WriteOptions) -> WrittenFile:
    """Write ``STEM_analyze.hdr`` and its ``.img``, never compressed. The volume must satisfy `fits_analyze`."""
    orientations = [oriented(volume, time) for time in range(volume.times)]
    size = orientations[0].voxels.shape[2::-1]
    real = real_dtype(volume)
    dtype = np.dtype(PROMOTED_TYPES.get(real.name, real.name))
    head = AnalyzeHeader(endianness="<")
    head.set_data_dtype(RGB if volume.colour else dtype)
    shape = size if volume.times == 1 else (*size, volume.times)
    head.set_data_shape(shape)
    spacing = orientations[0].spacing_mm[::-1]
    head.set_zooms(spacing if volume.times == 1 else (*spacing, volume.time_step_s or 0.0))
    head["regular"], head["extents"] = b"r", EXTENTS
    image = folder / f"{stem}_analyze.img"
    with NewFile(image, digested=False) as stream:
        for oriented_time in orientations:
            _write_time(stream, oriented_time.voxels, volume, dtype)
    header = write_file(folder / f"{stem}_analyze.hdr", head.binaryblock)
    grid = FileGrid(shape, spacing, "uint8" if volume.colour else dtype.name)
    return header.written(volume.kind, "analyze", grid, (image,))


def _write_time(stream: Any, voxels: Any, volume: Volume, dtype: np.dtype[Any]) -> None:
    """Write one time. DICOM's y axis points to posterior, Analyze's to anterior."""
    time = replace(volume, voxels=np.ascontiguousarray(voxels[:, ::-1])[None])
    for slab in real_slabs(time, dtype):
        stream.write(slab)
