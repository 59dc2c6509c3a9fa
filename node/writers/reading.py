"""Volume files that were written here, in DICOM's frame, read with the libraries that users will use."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel import nifti1, nifti2
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from node.volume.model import Array, Float
from node.writers.nifti import LPS_TO_RAS

NIFTI = (".nii", ".nii.gz")


def opened_nifti(path: Path) -> nifti1.Nifti1Image | nifti2.Nifti2Image:
    """Return a file of either version; raise what nibabel raises for it."""
    try:
        return nifti1.Nifti1Image.from_filename(path)
    except (ImageFileError, HeaderDataError, WrapStructError):
        return nifti2.Nifti2Image.from_filename(path)


def read_voxels(path: Path) -> tuple[Array, Float]:
    """Return a volume file as it is: NIfTI as nibabel reads it, other formats as SimpleITK does.

    First its voxels, (i, j, k) or (i, j, k, time): real values, first axis of the file first; in the type of the file
    unless it has a slope and an intercept. Colours are a structured type of ``R``, ``G`` and ``B``. Then the affine,
    (4, 4) float64, from (i, j, k) to LPS+ in mm.

    Raises OSError: the file is missing.
    Raises ValueError: it is no volume that the libraries can read.
    """
    with _refused(path):
        if path.name.endswith(NIFTI):
            image = opened_nifti(path)
            return np.asanyarray(image.dataobj), LPS_TO_RAS @ image.affine
        return _itk_voxels(path), _itk_affine(path)


def read_affine(path: Path) -> Float:
    """Return the affine that `read_voxels` returns, and read no voxels."""
    with _refused(path):
        return LPS_TO_RAS @ opened_nifti(path).affine if path.name.endswith(NIFTI) else _itk_affine(path)


def read_header(path: Path) -> dict[str, Any]:
    """Return dimensions, spacing and affine of a volume file in the frame that its format has; raises as `read_voxels`.

    ``affine_ras`` or ``affine_lps``: from the indices of the voxels to mm, in RAS+ for NIfTI and NPZ, in LPS+ for
    others; None for Analyze, and for NPZ without a position. ``components``: times of NRRD, or channels of colour.
    """
    with _refused(path):
        name, units = path.name.lower(), ["mm"]
        if name.endswith(".npz"):
            with path.open("rb") as file, np.lib.npyio.NpzFile(file) as held:
                data, spacing, affine = held["data"].T, held["spacing"].tolist(), held["affine"]
            shape, kind = data.shape, data.dtype
        elif name.endswith((*NIFTI, ".hdr", ".img")):
            image: Any = nibabel.load(path)
            shape, kind, affine = image.shape, image.get_data_dtype(), np.array(np.nan)
            spacing = [round(float(zoom), 6) for zoom in image.header.get_zooms()]
            if isinstance(image.header, nifti1.Nifti1Header):
                units, affine = [*image.header.get_xyzt_units()], image.affine
        else:
            import SimpleITK as sitk

            reader = _itk_header(path)
            return {
                "dimensions": reader.GetSize(),
                "type": sitk.GetPixelIDValueAsString(reader.GetPixelID()),
                "spacing": reader.GetSpacing(),
                "units": units,
                "affine_lps": _itk_affine(path).tolist(),
                "components": reader.GetNumberOfComponents(),
            }
        place = affine.tolist() if np.isfinite(affine).all() else None
        return {"dimensions": shape, "type": str(kind), "spacing": spacing, "units": units, "affine_ras": place}


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    path.stat()
    try:
        yield
    except (ImageFileError, HeaderDataError, WrapStructError, EOFError, zlib.error, RuntimeError, LookupError) as error:
        raise ValueError(f"{path} cannot be read as a volume ({type(error).__name__})") from error


def _itk_voxels(path: Path) -> Array:
    import SimpleITK as sitk  # here, because most volumes are NIfTI

    image = sitk.ReadImage(str(path))
    voxels = sitk.GetArrayFromImage(image)
    if voxels.ndim > image.GetDimension():
        voxels = voxels.view(np.dtype([(name, voxels.dtype) for name in "RGB"]))[..., 0]
    return voxels.transpose()


def _itk_header(path: Path) -> Any:
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return reader


def _itk_affine(path: Path) -> Float:
    reader = _itk_header(path)
    axes, spatial = reader.GetDimension(), min(reader.GetDimension(), 3)
    directions = np.array(reader.GetDirection()).reshape(axes, axes)
    affine = np.eye(4)
    affine[:spatial, :spatial] = (directions * reader.GetSpacing())[:spatial, :spatial]
    affine[:spatial, 3] = reader.GetOrigin()[:spatial]
    return affine


def read_sidecar(path: Path) -> dict[str, Any]:
    """Return the fields of the JSON file beside a volume file; none if there is no such file."""
    stem = next((path.name[: -len(end)] for end in (".nii.gz", ".nii") if path.name.endswith(end)), path.stem)
    with suppress(FileNotFoundError):
        fields = json.loads(path.with_name(f"{stem}.json").read_bytes())
        return fields if isinstance(fields, dict) else {}
    return {}
