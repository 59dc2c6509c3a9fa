"""Headers of NIfTI beside those that nibabel makes, field by field."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel import nifti1, nifti2
from numpy.typing import NDArray

from node.writers.nifti_header import RGB, NiftiHeader

OURS: dict[tuple[bool, bool], Any] = {
    (False, False): nifti1.Nifti1Header,
    (False, True): nifti1.Nifti1PairHeader,
    (True, False): nifti2.Nifti2Header,
    (True, True): nifti2.Nifti2PairHeader,
}

DTYPES = [*map(np.dtype, ("u1", "i1", "<u2", "<i2", ">i2", "<u4", "<i4", "<u8", "<i8", "<f4", "<f8")), RGB]

numbers = st.floats(-1e3, 1e3, allow_nan=False)


@st.composite
def affines(draw: st.DrawFn) -> NDArray[Any]:
    """Affines with any rotation, of either hand, and a small shear."""
    axes, _ = np.linalg.qr(np.array(draw(st.lists(numbers, min_size=9, max_size=9))).reshape(3, 3) + np.eye(3))
    axes[0, 2] += draw(st.floats(-0.1, 0.1))
    affine = np.eye(4)
    affine[:3, :3] = axes * draw(st.tuples(*[st.floats(0.1, 10)] * 3)) * draw(st.sampled_from((1, -1)))
    affine[:3, 3] = draw(st.tuples(numbers, numbers, numbers))
    return affine


def theirs(large: bool, pair: bool, dtype: np.dtype[Any], shape: tuple[int, ...], zooms: tuple[float, ...]) -> Any:
    head = OURS[large, pair](endianness="<")
    head.set_data_dtype(dtype)
    head.set_data_shape(shape)
    head.set_zooms(zooms)
    head.set_xyzt_units("mm", "sec")
    return head


@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    affine=affines(),
    large=st.booleans(),
    pair=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    shape=st.lists(st.integers(1, 999), min_size=3, max_size=4).map(tuple),
    phase=st.sampled_from((None, 0, 1)),
)
def test_every_field_is_that_of_nibabel(
    affine: NDArray[Any],
    large: bool,
    pair: bool,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    phase: int | None,
) -> None:
    zooms = (*np.linalg.norm(affine[:3, :3], axis=0).tolist(), 2.5)[: len(shape)]
    head = NiftiHeader(dtype, shape, zooms, large=large, pair=pair)
    expected = theirs(large, pair, dtype, shape, zooms)
    head["scl_slope"], head["scl_inter"] = 0.5, -3
    expected.set_slope_inter(0.5, -3)
    expected["vox_offset"] = 0 if pair else expected.sizeof_hdr + 4
    expected.set_dim_info(None if phase is None else 1 - phase, phase, 2)
    expected.set_intent("label", name="body mask")
    expected.set_sform(affine, code=1)
    expected.set_qform(affine, code=1, strip_shears=True)
    head.set_axes(phase)
    head.set_intent("label", "body mask")
    head.set_sform(affine)
    read = head.set_qform(affine)
    found = type(expected)(bytes(head), "<")  # which checks it
    # Readers compute the first part of a quaternion from three rounded ones: near a half turn, 1e-7 becomes 5e-4.
    edge = float(np.abs(affine[:3, :3]).max())
    np.testing.assert_allclose(found.get_qform(), expected.get_qform(), atol=1e-4 * edge if large else 2e-3 * edge)
    np.testing.assert_allclose(read, found.get_qform(), atol=1e-4 * edge)
    for name in ("quatern_b", "quatern_c", "quatern_d"):
        found[name] = expected[name] = 0  # q and -q are the same half turn
    for name in expected:
        if expected[name].dtype.kind == "f":
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-6, err_msg=name)
        elif name != "regular":
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


@pytest.mark.parametrize("turn", [(1, -1, -1), (-1, 1, -1), (-1, -1, 1), (1, 1, 1), (1, 1, -1)])
def test_half_turns_and_mirrors_are_read_back(turn: tuple[int, int, int]) -> None:
    affine = np.diag([*turn, 1.0]) * [1.5, 2, 3, 1]
    head = NiftiHeader(np.dtype("<i2"), (4, 5, 6), (1.5, 2, 3), large=False, pair=False)
    np.testing.assert_allclose(head.set_qform(affine), affine, atol=1e-6)
    np.testing.assert_allclose(nifti1.Nifti1Header(bytes(head), "<").get_qform(), affine, atol=1e-6)
