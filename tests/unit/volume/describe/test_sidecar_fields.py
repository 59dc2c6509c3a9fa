"""Facts for the sidecar: BIDS' names and units, and nothing that could name a person."""

import json
import warnings
from random import Random

import numpy as np
import pytest
from pydicom import DataElement, Dataset
from pydicom.config import IGNORE
from pydicom.datadict import DicomDictionary, dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from node.volume.arrange.slice_timing import slice_timing
from node.volume.assemble import assemble
from node.volume.describe.bids_fields import BIDS_FIELDS
from node.volume.describe.sidecar_fields import IDENTIFYING, OF_STACK, describe
from node.volume.model import Frame
from node.volume.read.frames import frames_of
from node.volume.read.meaning import counted, name_of
from node.volume.vendors import VENDOR_FIELDS
from node.volume.volumes import MEASURED_PRIVATE, varying_parameters
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


@pytest.mark.parametrize("name", ["EchoTime", "RepetitionTime", "InversionTime", "FlipAngle", "SliceThickness"])
def test_a_zero_says_that_there_is_none(name: str) -> None:
    [ds] = make.mr_series(1, **{name: "0"})
    assert name not in describe(ds, [frame(0)])


@pytest.mark.parametrize(("written", "reported"), [("128.175953", 128.175953), ("128175953", None)])
def test_a_frequency_that_cannot_be_in_megahertz_is_left_out(written: str, reported: float | None) -> None:
    [ds] = make.mr_series(1, ImagingFrequency=written)
    assert describe(ds, [frame(0)]).get("ImagingFrequency") == reported


def test_an_enhanced_object_tells_its_time_of_day_with_its_date_which_is_left_out() -> None:
    ds = make.enhanced_mr(2)
    ds.AcquisitionDateTime = "20240229101500.25+0100"
    assert describe(ds, [frame(0)])["AcquisitionTime"] == "10:15:00.25"


def test_the_start_of_an_acquisition_goes_before_that_of_its_first_frame() -> None:
    ds = make.enhanced_mr(2)
    ds.PerFrameFunctionalGroupsSequence[0].FrameContentSequence[0].FrameAcquisitionDateTime = "20240229101505"
    assert describe(ds, [frame(0)])["AcquisitionTime"] == "10:15:05"
    ds.AcquisitionDateTime = "20240229101500"
    assert describe(ds, [frame(0)])["AcquisitionTime"] == "10:15:00"


