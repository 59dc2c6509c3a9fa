"""Times, factors and tracer of PET in BIDS' terms, worked out by hand from the attributes of PS3.3 C.8.9."""

from typing import Any

import pytest
from pydicom import Dataset, FileDataset
from pydicom.uid import EnhancedPETImageStorage

from node.volume.assemble import assemble
from node.volume.describe.sidecar_fields import describe
from tests import make

SLICES = 3


def dynamic(times: int = 2, **attributes: Any) -> list[FileDataset]:
    """A dynamic PET injected 30 s before its first frame; frames of one minute."""
    facts = {
        "Units": "BQML",
        "DecayCorrection": "START",
        "SeriesDate": "20240102",
        "SeriesTime": "110000",
        "AcquisitionDate": "20240102",
        "RadiopharmaceuticalInformationSequence": [[make.injection("105930")]] * SLICES,
        "ActualFrameDuration": 60000,
    } | attributes
    series: list[FileDataset] = []
    for time in range(times):
        clock = {"AcquisitionTime": f"11{time:02}00", "FrameReferenceTime": str(60000 * time + 30000)}
        own: dict[str, Any] = {
            name: value[time] if isinstance(value, tuple) else value for name, value in facts.items()
        }
        series += make.image_series(
            SLICES,
            modality="PT",
            pixels=make.pattern(SLICES, 16, 12, seed=time),
            series_uid="1.2.3",
            study_uid="1.2",
            FrameOfReferenceUID="1.2.4",
            **(clock | own),
        )
    for number, ds in enumerate(series, start=1):
        ds.InstanceNumber = number
    return series


def facts_of(series: list[FileDataset]) -> dict[str, Any]:
    [volume] = assemble(series).volumes
    return dict(volume.attributes)


def test_time_zero_is_the_start_of_the_scan_and_all_else_counts_from_it() -> None:
    facts = facts_of(dynamic())
    assert (facts["TimeZero"], facts["ScanStart"]) == ("11:00:00", 0)
    assert facts["InjectionStart"] == -30
    assert (facts["ImageDecayCorrected"], facts["ImageDecayCorrectionTime"]) == (True, 0)
    assert facts["InjectedRadioactivityUnits"] == "Bq"
    assert facts["Units"] == "Bq/mL"


def test_the_dose_of_an_enhanced_image_is_reported_in_becquerels() -> None:
    ds = make.enhanced_mr(3)
    ds.Modality, ds.SOPClassUID = "PT", EnhancedPETImageStorage
    ds.RadiopharmaceuticalInformationSequence = [Dataset()]
    ds.RadiopharmaceuticalInformationSequence[0].RadionuclideTotalDose = "185.5"  # MBq, PS3.3 C.8.22.4
    facts = facts_of([ds])
    assert (facts["InjectedRadioactivity"], facts["InjectedRadioactivityUnits"]) == (185.5e6, "Bq")


@pytest.mark.parametrize(
    ("correction", "corrected", "moment"), [("ADMIN", True, -30), ("NONE", False, None), ("", None, None)]
)
def test_decay_is_corrected_to_the_moment_that_the_series_tells(
    correction: str, corrected: bool | None, moment: float | None
) -> None:
    facts = facts_of(dynamic(DecayCorrection=correction))
    assert facts.get("ImageDecayCorrected") is corrected
    assert facts.get("ImageDecayCorrectionTime") == moment


