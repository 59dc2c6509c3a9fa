"""What the vendors' own elements tell of an acquisition, by the names of BIDS and of dcm2niix."""

import json
import warnings
from random import Random
from typing import Any

import pytest
from pydicom import Dataset, FileDataset
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from node.volume.describe.sidecar_fields import describe
from node.volume.vendors import VENDOR_FIELDS
from tests import make


def image(manufacturer: str, **attributes: Any) -> FileDataset:
    return make.mr_series(1, Manufacturer=manufacturer, **attributes)[0]


def siemens(**assignments: Any) -> FileDataset:
    """An image of Siemens with a protocol of these assignments."""
    ds = image("SIEMENS")
    lines = "\n".join(f"{key} = {value}" for key, value in assignments.items())
    text = b"### ASCCONV BEGIN ###\n" + lines.encode() + b"\n### ASCCONV END ###"
    ds.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x20, "OB", text + b" " * (len(text) % 2))
    return ds


def stated(ds: Dataset, *names: str) -> dict[str, Any]:
    facts = describe(ds, [])
    return {name: facts[name] for name in names if name in facts}


@pytest.mark.parametrize(
    ("key", "value", "name", "expected"),
    [
        ("sKSpace.lBaseResolution", "72", "BaseResolution", 72),
        ("sKSpace.dPhaseResolution", "0.75", "PhaseResolution", 0.75),
        ("sKSpace.dPhaseOversamplingForDialog", "0.2", "PhaseOversampling", 0.2),
        ("sKSpace.uc2DInterpolation", "0x1", "Interpolation2D", 1),
        ("sTXSPEC.asNucleusInfo[0].flReferenceAmplitude", "316.97", "TxRefAmp", 316.97),
        ("sPat.lRefLinesPE", "32", "RefLinesPE", 32),
        ("dAveragesDouble", "1.4", "AveragesDouble", 1.4),
        ("dAveragesDouble", "1.0", "AveragesDouble", None),
        ("sPat.ucPATMode", "0x2", "MatrixCoilMode", "GRAPPA"),
        ("sPat.ucPATMode", "1", "MatrixCoilMode", None),
        ("sFastImaging.lEchoSpacing", "830", "VendorReportedEchoSpacing", 0.00083),
        ("ucCoilCombineMode", "2", "CoilCombinationMethod", "Adaptive Combine"),
        ("sProtConsistencyInfo.tBaselineString", '"N4_VB12T"', "ConsistencyInfo", "N4_VB12T"),
        ("tSequenceFileName", r'"%SiemensSeq%\ep2d_diff"', "PulseSequenceDetails", r"%SiemensSeq%\ep2d_diff"),
        ("tSequenceFileName", r'"%CustomerSeq%\smith_epi"', "PulseSequenceDetails", None),
        ("sKSpace.dPhaseResolution", "nan", "PhaseResolution", None),
        ("sTXSPEC.asNucleusInfo[0].flReferenceAmplitude", "1e999", "TxRefAmp", None),
        ("sKSpace.lBaseResolution", "many", "BaseResolution", None),
    ],
)
def test_an_assignment_of_siemens_protocol_is_a_field(key: str, value: str, name: str, expected: object) -> None:
    assert describe(siemens(**{key: value}), []).get(name) == expected


@pytest.mark.parametrize("place", ["sGRADSPEC", "sGRADSPEC.asGPAData[0]"])
def test_shims_of_siemens_are_three_offsets_and_five_currents(place: str) -> None:
    offsets = {f"{place}.lOffset{axis}": value for axis, value in zip("XYZ", (-3717, 15233, -9833), strict=True)}
    currents = {f"sGRADSPEC.alShimCurrent[{term}]": term - 2 for term in (0, 1, 3, 4)}
    assert describe(siemens(**offsets, **currents), [])["ShimSetting"] == [-3717, 15233, -9833, -2, -1, 0, 1, 2]


