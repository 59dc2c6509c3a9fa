"""The columns of the index by which people look for volumes: what the header says, and nothing that it may not mean."""

from typing import Any

import numpy as np
import pytest

from node.volume.describe.scan_parameters import scan_parameters
from node.volume.describe.sidecar_fields import describe
from node.volume.model import Diffusion, Frame, Geometry, Volume
from tests import make


def described(
    modality: str = "MR", diffusion: tuple[Diffusion, ...] | None = None, **attributes: Any
) -> dict[str, Any]:
    frame = Frame("1.2.3", 1, lambda: np.zeros((2, 2)), 2, 2, position=np.zeros(3))
    series = make.mr_series if modality == "MR" else make.ct_series
    fields = describe(series(1, **attributes)[0], [frame])
    voxels = np.zeros((1, 1, 2, 2), np.int16)
    volume = Volume(
        voxels, None, (1, 1, 1), Geometry.SINGLE, 0, modality, (), attributes=fields,
        diffusion=diffusion,
    )  # fmt: skip
    return scan_parameters(volume)


SPIN, GRADIENT = {"ScanningSequence": "SE"}, {"ScanningSequence": "GR", "SequenceVariant": "SP"}
PREPARED = {"ScanningSequence": r"GR\IR", "SequenceVariant": r"SP\MP"}
INVERTED = {"ScanningSequence": r"SE\IR"}
EPFID = {"Manufacturer": "SIEMENS", "SequenceName": "*epfid2d1_64"}


@pytest.mark.parametrize(
    ("expected", "sequence", "tr_te_ti_flip"),
    [
        ("T1", SPIN, (500, 12, None, 90)),
        ("T2", SPIN, (4000, 100, None, 150)),
        ("PD", SPIN, (3000, 20, None, 180)),
        (None, SPIN, (1500, 12, None, 90)),
        (None, SPIN, (3000, 50, None, 90)),
        ("T1", SPIN, (500, 12, 0.0, 90)),  # zero is no inversion
        ("T1", PREPARED, (2300, 2.98, 900, 9)),
        (None, PREPARED, (5000, 2.98, 2500, 5)),  # second inversion of MP2RAGE
        (None, GRADIENT, (8, 4, None, 20)),  # a localizer, an angiogram or T1
        ("T2*", GRADIENT, (600, 20, None, 20)),
        ("T2*", {"ScanningSequence": r"EP\GR"}, (2000, 30, None, 77)),
        (None, {"ScanningSequence": "EP"}, (2000, 30, None, 77)),  # of which echo is not stated
        ("T2*", EPFID | {"ScanningSequence": "EP"}, (2000, 30, None, 77)),  # FID: no refocusing
        (None, EPFID | {"ScanningSequence": "EP", "SequenceName": "epse2d1_72"}, (2000, 30, None, 77)),
        (None, EPFID | {"ScanningSequence": r"SE\EP"}, (2000, 30, None, 77)),  # contradictory
        (None, {"ScanningSequence": r"EP\SE"}, (6000, 80, None, 90)),
        ("FLAIR", INVERTED, (9000, 90, 2500, 150)),
        ("T1", INVERTED, (2000, 12, 800, 150)),
        (None, INVERTED, (4000, 40, 160, 150)),  # STIR
        (None, {}, (500, 12, None, 90)),
        (None, SPIN, (None, 12, None, 90)),
    ],
)
def test_only_times_that_leave_no_doubt_have_a_weighting(
    expected: str | None, sequence: dict[str, Any], tr_te_ti_flip: tuple[float | None, ...]
) -> None:
    keywords = ("RepetitionTime", "EchoTime", "InversionTime", "FlipAngle")
    assert described(**sequence, **dict(zip(keywords, tr_te_ti_flip, strict=True)))["weighting"] == expected


@pytest.mark.parametrize(
    ("stated", "expected"), [("T1", "T1"), ("PROTON_DENSITY", "PD"), ("FLOW_ENCODED", None), ("UNKNOWN", "T2")]
)
def test_the_word_of_the_header_counts_before_the_times(stated: str, expected: str | None) -> None:
    found = described(AcquisitionContrast=stated, RepetitionTime=4000, EchoTime=100, **SPIN)
    assert found["weighting"] == expected


@pytest.mark.parametrize(("echo", "expected"), [(30, "T2*"), (2, None)])
def test_a_gradient_echo_that_states_t2_is_none(echo: float, expected: str | None) -> None:
    """Philips writes T2 into functional series."""
    assert described(AcquisitionContrast="T2", EchoTime=echo, **GRADIENT)["weighting"] == expected


@pytest.mark.parametrize(
    "kinds", [r"ORIGINAL\PRIMARY\P", r"DERIVED\PRIMARY\PHASE MAP", r"DERIVED\PRIMARY\T1 MAP", r"DERIVED\PRIMARY\T_MAP"]
)
def test_an_image_that_shows_no_magnitude_has_no_weighting(kinds: str) -> None:
    assert described(RepetitionTime=500, EchoTime=12, ImageType=kinds, **SPIN)["weighting"] is None


def test_diffusion_is_seen_by_its_weighting_and_its_maps_are_none() -> None:
    epi = {"ScanningSequence": r"EP\SE", "RepetitionTime": 6000, "EchoTime": 80}
    assert described(diffusion=(Diffusion(0), Diffusion(1000)), **epi)["weighting"] == "DWI"
    assert described(diffusion=(Diffusion(1000, derived=True),), **epi)["weighting"] is None


def test_a_ct_has_a_kernel_and_no_weighting() -> None:
    found = described("CT", ConvolutionKernel="B30f", SliceThickness=0.75, RepetitionTime=500, EchoTime=12, **SPIN)
    assert (found["convolution_kernel"], found["slice_thickness_mm"], found["weighting"]) == ("B30f", 0.75, None)


@pytest.mark.parametrize(
    ("agent", "expected"),
    [
        ("ISOVUE300/100", "IODINE"),
        ("Gadovist 7.5 ml", "GADOLINIUM"),
        ("GD", "GADOLINIUM"),
        ("100 ml Mrs Doe", "stated"),
        ("Omnipaque, Magnevist", "stated"),
        ("NONE", None),
        ("No contrast", None),
        ("--", None),
        ("", None),
    ],
)
def test_a_contrast_agent_is_its_ingredient_and_never_what_somebody_typed(agent: str, expected: str | None) -> None:
    assert described("CT", ContrastBolusAgent=agent)["contrast_agent"] == expected


def test_times_are_in_the_units_of_dicom_and_what_is_unknown_is_missing() -> None:
    found = described(RepetitionTime=2435.37, EchoTime=2.98, FlipAngle=0, MagneticFieldStrength=3)
    assert (found["repetition_time_ms"], found["echo_time_ms"]) == (2435.37, 2.98)
    assert (found["flip_angle_degrees"], found["inversion_time_ms"]) == (None, None)
    assert described("CT", ConvolutionKernel="Kérnel")["convolution_kernel"] is None
