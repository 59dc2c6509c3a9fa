"""Fields that follow from others, and attributes of labelling and of reconstruction."""

from typing import Any

import numpy as np
import pytest
from pydicom import Dataset

from node.volume.arrange.slice_timing import slice_timing
from node.volume.describe.sidecar_fields import describe
from node.volume.model import Diffusion, Frame
from tests import make


def frame(z: float = 0.0, acquired: float | None = None, trigger_ms: float | None = None, b_value: float = 0) -> Frame:
    one = Frame("1.2.3", 1, lambda: np.zeros((2, 2)), 2, 2, position=np.array([0.0, 0.0, z]))
    one.time_key = {"acquisition_time": acquired, "trigger_time": trigger_ms}
    one.diffusion = Diffusion(b_value)
    return one


def facts_of(frames: list[Frame] | None = None, **attributes: Any) -> dict[str, Any]:
    return describe(make.mr_series(1, **attributes)[0], [frame()] if frames is None else frames)


@pytest.mark.parametrize(
    ("kinds", "variants", "expected"),
    [
        (r"EP\GR", "SK", "Gradient Echo EPI"),
        (r"SE\EP", "SK", "Spin Echo EPI"),
        ("EP", "SK", "Gradient Echo EPI"),
        ("GR", "SP", "Spoiled Gradient Echo"),
        ("GR", "SK", "Gradient Echo"),
        (r"GR\IR", r"SP\MP", "MPRAGE"),
        (r"SE\IR", "SK", "Inversion Recovery Spin Echo"),
        ("SE", "NONE", "Spin Echo"),
        ("RM", "NONE", None),
    ],
)
def test_a_sequence_has_a_general_name(kinds: str, variants: str, expected: str | None) -> None:
    assert facts_of(ScanningSequence=kinds, SequenceVariant=variants).get("PulseSequenceType") == expected


def test_the_echo_of_a_diffusion_sequence_that_is_not_stated_is_not_made_up() -> None:
    assert facts_of([frame(b_value=1000)], ScanningSequence="EP")["PulseSequenceType"] == "EPI"
    assert facts_of([frame(b_value=1000)], ScanningSequence=r"EP\SE")["PulseSequenceType"] == "Spin Echo EPI"


def test_enhanced_images_name_echo_and_readout_apart() -> None:
    ds = make.enhanced_mr(2)
    ds.EchoPulseSequence, ds.EchoPlanarPulseSequence = "SPIN", "YES"
    assert describe(ds, [frame()])["PulseSequenceType"] == "Spin Echo EPI"


def test_the_time_of_an_acquisition_is_that_of_its_earliest_plane() -> None:
    day = 60_000_000_000.0 - 60_000_000_000.0 % 86400
    frames = [frame(0, day + 36903.245), frame(1, day + 36901.21), frame(2, day + 36902.0)]
    assert facts_of(frames, AcquisitionTime="101503.245")["AcquisitionTime"] == "10:15:01.210000"
    frames[0] = frame(0, day + 36901.21)
    assert facts_of(frames, AcquisitionTime="101501.210000")["AcquisitionTime"] == "10:15:01.210000"


def test_the_time_of_an_acquisition_of_philips_is_that_of_its_first_image() -> None:
    day = 60_000_000_000.0 - 60_000_000_000.0 % 86400
    frames = [frame(0, day + 36903.245), frame(1, day + 36901.21), frame(2, day + 36902.0)]
    for number, one in zip((3, 2, 1), frames, strict=True):
        one.instance_number = number
    facts = facts_of(frames, AcquisitionTime="101503.245", Manufacturer="Philips Medical Systems")
    assert facts["AcquisitionTime"] == "10:15:02.000000"