@pytest.mark.parametrize(("scheme", "name"), [("1", "Bipolar"), ("2", "Monopolar"), ("9", None)])
def test_the_scheme_of_diffusion_is_told_of_diffusion_sequences(scheme: str, name: str | None) -> None:
    planned = {"sDiffusion.dsScheme": scheme, "tSequenceFileName": r'"%SiemensSeq%\ep2d_diff"'}
    assert describe(siemens(**planned), []).get("DiffusionScheme") == name
    planned["tSequenceFileName"] = r'"%SiemensSeq%\ep2d_bold"'
    assert "DiffusionScheme" not in describe(siemens(**planned), [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("p2", {"ParallelReductionFactorInPlane": 2}),
        ("p2 s3", {"ParallelReductionFactorInPlane": 2, "MultibandAccelerationFactor": 3}),
        ("s4", {"MultibandAccelerationFactor": 4}),
        ("p1 s1", {}),
    ],
)
def test_siemens_writes_accelerations_as_text_of_classic_images_and_of_xa(text: str, expected: dict[str, int]) -> None:
    classic = image("SIEMENS")
    classic.private_block(0x0051, "SIEMENS MR HEADER", create=True).add_new(0x11, "LO", text)
    enhanced, item = make.enhanced_mr(2, Manufacturer="Siemens Healthineers"), Dataset()
    item.private_block(0x0021, "SIEMENS MR SDS 01", create=True).add_new(0x09, "LO", text)
    shared = enhanced.SharedFunctionalGroupsSequence[0]
    shared.private_block(0x0021, "SIEMENS MR SDS 01", create=True).add_new(0xFE, "SQ", [item])
    for ds in (classic, enhanced):
        assert stated(ds, "ParallelReductionFactorInPlane", "MultibandAccelerationFactor") == expected


def test_the_table_of_siemens_is_where_the_header_says() -> None:
    ds = image("SIEMENS")
    ds.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x14, "IS", [0, 0, -120])
    assert describe(ds, [])["TablePosition"] == [0, 0, -120]


ASL = {"sAsl.ulMode": "4", "sAsl.ulLabelingDuration": "1800000", "sAsl.sPostLabelingDelay[0]": "1500000"}


def test_labelling_of_siemens_is_that_of_its_protocol() -> None:
    planned = ASL | {"sAsl.ulSuppressionMode": "4", "tSequenceFileName": r'"%SiemensSeq%\tgse_pcasl"'}
    ds = siemens(**planned)
    ds.RepetitionTime = 4100
    assert stated(
        ds,
        *("ArterialSpinLabelingType", "LabelingDuration", "PostLabelingDelay", "BackgroundSuppression"),
        "RepetitionTimePreparation",
    ) == {
        "ArterialSpinLabelingType": "PCASL",
        "LabelingDuration": 1.8,
        "PostLabelingDelay": 1.5,
        "BackgroundSuppression": True,
        "RepetitionTimePreparation": 4.1,
    }


def test_a_protocol_without_labelling_tells_no_times_of_it() -> None:
    planned = ASL | {"sAsl.ulMode": "1", "sAsl.ulSuppressionMode": "1", "alTI[2]": "2000000"}
    facts = describe(siemens(**planned, tSequenceFileName=r'"%SiemensSeq%\ep2d_bold"'), [])
    assert not facts.keys() & {"LabelingDuration", "PostLabelingDelay", "BackgroundSuppression"}
    assert "RepetitionTimePreparation" not in facts


def test_pulsed_labelling_of_siemens_has_its_times_as_inversion_times() -> None:
    facts = describe(
        siemens(**{"tSequenceFileName": r'"%SiemensSeq%\tgse_pasl"', "alTI[0]": "800000", "alTI[2]": "2000000"}), []
    )
    assert facts["ArterialSpinLabelingType"] == "PASL"
    assert (facts["BolusCutOffDelayTime"], facts["PostLabelingDelay"]) == (0.8, 2.0)


def ge(**elements: Any) -> FileDataset:
    """An image of GE; elements by group and number, as in ``e0043_02``."""
    creators = {"0019": "GEMS_ACQU_01", "0027": "GEMS_IMAG_01", "0043": "GEMS_PARM_01"}
    ds = image("GE MEDICAL SYSTEMS")
    for name, (vr, value) in elements.items():
        group, offset = name[1:].split("_")
        ds.private_block(int(group, 16), creators[group], create=True).add_new(int(offset, 16), vr, value)
    return ds


