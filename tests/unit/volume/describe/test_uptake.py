"""Standardised uptake values: factors, volumes, and the facts whose absence leaves them unknown."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, FileDataset
from pydicom.uid import EnhancedPETImageStorage

from node.volume.assemble import assemble
from node.volume.describe.emission import SuvUnknown
from node.volume.describe.uptake import SizeUnknown, suv_factor, with_uptake
from node.volume.model import Volume, VolumeKind
from node.volume.read.functional_groups import dataset_of_frame
from node.volume.reasons import WarningKind
from node.writers.base import stem_of
from tests import make


def pet(**attributes: Any) -> FileDataset:
    facts = {
        "Units": "BQML",
        "DecayCorrection": "START",
        "CorrectedImage": ["NORM", "DTIM", "ATTN", "SCAT", "DECY"],
        "PatientWeight": "70",
        "SeriesDate": "20240102",
        "SeriesTime": "110000",
        "AcquisitionTime": "110010",
        "RadiopharmaceuticalInformationSequence": [make.injection("100000")],
    } | attributes
    return make.instance(modality="PT", **facts)


def test_uptake_is_activity_by_the_decayed_dose_and_the_weight() -> None:
    factors = suv_factor(pet())
    assert factors.decay_s == 3600
    assert factors.factor == pytest.approx(70_000 / (370e6 * 2 ** (-3600 / 6586.2)))
    assert suv_factor(pet(DecayCorrection="ADMIN")).factor == pytest.approx(70_000 / 370e6)


def injection(**attributes: Any) -> list[Dataset]:
    """The radiopharmaceutical of `pet` with other facts; None leaves one out."""
    [item] = pet().RadiopharmaceuticalInformationSequence
    for keyword, value in attributes.items():
        if value is None:
            delattr(item, keyword)
        else:
            setattr(item, keyword, value)
    return [item]


def test_an_injection_before_midnight_is_of_the_day_before() -> None:
    late = injection(RadiopharmaceuticalStartTime="233000")
    ds = pet(SeriesTime="003000", AcquisitionTime="003100", RadiopharmaceuticalInformationSequence=late)
    assert suv_factor(ds).decay_s == 3600


def test_a_dynamic_scan_may_begin_before_the_injection() -> None:
    soon = injection(RadiopharmaceuticalStartTime="110030")
    factors = suv_factor(pet(SeriesType=["DYNAMIC", "IMAGE"], RadiopharmaceuticalInformationSequence=soon))
    assert factors.decay_s == -30
    assert factors.factor == pytest.approx(70_000 / (370e6 * 2 ** (30 / 6586.2)))


def test_the_scan_time_of_ge_holds_for_a_series_that_was_made_the_day_after() -> None:
    ds = pet(SeriesDate="20240103", SeriesTime="090000", AcquisitionDate="20240102")
    ds.private_block(0x0009, "GEMS_PETD_01", create=True).add_new(0x0D, "DT", "20240102110000.00")
    assert suv_factor(ds).decay_s == 3600


def test_a_slow_decay_over_days_counts_from_the_date_of_the_injection() -> None:
    slow = injection(RadionuclideHalfLife="282240", RadiopharmaceuticalStartDateTime="20231229110000")
    assert suv_factor(pet(RadiopharmaceuticalInformationSequence=slow)).decay_s == 4 * 86400
    with pytest.raises(SuvUnknown, match="the date of the scan is missing"):
        suv_factor(pet(SeriesDate=None, RadiopharmaceuticalInformationSequence=slow))
    slow[0].RadionuclideHalfLife = "6586.2"
    assert suv_factor(pet(SeriesDate=None, RadiopharmaceuticalInformationSequence=slow)).decay_s == 0


@pytest.mark.parametrize(
    ("injected", "zone", "decay_s"),
    [
        ({"RadiopharmaceuticalStartDateTime": "20240102090000+0000"}, "+0100", 3600),
        ({"RadiopharmaceuticalStartDateTime": "20240102000000-0800"}, "+0130", 5400),
        ({"RadiopharmaceuticalStartDateTime": "20240102100000"}, "-0500", 3600),
        ({"RadiopharmaceuticalStartTime": "100000"}, "-0500", 3600),
        ({"RadiopharmaceuticalStartDateTime": "20240102100000+0000"}, None, None),
    ],
)
def test_injection_and_scan_are_compared_by_the_offsets_of_their_clocks(injected, zone, decay_s) -> None:
    datasets = pet_series(AcquisitionDate="20240102")
    for ds in datasets:
        ds.RadiopharmaceuticalInformationSequence = injection(**({"RadiopharmaceuticalStartTime": None} | injected))
        if zone is not None:
            ds.TimezoneOffsetFromUTC = zone
    volume, *uptake = uptake_of(datasets)
    assert volume.attributes.get("InjectionStart") == (None if decay_s is None else -decay_s - 10)
    assert [own.attributes["suv"]["decay_s"] for own in uptake] == ([] if decay_s is None else [decay_s])
    doubts = [own.detail for own in volume.warnings if own.name is WarningKind.SUV_UNKNOWN]
    assert ["offset" in detail for detail in doubts] == ([True] if decay_s is None else [])


def test_activity_that_philips_counts_is_scaled_before_it_becomes_uptake() -> None:
    ds = pet(Units="CNTS")
    block = ds.private_block(0x7053, "Philips PET Private Group", create=True)
    block.add_new(0x00, "DS", "0")
    block.add_new(0x09, "DS", "1.25")
    assert suv_factor(ds).factor == pytest.approx(1.25 * suv_factor(pet()).factor)


def test_philips_states_the_factor_itself_and_gml_is_uptake_already() -> None:
    ds = pet(Units="CNTS")
    ds.private_block(0x7053, "Philips PET Private Group", create=True).add_new(0x00, "DS", "0.000551")
    assert suv_factor(ds).factor == 0.000551
    assert suv_factor(pet(Units="GML")).factor == 1


@pytest.mark.parametrize(
    ("attributes", "named"),
    [
        ({"Units": "PROPCPS"}, "(0054,1001)"),
        ({"Units": "CNTS"}, "(7053,xx00)"),
        ({"PatientWeight": None}, "(0010,1030)"),
        ({"PatientWeight": "0"}, "(0010,1030)"),
        ({"RadiopharmaceuticalInformationSequence": None}, "(0054,0016)"),
        ({"DecayCorrection": "NONE"}, "(0054,1102)"),
        ({"AcquisitionTime": "090000"}, "(0008,0031)"),
        ({"SeriesTime": None}, "the time of the scan is missing"),
        ({"CorrectedImage": ["NORM", "DTIM", "SCAT", "DECY"]}, "ATTN"),
        ({"CorrectedImage": ["NORM", "ATTN", "SCAT"]}, "DECY"),
        ({"CorrectedImage": None}, "(0028,0051)"),
        ({"AttenuationCorrected": "NO"}, "(0018,9759)"),
        ({"Units": None}, "(0054,1001) Units is missing"),
        ({"Units": ""}, "(0054,1001) Units is missing"),
        ({"Units": "GML", "SUVType": "IBW"}, "(0054,1006)"),
        ({"Units": "GML", "SUVType": "BSA"}, "contradicts"),
        ({"Units": "GML", "SUVType": "LBM"}, "(0010,0040)"),
        ({"PatientWeight": "0.000070"}, "cannot be in its unit"),
        ({"RadiopharmaceuticalInformationSequence": {"RadionuclideTotalDose": "370000"}}, "cannot be in its unit"),
        ({"RadiopharmaceuticalInformationSequence": "several"}, "(0054,0016)"),
        ({"RadiopharmaceuticalInformationSequence": {"RadionuclideTotalDose": "370"}}, "(0018,1074)"),
        (
            {"RadiopharmaceuticalInformationSequence": {"RadiopharmaceuticalStartTime": "113000"}},
            "before the injection",
        ),
        ({"RadiopharmaceuticalInformationSequence": {"RadionuclideHalfLife": "109.8"}}, "half-lives"),
        ({"RadiopharmaceuticalInformationSequence": {"RadionuclideHalfLife": "45720"}}, "(0018,1078)"),
        (
            {"RadiopharmaceuticalInformationSequence": {"RadiopharmaceuticalStartDateTime": "20240101100000"}},
            "half-lives",
        ),
    ],
)
def test_uptake_without_its_facts_is_unknown_and_the_fact_is_named(attributes: dict[str, Any], named: str) -> None:
    match attributes.get("RadiopharmaceuticalInformationSequence"):
        case "several":
            attributes = {"RadiopharmaceuticalInformationSequence": [*injection(), *injection()]}
        case dict(changes):
            attributes = {"RadiopharmaceuticalInformationSequence": injection(**changes)}
    with pytest.raises((SuvUnknown, SizeUnknown)) as caught:
        suv_factor(pet(**attributes))
    assert named in str(caught.value)


def enhanced_pet(rescale_slope: str = "2.5", unit: str = "Bq/ml") -> FileDataset:
    """An enhanced PET whose values are corrected to one hour after the injection; without Units of its own."""
    ds = make.enhanced_mr(3)
    ds.Modality, ds.PatientWeight = "PT", "70"
    ds.AttenuationCorrected = "YES"
    ds.DecayCorrected, ds.DecayCorrectionDateTime = "YES", "20240102110000"
    injection, scaling, mapping, code = Dataset(), Dataset(), Dataset(), Dataset()
    injection.RadionuclideTotalDose, injection.RadionuclideHalfLife = "370000000", "6586.2"
    injection.RadiopharmaceuticalStartDateTime = "20240102100000"
    ds.RadiopharmaceuticalInformationSequence = [injection]
    scaling.RescaleSlope, scaling.RescaleIntercept = rescale_slope, "0"
    mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept = 2.5, 0.0
    code.CodeValue, code.CodingSchemeDesignator = unit, "UCUM"
    mapping.MeasurementUnitsCodeSequence = [code]
    shared = ds.SharedFunctionalGroupsSequence[0]
    shared.PixelValueTransformationSequence, shared.RealWorldValueMappingSequence = [scaling], [mapping]
    return ds


def test_uptake_of_an_enhanced_image_comes_from_its_own_attributes() -> None:
    activity, uptake = uptake_of([enhanced_pet()])
    factor = 70_000 / (370e6 * 2 ** (-3600 / 6586.2))
    assert activity.slope == 2.5
    assert uptake.slope == pytest.approx(2.5 * factor)
    assert uptake.attributes["suv"]["decay_s"] == 3600
    assert suv_factor(dataset_of_frame(enhanced_pet(unit="g/ml{SUVbw}"), 1)).factor == 1


@pytest.mark.parametrize("dose", ["370", "370000000"])
def test_the_dose_of_an_enhanced_image_is_in_megabecquerels_unless_that_cannot_be(dose: str) -> None:
    ds = enhanced_pet()
    ds.SOPClassUID = EnhancedPETImageStorage
    ds.RadiopharmaceuticalInformationSequence[0].RadionuclideTotalDose = dose
    factors = suv_factor(dataset_of_frame(ds, 1))
    assert factors.injected_dose_bq == 370e6
    assert factors.factor == pytest.approx(70_000 / (370e6 * 2 ** (-3600 / 6586.2)))


def test_uptake_of_an_enhanced_image_that_is_rescaled_to_something_else_is_unknown() -> None:
    with pytest.raises(SuvUnknown, match="Real World Value"):
        suv_factor(dataset_of_frame(enhanced_pet(rescale_slope="1"), 1))


PET_FACTS = (
    *("Units", "DecayCorrection", "CorrectedImage", "PatientWeight", "SeriesDate", "SeriesTime", "AcquisitionTime"),
    "RadiopharmaceuticalInformationSequence",
)


def pet_series(**attributes: Any) -> list[Dataset]:
    instance = pet()
    facts = {keyword: instance[keyword].value for keyword in PET_FACTS}
    facts["CorrectedImage"] = "\\".join(facts["CorrectedImage"])
    scaling = {"RescaleSlope": "0.5", "RescaleIntercept": "0", "RescaleType": "BQML"}
    window = {"WindowCenter": "100", "WindowWidth": "200"}
    return make.image_series(3, modality="PT", **(facts | scaling | window | attributes))


def uptake_of(datasets: list[Dataset], *suv_types: str) -> list[Volume]:
    by_uid = {ds.SOPInstanceUID: ds for ds in datasets}
    return list(with_uptake(assemble(datasets), by_uid.__getitem__, suv_types or ("BW",)).volumes)


def test_a_volume_of_uptake_lies_beside_that_of_activity_and_tells_its_factors() -> None:
    activity, uptake = uptake_of(pet_series())
    factor = suv_factor(pet()).factor
    assert (activity.suffix, activity.slope, activity.attributes["Units"]) == ("", 0.5, "Bq/mL")
    assert (uptake.suffix, uptake.slope, uptake.attributes["Units"]) == ("", 0.5 * factor, "g/mL")
    assert (activity.kind, uptake.kind, stem_of(uptake)) == (VolumeKind.VOLUME, VolumeKind.SUV, "volume_suv")
    assert "RescaleType" not in uptake.attributes
    assert uptake.voxels is activity.voxels
    assert uptake.display.windows == ((100 * factor, 200 * factor),)
    assert uptake.attributes["suv"] == {
        "factor": factor,
        "size": 70_000,
        "weight_kg": 70,
        "injected_dose_bq": 370e6,
        "half_life_s": 6586.2,
        "decay_s": 3600,
    }


def test_the_uptake_of_a_resampled_volume_has_a_name_of_its_own() -> None:
    volumes = uptake_of(pet_series(positions=[(-50.0, -40.0, z) for z in (0.0, 2.0, 7.0)]))
    assert [(volume.kind, stem_of(volume)) for volume in volumes] == [
        (VolumeKind.VOLUME, "volume"),
        (VolumeKind.SUV, "volume_suv"),
        (VolumeKind.RESAMPLED, "volume_resampled"),
        (VolumeKind.SUV, "volume_resampled_suv"),
    ]


def test_slopes_that_vary_are_in_the_voxels_before_they_become_uptake() -> None:
    activity, uptake = uptake_of(pet_series(RescaleSlope=["0.5", "0.25", "2"]))
    assert (activity.slope, uptake.slope) == (1, suv_factor(pet()).factor)


@pytest.mark.parametrize(
    ("attributes", "named"),
    [
        ({"PatientWeight": None}, "(0010,1030)"),
        ({"PatientWeight": ["70", None, "70"]}, "(0010,1030)"),
        ({"PatientWeight": ["70", "70", "80"]}, "differ"),
    ],
)
def test_an_unknown_uptake_is_a_warning_that_names_what_is_missing(attributes: dict[str, Any], named: str) -> None:
    (volume,) = uptake_of(pet_series(**attributes))
    (warning,) = (warning for warning in volume.warnings if warning.name is WarningKind.SUV_UNKNOWN)
    assert named in warning.detail


def test_of_what_is_no_pet_no_uptake_is_asked() -> None:
    (volume,) = uptake_of(make.ct_series(3))
    assert WarningKind.SUV_UNKNOWN not in {warning.name for warning in volume.warnings}


# Beside an implementation of its own


def pseudo_code(ds: Dataset, sex: str) -> dict[str, float]:
    """The factors by the vendor-neutral pseudo-code of QIBA, written down for itself: clocks, not seconds of a day."""
    [injected] = ds.RadiopharmaceuticalInformationSequence
    assert {"ATTN", "DECY"} <= set(ds.CorrectedImage)
    assert ds.DecayCorrection == "START"
    assert ds.Units == "BQML"
    scan = datetime.strptime(ds.SeriesDate + ds.SeriesTime, "%Y%m%d%H%M%S")
    start = datetime.strptime(ds.SeriesDate + injected.RadiopharmaceuticalStartTime, "%Y%m%d%H%M%S")
    decay = (scan - start) / timedelta(seconds=1)
    decayed_dose = float(injected.RadionuclideTotalDose) * 2 ** (-decay / float(injected.RadionuclideHalfLife))
    weight, height_cm = float(ds.PatientWeight), float(ds.PatientSize) * 100
    linear, quadratic, quadratic_128 = (1.10, 120, 128) if sex == "M" else (1.07, 148, 148)
    return {
        "BW": weight * 1000 / decayed_dose,
        "LBM": (linear * weight - quadratic * (weight / height_cm) ** 2) * 1000 / decayed_dose,
        "LBMJAMES128": (linear * weight - quadratic_128 * (weight / height_cm) ** 2) * 1000 / decayed_dose,
        "BSA": weight**0.425 * height_cm**0.725 * 0.007184 * 10_000 / decayed_dose,
    }


@given(
    weight=st.integers(30, 120),
    height_cm=st.integers(140, 205),
    sex=st.sampled_from("MF"),
    dose_mbq=st.integers(50, 900),
    half_life=st.sampled_from(("6586.2", "1223.4", "4057.7")),
    waited=st.integers(0, 7200),
)
@settings(max_examples=60)
def test_factors_are_those_of_the_pseudo_code(
    weight: int, height_cm: int, sex: str, dose_mbq: int, half_life: str, waited: int
) -> None:
    started = (datetime(2024, 1, 2, 11) - timedelta(seconds=waited)).strftime("%H%M%S")
    [item] = injection(RadiopharmaceuticalStartTime=started, RadionuclideHalfLife=half_life)
    item.RadionuclideTotalDose = str(dose_mbq * 1_000_000)
    ds = pet(
        PatientWeight=str(weight),
        PatientSize=str(height_cm / 100),
        PatientSex=sex,
        RadiopharmaceuticalInformationSequence=[item],
    )
    for suv_type, factor in pseudo_code(ds, sex).items():
        assert suv_factor(ds, suv_type).factor == pytest.approx(factor, rel=1e-12)


def test_each_type_of_uptake_is_a_volume_of_its_own_name_and_unit() -> None:
    series = pet_series(PatientSize="1.75", PatientSex="M")
    activity, *uptake = uptake_of(series, "BW", "LBM", "LBMJAMES128", "BSA")
    assert [(stem_of(volume), volume.attributes["SUVType"], volume.attributes["Units"]) for volume in uptake] == [
        ("volume_suv", "BW", "g/mL"),
        ("volume_lbm_suv", "LBM", "g/mL"),
        ("volume_lbmjames128_suv", "LBMJAMES128", "g/mL"),
        ("volume_bsa_suv", "BSA", "cm2/mL"),
    ]
    expected = pseudo_code(series[0], "M")
    for volume in uptake:
        assert volume.slope == pytest.approx(activity.slope * expected[volume.attributes["SUVType"]], rel=1e-12)
        assert volume.kind is VolumeKind.SUV


@pytest.mark.parametrize(
    ("missing", "named"), [({"PatientSex": "O"}, "(0010,0040)"), ({"PatientSize": "175"}, "(0010,1020)")]
)
def test_a_type_that_cannot_be_computed_leaves_the_others(missing: dict[str, str], named: str) -> None:
    activity, uptake = uptake_of(pet_series(**({"PatientSize": "1.75", "PatientSex": "F"} | missing)), "BW", "LBM")
    assert uptake.attributes["SUVType"] == "BW"
    [warning] = [warning for warning in activity.warnings if warning.name is WarningKind.SUV_UNKNOWN]
    assert "(LBM)" in warning.detail
    assert named in warning.detail
    assert WarningKind.SUV_UNKNOWN not in {warning.name for warning in uptake.warnings}


def test_a_mass_that_leaves_nothing_lean_has_no_uptake_by_it() -> None:
    with pytest.raises(SizeUnknown, match="no lean body mass"):
        suv_factor(pet(PatientWeight="300", PatientSize="1.5", PatientSex="F"), "LBM")


@pytest.mark.parametrize(
    ("units", "stated", "wanted"),
    [("GML", "BW", "LBM"), ("GML", "LBM", "BW"), ("CM2ML", "BSA", "BW"), ("GML", "", "BSA")],
)
def test_uptake_by_one_size_becomes_uptake_by_another(units: str, stated: str, wanted: str) -> None:
    patient = {"PatientSize": "1.75", "PatientSex": "M"}
    by_size = pseudo_code(pet(**patient), "M")
    factors = suv_factor(pet(Units=units, SUVType=stated, **patient), wanted)
    assert factors.factor == pytest.approx(by_size[wanted] / by_size[stated or "BW"], rel=1e-12)
    assert suv_factor(pet(Units=units, SUVType=stated, **patient), stated or "BW").factor == 1


def test_pet_without_units_keeps_its_volume_and_tells_why_there_is_no_uptake() -> None:
    [volume] = uptake_of(pet_series(Units=None))
    assert volume.kind is VolumeKind.VOLUME
    [warning] = [warning for warning in volume.warnings if warning.name is WarningKind.SUV_UNKNOWN]
    assert "(0054,1001) Units is missing" in warning.detail
