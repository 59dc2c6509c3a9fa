"""Masks that others wrote as NIfTI, in DICOM's frame."""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np
from nibabel import nifti1, nifti2
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from node.volume.model import Array, Float
from node.writers.nifti import LPS_TO_RAS
from node.writers.reading import opened_nifti

MAX_LABEL = 65535
"""Largest value of a label: Segment Number (0062,0004) has 16 bits."""

TRANSFORM_TOLERANCE_VOXELS = 0.1
"""Largest distance at which the two positions that a NIfTI file may state are the same one."""


class NotAMask(ValueError):
    """The file is no label volume with a position; the message says why, without patient data."""


def read_mask(path: Path, max_voxels: int) -> tuple[Array, Float]:
    """Return a label volume.

    `max_voxels`: number of voxels above which the file is not read.

    `voxels`, (i, j, k) array of uint8 or uint16: as stored, first axis of the file first.
    `affine_lps`, (4, 4) float64, mm: from (i, j, k) to LPS+.

    Raises NotAMask.
    """
    try:
        image = opened_nifti(path)
        voxels = _voxels(image, max_voxels)
    except (ImageFileError, HeaderDataError, WrapStructError, EOFError, OSError, ValueError) as error:
        if isinstance(error, NotAMask):
            raise
        raise NotAMask(f"the file cannot be read as NIfTI ({type(error).__name__})") from error
    return voxels, LPS_TO_RAS @ _affine(image.header, voxels.shape)


def _voxels(image: nifti1.Nifti1Image | nifti2.Nifti2Image, max_voxels: int) -> Array:
    shape = tuple(int(size) for size in image.shape)
    if len(shape) < 3 or any(size != 1 for size in shape[3:]):
        raise NotAMask(f"the mask has {len(shape)} dimensions; a mask has three")
    if prod(shape) > max_voxels:
        raise NotAMask(f"the mask has {prod(shape)} voxels, more than the volume")
    values = np.asanyarray(image.dataobj).reshape(shape[:3])
    if values.dtype.names is not None or values.dtype.kind not in "buif":
        raise NotAMask("the voxels of the mask are colours or complex numbers, not labels")
    if not values.size or not (values.min() >= 0 and values.max() <= MAX_LABEL):
        raise NotAMask(f"a label is a number from 0 (nothing) to {MAX_LABEL}")
    labels = values.astype(np.uint8 if values.max() < 256 else np.uint16)
    if values.dtype.kind == "f" and not np.array_equal(labels, values):
        raise NotAMask("the mask has values that are not whole numbers: store labels, not probabilities")
    return labels


def _affine(header: nifti1.Nifti1Header, shape: tuple[int, ...]) -> Float:
    """Return the affine of a file in RAS+."""
    stated = [affine for affine, code in (header.get_sform(coded=True), header.get_qform(coded=True)) if code]
    if not stated:
        raise NotAMask("the mask has no position: sform_code and qform_code are 0; copy the affine of the volume")
    affine = np.asarray(stated[0], dtype=np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise NotAMask("the affine of the mask is not valid")
    if len(stated) == 2:
        corners = np.array([(*corner, 1.0) for corner in np.ndindex(2, 2, 2)])
        corners[:, :3] *= np.array(shape) - 1
        off = (np.linalg.inv(affine) @ (np.asarray(stated[1]) - affine) @ corners.T)[:3]
        if not np.abs(off).max() <= TRANSFORM_TOLERANCE_VOXELS:
            raise NotAMask("sform and qform of the mask state two different positions; write one into both")
    return affine
