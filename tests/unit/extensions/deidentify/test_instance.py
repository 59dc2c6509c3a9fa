"""One instance: nothing of its patient is left anywhere in it, or it is refused with the reason."""

import sys
from copy import deepcopy
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from pydicom import DataElement, Dataset, dcmread
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileDataset
from pydicom.tag import BaseTag
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    EncapsulatedPDFStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
    RLELossless,
    RTDoseStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
    VLPhotographicImageStorage,
)

from node.children.pseudonyms import Patient, PseudonymKey, passing_key
from node.errors import UsageError
from node.extensions.deidentify.burned_in_text import is_examined
from node.extensions.deidentify.deidentification import (
    BurnedInText,
    Deidentification,
    NotDeidentified,
    PixelRule,
    RefusalReason,
    read_rules,
)
from node.extensions.deidentify.files import pieces, write
from node.extensions.deidentify.instance import deidentified
from node.extensions.deidentify.profile import Option, Profile
from node.extensions.deidentify.settings import DeidentifySettings
from node.files.reading import read_instance
from tests import make
from tests.planted import plant_secrets
from tests.unit.extensions.deidentify.orders import KEY, ct, how, refusal_of

SECRET = b"ecret"


def file_of(ds: FileDataset, path: Path) -> Dataset:
    ds.save_as(path, enforce_file_format=True)
    return read_instance(path)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_nothing_is_left_at_any_depth(tmp_path: Path, syntax: str) -> None:
    ds = ct(
        PatientName="Secret^Person",
        SeriesDescription="Thorax Secret",
        Manufacturer="Devices of Secret",
        ImageComments="Secret comment",
        InstitutionName="Secret Hospital",
    )
    plant_secrets(ds)
    ds.add(DataElement(0x50000030, "SH", "Secret"))
    ds.add(DataElement(0x50003000, "OW", b"Secret curve"))
    ds.file_meta.SourceApplicationEntityTitle = "SECRET_AE"
    ds.preamble = b"Secret".ljust(128, b"\0")
    ds.file_meta.TransferSyntaxUID = syntax
    pixels = ds.pixel_array.copy()
    if syntax == ExplicitVRBigEndian:
        ds.PixelData = pixels.astype(">i2").tobytes()
        ds.add(DataElement(0x60003000, "OB", b"Secret overlay"))
        ds.add(DataElement(0x50003000, "OB", b"Secret curve"))
    path = tmp_path / "1.dcm"
    ds.set_original_encoding(syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian)
    ds.save_as(path, enforce_file_format=True)

    write(deidentified(read_instance(path), how()), tmp_path / "new.dcm")

    assert SECRET not in (tmp_path / "new.dcm").read_bytes().lower()
    read = dcmread(tmp_path / "new.dcm")
    assert read.Manufacturer == "Devices of"  # an identity within text that stays
    assert len(read.AnatomicRegionSequence) == 1
    assert read.PatientID == read.PatientName == KEY.patient(Patient("", "TEST-1"))
    assert np.array_equal(read.pixel_array, pixels)
    assert read.PatientIdentityRemoved == "YES"
    assert list(read.DeidentificationMethod)[1:] == ["PS3.15 2026d", "key test"]
    assert [item.CodeValue for item in read.DeidentificationMethodCodeSequence] == ["113100"]
    assert read.LongitudinalTemporalInformationModified == "REMOVED"
    assert read.file_meta.MediaStorageSOPInstanceUID == read.SOPInstanceUID == KEY.uid(ds.SOPInstanceUID)


def test_what_is_written_where_it_does_not_belong_is_found() -> None:
    hostile = make.dataset(
        RetrieveURL="http://pacs/secret/1.2.3",
        ReferencedSOPClassUID="1.2.Secret",
        ManufacturerModelName="Model 1.3.6.1.4.1.4711.1.2.3 Secret",
        ImagingServiceRequestComments="Person",
        PositionerMotion="Person",
        BodyPartExamined="SECRET",
        EncryptedAttributesSequence=[make.dataset(EncryptedContent=b"Secret")],
    )
    for tag in (0x00081099, 0x00181020):  # unknown to the standard, and a text by the standard
        hostile.add(DataElement(tag, "OB", b"Secret"))
    hostile[0x00180050] = RawDataElement(BaseTag(0x00180050), "DS", 6, b"Secret", 0, False, True)
    ds = ct(PatientName="Secret^Person", InstitutionName="Siemens", AnatomicRegionSequence=[hostile])
    ds.Manufacturer = "SIEMENS"
    ds.LengthToEnd = 4711
    new = deidentified(ds, how())
    assert "LengthToEnd" not in new
    [item] = new.AnatomicRegionSequence
    assert SECRET not in b"".join(pieces(new)).lower()
    assert item.ManufacturerModelName == "Model"
    texts = {"RetrieveURL", "ManufacturerModelName", "BodyPartExamined", "PositionerMotion"}
    assert {element.keyword for element in item} == texts | {"ReferencedSOPClassUID", "SliceThickness"}
    assert new.Manufacturer == "SIEMENS"


