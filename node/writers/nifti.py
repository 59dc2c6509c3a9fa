"""NIfTI: ``.nii.gz`` and ``.nii``, and the ``.hdr``/``.img`` pair. LPS becomes RAS only here.

Stored values are written unchanged, with slope and intercept in the header. An array of (times, slices, rows, columns)
in C order is, byte for byte, NIfTI's (columns, rows, slices, times) with the first axis fastest, so nothing is
transposed. The voxels are streamed after the header.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from node import __version__
from node.volume.model import Float, Volume
from node.writers.base import SCALING_TOLERANCE, NewFile, WrittenFile, grid_of, stored_slabs, write_file
from node.writers.nifti_fields import header_extension, set_acquisition, set_display_range, set_intent
from node.writers.nifti_header import RGB, NiftiHeader
from node.writers.options import WriteOptions

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

MAX_NIFTI1_DIMENSION = 32767
"""NIfTI-1 has int16 dimensions; larger volumes are written as NIfTI-2."""

COMPRESSION_LEVEL = 1
"""Compression level of isal. On CT, files are within 2 % of the size of level 2, and writing is 10 % faster."""

QFORM_TOLERANCE_VOXELS = 0.1
"""Largest error of a corner caused by the quaternion, in edges of the smallest voxel; above it, no qform is written.

A stack counts as sheared from the same shift."""


def write_nifti(volume: Volume, folder: Path, stem: str, options: WriteOptions, extension: bytes = b"") -> WrittenFile:
    """Write a ``.nii.gz``, or ``.nii`` without compression; `extension` is the text of a header extension."""
    head = nifti_header(volume, pair=False, extension=extension)
    path = folder / f"{stem}.nii{'.gz' if options.compress else ''}"
    with NewFile(path) as stream:
        if options.compress:
            # The bytes do not depend on the number of threads, and isal writes no time or name into the header.
            from isal import igzip_threaded  # here, because it loads much that nothing else here needs

            threads = min(4, os.cpu_count() or 1)
            with igzip_threaded.open(stream, "wb", compresslevel=COMPRESSION_LEVEL, threads=threads) as packed:
                _write_body(packed, head, volume, extension)
        else:
            _write_body(stream, head, volume, extension)
    return stream.written(volume.kind, "nifti", grid_of(volume))


def write_pair(volume: Volume, folder: Path, stem: str, options: WriteOptions, extension: bytes = b"") -> WrittenFile:
    """Write a NIfTI ``.hdr`` and its ``.img``, uncompressed, as readers of pairs expect."""
    image = folder / f"{stem}.img"
    with NewFile(image) as stream:
        for slab in stored_slabs(volume.voxels):
            stream.write(slab)
    head = nifti_header(volume, pair=True)
    header = write_file(folder / f"{stem}.hdr", bytes(head) + _extensions(extension))
    return header.written(volume.kind, "nifti-pair", grid_of(volume), (image,))


def _write_body(stream: Any, head: NiftiHeader, volume: Volume, extension: bytes) -> None:
    stream.write(bytes(head) + _extensions(extension))
    for slab in stored_slabs(volume.voxels):
        stream.write(slab)


def _extensions(text: bytes) -> bytes:
    """Return what follows the header: four bytes that tell whether extensions follow, and the extension."""
    return bytes((1, 0, 0, 0)) + header_extension(text) if text else bytes(4)


def nifti_header(volume: Volume, *, pair: bool, extension: bytes = b"") -> NiftiHeader:
    """Return the header for `volume`; NIfTI-2 if a dimension or the scaling requires it.

    sform and qform both have code 1 (scanner), the qform only if a rotation and zooms can represent the affine. Without
    a position in the patient, both codes are 0, and the header gives only the voxel size.
    """
    large = max(volume.shape) > MAX_NIFTI1_DIMENSION or not _float32_holds_scaling(volume)
    dtype = RGB if volume.colour else volume.voxels.dtype
    zooms = (*volume.spacing_mm, volume.time_step_s or 0.0)[: len(volume.shape)]
    head = NiftiHeader(dtype, volume.shape, zooms, large=large, pair=pair)
    head["scl_slope"], head["scl_inter"] = volume.slope, volume.intercept
    head["descrip"] = f"voxelnode {__version__}".encode("ascii")
    if not pair:
        head["vox_offset"] += len(_extensions(extension)) - 4
    set_acquisition(head, volume)
    set_display_range(head, volume)
    set_intent(head, volume)
    if volume.affine_lps is not None:
        _place(head, LPS_TO_RAS @ volume.affine_lps, volume)
    return head


def _float32_holds_scaling(volume: Volume) -> bool:
    """Return whether slope and intercept in NIfTI-1's float32 are accurate well within one step of the voxels."""
    with np.errstate(over="ignore", under="ignore"):
        slope, intercept = float(np.float32(volume.slope)), float(np.float32(volume.intercept))
    off = abs(intercept - volume.intercept)
    return math.isclose(slope, volume.slope, rel_tol=1e-6) and off <= SCALING_TOLERANCE * abs(volume.slope)


def _place(head: NiftiHeader, affine_ras: Float, volume: Volume) -> None:
    """Set the sform and, if it can represent the affine, the qform."""
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(volume.shape[:3]) - 1)
    off = (head.set_qform(affine_ras) - affine_ras)[:3, :3] @ corners.T
    if np.linalg.norm(off, axis=0).max() > QFORM_TOLERANCE_VOXELS * min(volume.spacing_mm):
        head["qform_code"] = 0
    head.set_sform(affine_ras)
