import numpy as np
import pytest

from node.extensions.demo.known_series import Truth, difference, truth_of_files
from tests.make import PYDICOM_FILES

AFFINE = np.array(
    [[0.8, -0.36 * 2, 0.48 * 3, -7], [0.6, 0.48 * 2, -0.64 * 3, 5], [0, 0.8 * 2, 0.6 * 3, 11], [0, 0, 0, 1]]
)


@pytest.fixture
def truth() -> Truth:
    return Truth("random", np.random.default_rng(3).integers(-1000, 3000, (4, 5, 6)), AFFINE)


def test_the_same_volume_does_not_differ(truth: Truth) -> None:
    assert difference(truth, truth.voxels.copy().T, AFFINE.copy()) is None


def test_axes_in_another_order_and_direction_do_not_differ_when_the_affine_says_so(truth: Truth) -> None:
    # Index (c, r, s) of the turned volume is (5 - r, c, 3 - s) of the truth.
    turned = truth.voxels[::-1, :, ::-1].transpose(0, 2, 1)
    to_truth = np.array([[0, -1, 0, 5], [1, 0, 0, 0], [0, 0, -1, 3], [0, 0, 0, 1]])
    assert difference(truth, turned.T, AFFINE @ to_truth) is None


def test_one_other_voxel_differs(truth: Truth) -> None:
    other = truth.voxels.copy()
    other[1, 2, 3] += 1
    assert difference(truth, other.T, AFFINE) == "1 voxels have wrong values"


def test_a_mirrored_volume_differs(truth: Truth) -> None:
    assert difference(truth, truth.voxels[:, :, ::-1].T, AFFINE) is not None


@pytest.mark.parametrize(
    ("change", "reported"),
    [
        (np.diag([1, 1, 1.6, 1]), "spacing"),
        (np.diag([1, 1, 1.001, 1]), "is off by"),
        (np.array([[1, 0, 0, 0.01], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "is off by"),
        (np.array([[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "axes"),
    ],
)
def test_another_place_differs(truth: Truth, change: np.ndarray, reported: str) -> None:
    assert reported in (difference(truth, truth.voxels.T, AFFINE @ change) or "")


def test_a_missing_slice_differs(truth: Truth) -> None:
    assert ", expected" in (difference(truth, truth.voxels[:-1].T, AFFINE) or "")


def test_the_slice_axis_of_a_single_slice_does_not_count() -> None:
    truth = Truth("single", np.arange(30).reshape(1, 5, 6), AFFINE)
    assert difference(truth, truth.voxels.T, AFFINE @ np.diag([1, 1, 2, 1])) is None
    assert difference(truth, truth.voxels.T, AFFINE @ np.diag([1, 2, 1, 1])) is not None


def test_the_truth_of_files_is_sorted_in_space_and_rescaled() -> None:
    uid, truth = truth_of_files("CT", sorted((PYDICOM_FILES / "dicomdirtests" / "98892001" / "CT5N").iterdir()))
    assert uid == "1.3.6.1.4.1.5962.1.1.0.0.0.1194734704.16302.0.6"
    assert truth.voxels.shape == (5, 16, 16)
    assert np.allclose(truth.affine_lps[:3, 2], (0, 0, 2.5))
    assert np.allclose(truth.affine_lps[:3, 3], (-72.199997, -143, -1.2375))
    assert truth.voxels.min() >= -1024 - 1