def test_volumes_of_an_instance_of_mixed_components_tell_their_own() -> None:
    ds = make.changed(make.enhanced_mr(6), ComplexImageComponent="MIXED")
    for index, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
        group.MRImageFrameTypeSequence = [make.dataset(ComplexImageComponent=("MAGNITUDE", "PHASE")[index // 3])]
    told = {volume.suffix: volume.attributes.get("ComplexImageComponent") for volume in assemble([ds]).volumes}
    assert told == {"": "MAGNITUDE", "ph": "PHASE"}


def test_frames_of_several_kinds_tell_their_own() -> None:
    ds, kind = make.enhanced_mr(2), Dataset()
    kind.FrameType = ["ORIGINAL", "PRIMARY", "T1", "FIELD_MAP"]
    ds.PerFrameFunctionalGroupsSequence[0].MRImageFrameTypeSequence = [kind]
    assert describe(ds, [frame(0)])["ImageType"] == ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    ds.ImageType = ["ORIGINAL", "PRIMARY", "T1", "MIXED"]
    assert describe(ds, [frame(0)])["ImageType"] == ["ORIGINAL", "PRIMARY", "T1", "FIELD_MAP"]


@pytest.mark.parametrize(("rescale", "units"), [("Hz", "Hz"), ("normalized", None)])
def test_a_field_map_that_is_rescaled_to_hertz_has_that_unit(rescale: str, units: str | None) -> None:
    [ds] = make.mr_series(1, RescaleType=rescale)
    assert describe(ds, [frame(0)]).get("Units") == units


@pytest.mark.parametrize(
    ("contrast", "kind"), [("PSEUDOCONTINUOUS", "PCASL"), ("CONTINUOUS", "CASL"), ("PULSED", "PASL"), ("OTHER", None)]
)
def test_arterial_spin_labelling_of_enhanced_objects_is_reported(contrast: str, kind: str | None) -> None:
    ds = make.enhanced_mr(2, ArterialSpinLabelingContrast=contrast)
    ds.SharedFunctionalGroupsSequence[0].MRArterialSpinLabelingSequence = [make.dataset(ASLPulseTrainDuration=1800)]
    facts = describe(ds, [frame(0)])
    assert facts.get("ArterialSpinLabelingType") == kind
    assert facts["LabelingDuration"] == 1.8


def test_the_body_part_and_the_coil_are_called_as_in_bids() -> None:
    [ds] = make.mr_series(1, BodyPartExamined="HEAD", ReceiveCoilName="Head_32")
    facts = describe(ds, [frame(0)])
    assert (facts["BodyPart"], facts["ReceiveCoilName"]) == ("HEAD", "Head_32")


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"SequenceVariant": r"SK\SP\MP"}, {"SpoilingState": True}),
        ({"SequenceVariant": r"SK\MTC"}, {"MTState": True}),
        ({"SequenceVariant": "SK"}, {}),
        ({"Spoiling": "RF"}, {"SpoilingState": True, "SpoilingType": "RF"}),
        ({"Spoiling": "RF_AND_GRADIENT"}, {"SpoilingState": True, "SpoilingType": "COMBINED"}),
        ({"Spoiling": "NONE"}, {"SpoilingState": False}),
        ({"MagnetizationTransfer": "OFF_RESONANCE"}, {"MTState": True}),
        ({"MagnetizationTransfer": "NONE"}, {"MTState": False}),
    ],
)
def test_spoiling_and_magnetization_transfer_are_reported_as_the_sequence_names_them(
    attributes: dict[str, str], expected: dict[str, object]
) -> None:
    facts = describe(make.mr_series(1, **attributes)[0], [frame(0)])
    assert {name: facts[name] for name in ("SpoilingState", "SpoilingType", "MTState") if name in facts} == expected


def test_facts_of_an_enhanced_object_come_from_the_groups_of_the_first_frame_and_from_the_shared_ones() -> None:
    ds = make.enhanced_mr(2, 2)
    for number, group in enumerate(ds.PerFrameFunctionalGroupsSequence, start=1):
        group.MREchoSequence = [make.dataset(EffectiveEchoTime=10.0 * number)]
    timing = make.dataset(RepetitionTime="3000", FlipAngle="80")
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
    allowed = {keyword for fact in BIDS_FIELDS for keyword in fact.keywords}
    text = json.dumps(describe(ds, []))
    leaked = [keyword_for_tag(tag) for tag in DicomDictionary if f"X{tag:08X}" in text]
    assert set(leaked) <= allowed
    assert "SeriesDescription" not in leaked
    assert "ProtocolName" not in leaked


@pytest.mark.parametrize("identifying", ["PatientName", "PatientID", "AccessionNumber", "DeviceSerialNumber"])
@pytest.mark.parametrize("fact", ["SoftwareVersions", "ReceiveCoilName"])
def test_a_text_that_repeats_a_word_of_a_name_or_an_identifier_is_left_out(identifying: str, fact: str) -> None:
    [ds] = make.mr_series(1, **{identifying: "Mustermann", fact: "for MUSTERMANN"})
    assert "mustermann" not in json.dumps(describe(ds, [frame(0)])).casefold()
    [ds] = make.mr_series(1, **{identifying: "Mustermann", fact: "Scanner 7"})
    assert "Scanner 7" in json.dumps(describe(ds, [frame(0)]))


