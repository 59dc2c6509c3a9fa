"""Arrays as volume files, by SimpleITK: what is derived from a volume, without header fields or sidecar."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from node.volume.model import Array, Float


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
