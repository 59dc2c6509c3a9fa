"""The step between volumes is never the repetition of single excitations."""

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from pydicom import Dataset, FileDataset
from pydicom.uid import EnhancedPETImageStorage

from node.volume.arrange.timing import is_of_excitations
from node.volume.assemble import assemble
from node.volume.describe.uptake import with_uptake
from node.volume.model import Volume
from node.volume.reasons import WarningKind
from node.writers.options import WriteOptions
from node.writers.write import write_volume
from tests import make, truth
from tests.unit.volume.test_repair import series
from tests.volumes import only


def volume_of(times: int = 4, slices: int = 6, *, clock: bool = False, **attributes: Any) -> Volume:
    series = truth.series(times, slices, clock=clock, **attributes)
    return truth.whole(assemble(series.datasets), series)


def written(volume: Volume, folder: Path) -> tuple[float, dict[str, Any]]:
    """Return the step in the header of NIfTI, and the sidecar."""
    write_volume(volume, folder, "volume", WriteOptions(formats=("nifti",), compress=False, thumbnails=False))
    header: Any = nibabel.load(folder / "volume.nii").header  # type: ignore[attr-defined]
    sidecar: dict[str, Any] = json.loads((folder / "volume.json").read_text())
    return float(header["pixdim"][4]), sidecar


@pytest.mark.parametrize("repetition_ms", ["80", "55", "2400"])
def test_a_three_dimensional_series_without_times_has_no_step(repetition_ms: str, tmp_path: Path) -> None:
    volume = volume_of(MRAcquisitionType="3D", RepetitionTime=repetition_ms)
    assert volume.time_step_s is None
    step_s, sidecar = written(volume, tmp_path)
    assert step_s == 0
    assert "RepetitionTime" not in sidecar
    assert sidecar["RepetitionTimeExcitation"] == float(repetition_ms) / 1000


@pytest.mark.parametrize("repetition_ms", ["80", "2000"])
def test_times_give_the_step_of_a_three_dimensional_series(repetition_ms: str, tmp_path: Path) -> None:
    step_s, sidecar = written(volume_of(MRAcquisitionType="3D", RepetitionTime=repetition_ms, clock=True), tmp_path)
    assert step_s == sidecar["RepetitionTime"] == truth.STEP_S


@pytest.mark.parametrize(
    ("slices", "repetition_ms", "step_s"),
    [(40, "65", None), (40, "2000", 2.0), (40, "800", 0.8), (6, "200", 0.2)],  # 800 ms: eight slices at once
)
def test_a_repetition_into_which_the_echoes_of_all_slices_do_not_fit_is_of_one_slice(
    slices: int, repetition_ms: str, step_s: float | None
) -> None:
    volume = volume_of(3, slices, MRAcquisitionType="2D", RepetitionTime=repetition_ms, EchoTime="30")
    assert volume.time_step_s == step_s


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({}, False),
        ({"MRAcquisitionType": "3D"}, True),
        ({"MRAcquisitionType": "2D"}, False),
        ({"ScanningSequence": ["GR"], "EchoTrainLength": 1}, True),
        ({"ScanningSequence": ["GR"], "EchoTrainLength": 2}, False),
        ({"ScanningSequence": ["GR"]}, False),
        ({"ScanningSequence": ["EP", "GR"], "EchoTrainLength": 1}, False),
        ({"EchoTrainLength": 1}, False),
        ({"RepetitionTime": 0.0599, "EchoTime": 0.03}, True),
        ({"RepetitionTime": 0.8, "EchoTime": 0.03}, False),
    ],
)
def test_a_repetition_of_single_lines_or_volumes_is_reported_by_its_fields(fields: dict[str, Any], found: bool) -> None:
    assert is_of_excitations(fields, 40) is found


def test_a_lone_three_dimensional_volume_keeps_its_repetition_time(tmp_path: Path) -> None:
    _, sidecar = written(volume_of(1, MRAcquisitionType="3D", RepetitionTime="2400"), tmp_path)
    assert sidecar["RepetitionTime"] == 2.4


@pytest.mark.parametrize(("labelled", "step_s"), [(False, None), (True, 2.0)])
def test_times_that_start_together_have_no_step_unless_more_than_numbers_says_that_they_are_times(
    labelled: bool, step_s: float | None, tmp_path: Path
) -> None:
    labels = {"TemporalPositionIdentifier": [1, 2, 3]} if labelled else {}
    [volume] = assemble(make.time_series(AcquisitionTime="101500", RepetitionTime="2000", **labels)).volumes
    assert volume.time_step_s == step_s
    assert written(volume, tmp_path)[0] == (step_s or 0)
    assert [warning.name for warning in volume.warnings] == ([] if labelled else [WarningKind.IRREGULAR_TIME_STEPS])


