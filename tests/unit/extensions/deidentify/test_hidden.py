"""Identities in places that nobody looks at: each is gone from the result, or the instance is refused."""

from __future__ import annotations

import struct
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom import DataElement, Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate
from pydicom.tag import BaseTag
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless

from node.extensions.deidentify.deidentification import NotDeidentified, RefusalReason
from node.extensions.deidentify.files import pieces
from node.extensions.deidentify.instance import deidentified
from node.extensions.deidentify.profile import Option
from node.files.reading import read_instance
from tests import make
from tests.unit.extensions.deidentify.orders import ct, how, refusal_of

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


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", ["山田太郎", "太郎 山田", "やまだ", "ﾔﾏﾀﾞ Yamada"]),
        ("Hong^Gildong=洪^吉洞=홍^길동", ["홍길동", "吉洞", "洪 吉洞"]),
        ("Müller^Jörg", ["MULLER", "Mueller", "Mu\u0308ller", "Joerg"]),
        ("Li^Na", ["Li Na", "NA, LI", "li_na"]),
        ("Øster^Åse^B^Dr^MD", ["Oster", "Oester", "Aase"]),
    ],
)
def test_a_name_is_found_however_it_is_written(name: str, texts: list[str]) -> None:
    ds = ct(SpecificCharacterSet="ISO_IR 192", PatientName=name)
    for text in texts:
        ds.ManufacturerModelName = f"Model {text} 3"
        left = cleaned(read_back(ds)).ManufacturerModelName
        assert left in ("Model 3", "Model ﾔﾏﾀﾞ 3"), text
    ds.ManufacturerModelName = "Größe Linac"
    assert cleaned(read_back(ds)).ManufacturerModelName == "Größe Linac"


def read_back(ds: FileDataset) -> Dataset:
    stream = BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    stream.seek(0)
    return dcmread(stream)


def test_a_name_in_another_character_set_is_found() -> None:
    ds = ct(SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName="Yamada^Tarou=山田^太郎")
    ds.Manufacturer = "山田太郎"
    assert "山田".encode("iso2022_jp")[3:-3].lower() not in content(cleaned(read_back(ds)))


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
        (0, None, 0x9123, 0x0123),
        (0, 0x9123, 0x9123, 0x9123),
        (1, None, 0x9923, 0xF923),
        (1, None, 0xF923, 0xF923),
        (1, None, 0xF123, 0x0123),
    ],
)
def test_unused_bits_are_cleared_without_an_overlay_that_says_so(
    signed: int, padding: int | None, word: int, expected: int
) -> None:
    ds = ct(BitsStored=12, HighBit=11, PixelRepresentation=signed)
    ds.PixelData = struct.pack("<H", word) * (16 * 12)
    if padding is not None:
        ds.add(DataElement(0x00280120, "US", padding))
    assert set(np.frombuffer(cleaned(ds).PixelData, "<u2")) == {expected}


def jpeg() -> bytes:
    stream = BytesIO()
    Image.fromarray(make.pattern(1, 16, 16)[0].astype(np.uint8)).save(
        stream, "jpeg", comment=b"Secret", progressive=True
    )
    data = stream.getvalue()
    exif = b"\xff\xe1" + struct.pack(">H", 18) + b"Exif\0\0Secret\xff\xd9xx"
    thumbnail = b"\xff\xe0" + struct.pack(">H", 16 + 9) + b"JFIF\0\1\1\0\0\1\0\1\1\3" + b"SecretSec"
    return data[:2] + thumbnail + exif + data[20:] + b"Secret\xff\xd9"


def jpeg_2000() -> bytes:
    stream = BytesIO()
    Image.fromarray(make.pattern(1, 16, 16)[0].astype(np.uint8)).save(
        stream, "jpeg2000", no_jp2=True, comment=b"Secret"
    )
    data = stream.getvalue()
    assert b"Secret" in data
    return data + b"Secret\xff\xd9"


def compressed(frames: list[bytes], syntax: str, fragments: int = 1, **attributes: Any) -> Dataset:
    ds = make.set_pixels(make.instance(), np.zeros((len(frames), 16, 16), np.uint8))
    ds.PixelData = encapsulate(frames, fragments_per_frame=fragments)
    ds["PixelData"].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = syntax
    make.changed(ds, **attributes)
    return read_back(ds)


@pytest.mark.parametrize(("frame", "syntax"), [(jpeg, JPEGBaseline8Bit), (jpeg_2000, JPEG2000Lossless)])
@pytest.mark.parametrize("fragments", [1, 3])
def test_remarks_in_codestreams_are_blanked_and_pixels_stay(
    frame: Callable[[], bytes], syntax: str, fragments: int
) -> None:
    original = compressed([frame()] * 2, syntax, fragments)
    pixels = original.pixel_array.copy()
    result = b"".join(pieces(cleaned(original)))
    assert b"ecret" not in result
    assert np.array_equal(dcmread(BytesIO(result)).pixel_array, pixels)


@pytest.mark.parametrize(
    "ds",
    [
        lambda: compressed([jpeg()[:40]], JPEGBaseline8Bit),
        lambda: compressed([jpeg_2000()[:60]], JPEG2000Lossless),
        lambda: compressed([b"Secret"], JPEGLSLossless),
        lambda: compressed([jpeg(), jpeg()], JPEGBaseline8Bit, NumberOfFrames=1),
        lambda: ct(BitsAllocated=12),
        lambda: ct(PhotometricInterpretation="SECRET"),
    ],
    ids=["cut JPEG", "cut JPEG 2000", "no codestream", "a frame too many", "bits", "photometry"],
)
def test_pixels_of_which_nobody_can_tell_what_is_hidden_are_refused(ds: Callable[[], Dataset]) -> None:
    assert refusal_of(ds(), how()) is RefusalReason.UNREADABLE


def test_frames_that_are_too_long_for_a_value_are_refused_before_they_are_decoded() -> None:
    ds = compressed([jpeg()], JPEGBaseline8Bit)
    ds.NumberOfFrames, ds.Rows, ds.Columns = 5000, 1024, 1024
    order = how(Option.PIXELS, rules=())
    ds.BurnedInAnnotation = "NO"
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.3.1"
    ds.SequenceOfUltrasoundRegions = [
        make.dataset(RegionLocationMinX0=1, RegionLocationMinY0=1, RegionLocationMaxX1=9, RegionLocationMaxY1=9)
    ]
    with pytest.raises(NotDeidentified, match="undecodable: the 5000 frames take 5242880000 bytes"):
        deidentified(ds, order)
