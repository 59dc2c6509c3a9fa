"""Diffusion weighting: the standard's attributes, and every vendor's own."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, FileDataset

from node.volume.model import Diffusion
from node.volume.read.diffusion import diffusion_of
from node.volume.vendors.fields import gradient_of_matrix
from tests import make
from tests.unit.volume.grids import weighted


def image(orientation: make.Numbers = make.AXIAL, **attributes: Any) -> FileDataset:
    return make.changed(make.mr_series(1, orientation=orientation)[0], **attributes)


def assert_along(found: Diffusion, direction: make.Numbers) -> None:
    assert np.isclose(np.linalg.norm(found.direction_lps), 1)
    assert np.isclose(abs(found.direction_lps @ np.array(direction)), 1)


def group(**attributes: Any) -> Dataset:
    """A functional group with an MR Diffusion Sequence."""
    return make.dataset(MRDiffusionSequence=[make.dataset(**attributes)])


def direction_item(*direction: float) -> list[Dataset]:
    return [make.dataset(DiffusionGradientOrientation=list(direction))]


def test_an_image_that_says_nothing_is_not_weighted() -> None:
    assert diffusion_of(image()) is None


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
    for row, column in zip(*np.triu_indices(3), strict=True):
        setattr(matrix, f"DiffusionBValue{'XYZ'[row]}{'XYZ'[column]}", float(outer[row, column]))
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


def test_a_direction_that_is_stated_as_zeros_is_known() -> None:
    diffusion = weighted(image(DiffusionBValue=1000.0, DiffusionGradientOrientation=[0.0, 0.0, 0.0]))
    assert not diffusion.direction_lps.any()


def test_trace_images_are_distinguished_from_maps() -> None:
    assert weighted(image(ImageType="DERIVED\\PRIMARY\\DIFFUSION\\TRACEW", DiffusionBValue=500.0)).trace
    assert weighted(image(DiffusionBValue=500.0, DiffusionDirectionality="ISOTROPIC")).trace
    assert not weighted(image(ImageType="DERIVED\\PRIMARY\\DIFFUSION\\ADC", DiffusionBValue=500.0)).trace


def enhanced(vendor: str) -> tuple[Dataset, Dataset]:
    """An enhanced image of a vendor and a frame of it, without a word of diffusion; planes are axial."""
    ds = image(Manufacturer=vendor)
    del ds.ImageOrientationPatient
    plane = make.dataset(ImageOrientationPatient=list(make.AXIAL))
    geometry = make.dataset(InPlanePhaseEncodingDirection="COL")
    return ds, make.dataset(PlaneOrientationSequence=[plane], MRFOVGeometrySequence=[geometry])


def put(ds: Dataset, group: int, creator: str, vr: str, offsets: Sequence[int], values: Sequence[Any]) -> Dataset:
    block = ds.private_block(group, creator, create=True)
    for offset, value in zip(offsets, values, strict=True):
        block.add_new(offset, vr, value)
    return ds


def ge(b_value: int, *direction: float, ds: Dataset | None = None, phase: str | None = "COL") -> Dataset:
    ds = ds or image(Manufacturer="GE MEDICAL SYSTEMS", InPlanePhaseEncodingDirection=phase)
    put(ds, 0x0043, "GEMS_PARM_01", "IS", [0x39], [[b_value, 8, 0, 0]])
    return put(ds, 0x0019, "GEMS_ACQU_01", "DS", [0xBB, 0xBC, 0xBD], direction)


def philips(*direction: float, b_value: float = 1000.0, ds: Dataset | None = None) -> Dataset:
    ds = image(Manufacturer="Philips Medical Systems") if ds is None else ds
    put(ds, 0x2001, "Philips Imaging DD 001", "FL", [0x03], [b_value])
    return put(ds, 0x2005, "Philips MR Imaging DD 001", "FL", [0xB0, 0xB1, 0xB2], direction)


def uih(b_value: float, *direction: float, ds: Dataset | None = None, **attributes: Any) -> Dataset:
    ds = ds or image(Manufacturer="UIH", **attributes)
    values = [b_value, list(direction)] if direction else [b_value]
    return put(ds, 0x0065, "Image Private Header", "FD", [0x09, 0x37][: len(values)], values)


def canon(comments: str) -> Dataset:
    return image(
        Manufacturer="CANON_MEC", DiffusionBValue=1500.0, ImageComments=comments, InPlanePhaseEncodingDirection="COL"
    )


def framed(vendor: str, weigh: Callable[[Dataset], Any]) -> tuple[Dataset, Dataset, Dataset]:
    ds, frame = enhanced(vendor)
    weigh(frame)
    return ds, Dataset(), frame


def in_private_item(frame: Dataset) -> None:
    put(frame, 0x2005, "Philips MR Imaging DD 005", "SQ", [0x0F], [[philips(0.0, 0.6, 0.8, ds=Dataset())]])


def beside_the_standard(frame: Dataset) -> None:
    frame.update(group(DiffusionBValue=700.0, DiffusionDirectionality="DIRECTIONAL"))
    uih(690.0, 0.0, 0.6, 0.8, ds=frame)


ALONG_X = {"DiffusionBValue": 1000.0, "DiffusionGradientOrientation": [1.0, 0.0, 0.0]}
Y_AND_Z = {"DiffusionBValue": 1000.0, "DiffusionGradientOrientation": [0.0, 3.0, 4.0]}
HUGE = {"DiffusionBValue": 1000.0, "DiffusionGradientOrientation": [0.0, 1e308, 0.0]}
SHORT = (0.346410, 0.0, 0.461880)
COMMENTS = [make.dataset(FrameComments="b=1500(0.600,0.000,0.800)")]

WEIGHTED: dict[str, tuple[Callable[[], tuple[Dataset, ...]], float, tuple[float, ...] | None]] = {
    "standard, at the top": (lambda: (image(**Y_AND_Z),), 1000, (0, 0.6, 0.8)),
    "standard, a huge direction": (lambda: (image(**HUGE),), 1000, (0, 1, 0)),
    "GE, below flags": (lambda: (ge(1_000_000_800, 0.6, 0.0, 0.8),), 800, (0.6, 0, -0.8)),
    "GE, no phase": (lambda: (ge(1_000_000_800, 0.6, 0.0, 0.8, phase=None),), 800, None),
    "GE, a shorter direction is a lower b-value": (lambda: (ge(3000, *SHORT),), 1000, (0.6, 0, -0.8)),
    "GE, a shorter direction along rows": (lambda: (ge(3000, *SHORT, phase="ROW"),), 1000, (0, 0.6, 0.8)),
    "GE, a shorter direction, no phase": (lambda: (ge(3000, *SHORT, phase=None),), 1000, None),
    "GE, a rounded direction keeps its b-value": (lambda: (ge(1000, 0.99, 0.0, 0.0),), 1000, (1, 0, 0)),
    "GE, frames": (
        lambda: framed("GE MEDICAL SYSTEMS", lambda frame: ge(800, 0, 0.6, 0.8, ds=frame)), 800, (0, 0.6, -0.8),
    ),
    "Philips, in the patient": (lambda: (philips(0.0, 0.6, 0.8),), 1000, (0, 0.6, 0.8)),
    "Philips, without weighting": (lambda: (philips(0.0, 0.0, 0.0, b_value=0.0),), 0, None),
    "Philips, frames": (lambda: framed("Philips Medical Systems", in_private_item), 1000, (0, 0.6, 0.8)),
    "UIH, along the image": (lambda: (uih(929.75, 0.0, 0.6, 0.8, orientation=make.CORONAL),), 929.75, (0, 0.8, -0.6)),
    "UIH, before the standard": (lambda: (uih(929.75, 0.0, 0.6, 0.8, **ALONG_X),), 929.75, (0, 0.6, 0.8)),
    "UIH, no direction of its own": (lambda: (uih(929.75, **ALONG_X),), 1000, (1, 0, 0)),
    "UIH, frames with the b-value of the standard": (lambda: framed("UIH", beside_the_standard), 700, (0, 0.6, 0.8)),
    "Canon, in comments": (lambda: (canon("b=1500(0.6,0.000,0.8)"),), 1500, (0, 0.6, -0.8)),
    "Canon, no comments": (lambda: (canon("b=many(1,2,3)"),), 1500, None),
    "Canon, frames": (
        lambda: framed("CANON_MEC", lambda frame: make.changed(frame, FrameContentSequence=COMMENTS)),
        1500, (0, 0.6, -0.8),
    ),
    "Siemens, no manufacturer": (
        lambda: (put(*make.mr_series(1, Manufacturer=None), 0x0019, "SIEMENS MR HEADER", "IS", [0x0C], ["1000"]),),
        1000, None,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("made", "b_value", "direction"), WEIGHTED.values(), ids=WEIGHTED)
def test_weightings_are_read_from_where_each_vendor_keeps_them(
    made: Callable[[], tuple[Dataset, ...]], b_value: float, direction: tuple[float, ...] | None
) -> None:
    diffusion = weighted(*made())
    assert (diffusion.b_value, diffusion.derived) == (b_value, False)
    if direction is None:
        assert diffusion.direction_lps is None
    else:
        assert_along(diffusion, direction)


def test_a_direction_of_zeros_is_a_trace_of_philips() -> None:
    assert weighted(philips(0.0, 0.0, 0.0)).derived


@pytest.mark.parametrize("direction", [[float("nan"), 0.0, 0.0], [1.0, 0.0]])
def test_directions_that_cannot_be_are_unknown(direction: list[float]) -> None:
    assert weighted(image(DiffusionBValue=1000.0, DiffusionGradientOrientation=direction)).direction_lps is None


@pytest.mark.parametrize("fill", [7.23e75, float("inf"), float("nan")])
def test_b_values_that_no_gradient_makes_are_what_a_program_filled_in(fill: float) -> None:
    assert diffusion_of(image(DiffusionBValue=fill, DiffusionGradientOrientation=[fill] * 3)) is None
    matrix = Dataset()
    for part in ("XX", "XY", "XZ", "YY", "YZ", "ZZ"):
        setattr(matrix, f"DiffusionBValue{part}", fill)
    assert diffusion_of(image(DiffusionBMatrixSequence=[matrix])) is None
