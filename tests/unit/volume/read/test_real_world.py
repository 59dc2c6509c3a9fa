"""A real world value mapping in the place of a rescaling: MR images of Philips have it, others have it beside."""

from typing import Any

import pytest
from pydicom import DataElement, Dataset

from node.volume.assemble import assemble
from node.volume.model import Volume
from tests import make

PHILIPS = "Philips Medical Systems"


def mapping(slope: float = 2.5, intercept: float = 3.0, **table: Any) -> Dataset:
    item = make.dataset(LUTLabel="Philips")
    item.add(DataElement("RealWorldValueFirstValueMapped", "US", 0))
    item.add(DataElement("RealWorldValueLastValueMapped", "US", 4095))
    if table:
        item.RealWorldValueLUTData = table["table"]
    else:
        item.RealWorldValueSlope, item.RealWorldValueIntercept = slope, intercept
    return item


def volume_of(series: list[Any], *mappings: Dataset, rescale: tuple[float, float] | None = None) -> Volume:
    for ds in series:
        for keyword in ("RescaleSlope", "RescaleIntercept"):
            ds.pop(keyword, None)
        if rescale is not None:
            ds.RescaleSlope, ds.RescaleIntercept = rescale
        ds.RealWorldValueMappingSequence = list(mappings)
    [volume] = assemble(series).volumes
    return volume


@pytest.mark.parametrize("manufacturer", ["Philips Medical Systems", "PHILIPS", "Philips"])
def test_a_mapping_scales_an_image_of_philips_that_has_no_rescaling(manufacturer: str) -> None:
    volume = volume_of(make.mr_series(4, Manufacturer=manufacturer), mapping())
    assert (volume.slope, volume.intercept) == (2.5, 3.0)


def test_a_rescaling_takes_precedence_and_other_manufacturers_state_a_mapping_beside_it() -> None:
    volume = volume_of(make.mr_series(4, Manufacturer=PHILIPS), mapping(), rescale=(1.5, 7))
    assert (volume.slope, volume.intercept) == (1.5, 7.0)
    for other in ("SIEMENS", "GE MEDICAL SYSTEMS"):
        volume = volume_of(make.mr_series(4, Manufacturer=other), mapping())
        assert (volume.slope, volume.intercept) == (1.0, 0.0)


def test_a_table_of_values_is_no_scaling_and_two_scalings_are_refused() -> None:
    volume = volume_of(make.mr_series(4, Manufacturer=PHILIPS), mapping(table=[1.0, 2.0]))
    assert (volume.slope, volume.intercept) == (1.0, 0.0)
    volume = volume_of(make.mr_series(4, Manufacturer=PHILIPS), mapping(), mapping())
    assert (volume.slope, volume.intercept) == (2.5, 3.0)
    series = make.mr_series(4, Manufacturer=PHILIPS)
    for ds in series:
        ds.pop("RescaleSlope", None)
        ds.RealWorldValueMappingSequence = [mapping(), mapping(slope=7)]
    assembly = assemble(series)
    assert assembly.volumes == ()
    assert {refusal.reason for refusal in assembly.refusals} == {"contradictory"}


@pytest.mark.parametrize("shared", [False, True])
def test_a_mapping_of_a_frame_scales_an_enhanced_image_without_transformation(shared: bool) -> None:
    ds = make.enhanced_mr(4)
    ds.Manufacturer = PHILIPS
    groups = [*ds.PerFrameFunctionalGroupsSequence, *ds.SharedFunctionalGroupsSequence]
    for group in groups:
        group.pop("PixelValueTransformationSequence", None)
    for group in groups[-1:] if shared else groups[:-1]:
        group.RealWorldValueMappingSequence = [mapping()]
    [volume] = assemble([ds]).volumes
    assert (volume.slope, volume.intercept) == (2.5, 3.0)
    transformation = make.dataset(RescaleSlope=1.25, RescaleIntercept=1)
    ds.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence = [transformation]
    [volume] = assemble([ds]).volumes
    assert (volume.slope, volume.intercept) == (1.25, 1.0)