def phases(trains: int, clock: str | None, train_s: float = 4.0, count: int = 4, **attributes: Any) -> Volume:
    """Return a volume of phases 250 ms apart that start again after each label; `clock`: of trains, phases, or none."""
    times = [(train, phase) for train in range(trains) for phase in range(count)]
    starts = [train_s * train + (0.25 * phase if clock == "phases" else 0) for train, phase in times]
    moments = None if clock is None else [f"1015{start + (0.84 if clock == 'trains' else 0):09.6f}" for start in starts]
    return only(
        *make.time_series(
            len(times),
            3,
            AcquisitionTime=moments,
            TriggerTime=[str(300 + 250 * phase) for _, phase in times],
            TemporalPositionIdentifier=[train + 1 for train, _ in times],
            RepetitionTime="250",
            **attributes,
        )
    )


@pytest.mark.parametrize("trains", [2, 3, 6])
@pytest.mark.parametrize("train_s", [2.0, 3.71])
@pytest.mark.parametrize("clock", [None, "trains", "whole seconds", "phases"])
def test_phases_that_start_again_have_no_step(clock: str | None, train_s: float, trains: int, tmp_path: Path) -> None:
    volume = phases(trains, clock, train_s)
    starts = [round(train_s * train + 0.25 * phase, 6) for train in range(trains) for phase in range(4)]
    assert (volume.times, volume.time_step_s) == (4 * trains, None)
    assert volume.times_s == (None if clock is None else tuple(starts))
    assert WarningKind.IRREGULAR_TIME_STEPS in {warning.name for warning in volume.warnings}
    assert WarningKind.MISSING_TIME not in {warning.name for warning in volume.warnings}
    step_s, sidecar = written(volume, tmp_path)
    assert step_s == 0
    assert "RepetitionTime" not in sidecar
    assert sidecar.get("VolumeTiming") == (None if clock is None else starts)


def test_phases_whose_trains_follow_each_other_have_a_step() -> None:
    assert phases(4, "trains", 1.0).time_step_s == phases(4, "phases", 1.0).time_step_s == 0.25


@pytest.mark.parametrize(
    ("starts_s", "step_s", "repetition_s"),
    [
        ((0, 2, 4, 6, 8), 2.0, 2),
        ((0, 2.02, 3.99, 6.01, 8), 2.0, 2),
        ((0, 2, 4, 7, 9), None, 2),
        ((0, 2, 4, 6, 10, 14), None, 2),
        ((0, 2, 4, 6.6, 8.6), None, 2),
        ((0, 2, 4.3, 6, 8), None, 2),
        ((0, 2.2, 4.4, 6.6, 8.8), None, 2),
        ((0, 1.79, 3.58, 5.37), None, 2),
        ((0, 2, 4, 6, 8), None, 2.5),
        ((0, 2, 4, 6, 8, 10), None, 4),
        ((0, 0.5, 1, 1.5), None, 2),
        ((0, 3, 6, 9), None, 2),
        ((0, 2, 4, 6, 8, 10), 2.04, 2.04),  # a clock of whole seconds
        ((0, 1, 3, 4, 6, 7, 9, 10), 1.5, 1.5),
        ((0, 4, 8, 12), 4.0, 2),  # two repetitions for each volume
        ((0, 10.5, 21, 31.5), 10.5, 0.0042),  # a repetition is a line of k-space
        ((0, 10.5, 60, 70.5), None, 0.0042),
        ((0, 2, 30, 32), None, 2),
        ((0, 0, 4, 4, 8, 8), 2.0, 2),  # label and control
        ((0, 0, 5, 5, 10, 10), None, 2),
        ((0, 0, 0, 9, 9, 9), None, 2),
    ],
)
@pytest.mark.parametrize("without_clock", [0, 1])
def test_a_repetition_is_a_step_only_if_all_starts_follow_it(
    starts_s: tuple[float, ...], step_s: float | None, repetition_s: float, without_clock: int
) -> None:
    clock = [f"10{15 + int(start // 60)}{start % 60:09.6f}" for start in starts_s]
    counted = list(range(1, len(starts_s) + 1))
    repetition = make.decimal(1000 * repetition_s)
    series = make.time_series(
        len(clock), 3, AcquisitionTime=clock, TemporalPositionIdentifier=counted, RepetitionTime=repetition
    )
    for ds in series[:without_clock]:
        del ds.AcquisitionTime
    volume = only(*series)
    assert volume.time_step_s == step_s
    steps_s = np.diff(starts_s)
    assert volume.times_s == (tuple(starts_s) if (steps_s > 0).all() else None)
    is_doubted = step_s is None and np.ptp(steps_s) < 0.01
    assert (WarningKind.SLICE_TIMING_DOUBTFUL in {one.name for one in volume.warnings}) == is_doubted
    assert step_s is None or volume.warnings == ()


def test_phases_of_which_each_starts_later_by_the_clock_than_by_its_trigger_have_no_step() -> None:
    moments, triggers = [f"1015{2 * time:02d}" for time in range(4)], [str(500 * time) for time in range(4)]
    volume = only(*make.time_series(4, 3, AcquisitionTime=moments, TriggerTime=triggers, RepetitionTime="2000"))
    assert (volume.times_s, volume.time_step_s) == ((0, 2, 4, 6), None)


# What is computed is computed of frames: an instance of two kinds gives each volume what its own frames state.


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
