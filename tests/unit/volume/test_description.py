"""Facts for the sidecar: BIDS' names and units, and nothing that could name a person."""

from __future__ import annotations

import json
import warnings
from itertools import product
from random import Random

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.datadict import DicomDictionary, dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from node.volume.description import FACTS, IDENTIFYING, describe, slice_timing
from node.volume.model import Frame
from tests import make


def frame(z: float, acquired_s: float | None = None, number: int = 1) -> Frame:
    position = np.array([0.0, 0.0, z])
    return Frame("1.2.3", number, lambda: np.zeros((2, 2)), 2, 2, position=position, acquisition_time_s=acquired_s)


def test_times_are_in_seconds_and_names_are_those_of_bids() -> None:
    [ds] = make.mr_series(
        1, MagneticFieldStrength="3", FlipAngle="75", EchoTime="29.8", RepetitionTime="2435.37", MRAcquisitionType="2D"
    )
    facts = describe(ds, [frame(0)])
    assert facts["EchoTime"] == 0.0298
    assert facts["RepetitionTime"] == 2.43537
    assert facts["MagneticFieldStrength"] == 3
    assert facts["FlipAngle"] == 75
    assert facts["MRAcquisitionType"] == "2D"
    assert facts["SeriesInstanceUID"] == ds.SeriesInstanceUID
    assert facts["ImageOrientationPatientDICOM"] == [1, 0, 0, 0, 1, 0]


def test_facts_of_an_enhanced_object_come_from_the_groups_of_the_first_frame_and_from_the_shared_ones() -> None:
    ds = make.enhanced_mr(2, 2)
    for number, group in enumerate(ds.PerFrameFunctionalGroupsSequence, start=1):
        echo = Dataset()
        echo.EffectiveEchoTime = 10.0 * number
        group.MREchoSequence = [echo]
    timing = Dataset()
    timing.RepetitionTime, timing.FlipAngle = "3000", "80"
    ds.SharedFunctionalGroupsSequence[0].MRTimingAndRelatedParametersSequence = [timing]
    facts = describe(ds, [frame(0, number=3)])
    assert (facts["EchoTime"], facts["RepetitionTime"], facts["FlipAngle"]) == (0.03, 3, 80)


def test_no_text_of_a_data_set_comes_out_unless_it_is_in_the_list_of_facts() -> None:
    """Every text attribute of the standard is planted with a name of its own; only coded and device facts return."""
    ds = Dataset()
    for tag in DicomDictionary:
        keyword, vr = keyword_for_tag(tag), dictionary_VR(tag)
        if keyword and tag >> 16 not in (0, 2) and vr in ("LO", "SH", "LT", "ST", "UT", "PN", "CS", "UC", "AE", "UR"):
            setattr(ds, keyword, f"X{tag:08X}")
    allowed = {keyword for fact in FACTS for keyword in fact.keywords}
    text = json.dumps(describe(ds, []))
    leaked = [keyword_for_tag(tag) for tag in DicomDictionary if f"X{tag:08X}" in text]
    assert set(leaked) <= allowed
    assert "SeriesDescription" not in leaked
    assert "ProtocolName" not in leaked


@pytest.mark.parametrize(
    ("identifying", "fact"),
    [
        *product(["PatientName", "PatientID", "OperatorsName"], ["ManufacturerModelName", "SoftwareVersions"]),
        ("StationName", "Manufacturer"),
    ],
)
def test_a_text_that_repeats_a_word_of_a_name_or_an_identifier_is_left_out(identifying: str, fact: str) -> None:
    [ds] = make.mr_series(1, **{identifying: "Mustermann^Erika", fact: "build of MUSTERMANN"})
    assert "mustermann" not in json.dumps(describe(ds, [frame(0)])).casefold()
    [ds] = make.mr_series(1, **{identifying: "Mustermann^Erika", fact: "Scanner 7"})
    assert "Scanner 7" in json.dumps(describe(ds, [frame(0)]))


def test_a_uid_that_holds_the_serial_number_of_the_device_still_tells_the_series() -> None:
    [ds] = make.mr_series(1, series_uid="1.2.3.45160.7", DeviceSerialNumber="45160", PatientID="PRIMARY")
    facts = describe(ds, [frame(0)])
    assert facts["SeriesInstanceUID"] == "1.2.3.45160.7"
    assert "PRIMARY" in facts["ImageType"]


