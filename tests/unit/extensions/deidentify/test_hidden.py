"""Identities in places that nobody looks at: each is gone from the result, or the instance is refused."""

import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom import DataElement, Dataset, dcmread, uid
from pydicom._dicom_dict import DicomDictionary
from pydicom.data import get_testdata_file
from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.tag import BaseTag
from pydicom.uid import (
    MPEG2MPML,
    UID,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from rle.utils import encode_pixel_data

from node.dicom.values import texts
from node.extensions.deidentify.command import pseudonyms_of
from node.extensions.deidentify.deidentification import ALLOWABLE, RefusalReason
from node.extensions.deidentify.elements import TEXT_VRS
from node.extensions.deidentify.files import pieces
from node.extensions.deidentify.instance import deidentified
from node.extensions.deidentify.profile import Option, rows
from node.files.reading import read_instance
from node.volume.read.encoders import compressed as encode
from node.volume.read.pixel_layout import pixel_layout
from node.volume.read.pixels import decompressed_frames
from node.volume.read.transfer_syntaxes import DEFLATED_IMAGE_FRAME, PACKAGES
from tests import make
from tests.unit.extensions.deidentify.orders import KEY, ct, how, refusal_of

FULL = tuple(option for option in Option if option is not Option.MODIFIED_DATES)
MODIFIED = tuple(option for option in Option if option is not Option.FULL_DATES)


def raw(ds: Dataset, *elements: tuple[int, str, bytes]) -> Dataset:
    """Add elements as a file has them, however wrong."""
    for tag, vr, value in elements:
        ds[tag] = RawDataElement(BaseTag(tag), vr, len(value), value, 0, False, True)
    return ds


def cleaned(ds: Dataset, *options: Option) -> Dataset:
    return deidentified(ds, how(*options))


def content(ds: Dataset) -> bytes:
    return b"".join(pieces(ds)).lower()


def nested(ds: Dataset) -> FileDataset:
    return ct(AnatomicRegionSequence=[ds])


OVERLAY = ((0x60000040, "CS", b"R "), (0x60003000, "OW", b"\1\0"))


@pytest.mark.parametrize("options", [(), FULL, MODIFIED], ids=["basic", "full-dates", "modified-dates"])
@pytest.mark.parametrize(
    "ds",
    [
        lambda: raw(ct(), (0x50403000, "OW", b"Secret"), (0x60203000, "OW", b"Secret"), (0x60FE4000, "LT", b"Secret")),
        lambda: raw(ct(), (0x7F020010, "OW", b"Secret"), (0x7FE00020, "OW", b"Secret")),
        lambda: nested(raw(Dataset(), (0x7FE00010, "OW", b"Secret"), (0x00420011, "OB", b"Secret"))),
        lambda: raw(ct(), (0x04000520, "OB", b"Secret"), (0x04000120, "OB", b"Secret")),
        lambda: raw(ct(), (0x00100033, "LO", b"Secret"), (0x00401006, "SH", b"Secret")),
        lambda: nested(raw(Dataset(), (0x00020016, "AE", b"SECRET"), (0x00020102, "OB", b"Secret"))),
        lambda: nested(raw(Dataset(), (0x00000600, "AE", b"SECRET"), (0x00041500, "CS", b"SECRET"))),
        lambda: raw(ct(), (0x00180024, "ZZ", b"Secret"), (0x00189005, "FD", b"SecretSe"), (0x00181310, "LO", b"ecret")),
        lambda: raw(ct(), (0x00080020, "DA", b"Secret"), (0x00080030, "TM", b"Secret"), (0x0008002A, "DT", b"Secret")),
        lambda: raw(ct(), (0x00101010, "AS", b"Secret"), (0x00101030, "DS", b"Secret"), (0x00200052, "UI", b"Secret")),
        lambda: raw(ct(), *OVERLAY, (0x60000022, "LO", b"of Mrs Secret"), (0x60001500, "LO", b"Secret")),
        lambda: raw(ct(), (0x30040006, "LO", b"1.2"), (0x00620006, "ST", b"of Mrs Secret")),
        lambda: nested(make.dataset(TextValue="call Mrs Secret")),
        lambda: ct(PatientName="Secret^Person", DeviceSerialNumber="4711 Secret", InstitutionName="House of Secret"),
    ],
    ids=[
        "odd overlays and curves", "retired pixels", "nested pixels and documents", "signatures", "not in the table",
        "file meta information", "commands and directories", "contradicting VR", "times", "numbers and UIDs",
        "texts of overlays", "descriptions", "nested texts", "names in what is kept",
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Invalid value|Value|A value")
def test_a_secret_is_gone(ds: Callable[[], Dataset], options: tuple[Option, ...]) -> None:
    assert b"ecret" not in content(cleaned(ds(), *options))


VALID = {
    "AS": ("034Y",),
    "CS": ("HEAD_2 NECK",),
    "DA": ("20260102", "2026.01.02"),
    "DT": ("20260102101530.123456+0100", "20260102101530", "20260102", "202601"),
    "TM": ("101530.123456", "1015", "10:15:30.5"),
    "UI": ("1.2.840.99.4",),
}
"""Values of each VR that has a form (PS3.5 6.2)."""

SECRETS = ("Secret", "^Secret", " Secret", "\\Secret", "\0Secret", "-Secret", "+0100Secret", ".Secret", "\nSecret")


def kept_by(option: Option) -> list[tuple[int, str]]:
    """Tags and VRs of what an option keeps or shifts of Table E.1-1, if the VR has a form."""
    tags = [
        int(row.tag.replace(",", ""), 16) for row in rows() if not set("xg") & set(row.tag) and option in row.options
    ]
    tags = [
        tag for tag in tags if keyword_for_tag(tag) not in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    ]
    return [(tag, vr) for tag in tags if dictionary_has_tag(tag) and (vr := dictionary_VR(tag)) in VALID]


@pytest.mark.sample(2, 1)
@pytest.mark.parametrize("option", [option for option in Option if kept_by(option)])
@pytest.mark.filterwarnings("ignore:Invalid value|Value|A value")
def test_what_an_option_keeps_has_the_form_of_its_vr_to_its_last_character(option: Option) -> None:
    order = how(option)
    for number in range(4):
        whole = [(tag, vr, VALID[vr][number % len(VALID[vr])]) for tag, vr in kept_by(option)]
        for secret in SECRETS:
            for value in (lambda valid: valid + secret, lambda valid: secret + valid):  # noqa: B023
                ds = raw(ct(), *((tag, vr, value(valid).encode()) for tag, vr, valid in whole))
                assert b"secret" not in content(deidentified(ds, order)), (number, secret)
        ds = raw(ct(), *((tag, vr, valid.encode() + b"4711081599") for tag, vr, valid in whole if vr != "UI"))
        left = content(deidentified(ds, order))
        assert b"4711081599" not in left or "CS" in {vr for _, vr, _ in whole}
        if option is Option.FULL_DATES:
            left = content(deidentified(raw(ct(), *((tag, vr, valid.encode()) for tag, vr, valid in whole)), order))
            assert all(valid.encode() in left for _, _, valid in whole)


@pytest.mark.sample(12, 6)
@pytest.mark.parametrize("group", sorted({tag >> 16 for tag in DicomDictionary} - {0, 2, 4}))
@pytest.mark.filterwarnings("ignore:Invalid value|Value|A value")
def test_texts_end_at_their_first_nul_and_codes_are_codes(group: int) -> None:
    """A walk over the texts and numbers of the standard, but those that say which instance it is, and of whom."""
    kinds = {tag: vr for tag, (vr, *_) in DicomDictionary.items() if tag >> 16 == group and tag not in ct()}
    kinds.pop(0x00080005, None)  # an unknown character set is refused
    texts = [(tag, vr) for tag, vr in kinds.items() if vr in TEXT_VRS | VALID.keys() | {"DS", "IS"}]
    for junk, vrs in ((b"\0Secret", None), (b"\0Secret\\1", None), (b"\\^Secret", {"CS", "DS", "IS", *VALID})):
        values = [(tag, vr, b"1" + junk) for tag, vr in texts if vrs is None or vr in vrs]
        assert b"secret" not in content(cleaned(raw(ct(), *values), *FULL)), junk


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", ["山田太郎", "太郎 山田", "山 田", "やまだ", "ﾔﾏﾀﾞ Yamada", "ヤマダ"]),
        ("Hong^Gildong=洪^吉洞=홍^길동", ["홍길동", "吉洞", "洪 吉洞"]),
        ("Müller^Jörg", ["MULLER", "Mueller", "Mu\u0308ller", "Joerg", "M?ller", "M\ufffdller", "MÃ¼ller", "Mu¨ller"]),
        ("Li^Na", ["Li Na", "NA, LI", "li_na"]),
        ("Øster^Åse^B^Dr^MD", ["Oster", "Oester", "Aase"]),
        ("Mueller^Joe", ["Müller", "MULLER", "joe"]),
        ("Strasser-Weiß^A", ["Straßer Weiss", "STRASSERWEISS", "Weiß", "Strasser‐Weiss"]),
        ("Secretary^Jo", ["S E C R E T A R Y", "s.e.c.r.e.t.a.r.y", "Secret ary", "Secre\u2028tary"]),
        ("O'Brien^Pat", ["OBrien", "O’BRIEN", "o brien", "O-Brien", "Ｏ＇Ｂｒｉｅｎ"]),
        ("OBrien^Pat", ["O'Brien", "OʼBrien", "O\u200bBrien"]),
        ("Kaʻahumanu^Pat", ["Kaahumanu", "Ka‘ahumanu"]),
        ("Dr.Maier/Hinterhuber^Eva", ["Maier", "hinterhuber", "Eva"]),
        ("van der Berg^Jan", ["VANDERBERG", "van-der-Berg"]),
        ("محمّد^علي", ["محـمـد"]),
        ("Łukasz^Æthel", ["Lukasz", "AETHEL"]),
    ],
)
def test_a_name_is_found_however_it_is_written(name: str, texts: list[str]) -> None:
    ds = ct(SpecificCharacterSet="ISO_IR 192", PatientName=name)
    for text in texts:
        ds.ManufacturerModelName = f"Model {text} 3"
        assert cleaned(read_back(ds)).ManufacturerModelName == "Model 3", text
    ds.ManufacturerModelName = "Größe Linac"
    assert cleaned(read_back(ds)).ManufacturerModelName == "Größe Linac"


def read_back(ds: FileDataset) -> Dataset:
    return dcmread(BytesIO(make.as_file(ds)))


def test_a_name_in_another_character_set_is_found() -> None:
    ds = ct(SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName="Yamada^Tarou=山田^太郎")
    ds.Manufacturer = "山田太郎"
    assert "山田".encode("iso2022_jp")[3:-3].lower() not in content(cleaned(read_back(ds)))


@pytest.mark.parametrize("stored", [b" A1 ", b"A1\\B2 ", b"\\B2 ", b"A1\0junk "])
def test_the_map_has_the_pseudonyms_of_the_copies(tmp_path: Path, stored: bytes) -> None:
    make.saved([raw(ct(), (0x00080050, "SH", stored))], tmp_path)
    copy = cleaned(read_instance(tmp_path / "0000.dcm"))
    lines = pseudonyms_of([tmp_path], [KEY], [])
    assert tuple(line.pseudonym for line in lines if line.kind == "accession") == texts(copy, "AccessionNumber")


@pytest.mark.parametrize(
    ("name", "texts", "encodings"),
    [
        ("Mueller^Łukasz^^^^", ["Mueller", "MÜLLER"], ["latin-1", "utf-8", "utf-16-le", "utf-16-be"]),
        ("Müller^Jörg", ["Müller"], ["iso8859-2", "iso8859-15", "gb18030"]),
        ("Иванов^Пётр", ["ИВАНОВ", "Петр"], ["utf-8", "utf-16-le", "utf-16-be", "iso8859-5"]),
        ("Yamada^Tarou=山田太郎", ["山田太郎"], ["utf-8", "utf-16-le", "iso2022_jp", "shift_jis", "gb18030"]),
    ],
)
def test_a_name_in_bytes_is_found_in_each_encoding(name: str, texts: list[str], encodings: list[str]) -> None:
    ds = ct(SpecificCharacterSet="ISO_IR 192", PatientName=name)
    for text in texts:
        for encoding in encodings:
            secret = b"\1" + f"of {text}!".encode(encoding)
            element = cleaned(raw(read_back(ds), (0x00281221, "OW", secret + b"\0" * (len(secret) % 2))))
            assert element[0x00281221].value == b"\0\0", (text, encoding)


def test_a_name_in_words_of_the_other_byte_order_is_found() -> None:
    words = np.frombuffer(b"of Mueller!!", "<u2").byteswap().tobytes()
    assert cleaned(raw(ct(PatientName="Mueller^Jo"), (0x00281221, "OW", words)))[0x00281221].value == b"\0\0"


@pytest.mark.parametrize(
    ("patient_id", "text"),
    [("0012345", "12345"), ("H.47.11.08", "H471108"), ("AB-12/34", "AB1234"), ("47110815", "٤٧١١٠٨١٥")],
)
def test_an_identifier_is_found_without_its_marks(patient_id: str, text: str) -> None:
    ds = ct(SpecificCharacterSet="ISO_IR 192", PatientID=patient_id, ManufacturerModelName=f"Model {text} 3")
    assert cleaned(read_back(ds)).ManufacturerModelName == "Model 3"


def test_uids_by_uuid_are_found_in_texts() -> None:
    assert cleaned(ct(ManufacturerModelName="Model 2.25.12345678901234567890")).ManufacturerModelName == "Model"


@pytest.mark.parametrize(
    ("age", "kept"), [("089Y", "089Y"), ("090Y", "090Y"), ("107Y", "090Y"), ("999M", "999M"), ("04Y", "")]
)
@pytest.mark.filterwarnings("ignore:Invalid value|Value")
def test_ages_above_89_are_one(age: str, kept: str) -> None:
    ds = raw(ct(), (0x00101010, "AS", age.encode()))
    assert (cleaned(ds, Option.PATIENT).PatientAge or "") == kept


@pytest.mark.parametrize("in_file", [False, True])
def test_bytes_after_the_last_frame_are_gone(tmp_path: Path, in_file: bool) -> None:
    ds = make.set_pixels(make.instance(), make.pattern(1, 256, 255)[0])
    pixels = ds.pixel_array.copy()
    ds.PixelData += b"Secret" * 7
    if in_file:
        ds.save_as(tmp_path / "1.dcm", enforce_file_format=True)
        ds = read_instance(tmp_path / "1.dcm")
    result = BytesIO(b"".join(pieces(cleaned(ds))))
    assert b"Secret" not in result.getvalue()
    assert np.array_equal(dcmread(result).pixel_array, pixels)


@pytest.mark.parametrize(
    ("signed", "padding", "word", "expected"),
    [
        (0, None, 0x9123, 0x0123), (0, 0x9123, 0x9123, 0x9123),
        (1, None, 0x9923, 0xF923), (1, None, 0xF923, 0xF923), (1, None, 0xF123, 0x0123),
    ],
)  # fmt: skip
def test_unused_bits_are_cleared_without_an_overlay(signed: int, padding: int | None, word: int, expected: int) -> None:
    ds = ct(BitsStored=12, HighBit=11, PixelRepresentation=signed)
    ds.PixelData = struct.pack("<H", word) * (16 * 12)
    if padding is not None:
        ds.add(DataElement(0x00280120, "US", padding))
    assert set(np.frombuffer(cleaned(ds).PixelData, "<u2")) == {expected}


PIXELS = make.pattern(1, 64, 64)[0].astype(np.uint8)


def encoded(kind: str, **options: Any) -> bytes:
    stream = BytesIO()
    Image.fromarray(PIXELS).save(stream, kind, comment=b"Secret", **options)
    return stream.getvalue()


def jpeg(**options: Any) -> bytes:
    data = encoded("jpeg", **options)
    exif = b"\xff\xe1" + struct.pack(">H", 18) + b"Exif\0\0Secret\xff\xd9xx"
    thumbnail = b"\xff\xe0" + struct.pack(">H", 16 + 9) + b"JFIF\0\1\1\0\0\1\0\1\1\3" + b"SecretSec"
    return data[:2] + thumbnail + exif + data[20:] + b"Secret\xff\xd9"


def jpeg_2000() -> bytes:
    data = encoded("jpeg2000", no_jp2=True)
    assert b"Secret" in data
    return data + b"Secret\xff\xd9"


def compressed(frames: list[bytes], syntax: str, fragments: int = 1, **attributes: Any) -> Dataset:
    ds = make.set_pixels(make.instance(), np.zeros((len(frames), *PIXELS.shape), np.uint8))
    ds.PixelData = encapsulate(frames, fragments_per_frame=fragments)
    ds["PixelData"].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = syntax
    make.changed(ds, **attributes)
    return read_back(ds)


def box(name: bytes, text: bytes) -> bytes:
    return struct.pack(">L4s", len(text) + 8, name) + text


def in_boxes() -> bytes:
    return box(b"jP  ", b"\r\n\x87\n") + encoded("jpeg2000")[12:] + box(b"uuid", b"Secret")


def run_length() -> bytes:
    """A frame of RLE with a secret behind the pixels."""
    frame = encode_pixel_data(PIXELS.tobytes(), rows=64, columns=64, samples_per_pixel=1, bits_allocated=8)
    return bytes(frame) + b"\x05Secret"


def private() -> Dataset:
    ds = compressed([b"Secret"], JPEGBaseline8Bit)
    ds.file_meta.TransferSyntaxUID = UID("1.2.3.4")
    return ds


def deflated() -> bytes:
    return zlib.compress(PIXELS.tobytes(), wbits=-15) + b"Secret"


@pytest.mark.sample(12)
@pytest.mark.parametrize(
    ("frame", "syntax"),
    [
        (jpeg, JPEGBaseline8Bit), (jpeg_2000, JPEG2000Lossless), (in_boxes, JPEG2000Lossless),
        (run_length, RLELossless), (deflated, DEFLATED_IMAGE_FRAME),
    ],
)  # fmt: skip
@pytest.mark.parametrize("tables", ["none", "basic", "false", "extended"])
@pytest.mark.parametrize("fragments", [1, 3])
def test_elements_of_pixels_hold_pixels_alone(
    frame: Callable[[], bytes], syntax: str, tables: str, fragments: int
) -> None:
    if syntax in (RLELossless, DEFLATED_IMAGE_FRAME):
        fragments = 1  # a frame is one fragment (PS3.5 A.4.2)
    frames = [frame()] * 2
    original = compressed(frames, syntax, fragments)
    stored = encapsulate(frames, fragments_per_frame=fragments, has_bot=tables == "basic")
    if tables == "false":
        stored = struct.pack("<HHL", 0xFFFE, 0xE000, 8) + b"\0\0Secret" + stored[8:]
    original["PixelData"].value = stored
    if tables == "extended":
        raw(original, (0x7FE00001, "OV", b"\0\0Secret" * 2), (0x7FE00002, "OV", b"\0\0Secret" * 2))
    result = b"".join(pieces(cleaned(original)))
    assert b"ecret" not in result
    copy = dcmread(BytesIO(result))
    for found, expected in zip(decompressed_frames(copy).frames, decompressed_frames(original).frames, strict=True):
        assert np.array_equal(found, expected)
    made = list(generate_frames(copy.PixelData, number_of_frames=2))
    assert made[0] == made[1]
    if tables == "extended":
        [at] = struct.unpack_from("<Q", copy.ExtendedOffsetTable, 8)
        assert copy.PixelData[8 + at + 8 :].startswith(made[1])


FILES = {JPEGExtended12Bit: "JPEG-lossy.dcm", JPEGLossless: "JPEG-LL.dcm", JPEGLosslessSV1: "JPEG-LL.dcm"}
"""Of pydicom, in the transfer syntaxes that nothing here encodes."""


def in_syntax(syntax: str) -> Dataset:
    """An instance with a frame behind which a secret lies."""
    if syntax in FILES:
        ds = dcmread(get_testdata_file(FILES[syntax], download=False))
        [frame] = generate_frames(ds.PixelData, number_of_frames=1)
        ds.PixelData, ds.file_meta.TransferSyntaxUID = encapsulate([frame + b"Secret\xff\xd9"]), syntax
        return read_back(make.changed(ds, StudyInstanceUID="1.2.3"))
    if syntax == JPEGBaseline8Bit:
        frame = jpeg()
    else:
        like = HTJ2KLossless if syntax == HTJ2KLosslessRPCL else syntax
        ds = make.set_pixels(make.instance(), PIXELS)
        frame = encode(PIXELS, pixel_layout(ds, "PixelData"), like)
    return compressed([frame + b"Secret\xff\xd9"], syntax)


@pytest.mark.parametrize("syntax", PACKAGES)
def test_frames_of_each_transfer_syntax_are_made_of_their_pixels(tmp_path: Path, syntax: str) -> None:
    ds, order = in_syntax(syntax), how(allowed=frozenset(ALLOWABLE))
    [expected] = decompressed_frames(ds).frames
    result = b"".join(pieces(deidentified(ds, order)))
    assert b"ecret" not in result
    copy = dcmread(BytesIO(result))
    [found] = decompressed_frames(copy).frames if copy["PixelData"].is_undefined_length else [copy.pixel_array]
    assert np.array_equal(found, expected)
    is_native = syntax in (JPEGLossless, JPEGLosslessSV1, HTJ2KLosslessRPCL)
    assert copy.file_meta.TransferSyntaxUID == (ExplicitVRLittleEndian if is_native else syntax)


@pytest.mark.parametrize("name", ["JPEGBaseline8Bit", "JPEGExtended12Bit"])
def test_blocks_that_reach_beyond_the_image_leave_as_pixels(name: str) -> None:
    ds = in_syntax(getattr(uid, name))
    [frame] = generate_frames(ds.PixelData, number_of_frames=1)
    at = next(frame.index(marker) + 5 for marker in (b"\xff\xc0", b"\xff\xc1") if marker in frame)
    ds.Rows -= 3  # the last rows are there, and no decoder shows them
    ds.PixelData = encapsulate([frame[:at] + struct.pack(">H", ds.Rows) + frame[at + 2 :]])
    [expected] = decompressed_frames(ds).frames
    copy = dcmread(BytesIO(b"".join(pieces(deidentified(ds, how(allowed=frozenset(ALLOWABLE)))))))
    assert copy.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert np.array_equal(copy.pixel_array, expected)


def test_offset_tables_of_native_pixels_are_gone_and_odd_pixels_stay_readable() -> None:
    ds = make.set_pixels(make.instance(), make.pattern(1, 5, 5)[0].astype(np.uint8))
    expected = ds.pixel_array.copy()
    raw(ds, (0x7FE00001, "OV", b"\0\0Secret"), (0x7FE00002, "OV", b"\0\0Secret"), (0xFFFCFFFC, "OB", b"Secret"))
    result = b"".join(pieces(cleaned(ds)))
    assert b"ecret" not in result
    assert np.array_equal(dcmread(BytesIO(result)).pixel_array, expected)


def test_fragments_of_a_video_stay_without_their_offset_table() -> None:
    ds = compressed([b"video 1 ", b"video 2 "], MPEG2MPML, NumberOfFrames=50)
    assert len(ds.PixelData) == 48
    order = how(allowed=frozenset((RefusalReason.VOICE,)))
    assert deidentified(ds, order).PixelData == encapsulate([b"video 1 ", b"video 2 "], has_bot=False)


UNTELLABLE: dict[str, Callable[[], Dataset]] = {
    "cut JPEG": lambda: compressed([jpeg()[:40]], JPEGBaseline8Bit),
    "progressive JPEG": lambda: compressed([jpeg(progressive=True)], JPEGBaseline8Bit),
    "JPEG XL": lambda: compressed([b"\xff\x0aSecret"], "1.2.840.10008.1.2.4.110"),
    "cut JPEG 2000": lambda: compressed([jpeg_2000()[:60]], JPEG2000Lossless),
    "no codestream": lambda: compressed([b"Secret"], JPEGLSLossless),
    "a frame too many": lambda: compressed([jpeg(), jpeg()], JPEGBaseline8Bit, NumberOfFrames=1),
    "of RLE": lambda: compressed([run_length(), run_length()], RLELossless, NumberOfFrames=1),
    "of deflated frames": lambda: compressed([deflated(), deflated()], DEFLATED_IMAGE_FRAME, NumberOfFrames=1),
    "a private transfer syntax": private,
    "offsets of RLE": lambda: compressed([run_length()[:40] + b"Secret" * 4 + run_length()[64:]], RLELossless),
    "cut RLE": lambda: compressed([run_length()[:70]], RLELossless),
    "bits": lambda: ct(BitsAllocated=12),
    "photometry": lambda: ct(PhotometricInterpretation="SECRET"),
}


@pytest.mark.parametrize("name", UNTELLABLE)
def test_pixels_of_which_nobody_can_tell_what_is_hidden_are_refused(name: str) -> None:
    assert refusal_of(UNTELLABLE[name](), how()) is RefusalReason.UNREADABLE
