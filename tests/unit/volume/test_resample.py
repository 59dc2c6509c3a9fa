"""Upright grids beside tilted, broken and uneven stacks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.volume.assemble import assemble
from node.volume.derived import upright
from node.volume.geometry import place_planes, stack_axes
from node.volume.model import VolumeKind
from tests import make
from tests.make import AXIAL, OBLIQUE, stack_positions

SPACING = (0.75, 0.5)


def linear(positions, orientation, rows=20, columns=24):
    """A stack that holds a linear function of the place in the patient: interpolation gives it back exactly."""
    down, across = np.mgrid[:rows, :columns]
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    places = (
        np.asarray(positions)[:, None, None, :]
        + across[..., None] * row * SPACING[1]
        + down[..., None] * column * SPACING[0]
    )
    return (places @ [3.0, -2.0, 5.0])[None]


def resampled(positions, orientation):
    placement = place_planes(np.asarray(positions), stack_axes(np.array([orientation])), SPACING, 1.0)
    made = upright(linear(positions, orientation), placement, np.nan)
    assert made is not None
    return made


def truth(voxels, affine):
    k, j, i = np.mgrid[: voxels.shape[1], : voxels.shape[2], : voxels.shape[3]]
    places = np.stack([i, j, k], -1) @ affine[:3, :3].T + affine[:3, 3]
    return places @ [3.0, -2.0, 5.0]


@settings(max_examples=40)
@given(
    shear=st.tuples(*[st.floats(-0.8, 0.8)] * 2),
    missing=st.sets(st.integers(1, 8), max_size=3),
    orientation=st.sampled_from([AXIAL, OBLIQUE]),
)
def test_a_linear_function_of_place_survives_tilt_and_gaps(shear, missing, orientation):
    positions = np.delete(stack_positions(10, 2.0, (5, 6, 7), orientation, shear), sorted(missing), axis=0)
    voxels, affine, step = resampled(positions, orientation)
    known = ~np.isnan(voxels[0])
    assert known.mean() > 0.3
    assert step == pytest.approx(2.0)
    assert voxels.shape[1] == 10
    # A hundredth of a pixel or of a step is not interpolated.
    assert np.abs(voxels[0] - truth(voxels, affine))[known].max() < 0.01 * (3 * 0.5 + 2 * 0.75 + 5 * 2) + 1e-9


def test_the_upright_grid_is_orthogonal_and_keeps_the_first_plane():
    positions = stack_positions(8, 2.5, (1, 2, 3), AXIAL, (0.0, 0.9))
    voxels, affine, _ = resampled(positions, AXIAL)
    assert affine[:3, 2] == pytest.approx([0, 0, 2.5])
    assert affine[:3, 3] == pytest.approx([1, 2, 3])
    assert voxels[0, 0, :20, :24] == pytest.approx(linear(positions, AXIAL)[0, 0])
    assert np.isnan(voxels[0, 0, 20:]).all()


def test_uneven_slices_are_interpolated_to_the_finest_spacing():
    _, affine, step = resampled(np.array([0, 1.0, 3.0, 6.0, 7.0])[:, None] * [0, 0, 1.0], AXIAL)
    assert step == pytest.approx(1.0)
    assert affine[2, 2] == pytest.approx(1.0)


def test_a_grid_much_larger_than_its_stack_is_not_made():
    positions = np.array([0.0, 1.0, 2.0, 5000.0])[:, None] * [0, 0, 1.0]
    placement = place_planes(positions, stack_axes(np.array([AXIAL])), SPACING, 1.0)
    assert upright(linear(positions, AXIAL), placement, 0.0) is None


def test_integers_are_rounded_and_uncovered_places_filled():
    positions = stack_positions(3, 2.0, (0, 0, 0), AXIAL, (0.25, 0.0))
    placement = place_planes(positions, stack_axes(np.array([AXIAL])), SPACING, 1.0)
    voxels, _, _ = upright(np.full((1, 3, 4, 5), 7, np.int16), placement, -9)
    assert voxels.dtype == np.int16
    assert set(np.unique(voxels)) == {-9, 7}
    assert voxels.shape == (1, 3, 4, 6)


@settings(max_examples=40)
@given(
    shear=st.tuples(*[st.floats(-0.8, 0.8)] * 2),
    missing=st.sets(st.integers(1, 8), max_size=3),
    seed=st.integers(0, 99),
    channels=st.sampled_from([(), (3,)]),
)
def test_codes_are_never_mixed(shear, missing, seed, channels):
    positions = np.delete(stack_positions(10, 2.0, (5, 6, 7), AXIAL, shear), sorted(missing), axis=0)
    placement = place_planes(positions, stack_axes(np.array([AXIAL])), SPACING, 1.0)
    codes = np.random.default_rng(seed).choice([0, 7, 200], (1, len(positions), 20, 24, *channels)).astype(np.uint8)
    voxels, _, _ = upright(codes, placement, 99, True)
    assert set(np.unique(voxels)) <= {0, 7, 99, 200}

    padding = codes == 200
    voxels, _, _ = upright(np.where(padding, -2000, 100).astype(np.int16), placement, -2000, padding)
    assert set(np.unique(voxels)) <= {-2000, 100}
    clean, _, _ = upright(np.full_like(voxels[:, : len(positions), :20, :24], 100), placement, -2000)
    assert (clean[voxels == 100] == 100).all(), "nothing is covered that was not before"


def stated(kinds="", unit="", modality="MR", **attributes):
    mapping = make.dataset(RealWorldValueSlope=0.001, RealWorldValueIntercept=0.0)
    mapping.MeasurementUnitsCodeSequence = [make.coded(unit, "UCUM", unit)]
    return {"ImageType": kinds, "modality": modality, "RealWorldValueMappingSequence": [[mapping]] * 5} | attributes


@pytest.mark.parametrize(("attributes", "is_coded"), [
    *((stated(rf"ORIGINAL\PRIMARY\{kind}\ND"), True) for kind in ("P", "PHASE MAP", "VELOCITY", "FLOW_VELOCITY")),
    *((stated(rf"DERIVED\PRIMARY\{kind}"), True) for kind in ("LABEL_MAP", "TISSUE CLASSES", "PARCELLATION")),
    *((stated(rf"DERIVED\SECONDARY\{kind}", modality="CT"), True) for kind in ("MASK", "SEGMENTED", "ROI_1")),
    (stated(["DERIVED", *[r"DERIVED\PRIMARY\MASK"] * 4]), True), (stated(modality="SEG"), True),
    *((stated(unit=unit), unit != "ms") for unit in ("rad", "deg", "ms")), (stated(PixelPresentation="COLOR"), True),
    (stated(RescaleType="milliradials"), True), (stated(r"ORIGINAL\PRIMARY\M\IN_PHASE\ARTERIAL PHASE"), False),
])  # fmt: skip
def test_a_resampled_copy_of_phases_and_labels_has_no_new_value(attributes, is_coded):
    series = make.tilted_ct_series(5, **attributes)
    for index, ds in enumerate(series):
        make.set_pixels(ds, np.outer(np.arange(20) * index, np.ones(24)).astype(np.int16) % 177)
    volume, copy = assemble(series).volumes
    assert copy.kind is VolumeKind.RESAMPLED
    assert (set(np.unique(copy.voxels)) <= set(np.unique(volume.voxels))) is is_coded


def test_a_resampled_copy_of_a_palette_has_no_new_colour():
    series = make.tilted_ct_series(5, PhotometricInterpretation="PALETTE COLOR")
    for index, ds in enumerate(series):
        make.set_pixels(ds, np.full((20, 24), index % 2, np.uint8))
        for colour in ("Red", "Green", "Blue"):
            setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [2, 0, 8])
            setattr(ds, f"{colour}PaletteColorLookupTableData", b"\x00\xff")
        ds.PhotometricInterpretation = "PALETTE COLOR"
    *_, copy = assemble(series).volumes
    assert copy.kind is VolumeKind.RESAMPLED
    assert set(np.unique(copy.voxels)) <= {0, 255}


@pytest.mark.diagonal
@pytest.mark.parametrize("slopes", [(1.0,) * 5, (1.1, 0.37, 2.0, 1 / 3, 1.0), (2.0, 1.0, 3.0, 1.0, 2.0)])
@pytest.mark.parametrize("padding", [(-2000,) * 5, (-2000, -1999, -1500, -2000, -1), (-2000, -2000, None, -2000, None)])
@pytest.mark.parametrize("limit", [None, -2001])
def test_a_resampled_copy_never_mixes_the_padding_of_any_frame_with_values(slopes, padding, limit):
    series = make.tilted_ct_series(5, RescaleSlope=[f"{slope:.9g}" for slope in slopes], RescaleIntercept="0")
    for ds, own in zip(series, padding, strict=True):
        pixels = np.full((16, 12), 1000, np.int16)
        pixels[::3, ::2] = 1000 if own is None else own
        make.set_pixels(ds, pixels)
        if own is not None:
            ds.PixelPaddingValue = own
            if limit is not None:
                ds.PixelPaddingRangeLimit = limit
    volume, copy = assemble(series).volumes
    assert copy.kind is VolumeKind.RESAMPLED
    stored = {float(value) for value in np.unique(volume.voxels) if value < 0}
    fill = volume.display.padding[0] if volume.display.padding else volume.voxels.min()
    assert {float(value) for value in np.unique(copy.voxels) if value < 0} <= stored | {float(fill)}


@pytest.mark.parametrize("kind", ["Float", "DoubleFloat"])
@pytest.mark.parametrize("padding", [-1e9, np.nan, np.inf])
def test_a_resampled_copy_never_mixes_what_is_no_number_or_padding_with_real_numbers(kind, padding):
    series = make.tilted_ct_series(5, RescaleSlope=None, RescaleIntercept=None)
    pixels = np.full((16, 12), 100, np.float32 if kind == "Float" else np.float64)
    pixels[6, ::2] = padding
    for ds in series:
        make.set_pixels(ds, pixels)
        ds.add_new(f"{kind}PixelData", "OF" if kind == "Float" else "OD", ds.pop("PixelData").value)
        setattr(ds, f"{kind}PixelPaddingValue", padding)
    volume, copy = assemble(series).volumes
    assert set(np.unique(copy.voxels).astype(str)) == set(np.unique(volume.voxels).astype(str))
    assert np.count_nonzero(copy.voxels[:, :, 4:15] == 100) == 5 * (11 * 12 - 6)


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(
    gaps=st.lists(st.sampled_from([0.5, 1.0, 1.0, 1.0, 1.4, 1.5, 1.6, 1.9, 3.5]), min_size=2, max_size=9),
    shear=st.tuples(*[st.sampled_from([0.0, 0.4])] * 2),
    orientation=st.sampled_from([AXIAL, OBLIQUE]),
    times=st.integers(1, 2),
)
def test_every_plane_lies_in_the_slice_that_its_volume_names(gaps, shear, orientation, times):
    row, column = np.reshape(orientation, (2, 3))
    away = np.cumsum([0.0, *gaps])
    places = away[:, None] * (np.cross(row, column) + shear[0] * row + shear[1] * column)
    series = make.time_series(times, len(away), positions=places, orientation=orientation)
    for ds in series[len(away) - 1 :: len(away)]:
        make.set_pixels(ds, np.full((ds.Rows, ds.Columns), 999, np.int16))
    place_of = {ds.SOPInstanceUID: [*map(float, ds.ImagePositionPatient), 1.0] for ds in series}
    for volume in assemble(series).volumes:
        assert sorted({source.time_index for source in volume.sources}) == list(range(volume.times))
        assert {source.slice_index for source in volume.sources} <= set(range(volume.voxels.shape[1]))
        assert set(volume.attributes.get("interpolated_slices", ())) <= set(range(volume.voxels.shape[1]))
        if volume.kind is VolumeKind.RESAMPLED and volume.times == times:  # else planes of a moved time, which is told
            last = max(source.slice_index for source in volume.sources)
            assert last == volume.voxels.shape[1] - 1, "the grid ends with the slice of the last plane"
            assert last in volume.attributes.get("interpolated_slices", ()) or volume.voxels[:, last].max() == 999
            for source in volume.sources:
                i, j, k, _ = np.linalg.solve(volume.affine_lps, place_of[source.sop_instance_uid])
                assert abs(k - source.slice_index) <= 0.52
                assert -0.02 <= i <= volume.voxels.shape[3] - make.COLUMNS + 0.02
                assert -0.02 <= j <= volume.voxels.shape[2] - make.ROWS + 0.02