@pytest.mark.parametrize("is_read", [True, False], ids=["as read", "as set"])
@pytest.mark.parametrize(
    "keyword",
    [
        "VectorGridData", "DoublePointCoordinatesData", "LongPrimitivePointIndexList", "SelectorOVValue",
        "SelectorULValue", "SelectorFDValue", "SelectorFLValue", "SelectorUSValue", "SelectorSSValue",
        "SelectorSVValue", "SelectorUVValue", "SelectorATValue", "RedPaletteColorLookupTableDescriptor",
    ],
)  # fmt: skip
def test_the_bytes_of_numbers_are_no_letters_of_a_person(keyword: str, is_read: bool) -> None:
    tag = BaseTag(tag_for_keyword(keyword) or 0)
    vr = dictionary_VR(tag).split(" or ")[0]

    def cleaned(value: bytes) -> bytes:
        item = Dataset({tag: RawDataElement(tag, vr, len(value), value, 0, False, True)})
        assert is_read or item[tag].value is not None
        ds = ct(PatientName="Secret^Person", PatientID="4711", AnatomicRegionSequence=[item])
        return b"".join(pieces(deidentified(ds, how())))

    assert SECRET not in cleaned(b"-secretperson471")
    assert bytes(range(1, 17)) in cleaned(bytes(range(1, 17)))


@pytest.mark.sample(12)
@pytest.mark.parametrize("mark", [chr(code) for code in (*range(1, 32), 0x85, 0xA0) if code != ord("\x1b")])
@pytest.mark.parametrize("dates", [Option.MODIFIED_DATES, Option.FULL_DATES])
def test_numbers_and_offsets_have_no_white_space_but_their_padding(mark: str, dates: Option) -> None:
    kept = {"SliceThickness": "+12.75", "EchoNumbers": "+7345", "TimezoneOffsetFromUTC": "+0130"}
    for keyword, value in kept.items():
        tag = BaseTag(tag_for_keyword(keyword) or 0)
        for end in ("", " ", mark):
            raw = f"{value}{end}".encode("latin-1")
            ds = ct()
            ds[tag] = RawDataElement(tag, dictionary_VR(tag), len(raw), raw, 0, False, True)
            written = b"".join(pieces(deidentified(ds, how(dates))))
            assert (value.encode() in written) == (end != mark), keyword


def test_studies_of_one_patient_stay_together_and_in_their_distance() -> None:
    days = {}
    for day in ("20240102", "20290103"):
        new = deidentified(ct(StudyDate=day, AcquisitionDateTime=f"{day}101500"), how(Option.MODIFIED_DATES))
        days[day] = new.StudyDate
        assert new.PatientID == KEY.patient(Patient("", "TEST-1"))
        assert new.AcquisitionDateTime == f"{new.StudyDate}101500"
        assert new.StudyTime == "101500"
        assert new.LongitudinalTemporalInformationModified == "MODIFIED"
    first, second = (np.datetime64(f"{day[:4]}-{day[4:6]}-{day[6:]}") for day in days.values())
    assert (second - first).astype(int) == (np.datetime64("2029-01-03") - np.datetime64("2024-01-02")).astype(int)


def test_a_key_makes_nothing_of_what_it_has_made_so_that_a_loop_ends() -> None:
    new = deidentified(ct(), how())
    other = Deidentification(Profile(), PseudonymKey("other", bytes(32)))
    assert list(deidentified(deepcopy(new), other).DeidentificationMethod)[2] == "key other"
    assert refusal_of(new, how()) is RefusalReason.DEIDENTIFIED
    passing = [deidentified(ct(), Deidentification(Profile(), passing_key())) for _ in range(2)]
    assert deidentified(passing[0], Deidentification(Profile(), passing_key())).PatientID != passing[1].PatientID


