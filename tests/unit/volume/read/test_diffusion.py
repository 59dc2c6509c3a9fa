"""Diffusion weighting: the standard's attributes, and every vendor's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, FileDataset

from node.volume.model import Diffusion
from node.volume.read.diffusion import diffusion_of
from node.volume.vendors.gradients import gradient_of_matrix
from tests import make


def image(orientation: make.Numbers = make.AXIAL, **attributes: Any) -> FileDataset:
    return make.changed(make.mr_series(1, orientation=orientation)[0], **attributes)


def weighted(ds: Dataset, *groups: Dataset) -> Diffusion:
    diffusion = diffusion_of(ds, *groups)
    assert diffusion is not None
    return diffusion


def assert_along(found: Diffusion, direction: make.Numbers) -> None:
    assert found.direction_lps is not None
    assert np.isclose(np.linalg.norm(found.direction_lps), 1)
    assert np.isclose(abs(found.direction_lps @ np.array(direction)), 1)


def group(**attributes: Any) -> Dataset:
    """A functional group with an MR Diffusion Sequence."""
    return make.dataset(MRDiffusionSequence=[make.dataset(**attributes)])


def direction_item(*direction: float) -> list[Dataset]:
    return [make.dataset(DiffusionGradientOrientation=list(direction))]


def test_an_image_that_says_nothing_is_not_weighted() -> None:
    assert diffusion_of(image()) is None


def test_a_classic_image_carries_the_standards_attributes_at_the_top() -> None:
    diffusion = weighted(image(DiffusionBValue=1000.0, DiffusionGradientOrientation=[0.0, 3.0, 4.0]))
    assert (diffusion.b_value, diffusion.derived) == (1000, False)
    assert_along(diffusion, (0, 0.6, 0.8))


def test_an_unweighted_image_has_no_direction() -> None:
    diffusion = weighted(image(DiffusionBValue=0.0, DiffusionGradientOrientation=[0.0, 0.6, 0.8]))
    assert (diffusion.b_value, diffusion.direction_lps, diffusion.derived) == (0, None, False)
    none = group(DiffusionDirectionality="NONE")
    assert weighted(image(), Dataset(), none).b_value == 0


def test_the_frames_own_group_goes_before_the_shared_one() -> None:
    shared = group(DiffusionBValue=500.0, DiffusionDirectionality="ISOTROPIC")
    own = group(
        DiffusionBValue=1000.0,
        DiffusionDirectionality="DIRECTIONAL",
        DiffusionGradientDirectionSequence=direction_item(1.0, 0.0, 0.0),
    )
    diffusion = weighted(image(), shared, own)
    assert diffusion.b_value == 1000
    assert_along(diffusion, (1, 0, 0))
    assert weighted(image(), shared, Dataset()).derived


def test_a_b_matrix_gives_b_value_and_direction() -> None:
    matrix = Dataset()
    direction = np.array([0.6, 0.0, 0.8])
    outer = 1200 * np.outer(direction, direction)
    for axis, (row, column) in {
        "XX": (0, 0),
        "XY": (0, 1),
        "XZ": (0, 2),
        "YY": (1, 1),
        "YZ": (1, 2),
        "ZZ": (2, 2),
    }.items():
        setattr(matrix, f"DiffusionBValue{axis}", float(outer[row, column]))
    diffusion = weighted(
        image(), Dataset(), group(DiffusionDirectionality="BMATRIX", DiffusionBMatrixSequence=[matrix])
    )
    assert diffusion.b_value == pytest.approx(1200)
    assert_along(diffusion, direction)


def test_an_empty_b_matrix_has_no_direction() -> None:
    assert gradient_of_matrix((0.0,) * 6).direction_lps is None


@pytest.mark.parametrize("kind", ["ADC", "TRACEW", "FA", "EADC"])
def test_maps_are_derived_even_without_a_b_value(kind: str) -> None:
    diffusion = weighted(image(ImageType=f"DERIVED\\PRIMARY\\{kind}"))
    assert (diffusion.derived, diffusion.direction_lps) == (True, None)


def of_ge(b_value: int, direction: tuple[str, str, str], phase: str | None = "COL") -> Dataset:
    ds = image(Manufacturer="GE MEDICAL SYSTEMS", InPlanePhaseEncodingDirection=phase)
    ds.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(0x39, "IS", [b_value, 8, 0, 0])
    block = ds.private_block(0x0019, "GEMS_ACQU_01", create=True)
    for offset, value in zip((0xBB, 0xBC, 0xBD), direction, strict=True):
        block.add_new(offset, "DS", value)
    return ds


def test_ge_keeps_the_b_value_below_its_flags() -> None:
    ds = of_ge(1_000_000_800, ("0.6", "0.0", "0.8"))
    diffusion = weighted(ds)
    assert diffusion.b_value == 800
    assert_along(diffusion, (0.6, 0, -0.8))
    del ds.InPlanePhaseEncodingDirection
    assert weighted(ds).direction_lps is None


@pytest.mark.parametrize("phase", ["ROW", "COL", None])
def test_a_shorter_direction_of_ge_stands_for_a_lower_b_value(phase: str | None) -> None:
    diffusion = weighted(of_ge(3000, ("0.346410", "0.0", "0.461880"), phase))
    assert diffusion.b_value == 1000
    if phase == "COL":
        assert_along(diffusion, (0.6, 0, -0.8))


def test_a_direction_of_ge_that_is_rounded_keeps_its_b_value() -> None:
    ds = of_ge(1000, ("0.99", "0.0", "0.0"))
    assert weighted(ds).b_value == 1000


def test_philips_directions_are_in_the_patient_and_none_is_a_trace() -> None:
    ds = image(Manufacturer="Philips Medical Systems")
    ds.private_block(0x2001, "Philips Imaging DD 001", create=True).add_new(0x03, "FL", 1000.0)
    block = ds.private_block(0x2005, "Philips MR Imaging DD 001", create=True)
    for offset, value in zip((0xB0, 0xB1, 0xB2), (0.0, 0.6, 0.8), strict=True):
        block.add_new(offset, "FL", value)
    assert_along(weighted(ds), (0, 0.6, 0.8))
    for offset in (0xB0, 0xB1, 0xB2):
        block[offset].value = 0.0
    assert weighted(ds).derived


def test_uih_directions_are_along_the_image() -> None:
    ds = image(Manufacturer="UIH", orientation=make.CORONAL)
    block = ds.private_block(0x0065, "Image Private Header", create=True)
    block.add_new(0x09, "FD", 929.75)
    block.add_new(0x37, "FD", [0.0, 0.6, 0.8])
    diffusion = weighted(ds)
    assert diffusion.b_value == 929.75
    assert_along(diffusion, (0, 0.8, -0.6))


def test_the_own_elements_of_uih_go_before_the_standards_that_lack_the_turn_of_the_planes() -> None:
    ds = image(Manufacturer="UIH", DiffusionBValue=1000.0, DiffusionGradientOrientation=[1.0, 0.0, 0.0])
    block = ds.private_block(0x0065, "Image Private Header", create=True)
    block.add_new(0x09, "FD", 929.75)
    assert_along(weighted(ds), (1, 0, 0))  # without a direction of its own
    block.add_new(0x37, "FD", [0.0, 0.6, 0.8])
    diffusion = weighted(ds)
    assert diffusion.b_value == 929.75
    assert_along(diffusion, (0, 0.6, 0.8))


def test_canon_writes_directions_into_the_comments() -> None:
    ds = image(
        Manufacturer="CANON_MEC",
        DiffusionBValue=1500.0,
        ImageComments="b=1500(0.6,0.000,0.8)",
        InPlanePhaseEncodingDirection="COL",
    )
    assert_along(weighted(ds), (0, 0.6, -0.8))
    ds.ImageComments = "b=many(1,2,3)"
    diffusion = weighted(ds)
    assert (diffusion.b_value, diffusion.direction_lps) == (1500, None)


def test_without_a_manufacturer_every_vendor_is_asked() -> None:
    ds = image()
    del ds.Manufacturer
    ds.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0C, "IS", "1000")
    assert weighted(ds).b_value == 1000


def test_a_direction_that_is_stated_as_zeros_is_known() -> None:
    diffusion = weighted(image(DiffusionBValue=1000.0, DiffusionGradientOrientation=[0.0, 0.0, 0.0]))
    assert diffusion.direction_lps is not None
    assert not diffusion.direction_lps.any()


def test_trace_images_are_told_from_maps() -> None:
    assert weighted(image(ImageType="DERIVED\\PRIMARY\\DIFFUSION\\TRACEW", DiffusionBValue=500.0)).trace
    assert weighted(image(DiffusionBValue=500.0, DiffusionDirectionality="ISOTROPIC")).trace
    assert not weighted(image(ImageType="DERIVED\\PRIMARY\\DIFFUSION\\ADC", DiffusionBValue=500.0)).trace


def enhanced(vendor: str) -> tuple[Dataset, Dataset]:
    """An enhanced image of a vendor and a frame of it, without a word of diffusion; planes are axial."""
    ds, frame = image(Manufacturer=vendor), Dataset()
    del ds.ImageOrientationPatient
    plane = make.dataset(ImageOrientationPatient=list(make.AXIAL))
    geometry = make.dataset(InPlanePhaseEncodingDirection="COL")
    frame.PlaneOrientationSequence, frame.MRFOVGeometrySequence = [plane], [geometry]
    return ds, frame


def test_frames_of_philips_keep_the_weighting_in_a_private_item() -> None:
    ds, frame = enhanced("Philips Medical Systems")
    item = Dataset()
    item.private_block(0x2001, "Philips Imaging DD 001", create=True).add_new(0x03, "FL", 1000.0)
    block = item.private_block(0x2005, "Philips MR Imaging DD 001", create=True)
    for offset, value in zip((0xB0, 0xB1, 0xB2), (0.0, 0.6, 0.8), strict=True):
        block.add_new(offset, "FL", value)
    frame.private_block(0x2005, "Philips MR Imaging DD 005", create=True).add_new(0x0F, "SQ", [item])
    diffusion = weighted(ds, Dataset(), frame)
    assert diffusion.b_value == 1000
    assert_along(diffusion, (0, 0.6, 0.8))


def test_frames_of_ge_keep_the_weighting_in_their_functional_groups() -> None:
    ds, frame = enhanced("GE MEDICAL SYSTEMS")
    frame.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(0x39, "IS", [800, 8, 0, 0])
    block = frame.private_block(0x0019, "GEMS_ACQU_01", create=True)
    for offset, value in zip((0xBB, 0xBC, 0xBD), ("0", "0.6", "0.8"), strict=True):
        block.add_new(offset, "DS", value)
    diffusion = weighted(ds, Dataset(), frame)
    assert diffusion.b_value == 800
    assert diffusion.direction_lps is not None


def test_the_standards_b_value_of_a_frame_goes_with_the_vendors_direction() -> None:
    ds, frame = enhanced("UIH")
    frame.MRDiffusionSequence = group(DiffusionBValue=700.0, DiffusionDirectionality="DIRECTIONAL").MRDiffusionSequence
    block = frame.private_block(0x0065, "Image Private Header", create=True)
    block.add_new(0x09, "FD", 690.0)
    block.add_new(0x37, "FD", [0.0, 0.6, 0.8])
    diffusion = weighted(ds, Dataset(), frame)
    assert diffusion.b_value == 700
    assert_along(diffusion, (0, 0.6, 0.8))


def test_frames_of_canon_have_directions_in_their_comments() -> None:
    ds, frame = enhanced("CANON_MEC")
    frame.FrameContentSequence = [make.dataset(FrameComments="b=1500(0.600,0.000,0.800)")]
    diffusion = weighted(ds, Dataset(), frame)
    assert diffusion.b_value == 1500
    assert diffusion.direction_lps is not None


@pytest.mark.parametrize("direction", [[float("nan"), 0.0, 0.0], [1.0, 0.0]])
def test_directions_that_cannot_be_are_unknown(direction: list[float]) -> None:
    diffusion = weighted(image(DiffusionBValue=1000.0, DiffusionGradientOrientation=direction))
    assert diffusion.direction_lps is None


@pytest.mark.parametrize("fill", [7.23e75, float("inf"), float("nan")])
def test_b_values_that_no_gradient_makes_are_what_a_program_filled_in(fill: float) -> None:
    assert diffusion_of(image(DiffusionBValue=fill, DiffusionGradientOrientation=[fill] * 3)) is None
    matrix = Dataset()
    for part in ("XX", "XY", "XZ", "YY", "YZ", "ZZ"):
        setattr(matrix, f"DiffusionBValue{part}", fill)
    assert diffusion_of(image(DiffusionBMatrixSequence=[matrix])) is None


def test_a_huge_direction_is_a_direction() -> None:
    assert_along(weighted(image(DiffusionBValue=1000.0, DiffusionGradientOrientation=[0.0, 1e308, 0.0])), (0, 1, 0))
