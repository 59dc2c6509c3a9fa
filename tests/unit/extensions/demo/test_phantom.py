import numpy as np
import pytest

from node.extensions.demo.known_series import COLUMNS, PIXEL_MM, ROWS, SLICES, STEP_MM, Phantom, head_phantom


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return head_phantom()


@pytest.mark.slow
def test_the_instances_hold_the_true_voxels_at_the_true_places(phantom: Phantom) -> None:
    in_order = sorted(phantom.instances, key=lambda ds: -ds.InstanceNumber)
    assert len({ds.SOPInstanceUID for ds in in_order}) == SLICES
    for index, ds in enumerate(in_order):
        stored = np.frombuffer(ds.PixelData, "<u2").reshape(ROWS, COLUMNS).astype(int)
        assert np.array_equal(stored * ds.RescaleSlope + ds.RescaleIntercept, phantom.hounsfield[index])
        assert stored.max() < 1 << ds.BitsStored
        expected = phantom.affine_lps @ (0, 0, index, 1)
        assert np.allclose(np.array(ds.ImagePositionPatient, float), expected[:3], atol=1e-6)


def test_the_planes_are_oblique_and_even(phantom: Phantom) -> None:
    axes = phantom.affine_lps[:3, :3]
    assert np.allclose(np.linalg.norm(axes, axis=0), (PIXEL_MM, PIXEL_MM, STEP_MM))
    assert np.linalg.det(axes) > 0
    assert (np.abs(axes / np.linalg.norm(axes, axis=0)) > 0.02).sum() >= 7  # no axis of the patient


def test_instances_come_in_no_order_of_space(phantom: Phantom) -> None:
    numbers = [int(ds.InstanceNumber) for ds in phantom.instances]
    assert numbers != sorted(numbers)
    assert numbers != sorted(numbers, reverse=True)


def test_it_has_air_bone_brain_fluid_and_a_bead_on_the_left(phantom: Phantom) -> None:
    def at(x: float, y: float, z: float) -> float:
        column, row, plane, _ = np.linalg.inv(phantom.affine_lps) @ (x, y, z, 1)
        return float(phantom.hounsfield[round(plane), round(row), round(column)])

    assert at(0, -100, 90) < -950
    assert at(0, 97, 24) > 800  # back of the skull
    assert 10 < at(30, 0, 50) < 45  # white matter
    assert at(10, -25, 30) < 22  # ventricle
    assert at(79, -10, 24) > 1500  # +x is left in LPS
    assert at(-79, -10, 24) < 200


@pytest.mark.slow
def test_the_voxels_are_the_same_every_time_and_the_uids_are_not(phantom: Phantom) -> None:
    again = head_phantom()
    assert np.array_equal(again.hounsfield, phantom.hounsfield)
    assert again.series_instance_uid != phantom.series_instance_uid