def test_factors_of_each_frame_are_reported_where_its_slices_share_them() -> None:
    facts = facts_of(dynamic(DecayFactor=("1.005", "1.016"), ScatterFractionFactor=("0.31", "0.29")))
    assert facts["DecayCorrectionFactor"] == [1.005, 1.016]
    assert facts["ScatterFraction"] == [31, 29]
    assert facts["FrameReferenceTime"] == [30, 90]
    series = dynamic(DecayFactor="1.005")
    series[1].DecayFactor = "1.2"
    assert "DecayCorrectionFactor" not in facts_of(series)
    del series[1].DecayFactor
    assert "DecayCorrectionFactor" not in facts_of(series)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("InjectionStart", {"RadiopharmaceuticalStartTime": "105900"}),
        ("InjectedRadioactivity", {"RadionuclideTotalDose": "390000000"}),
        ("ImageDecayCorrected", {"DecayCorrection": "NONE"}),
        ("ImageDecayCorrectionTime", {"DecayCorrection": "ADMIN"}),
        ("ImageDecayCorrectionTime", {"SeriesTime": "105959"}),
    ],
)
def test_a_fact_in_which_one_instance_differs_is_left_out_and_named(field: str, change: dict[str, str]) -> None:
    series = dynamic()
    assert field in facts_of(series)
    injection = make.injection("105930")
    series[4].RadiopharmaceuticalInformationSequence = [injection]
    for keyword, value in change.items():
        setattr(injection if keyword.startswith("Radio") else series[4], keyword, value)
    [volume] = assemble(series).volumes
    assert field not in volume.attributes
    assert "SeriesTime" in change or any("Radio" in one.detail or "Decay" in one.detail for one in volume.warnings)


def test_dates_that_an_anonymiser_moved_tell_no_times_between_them() -> None:
    facts = facts_of(dynamic(SeriesDate="20200102"))
    assert "ImageDecayCorrectionTime" not in facts
    assert facts["TimeZero"] == "11:00:00"
    assert "TimeZero" not in facts_of(dynamic(times=1, AcquisitionTime=None, AcquisitionDate=None))


@pytest.mark.parametrize(
    ("meaning", "expected"),
    [
        ("^18^Fluorine", "F18"),
        ("^11^Carbon", "C11"),
        ("F-18", "F18"),
        ("^82^Rubidium", "Rb82"),
        ("Ga68", "Ga68"),
        ("Mustermann 7", None),
        ("Fluorine", None),
    ],
)
def test_a_radionuclide_is_named_by_its_symbol(meaning: str, expected: str | None) -> None:
    code = make.dataset(CodeMeaning=meaning, CodeValue="1")
    injection = make.dataset(RadionuclideCodeSequence=[code])
    ds = make.dataset(RadiopharmaceuticalInformationSequence=[injection])
    assert describe(ds, []).get("TracerRadionuclide") == expected


@pytest.mark.parametrize(("scheme", "expected"), [("SCT", "Fluorodeoxyglucose F^18^"), ("99LOCAL", None)])
def test_a_tracer_is_named_where_a_scheme_of_the_standard_codes_it(scheme: str, expected: str | None) -> None:
    code = make.dataset(CodeMeaning="Fluorodeoxyglucose F^18^", CodingSchemeDesignator=scheme)
    injection = make.dataset(RadiopharmaceuticalCodeSequence=[code], Radiopharmaceutical="typed by somebody")
    ds = make.dataset(RadiopharmaceuticalInformationSequence=[injection])
    facts = describe(ds, [])
    assert facts.get("TracerName") == expected
    injection.Radiopharmaceutical = "FDG -- fluorodeoxyglucose, drawn up by Anna"
    assert describe(ds, [])["TracerName"] == (expected or "FDG")
    assert "typed by somebody" not in facts.values()


def test_corrections_and_reconstruction_are_reported_unless_they_repeat_a_name() -> None:
    ds = Dataset()
    ds.ReconstructionMethod, ds.AttenuationCorrectionMethod = "OSEM 3i24s", "measured by Mustermann"
    ds.PatientName = "Mustermann^Erika"
    facts = describe(ds, [])
    assert facts["ReconMethodName"] == "OSEM 3i24s"
    assert "ReconFilterType" not in facts
    assert "AttenuationCorrection" not in facts
    ds.Modality, ds.ConvolutionKernel = "PT", "XYZ Gauss2.00"
    assert describe(ds, [])["ReconFilterType"] == ["XYZ Gauss"]
    assert describe(ds, [])["ReconFilterSize"] == 2.0
