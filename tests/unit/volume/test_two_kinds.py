"""What is computed is computed of frames: an instance of two kinds gives each volume what its own frames state."""

from typing import Any

import pytest
from pydicom import Dataset, FileDataset
from pydicom.uid import EnhancedPETImageStorage

from node.volume.assemble import assemble
from node.volume.describe.uptake import with_uptake
from node.volume.model import Volume
from node.volume.reasons import WarningKind
from tests import make
from tests.unit.volume.test_weighted_series import series

SLICES = 3


def two_kinds(modality: str, *macros: dict[str, Any], **attributes: Any) -> FileDataset:
    """One instance of two times; the frames of each state the macros of its kind."""
    ds = make.enhanced_mr(SLICES, times=2, **attributes)
    ds.Modality = modality
    for index, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
        for keyword, items in macros[index // SLICES].items():
            setattr(group, keyword, items)
    return ds


def mapping(unit: str, slope: float = 2.5) -> Dataset:
    code = make.dataset(CodeValue=unit, CodingSchemeDesignator="UCUM")
    return make.dataset(RealWorldValueSlope=slope, RealWorldValueIntercept=0.0, MeasurementUnitsCodeSequence=[code])


def of_pet(*macros: dict[str, Any]) -> list[Volume]:
    injection = make.injection("100000")
    injection.RadiopharmaceuticalStartDateTime = "20240102100000"
    facts = {"AttenuationCorrected": "YES", "DecayCorrected": "YES", "DecayCorrectionDateTime": "20240102110000"}
    ds = two_kinds("PT", *macros, PatientWeight="70", **facts)
    ds.SOPClassUID, ds.RadiopharmaceuticalInformationSequence = EnhancedPETImageStorage, [injection]
    scaling = make.dataset(RescaleSlope="2.5", RescaleIntercept="0")
    ds.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence = [scaling]
    return list(with_uptake(assemble([ds]), lambda _: ds).volumes)


def test_uptake_has_the_unit_and_the_factor_of_the_frames_of_its_volume() -> None:
    kinds = [{"RealWorldValueMappingSequence": [mapping(unit)]} for unit in ("Bq/ml", "g/ml{SUVbw}")]
    activity, uptake, stated, same = of_pet(*kinds)
    assert uptake.slope == pytest.approx(2.5 * 70_000 / (370e6 * 2 ** (-3600 / 6586.2)))
    assert (stated.slope, same.slope, same.attributes["suv"]["factor"]) == (2.5, 2.5, 1)
    assert [volume.attributes["RealWorldValueUnits"] for volume in (activity, stated)] == ["Bq/ml", "g/ml{SUVbw}"]


def test_a_factor_of_emission_is_that_of_each_frame() -> None:
    unit = {"RealWorldValueMappingSequence": [mapping("Bq/ml")]}
    factors = [{"PETFrameCorrectionFactorsSequence": [make.dataset(ScatterFractionFactor=own)]} for own in (0.3, 0.4)]
    first, *_ = of_pet(*(unit | own for own in factors))
    assert first.attributes["ScatterFraction"] == [30, 40]


def test_the_sidecar_and_the_timing_are_those_of_the_frames_of_a_volume() -> None:
    labelling = [
        {
            "MRTimingAndRelatedParametersSequence": [make.dataset(FlipAngle=angle, RepetitionTime=2000.0)],
            "MRArterialSpinLabelingSequence": [make.dataset(ASLSlabSequence=[make.dataset(ASLSlabThickness=angle)])],
        }
        for angle in (5.0, 20.0)
    ]
    volumes = assemble([two_kinds("MR", *labelling)]).volumes
    assert [volume.attributes["FlipAngle"] for volume in volumes] == [5, 20]
    assert [volume.attributes["LabelingSlabThickness"] for volume in volumes] == [5, 20]
    delayed = sorted(make.time_series(2, SLICES, Manufacturer="GE MEDICAL"), key=lambda ds: int(ds.InstanceNumber))
    for number, ds in enumerate(delayed):
        ds.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(0x7C, "FL", 0.5 * (number >= SLICES))
    (volume,) = assemble(delayed).volumes
    assert "RepetitionTime" not in volume.attributes
    assert any("DelayTime" in warning.detail for warning in volume.warnings)


@pytest.mark.parametrize("is_enhanced", [False, True])
def test_a_field_in_which_the_items_of_a_sequence_differ_is_left_out_and_named(is_enhanced: bool) -> None:
    units = [mapping("ms"), mapping("s", 0.002)]
    instances = [two_kinds("MR", *[{"RealWorldValueMappingSequence": units}] * 2)]
    if not is_enhanced:
        instances = make.mr_series(SLICES)
        for ds in instances:
            ds.RealWorldValueMappingSequence = units
    (volume,) = assemble(instances).volumes
    assert {"RealWorldValueUnits", "RealWorldValueSlope"}.isdisjoint(volume.attributes)
    assert volume.attributes["RealWorldValueIntercept"] == 0
    (detail,) = (own.detail for own in volume.warnings if own.name == WarningKind.PARAMETER_VARIES)
    assert "RealWorldValueUnits" in detail


@pytest.mark.parametrize(
    ("keyword", "values", "suffixes"),
    [("EffectiveEchoTime", (4.9, 7.4), ["e1", "e2"]), ("InversionTimes", (300.0, 1500.0), ["ti1", "ti2"])],
)
def test_classic_images_may_state_times_as_enhanced_ones_do(keyword: str, values: Any, suffixes: list[str]) -> None:
    images = sorted(make.time_series(2, SLICES), key=lambda ds: int(ds.InstanceNumber))
    for number, ds in enumerate(images):
        ds.pop("EchoTime", None)
        setattr(ds, keyword, values[number >= SLICES])
    assert [volume.suffix for volume in assemble(images).volumes] == suffixes


WEIGHTINGS: list[Any] = [(0, None), (1000, (1, 0, 0)), (1000, (0, 1, 0)), (1000, (0, 0, 1))]


@pytest.mark.parametrize("keyword", ["ImagedNucleus", "ScanOptions", "PixelBandwidth", "NumberOfAverages"])
@pytest.mark.parametrize("count", [1, SLICES])
def test_a_weighting_that_differs_in_what_it_is_is_named_unless_it_may(keyword: str, count: int) -> None:
    images = series("SIEMENS", WEIGHTINGS)
    for number, ds in enumerate(images):
        setattr(ds, keyword, "1" if number < len(images) - count else "2")
    (volume,) = assemble(images).volumes
    varies = [own.detail for own in volume.warnings if own.name == WarningKind.PARAMETER_VARIES]
    assert len(varies) == (keyword != "NumberOfAverages")


@pytest.mark.parametrize(("text", "is_named"), [("{} keV", True), ("Motion: 0.0{},-0.01,0.00", False)])
def test_comments_of_three_images_at_one_place_are_named_unless_they_undo_motion(text: str, is_named: bool) -> None:
    images = sorted(make.time_series(3, SLICES), key=lambda ds: int(ds.InstanceNumber))
    for number, ds in enumerate(images):
        ds.ImageComments = text.format(number // SLICES)
    (volume,) = assemble(images).volumes
    assert any("Image Comments" in own.detail for own in volume.warnings) == is_named