def test_philips_states_steps_without_partial_fourier() -> None:
    facts = facts_of(Manufacturer="Philips", PartialFourier="YES", NumberOfPhaseEncodingSteps=96)
    assert (facts["PartialFourierEnabled"], facts["PhaseEncodingStepsNoPartialFourier"]) == ("YES", 96)
    for other in ({"Manufacturer": "Philips", "PartialFourier": "NO"}, {"Manufacturer": "GE", "PartialFourier": "YES"}):
        assert "PartialFourierEnabled" not in facts_of(NumberOfPhaseEncodingSteps=96, **other)


def labelling(**attributes: Any) -> Dataset:
    ds = make.enhanced_mr(2)
    ds.SharedFunctionalGroupsSequence[0].MRArterialSpinLabelingSequence = [make.dataset(**attributes)]
    ds.RepetitionTime, ds.InversionTime = 4100, 1525
    return ds


def test_labelling_of_the_standard_has_bids_names() -> None:
    ds = labelling(
        ArterialSpinLabelingContrast="PULSED",
        ASLCrusherFlag="YES",
        ASLCrusherFlowLimit=5.0,
        ASLBolusCutoffFlag="YES",
        ASLSlabSequence=[make.dataset(ASLSlabOrientation=[0.0, 0.0, 1.0], ASLSlabThickness=100.0)],
        ASLBolusCutoffTimingSequence=[make.dataset(ASLBolusCutoffTechnique="QUIPSSII", ASLBolusCutoffDelayTime=700)],
    )
    expected = {
        "ArterialSpinLabelingType": "PASL",
        "VascularCrushing": True,
        "VascularCrushingVENC": 5.0,
        "BolusCutOffFlag": True,
        "BolusCutOffTechnique": "QUIPSSII",
        "BolusCutOffDelayTime": 0.7,
        "LabelingOrientation": [0, 0, 1],
        "LabelingSlabThickness": 100,
        "PostLabelingDelay": 1.525,
        "RepetitionTimePreparation": 4.1,
    }
    facts = describe(ds, [frame()])
    assert {name: facts.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    ("method", "values"), [("PSF+TOF 3i21s", [21, 3]), ("OSEM:i3s15", [15, 3]), ("3D Kinahan-Rogers", None)]
)
def test_subsets_and_iterations_are_in_the_name_of_a_method(method: str, values: list[int] | None) -> None:
    facts = facts_of(modality="PT", ReconstructionMethod=method, ConvolutionKernel="XYZ Gauss4.00", SeriesTime="100000")
    assert facts.get("ReconMethodParameterValues") == values
    assert facts.get("ReconMethodParameterLabels") == (["subsets", "iterations"] if values else None)
    assert (facts["ReconFilterType"], facts["ReconFilterSize"]) == (["XYZ Gauss"], 4.0)
    assert facts["SeriesTime"] == "10:00:00"
    assert facts["ReconstructionMethod"] == method


def multiphase(triggers_ms: list[float]) -> tuple[Dataset, list[list[Frame]]]:
    [ds] = make.mr_series(1, Manufacturer="GE MEDICAL SYSTEMS")
    ds.private_block(0x0019, "GEMS_ACQU_01", create=True).add_new(0x9E, "LO", "EPI")
    frames = [frame(3.0 * (index % 3), trigger_ms=trigger) for index, trigger in enumerate(triggers_ms)]
    return ds, [frames[start : start + 3] for start in range(0, len(frames), 3)]


def test_multi_phase_scans_of_ge_have_the_times_of_their_slices_as_trigger_times() -> None:
    ds, planes = multiphase([1333.3, 0.0, 666.7, 3333.3, 2000.0, 2666.7])
    assert slice_timing(ds, planes, 2.0) == ([1.3333, 0.0, 0.6667], None)
    ds, planes = multiphase([40.0, 40.0, 40.0, 80.0, 80.0, 80.0])
    assert slice_timing(ds, planes, 2.0) == (None, None), "cardiac phases"
    ds.Manufacturer = "SIEMENS"
    assert slice_timing(ds, multiphase([1333.3, 0.0, 666.7])[1], 2.0) == (None, None)