@pytest.mark.parametrize("identifying", ["PatientName", "PatientID"])
@pytest.mark.parametrize(
    ("fact", "name", "text", "word"),
    [
        ("Manufacturer", "Manufacturer", "UIH", "UIH"),
        ("ManufacturerModelName", "ManufacturersModelName", "Prisma_fit", "PRISMA"),
        ("BodyPartExamined", "BodyPart", "BRAIN", "Brain"),
        ("ImagedNucleus", "ImagedNucleus", "31P", "31P"),
        ("SeriesNumber", "SeriesNumber", 301, "301"),
        ("AcquisitionTime", "AcquisitionTime", "10:15:00.123456", "123456"),
    ],
)
def test_a_fact_that_tools_require_stays_although_a_phantom_is_named_after_it(
    identifying: str, fact: str, name: str, text: object, word: str
) -> None:
    written = str(text).replace(":", "") if fact == "AcquisitionTime" else text
    [ds] = make.mr_series(1, **{identifying: word, fact: written})
    assert describe(ds, [frame(0)])[name] == text


def test_a_series_number_that_is_the_identifier_of_the_patient_is_left_out() -> None:
    [ds] = make.mr_series(1, PatientID="4711123", SeriesNumber=4711123)
    assert "SeriesNumber" not in describe(ds, [frame(0)])


@pytest.mark.parametrize("other", ["InstitutionName", "StationName", "OperatorsName"])
def test_a_fact_stays_although_the_site_or_the_staff_is_named_after_it(other: str) -> None:
    facts = {"Manufacturer": "UIH", "SoftwareVersions": "uMR R009", "ReceiveCoilName": "Head 64"}
    [ds] = make.mr_series(1, **facts, **{other: "UIH uMR Head"})
    assert facts.items() <= describe(ds, [frame(0)]).items()


def test_a_uid_that_holds_the_serial_number_of_the_device_still_tells_the_series() -> None:
    [ds] = make.mr_series(1, series_uid="1.2.3.45160.7", DeviceSerialNumber="45160", PatientID="PRIMARY")
    facts = describe(ds, [frame(0)])
    assert facts["SeriesInstanceUID"] == "1.2.3.45160.7"
    assert "PRIMARY" in facts["ImageType"]


@pytest.mark.parametrize("broken", ["RepetitionTime", "EchoTime", "FlipAngle", "SeriesNumber"])
def test_what_is_no_number_is_left_out(broken: str) -> None:
    ds = make.dataset(Modality="MR")
    ds.add_new(broken, "LO", "not a number")
    assert describe(ds, []) == {"Modality": "MR"}


def test_scalings_beside_the_rescale_are_recorded() -> None:
    [ds] = make.mr_series(1, Manufacturer="Philips")
    unit = make.dataset(CodeValue="mm2/s")
    mapping = make.dataset(RealWorldValueSlope=0.5, RealWorldValueIntercept=2.0, MeasurementUnitsCodeSequence=[unit])
    ds.RealWorldValueMappingSequence = [mapping]
    ds.private_block(0x2005, "Philips MR Imaging DD 001", create=True).add_new(0x0E, "FL", 0.25)
    facts = describe(ds, [frame(0)])
    assert facts["RealWorldValueSlope"] == 0.5
    assert facts["RealWorldValueIntercept"] == 2
    assert facts["RealWorldValueUnits"] == "mm2/s"
    assert facts["PhilipsScaleSlope"] == 0.25


@pytest.mark.parametrize(
    ("reported", "expected"), [("101500.25", "10:15:00.25"), ("101500", "10:15:00"), ("1015", None)]
)
def test_the_time_of_day_is_reported_in_full_or_not_at_all(reported: str, expected: str | None) -> None:
    [ds] = make.mr_series(1, AcquisitionTime=reported)
    assert describe(ds, [frame(0)]).get("AcquisitionTime") == expected


def test_slice_timing_is_of_the_first_volume_in_the_order_of_its_slices() -> None:
    first, second = [frame(0, 100.0), frame(3, 101.0), frame(6, 100.5)], [frame(0, 102), frame(3, 103), frame(6, 102.5)]
    assert slice_timing(Dataset(), [first, second], 2.0) == ([0.0, 1.0, 0.5], None)


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
    planes = [[frame(3 * k, each) for k, each in enumerate(acquired)]]
    assert slice_timing(Dataset(), planes, repetition_time_s) == (None, None)