@pytest.mark.parametrize("broken", ["RepetitionTime", "EchoTime", "FlipAngle", "SeriesNumber"])
def test_what_is_no_number_is_left_out(broken: str) -> None:
    ds = Dataset()
    ds.Modality = "MR"
    ds.add_new(broken, "LO", "not a number")
    assert describe(ds, []) == {"Modality": "MR"}


def test_scalings_beside_the_rescale_are_recorded() -> None:
    [ds] = make.mr_series(1)
    mapping, unit = Dataset(), Dataset()
    unit.CodeValue = "mm2/s"
    mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept = 0.5, 2.0
    mapping.MeasurementUnitsCodeSequence = [unit]
    ds.RealWorldValueMappingSequence = [mapping]
    ds.private_block(0x2005, "Philips MR Imaging DD 001", create=True).add_new(0x0E, "FL", 0.25)
    facts = describe(ds, [frame(0)])
    assert facts["RealWorldValueSlope"] == 0.5
    assert facts["RealWorldValueIntercept"] == 2
    assert facts["RealWorldValueUnits"] == "mm2/s"
    assert facts["PhilipsScaleSlope"] == 0.25


@pytest.mark.parametrize(("told", "expected"), [("101500.25", "10:15:00.25"), ("101500", "10:15:00"), ("1015", None)])
def test_the_time_of_day_is_told_in_full_or_not_at_all(told: str, expected: str | None) -> None:
    [ds] = make.mr_series(1, AcquisitionTime=told)
    assert describe(ds, [frame(0)]).get("AcquisitionTime") == expected


def test_slice_timing_is_of_the_first_volume_in_the_order_of_its_slices() -> None:
    frames = [frame(0, 100.0), frame(3, 101.0), frame(6, 100.5), frame(0, 102.0), frame(3, 103.0), frame(6, 102.5)]
    assert slice_timing(frames, 2.0) == [0.0, 1.0, 0.5]


@pytest.mark.parametrize(
    ("acquired", "repetition_time_s"),
    [
        ([5.0, 5.0, 5.0], 2.0),  # one time for all: a 3-D acquisition, or a sender that does not tell
        ([5.0, None, 6.0], 2.0),
        ([0.0, 3.0, 6.0], 2.0),  # later than a repetition: one pass after the other
        ([0.0, 0.5, 1.0], None),
    ],
)
def test_times_that_are_no_slice_timing_are_not_called_so(
    acquired: list[float | None], repetition_time_s: float | None
) -> None:
    assert slice_timing([frame(3 * k, each) for k, each in enumerate(acquired)], repetition_time_s) is None


def test_frames_without_a_place_have_no_slice_timing() -> None:
    one = Frame("1.2.3", 1, lambda: np.zeros((2, 2)), 2, 2, acquisition_time_s=1.0)
    assert slice_timing([one, one], 2.0) is None


def test_no_bytes_of_an_element_make_an_error() -> None:
    """Random bytes under right and wrong value representations and character sets, as a damaged file has them."""
    random = Random(5)
    keywords = [keyword for fact in FACTS for keyword in fact.keywords if tag_for_keyword(keyword)]
    keywords += [*IDENTIFYING, "InPlanePhaseEncodingDirection", "AcquisitionMatrix", "SharedFunctionalGroupsSequence"]
    for _ in range(500):
        elements = {}
        for keyword in ("SpecificCharacterSet", *random.sample(keywords, 15)):
            tag = Tag(tag_for_keyword(keyword) or 0)
            vr = random.choice([dictionary_VR(tag), dictionary_VR(tag), "UN", "SQ", "OB", "FD"])
            value = random.choice(
                [random.randbytes(random.randrange(24)), b"\x1b$B\\1.5\\", b"ISO 2022 IR 87", b"1e999"]
            )
            elements[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)
        with warnings.catch_warnings(action="ignore"):  # what pydicom says about each of them
            json.dumps(describe(Dataset(elements), []), allow_nan=False)
