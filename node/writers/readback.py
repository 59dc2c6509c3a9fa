"""Read a written volume back into DICOM's frame, with the libraries that users will use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from nibabel.nifti1 import Nifti1Image

from node.volume.model import Array, Float

LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def read_nifti(path: Path) -> tuple[Array, Float]:
    """Return a three-dimensional NIfTI file as nibabel reads it.

    Returns
    -------
    voxels : (slices, rows, columns) float64
        Real values, with slope and intercept applied.
    affine_lps : (4, 4) float64, mm
        From (column, row, slice) to LPS+.
    """
    image = Nifti1Image.from_filename(path)
    return np.asarray(image.dataobj, dtype=np.float64).transpose(2, 1, 0), LPS_FROM_RAS @ image.affine


def read_metaimage(path: Path) -> tuple[Array, Float]:
    """Return a MetaImage file as SimpleITK reads it, in the form of `read_nifti`."""
    image = sitk.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) @ np.diag(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).astype(np.float64), affine
