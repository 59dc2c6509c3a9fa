"""Parametric maps, written by highdicom: values in the unit of their quantity, one volume for each quantity."""

from typing import Any

import numpy as np
import pytest
from highdicom import VOILUTTransformation
from highdicom.pm import ParametricMap, RealWorldValueMapping
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from node.volume.assemble import assemble
from node.volume.model import Geometry, Volume
from node.volume.reasons import Reason
from tests import make

SLICES, ROWS, COLUMNS, SPACING = 4, 5, 7, 2.5
ADC = Code("113041", "DCM", "Apparent Diffusion Coefficient")
PERFUSION = Code("113055", "DCM", "Regional Cerebral Blood Flow")


def mapping(
    slope: float, intercept: float, quantity: Code, label: str = "map", *, last: int | float = 65535
) -> RealWorldValueMapping:
    return RealWorldValueMapping(
        lut_label=label,
        lut_explanation=label,
        unit=codes.UCUM.NoUnits,
        value_range=(type(last)(0), last),
        slope=slope,
        intercept=intercept,
        quantity_definition=quantity,
    )


def parametric_map(pixels: np.ndarray, mappings: list[Any]) -> Dataset:
    """A map of (slices, rows, columns[, quantities]) over an oblique CT."""
    source = make.ct_series(SLICES, rows=ROWS, columns=COLUMNS, spacing=SPACING, orientation=make.OBLIQUE)
    return ParametricMap(
        source_images=source,
        pixel_array=pixels,
        **make.derived_series(),
        contains_recognizable_visual_features=False,
        real_world_value_mappings=mappings,
        voi_lut_transformations=[VOILUTTransformation(window_center=100, window_width=200)],
    )


def ascending(volume: Volume) -> np.ndarray:
    """Real values (slices, rows, columns) in the order of the source's positions, as the affine places them."""
    assert volume.geometry is Geometry.REGULAR
    places = make.stack_positions(SLICES, SPACING, make.ORIGIN_MM, make.OBLIQUE)
    index = np.linalg.inv(volume.affine_lps) @ np.vstack([places.T, np.ones(SLICES)])
    assert np.allclose(index[:2], 0, atol=1e-3)
    found: np.ndarray = volume.voxels[0][np.rint(index[2]).astype(int)] * volume.slope + volume.intercept
    return found


def integers(quantities: int = 1) -> np.ndarray:
    values = np.random.default_rng(5).integers(0, 4000, (SLICES, ROWS, COLUMNS, quantities), np.uint16)
    return values[..., 0] if quantities == 1 else values


def test_stored_integers_become_the_values_of_the_quantity() -> None:
    stored = integers()
    [volume] = assemble([parametric_map(stored, [mapping(0.25, -3.0, ADC)])]).volumes
    assert (volume.slope, volume.intercept, volume.voxels.dtype) == (0.25, -3.0, np.uint16)
    assert np.array_equal(ascending(volume), stored * 0.25 - 3)
    assert volume.display.windows == ((22.0, 50.0),)
    assert volume.attributes["RealWorldValueUnits"] == "1"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floating_point_values_are_kept(dtype: Any) -> None:
    values = np.random.default_rng(5).normal(size=(SLICES, ROWS, COLUMNS)).astype(dtype)
    [volume] = assemble([parametric_map(values, [mapping(2.0, 0.5, ADC, last=1.0)])]).volumes
    assert volume.voxels.dtype == dtype
    assert np.array_equal(ascending(volume), values * 2.0 + 0.5)


def test_quantities_are_volumes_and_not_times() -> None:
    stored = integers(2)
    ds = parametric_map(stored, [[mapping(0.5, 0.0, ADC, "a")], [mapping(2.0, 1.0, PERFUSION, "b")]])
    first, second = assemble([ds]).volumes
    assert [volume.times for volume in (first, second)] == [1, 1]
    assert np.array_equal(ascending(first), stored[..., 0] * 0.5)
    assert np.array_equal(ascending(second), stored[..., 1] * 2.0 + 1)
    assert first.suffix != second.suffix


def test_a_map_with_several_values_for_one_pixel_is_refused() -> None:
    ds = parametric_map(integers(), [mapping(0.25, -3.0, ADC), mapping(1.0, 0.0, PERFUSION)])
    [refusal] = assemble([ds]).refusals
    assert refusal.reason is Reason.CONTRADICTORY
    assert "(0040,9096)" in refusal.detail


def test_a_map_whose_values_are_a_table_is_refused() -> None:
    ds = parametric_map(integers(), [mapping(0.25, -3.0, ADC)])
    for group in (*ds.PerFrameFunctionalGroupsSequence, *ds.SharedFunctionalGroupsSequence):
        for item in group.get("RealWorldValueMappingSequence", []):
            del item.RealWorldValueSlope
            item.RealWorldValueLUTData = [1.0, 2.0]
    [refusal] = assemble([ds]).refusals
    assert refusal.reason is Reason.CONTRADICTORY
    assert "(0040,9212)" in refusal.detail


def test_a_map_without_a_mapping_has_its_stored_values() -> None:
    stored = integers()
    ds = parametric_map(stored, [mapping(0.25, -3.0, ADC)])
    for group in (*ds.PerFrameFunctionalGroupsSequence, *ds.SharedFunctionalGroupsSequence):
        if "RealWorldValueMappingSequence" in group:
            del group.RealWorldValueMappingSequence
    [volume] = assemble([ds]).volumes
    assert np.array_equal(ascending(volume), stored)