def test_without_patient_id_a_study_is_a_patient() -> None:
    one, other = (deidentified(ct(PatientID="", StudyInstanceUID=uid), how()) for uid in ("1.2.3", "1.2.4"))
    assert one.PatientID != other.PatientID
    assert one.PatientID == deidentified(ct(PatientID="", StudyInstanceUID="1.2.3"), how()).PatientID


def test_safe_private_elements_stay_with_their_creator(tmp_path: Path) -> None:
    ds = ct()
    ds.add(DataElement(0x00190010, "LO", "SIEMENS MR HEADER"))
    ds.add(DataElement(0x0019100C, "IS", "1000"))
    ds.add(DataElement(0x00191008, "CS", "SECRET"))
    ds.add(DataElement(0x00290010, "LO", "SIEMENS CSA HEADER"))
    ds.add(DataElement(0x00291010, "OB", b"Secret"))
    ds.add(DataElement(0x20010010, "LO", "Philips Imaging DD 001"))
    ds.add(DataElement(0x20011003, "LO", "Secret"))  # a b-value of FL, by the table
    new = deidentified(file_of(ds, tmp_path / "1.dcm"), how(Option.SAFE_PRIVATE))
    private = [element for element in new if element.tag.is_private]
    assert [(int(element.tag), element.value) for element in private] == [
        (0x00190010, "SIEMENS MR HEADER"),
        (0x0019100C, 1000),
    ]
    assert SECRET not in b"".join(pieces(new)).lower()


def test_regions_of_interest_in_overlays_stay_if_graphics_are_cleaned() -> None:
    ds = ct()
    for group, kind in ((0x6000, "R"), (0x6002, "G")):
        ds.add(DataElement(group << 16 | 0x0040, "CS", kind))
        ds.add(DataElement(group << 16 | 0x3000, "OW", b"\1\0"))
        ds.add(DataElement(group << 16 | 0x4000, "LT", "Secret"))
    new = deidentified(ds, how(Option.GRAPHICS))
    assert [int(element.tag) for element in new if element.tag.group >= 0x6000 and element.tag.group < 0x7000] == [
        0x60000040,
        0x60003000,
    ]


def test_reports_are_cleaned_or_refused() -> None:
    person = make.content_item("CONTAINS", "PNAME", ("121008", "DCM", "Person Observer Name"))
    person.PersonName = "Secret^Doctor"
    text = make.content_item("CONTAINS", "TEXT", ("121071", "DCM", "Finding"), TextValue="Lesion of liver, Mrs Secret")
    size = make.measured(("410668003", "SCT", "Length"), "12.5", "mm")

    def report() -> FileDataset:
        return make.measurement_report(make.ct_series(1), person, text, size, PatientName="Secret^Person")

    assert refusal_of(report(), how()) is RefusalReason.STRUCTURED_REPORT
    new = deidentified(report(), how(Option.STRUCTURED))
    assert SECRET not in b"".join(pieces(new)).lower()
    [group] = new.ContentSequence
    assert group.ContentSequence[0].PersonName == "ANON"
    assert group.ContentSequence[1].TextValue.startswith("Lesion of liver")
    assert group.ContentSequence[2].MeasuredValueSequence[0].NumericValue == 12.5


def us(**attributes: Any) -> FileDataset:
    ds = make.instance(sop_class_uid=UltrasoundMultiFrameImageStorage, modality="US", **attributes)
    return make.set_pixels(ds, np.full((2, 20, 30, 3), 200, np.uint8))


def region(left: int, top: int, right: int, bottom: int) -> Dataset:
    return make.dataset(
        RegionLocationMinX0=left, RegionLocationMinY0=top, RegionLocationMaxX1=right, RegionLocationMaxY1=bottom
    )