@pytest.mark.parametrize(
    ("acquired", "expected"),
    [
        ([0.0, 0.5, 0.0, 0.5], [0.0, 0.5, 0.0, 0.5]),
        ([0.0, 0.5, 0.0025, 0.5], [0.0, 0.5, 0.0025, 0.5]),
        ([0.0, 0.5, 0.25, 0.75], None),
    ],
)
def test_slices_that_were_excited_at_once_have_one_time_or_none_is_reported(
    acquired: list[float], expected: list[float] | None
) -> None:
    frames = [frame(3 * index, time) for index, time in enumerate(acquired)]
    timing, doubt = slice_timing(Dataset(), [frames], 1.0, bands=2)
    assert timing == expected
    assert (doubt is None) == (timing is not None)
    assert slice_timing(Dataset(), [frames], 1.0) == (acquired, None)


def test_frames_without_a_place_have_no_slice_timing() -> None:
    one = Frame("1.2.3", 1, lambda: np.zeros((2, 2)), 2, 2, acquisition_time_s=1.0)
    assert slice_timing(Dataset(), [[one, one]], 2.0) == (None, None)


@pytest.mark.slow
def test_no_bytes_of_an_element_make_an_error() -> None:
    """Random bytes under right and wrong value representations and character sets, as a damaged file has them."""
    random = Random(5)
    keywords = [keyword for fact in BIDS_FIELDS for keyword in fact.keywords if tag_for_keyword(keyword)]
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


# Fields of the sidecar in which the frames of a volume differ: of each time, or left out.


TEXTS = (
    *("YES", "NO", "ONE", "OTHER", "SP", "MTC", "RF", "GRADIENT", "NONE", "1H", "PULSED", "CONTINUOUS", "101500"),
    *("OSEM3i24s", "PSF 2i21s", "Gauss4.00", "Gauss 5.00", "IODINE", "GADOLINIUM", "0", "Hz", "water", "FDG"),
    *(["ORIGINAL", "PRIMARY", "ND"], ["DERIVED", "PRIMARY", "DIS2D"]),
)
"""Values of texts, of which each reader knows two."""

OF_ITEMS = {"Radio": "RadiopharmaceuticalInformationSequence", "RealWorld": "RealWorldValueMappingSequence"}


def with_value(ds, keyword, value):
    """Return a data set that states an attribute, itself or in the sequence that describes it."""
    sequence = next((name for begin, name in OF_ITEMS.items() if keyword.startswith(begin)), None)
    holder = Dataset() if sequence else ds
    if value is not None:
        tag = tag_for_keyword(keyword)
        holder[tag] = DataElement(tag, dictionary_VR(tag), value, validation_mode=IGNORE)
    if sequence:
        setattr(ds, sequence, [holder])
    return ds


def pairs_of(field):
    """Return the first attribute of a field that two values are known of, or one and none; None of sequences."""
    for keyword in field.keywords:
        tag = tag_for_keyword(keyword)
        if tag is None or dictionary_VR(tag) == "SQ":
            continue
        read = {}
        for value in (1, 3) if dictionary_VR(tag) in ("IS", "US", "UL", "DS", "FD", "FL") else TEXTS:
            ds = make.dataset(Modality="PT")
            ds[tag] = DataElement(tag, dictionary_VR(tag), value, validation_mode=IGNORE)
            content = field.read(ds, keyword)
            if content not in (None, "", ()):
                read.setdefault(str(content), value)
        if read:
            return keyword, [*read.values(), None][:2]
    return None


def of_slices(field, keyword, values):
    """Return the fields of three slices, the last of which has another value, and the warnings about them."""
    series = [with_value(*own) for own in zip(make.image_series(3, modality="PT"), [keyword] * 3, values, strict=True)]
    frames = [frames_of(ds)[0] for ds in series]
    return describe(series[0], frames, [frames]), {own.detail for own in varying_parameters(frames)}