def test_ge_tells_shims_table_duration_and_names() -> None:
    ds = ge(
        e0043_02=("SS", 3),
        e0043_03=("SS", 4),
        e0043_04=("SS", -12),
        e0043_95=("LO", "TG/s3,RN/s1"),
        e0043_B2=("LO", ["956.1", "320.1", "-17.3125"]),
        e0019_5A=("FL", 50000008.0),
        e0019_9E=("LO", "EPI"),
    )
    assert stated(
        ds, "ShimSetting", "PrescanReuseString", "TablePosition", "AcquisitionDuration", "InternalPulseSequenceName"
    ) == {
        "ShimSetting": [3, 4, -12],
        "PrescanReuseString": "TG/s3,RN/s1",
        "TablePosition": [0, 0, -17.3125],
        "AcquisitionDuration": 50.0,
        "InternalPulseSequenceName": "EPI",
    }
    assert "TablePosition" not in describe(ge(e0043_B2=("LO", ["956.1", "320.1", "far"])), [])


def test_ge_counts_directions_in_its_diffusion_sequence() -> None:
    diffusion = ge(e0019_9E=("LO", "EPI2"), e0019_E0=("DS", "64.0"), e0019_DF=("DS", "4.0"))
    assert stated(diffusion, "NumberOfDiffusionDirectionGE", "NumberOfDiffusionT2GE") == {
        "NumberOfDiffusionDirectionGE": 64,
        "NumberOfDiffusionT2GE": 4,
    }
    other = ge(e0019_9E=("LO", "EPI"), e0019_E0=("DS", "64.0"))
    assert "NumberOfDiffusionDirectionGE" not in describe(other, [])


def test_spiral_arms_are_those_of_labelled_images() -> None:
    arms = {"e0027_60": ("FL", 512.0), "e0027_61": ("FL", 8.0), "e0027_62": ("FL", 3.0)}
    labelled = describe(ge(**arms, e0043_A3=("CS", "PSEUDOCONTINUOUS")), [])
    assert [labelled[f"NumberOf{name}"] for name in ("PointsPerArm", "Arms", "Excitations")] == [512, 8, 3]
    assert "NumberOfArms" not in describe(ge(**arms), [])


def test_philips_tells_how_its_values_are_scaled() -> None:
    ds = image("Philips Medical Systems", RescaleSlope="1.29", RescaleIntercept="0")
    ds.private_block(0x2005, "Philips MR Imaging DD 001", create=True).add_new(0x0E, "FL", 0.5)
    names = ("PhilipsRescaleSlope", "PhilipsRescaleIntercept", "PhilipsScaleSlope", "UsePhilipsFloatNotDisplayScaling")
    assert stated(ds, *names) == dict(zip(names, (1.29, 0.0, 0.5, 0), strict=True))
    assert stated(image("SIEMENS", RescaleSlope="1.29"), *names) == {}


def test_the_acquisition_of_a_grid_began_with_its_earliest_plane() -> None:
    times = ("133745.100", "133742.724", "133743.000")
    planes = [make.dataset(AcquisitionDate="20180925", AcquisitionTime=time) for time in times]
    ds = image("UIH")
    ds.private_block(0x0065, "Image Private Header", create=True).add_new(0x51, "SQ", planes)
    assert describe(ds, [])["AcquisitionTime"] == "13:37:42.724"


def test_every_field_of_a_vendor_names_its_elements() -> None:
    fields = [field for table in VENDOR_FIELDS.values() for field in table]
    assert len(fields) > 50
    assert all(field.name and field.source for field in fields)


CREATORS = {
    0x0019: "GEMS_ACQU_01",
    0x0021: "SIEMENS MR SDI 02",
    0x0029: "SIEMENS CSA HEADER",
    0x0043: "GEMS_PARM_01",
    0x0051: "SIEMENS MR HEADER",
    0x0065: "Image Private Header",
    0x2001: "Philips Imaging DD 001",
    0x2005: "Philips MR Imaging DD 001",
}
OFFSETS = bytes.fromhex("020e0f10111314181c1d20222a2c42510b0d05535a597c8382959ea3a5b2b6e0")