@pytest.mark.parametrize(
    ("ds", "reason"),
    [
        (lambda: make.rgb_capture(), RefusalReason.SECONDARY_CAPTURE),
        (lambda: ct(ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE"]), RefusalReason.SECONDARY_CAPTURE),
        (lambda: ct(ConversionType="DF"), RefusalReason.SECONDARY_CAPTURE), (us, RefusalReason.ULTRASOUND),
        (lambda: ct(BurnedInAnnotation="YES"), RefusalReason.BURNED_IN),
        (lambda: ct(RecognizableVisualFeatures="YES"), RefusalReason.RECOGNIZABLE),
    ],
)  # fmt: skip
def test_pixels_that_may_show_a_patient_are_refused_unless_asked_for(ds: Any, reason: RefusalReason) -> None:
    assert refusal_of(ds(), how()) is reason
    assert refusal_of(ds(), how(Option.PIXELS)) is reason
    new = deidentified(ds(), how(allowed=frozenset((reason,))))
    assert new.PixelData == ds().PixelData
    assert "113101" not in [item.CodeValue for item in new.DeidentificationMethodCodeSequence]


def test_every_risk_must_be_allowed() -> None:
    capture = make.rgb_capture(BurnedInAnnotation="YES")
    assert refusal_of(capture, how(allowed=frozenset((RefusalReason.BURNED_IN,)))) is RefusalReason.SECONDARY_CAPTURE
    both = how(allowed=frozenset((RefusalReason.BURNED_IN, RefusalReason.SECONDARY_CAPTURE)))
    assert deidentified(capture, both).PixelData == capture.PixelData


def test_what_is_no_clean_instance_is_refused() -> None:
    pdf = make.instance(sop_class_uid=EncapsulatedPDFStorage, modality="DOC", EncapsulatedDocument=b"%PDF")
    assert refusal_of(pdf, how(*(option for option in Option if option is not Option.FULL_DATES))) is (
        RefusalReason.ENCAPSULATED_DOCUMENT
    )
    escape = ct()
    escape.add(make.dataset(SOPInstanceUID="../../etc/passwd")["SOPInstanceUID"])
    assert deidentified(escape, how(Option.UIDS)).SOPInstanceUID.startswith("2.25.")
    damaged = ct()
    cut = b"\xfe\xff"  # of a sequence that is removed as a whole
    damaged[0x00081072] = RawDataElement(BaseTag(0x00081072), "SQ", len(cut), cut, 0, False, True)
    assert refusal_of(damaged, how()) is RefusalReason.UNREADABLE
    deep = Dataset()
    for _ in range(70):
        deep, inner = Dataset(), deep
        deep.AnatomicRegionSequence = [inner]
    assert refusal_of(ct(AnatomicRegionSequence=[deep]), how()) is RefusalReason.UNREADABLE


def test_outside_of_ultrasound_regions_pixels_are_blanked_in_every_frame(tmp_path: Path) -> None:
    scan = file_of(us(SequenceOfUltrasoundRegions=[region(5, 4, 24, 15)]), tmp_path / "1.dcm")
    new = deidentified(scan, how(Option.PIXELS))
    expected = np.zeros((2, 20, 30, 3), np.uint8)
    expected[:, 4:16, 5:25] = 200
    write(new, tmp_path / "new.dcm")
    assert np.array_equal(dcmread(tmp_path / "new.dcm").pixel_array, expected)
    assert new.BurnedInAnnotation == "NO"
    assert [item.CodeValue for item in new.DeidentificationMethodCodeSequence] == ["113100", "113101"]


def test_regions_of_nonsense_are_no_regions() -> None:
    for nonsense in (region(5, 4, 5, 15), region(9, 9, 3, 3), Dataset()):
        assert refusal_of(us(SequenceOfUltrasoundRegions=[nonsense]), how(Option.PIXELS)) is RefusalReason.ULTRASOUND


RULES = """
[[device]]
name = "workstation"
when = { Modality = "OT", Manufacturer = "ex*", Rows = [8, 9] }
blank = [[0, 0, 10, 2]]

[[device]]
when = { Modality = "CT", ConversionType = "DF" }
keep = [[2, 3, 4, 5]]

[[device]]
name = "clean"
when = { ImageType = "SCREEN*" }
"""


@pytest.mark.parametrize("compressed", [False, True])
def test_rules_of_a_file_say_what_devices_burn_in(tmp_path: Path, compressed: bool) -> None:
    file = tmp_path / "rules.toml"
    file.write_text(RULES)
    order = how(Option.PIXELS, rules=read_rules(file))
    capture = make.rgb_capture()
    expected = capture.pixel_array.copy()
    expected[:2] = 0
    if compressed:
        capture.compress(RLELossless, generate_instance_uid=False)
    new = deidentified(file_of(capture, tmp_path / "1.dcm"), order)
    assert new.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    write(new, tmp_path / "new.dcm")
    assert np.array_equal(dcmread(tmp_path / "new.dcm").pixel_array, expected)

    film = ct(ConversionType="DF", PhotometricInterpretation="MONOCHROME1", BitsStored=12, HighBit=11)
    pixels = deidentified(film, order).pixel_array
    assert (pixels[3:8, 2:6] == ct().pixel_array[3:8, 2:6]).all()
    assert set(np.delete(pixels, np.s_[2:6], 1).ravel()) == {2047}  # white, which this photometry shows as black

    assert deidentified(ct(ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE"]), order).BurnedInAnnotation == "NO"
    assert refusal_of(us(), order) is RefusalReason.ULTRASOUND


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ("x = 1", "has tables"),
        ("[[device]]\nblank = []", "when is missing"),
        ('[[device]]\nwhen = { Modalty = "CT" }', 'Modalty: not the keyword of an attribute, did you mean "Modality"'),
        ("[[device]]\nwhen = { Rows = 1.5 }", "must be a text, a whole number"),
        ("[[device]]\nwhen = { Rows = 1 }\nblank = [[0, 0, 5]]", r"a rectangle is \[left, top, width, height\]"),
        ("[[device]]\nwhen = { Rows = 1 }\nblank = []\nkeep = []", "exclude each other"),
        ("[[device]]\nwhen = { Rows = 1 }\nblnk = []", 'blnk: no such key, did you mean "blank"'),
        ("[[device]", "Expected"),
    ],
)
def test_wrong_rules_are_refused_with_the_remedy(tmp_path: Path, rules: str, message: str) -> None:
    file = tmp_path / "rules.toml"
    file.write_text(rules)
    with pytest.raises(UsageError, match=message):
        read_rules(file)


def test_large_pixels_are_copied_from_the_file_of_the_original(tmp_path: Path) -> None:
    ds = make.set_pixels(make.instance(), make.pattern(1, 1024, 1025)[0])
    new = deidentified(file_of(ds, tmp_path / "1.dcm"), how())
    assert max(map(len, pieces(new))) < 1024 * 1025 * 2
    write(new, tmp_path / "new.dcm")
    assert np.array_equal(dcmread(tmp_path / "new.dcm").pixel_array, ds.pixel_array)


def test_a_rule_for_another_device_does_not_fit() -> None:
    rule = PixelRule("us", {"Modality": ("US",), "Rows": (20,)}, (), ())
    assert rule.fits(us())
    assert not rule.fits(ct())


@pytest.mark.parametrize("length", [24, 25])
def test_native_pixels_of_an_odd_length_are_padded_and_what_follows_is_read(length: int) -> None:
    ds = make.instance(DataSetTrailingPadding=b"\0\0")
    ds.add_new("PixelData", "OB", bytes(range(length)))
    read = dcmread(BytesIO(b"".join(pieces(ds))))
    assert read.PixelData == bytes(range(length)) + b"\0" * (length % 2)
    assert read.DataSetTrailingPadding == b"\0\0"


# What a configuration says of text in pixels, and what is told where its recognition is not installed.


def test_what_blanks_must_be_allowed_to_change_pixels() -> None:
    with pytest.raises(ValidationError, match="burned_in_text"):
        DeidentifySettings(key=Path("key"), burned_in_text="blank")
    DeidentifySettings(key=Path("key"), burned_in_text="blank", clean=("pixels",))


def test_text_is_looked_for_unless_an_image_that_is_not_at_risk_says_that_there_is_none() -> None:
    for kind in (ComputedRadiographyImageStorage, MRImageStorage):
        assert is_examined(make.instance(sop_class_uid=kind))
        assert is_examined(make.instance(sop_class_uid=kind, BurnedInAnnotation="YES"))
        assert is_examined(make.instance(sop_class_uid=kind, BurnedInAnnotation=""))
        assert not is_examined(make.instance(sop_class_uid=kind, BurnedInAnnotation="NO"))
    for kind in (UltrasoundImageStorage, SecondaryCaptureImageStorage, VLPhotographicImageStorage):
        assert is_examined(make.instance(sop_class_uid=kind, BurnedInAnnotation="NO"))
    screen = {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"], "BurnedInAnnotation": "NO"}
    assert is_examined(make.instance(sop_class_uid=MRImageStorage, **screen))
    for kind in (SegmentationStorage, RTDoseStorage):
        assert not is_examined(make.instance(sop_class_uid=kind))
        assert is_examined(make.instance(sop_class_uid=kind, BurnedInAnnotation="YES"))


def test_where_nobody_can_look_nothing_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    monkeypatch.setitem(sys.modules, "cv2", None)
    [ds] = make.ct_series(1)
    with pytest.raises(NotDeidentified, match="text cannot be looked for") as raised:
        deidentified(ds, Deidentification(Profile(frozenset()), passing_key(), burned_in_text=BurnedInText.REFUSE))
    assert raised.value.reason is RefusalReason.UNDECODABLE