KNOWN = {field.name: pairs for field in BIDS_FIELDS if field.name not in OF_STACK and (pairs := pairs_of(field))}


@pytest.mark.sample(25)
@pytest.mark.parametrize("field", [own for own in BIDS_FIELDS if own.name in KNOWN], ids=lambda field: field.name)
def test_a_field_in_which_one_frame_differs_is_left_out_and_named(field):
    keyword, (one, other) = KNOWN[field.name]
    alike, _ = of_slices(field, keyword, [one] * 3)
    assert field.name in alike
    settled, details = of_slices(field, keyword, [one, one, other])
    assert field.name not in settled
    if counted[tag_for_keyword(keyword)]:
        names = {name_of(tag_for_keyword(own)) for own in (keyword, *OF_ITEMS.values())}
        assert any(name in detail for name in names for detail in details)


def test_nearly_every_field_is_tried():
    untried = {field.name for field in BIDS_FIELDS} - set(KNOWN) - OF_STACK
    assert untried == {
        *("VelocityEncodingDirection", "LabelingOrientation", "RealWorldValueUnits", "TracerRadionuclide")
    }


@pytest.mark.parametrize("name", sorted({own.name for fields in VENDOR_FIELDS.values() for own in fields}))
def test_a_private_field_in_which_one_frame_differs_is_left_out_and_named(name):
    ds = make.instance(modality="MR")
    frames = [Frame("1", 1, lambda: np.zeros((1, 1)), 1, 1, private={name: value}) for value in ("a", "a", "b")]
    assert name not in describe(ds, frames, [frames])
    assert any(name in own.detail for own in varying_parameters(frames)) == (name not in MEASURED_PRIVATE)


def test_a_field_that_is_alike_in_each_time_is_of_each_time():
    series = sorted(make.time_series(2, 3), key=lambda ds: int(ds.InstanceNumber))
    for number, ds in enumerate(series):
        ds.XRayTubeCurrent, ds.AcquisitionNumber, ds.KVP = 100 if number < 3 else 200, number + 1, "120"
    (volume,) = assemble(series).volumes
    assert volume.attributes["of_each_time"]["XRayTubeCurrent"] == [100, 200]
    assert volume.attributes["KVP"] == 120
    assert {"XRayTubeCurrent", "AcquisitionNumber"}.isdisjoint(volume.attributes)


@pytest.mark.parametrize(
    ("macro", "keyword", "values", "fields"),
    [
        (
            *("MRFOVGeometrySequence", "InPlanePhaseEncodingDirection", ("ROW", "COLUMN")),
            {"InPlanePhaseEncodingDirectionDICOM", "PhaseEncodingAxis", "ReconMatrixPE"},
        ),
        ("MRModifierSequence", "PartialFourier", ("YES", "NO"), {"PartialFourierEnabled"}),
    ],
)
@pytest.mark.parametrize("is_enhanced", [False, True])
def test_a_field_that_an_attribute_decides_is_that_of_all_frames(is_enhanced, macro, keyword, values, fields):
    def made(*others):
        if is_enhanced:
            (ds,) = series = [make.enhanced_mr(4)]
            holders = [make.dataset() for _ in range(4)]
            for group, holder in zip(ds.PerFrameFunctionalGroupsSequence, holders, strict=True):
                setattr(group, macro, [holder])
        else:
            holders = series = make.mr_series(4)
        for ds in series:
            ds.Manufacturer = "Philips"
        for number, holder in enumerate(holders):
            setattr(holder, keyword, values[number in others])
        (volume,) = assemble(series).volumes
        return volume

    assert fields <= made().attributes.keys()
    volume = made(2)
    assert fields.isdisjoint(volume.attributes)
    assert any(name_of(tag_for_keyword(keyword)) in own.detail for own in volume.warnings)
