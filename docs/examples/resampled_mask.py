"""Bring a mask of volume_resampled to the grid of its volume, by nearest neighbour, so that the node takes it.

python resampled_mask.py MASK.nii.gz volume.nii.gz OUT.nii.gz
"""

import json
import sys
from pathlib import Path

import nibabel
import numpy as np


def slices_of(volume):
    """Return the slice of each frame, as the sidecar of a volume states it."""
    sources = json.loads(Path(volume.replace(".nii.gz", ".json")).read_text())["sources"]
    return {(uid, frame): index for uid, frames in sources.items() for frame, index, _ in frames}


def main(mask_path, volume_path, out_path):
    resampled_path = volume_path.replace(".nii.gz", "_resampled.nii.gz")
    mask, volume, resampled = map(nibabel.load, (mask_path, volume_path, resampled_path))
    to, normal = volume.affine, np.cross(volume.affine[:3, 0], volume.affine[:3, 1])

    # The affine of uneven slices has one distance for all: where each is, the even slices of the copy tell.
    step = resampled.affine[:3, 2] @ normal / (to[:3, 2] @ normal)
    along, even = np.zeros(volume.shape[2]), slices_of(resampled_path)
    for frame, index in slices_of(volume_path).items():
        along[index] = min(even[frame], resampled.shape[2] - 1) * step

    i, j, k = np.indices(volume.shape[:3])
    places = np.stack([i, j, along[k], np.ones(i.shape)])
    at = np.rint(np.tensordot(np.linalg.inv(mask.affine) @ to, places, 1)[:3]).astype(int)
    inside = ((at >= 0) & (at < np.reshape(mask.shape, (3, 1, 1, 1)))).all(axis=0)
    labels = np.asanyarray(mask.dataobj)[tuple(np.where(inside, at, 0))] * inside
    nibabel.save(nibabel.Nifti1Image(labels.astype(np.uint16), to), out_path)


if __name__ == "__main__":
    main(*sys.argv[1:])
