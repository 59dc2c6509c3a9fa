"""A picture of masks over an image: the slice on which they have most, at their place, as radiologists view it."""

from io import BytesIO
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from node.extensions.pages.reduced import overlaid
from node.volume.model import Array, Float
from node.writers.nifti import LPS_TO_RAS


def saved(path: Path, voxels: Array, affine_lps: Float) -> Path:
    nibabel.save(nibabel.Nifti1Image(voxels, LPS_TO_RAS @ affine_lps), path)
    return path


def test_a_mask_lies_where_it_is_in_the_patient(tmp_path: Path) -> None:
    image = np.zeros((40, 20, 8), np.int16)
    image[:, :, 5] = 100  # only this slice is grey
    below = saved(tmp_path / "image.nii.gz", image, np.diag([1.0, 2.0, 4.0, 1.0]))
    mask = np.zeros((20, 20, 3), np.uint8)
    mask[15:, :5, 2] = 1
    mask[0, 0, 0] = 1
    finer = np.diag([2.0, 2.0, 2.0, 1.0])
    finer[:3, 3] = 0.5, 0, 16  # its slice 2 is slice 5 of the image
    picture = overlaid([saved(tmp_path / "mask.nii.gz", mask, finer)], below, is_ct=True, pixels=80)
    shown = np.asarray(Image.open(BytesIO(picture)).convert("RGB"), dtype=int)
    assert shown.shape == (80, 80, 3), "40 mm by 40 mm"
    assert np.ptp(shown[60, 20]) == 0, "grey where no mask is"
    assert shown[60, 20, 0] > 100
    red, green, _ = shown[10, 70]
    assert red > green + 40, "at the left of the patient, which is right, and anterior"


def test_an_image_elsewhere_and_one_in_colours_are_refused(tmp_path: Path) -> None:
    mask = saved(tmp_path / "mask.nii.gz", np.ones((4, 4, 2), np.uint8), np.eye(4))
    away = np.eye(4)
    away[2, 3] = 500
    with pytest.raises(ValueError, match="elsewhere"):
        overlaid([mask], saved(tmp_path / "away.nii.gz", np.ones((4, 4, 2), np.int16), away), is_ct=False, pixels=8)
    colours = np.zeros((4, 4, 2), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    with pytest.raises(ValueError, match="colours"):
        overlaid([mask], saved(tmp_path / "colours.nii.gz", colours, np.eye(4)), is_ct=False, pixels=8)