def test_no_bytes_of_a_private_element_make_an_error() -> None:
    """Random bytes, and numbers beyond all bounds, under right and wrong value representations."""
    random = Random(7)
    values = [b"1e999", b"1e-320", b"nan", b"-1", b"1\\2\\3", b"p2 s3", b"F:2", bytes(8), b"\xff" * 8]
    for _ in range(600):
        elements = {}
        texts = {
            0x00080060: b"MR",
            0x00080070: random.choice([b"GE MEDICAL SYSTEMS", b"SIEMENS", b"Philips", b"UIH"]),
            0x00180020: b"EP",
            0x00181312: b"COL",
        }
        for group in random.sample(sorted(CREATORS), 4):
            texts[group << 16 | 0x10] = CREATORS[group].encode()
            for offset in random.sample(OFFSETS, 6):
                tag, value = Tag(group << 16 | 0x1000 | offset), random.choice([*values, random.randbytes(40)])
                vr = random.choice(["UN", "OB", "FD", "FL", "DS", "IS", "SS", "SQ", "LO"])
                elements[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)
        for number, text in texts.items():
            elements[Tag(number)] = RawDataElement(Tag(number), "LO", len(text), text, 0, False, True)
        with warnings.catch_warnings(action="ignore"):  # what pydicom says about each of them
            json.dumps(describe(Dataset(elements), []), allow_nan=False)


def philips(velocity: list[float]) -> FileDataset:
    ds = image("Philips Medical Systems")
    ds.private_block(0x2001, "Philips Imaging DD 002", create=True).add_new(0x1A, "FL", [9.0, 9.0, 9.0])
    ds.private_block(0x2001, "Philips Imaging DD 001", create=True).add_new(0x1A, "FL", velocity)
    return ds


def siemens_text(group: int, creator: str, offset: int, text: str) -> FileDataset:
    ds = image("SIEMENS")
    ds.private_block(group, creator, create=True).add_new(offset, "SH", text)
    return ds


@pytest.mark.parametrize(
    ("ds", "expected"),
    [
        (philips([0.0, 0.0, 120.0]), 120.0),
        (philips([80.0, 80.0, 80.0]), 80.0),
        (philips([80.0, 80.0, 120.0]), None),
        (philips([0.0, 0.0, 0.0]), None),
        (ge(e0019_CB=("SS", 5), e0019_CC=("SS", 1500)), 150.0),
        (ge(e0019_CB=("SS", 0), e0019_CC=("SS", 0)), None),
        (image("SIEMENS", SequenceName="*fl2d1_v150in"), 150.0),
        (image("SIEMENS", SequenceName="*fl2d1"), None),
        (siemens_text(0x0051, "SIEMENS MR HEADER", 0x14, "v33_through"), 33.0),
        (siemens_text(0x0021, "SIEMENS MR SDI 02", 0x29, "v33.5_through"), 33.5),
        (image("SIEMENS", VelocityEncodingMaximumValue=90.0, SequenceName="fl2d1_v150in"), 90.0),
    ],
)
def test_the_velocity_encoding_is_in_centimetres_a_second(ds: FileDataset, expected: float | None) -> None:
    assert describe(ds, []).get("VelocityEncodingMaximumValue") == expected


@pytest.mark.parametrize(("direction", "expected"), [([0.0, 0.6, -0.8], [0.0, 0.6, -0.8]), ([0.0] * 3, None)])
def test_the_velocity_encoding_of_functional_groups(direction: list[float], expected: list[float] | None) -> None:
    ds = make.enhanced_mr(slices=2)
    encoding = make.dataset(VelocityEncodingDirection=direction, VelocityEncodingMaximumValue=100.0)
    for group in ds.PerFrameFunctionalGroupsSequence:
        group.MRVelocityEncodingSequence = [encoding]
    facts = describe(ds, [])
    assert facts["VelocityEncodingMaximumValue"] == 100.0
    assert facts.get("VelocityEncodingDirection") == expected
