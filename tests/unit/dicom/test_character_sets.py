"""Text with code extensions: the examples of PS3.5 annexes H to K with their bytes, and what is near them."""

import struct
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.charset import convert_encodings, encode_string, python_encoding
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.tag import BaseTag

from node.dicom.answers import AnswerEncoder, encoded_answer, encoded_data_set
from node.dicom.attributes import Attribute, read_attributes
from node.dicom.character_sets import NEW_CODECS, character_set_of, decoded
from node.dicom.coercion import Coercion
from node.dicom.encoding import EXPLICIT_LITTLE_ENDIAN
from node.dicom.json_model import json_model
from node.dicom.matching import texts_of
from node.dicom.values import texts

PATIENT_NAME, COMMENTS = 0x00100010, 0x00104000

NAMES = [
    pytest.param(
        "\\ISO 2022 IR 87",
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
        "Yamada^Tarou=山田^太郎=やまだ^たろう",
        id="H.3.1",
    ),
    pytest.param(
        "ISO 2022 IR 13\\ISO 2022 IR 87",
        b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J=\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J",
        "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
        id="H.3.2",
    ),
    pytest.param(
        "\\ISO 2022 IR 149",
        b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
        "Hong^Gildong=洪^吉洞=홍^길동",
        id="I.2",
    ),
    pytest.param("ISO_IR 192", "Wang^XiaoDong=王^小東".encode(), "Wang^XiaoDong=王^小東", id="J.1"),
    pytest.param("GB18030", b"Wang^XiaoDong=\xcd\xf5^\xd0\xa1\xb6\xab", "Wang^XiaoDong=王^小东", id="J.3"),
    pytest.param("GBK", b"Wang^XiaoDong=\xcd\xf5^\xd0\xa1\xb6\xab", "Wang^XiaoDong=王^小东", id="J.5"),
    pytest.param(
        "\\ISO 2022 IR 58",
        b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab",
        "Zhang^XiaoDong=张^小东",
        id="K.2",
    ),
    pytest.param(  # the code of 春 has the byte of "="
        "\\ISO 2022 IR 87", b"Yamada^Haru==\x1b$B;3ED\x1b(B^\x1b$B=U\x1b(B", "Yamada^Haru==山田^春", id="half a sign"
    ),
    pytest.param(  # the code of 俑 has the byte of a backslash, that of 乗 in GB18030 as well
        "\\ISO 2022 IR 87", b"A=\x1b$BP\x5c\x1b(B", "A=俑", id="backslash"
    ),
    pytest.param("GB18030", b"Cheng=\x81\x5c", "Cheng=乗", id="backslash of GB18030"),
    pytest.param(  # G1 stays Greek while G0 changes; `^` ends both
        "\\ISO 2022 IR 126\\ISO 2022 IR 87", b"\x1b-F\xc1\x1b$B;3\x1b(B\xe1^\x1b-F\xc2", "Α山α^Β", id="a state"
    ),
    pytest.param("\\ISO 2022 IR 159", b"X=\x1b$(D0!\x1b(B", "X=丂", id="JIS X 0212"),
    pytest.param("\\ISO 2022 IR 87", b"Hong=\x1b$)C\xfb\xf3", "Hong=洪", id="not announced"),
    pytest.param("ISO_IR 203", b"M\xbcnch^\xa4", "MŒnch^€", id="Latin 9"),
    pytest.param("\\ISO 2022 IR 203", b"M\x1b-b\xbcnch", "MŒnch", id="Latin 9 by extension"),
]

TEXTS = [
    pytest.param(
        "\\ISO 2022 IR 149",
        b"\x1b$)CThe 1st line includes \xb1\xe6\xb5\xbf.\r\n\x1b$)CThe 2nd line includes \xb1\xe6\xb5\xbf, too.",
        "The 1st line includes 길동.\r\nThe 2nd line includes 길동, too.",
        id="I.3",
    ),
    pytest.param(
        "\\ISO 2022 IR 58",
        b"1.\x1b$)A\xb5\xda\xd2\xbb\xd0\xd0\xce\xc4\xd7\xd6\xa1\xa3\r\n2.\x1b$)A\xb5\xda\xb6\xfe\xd0\xd0\xce\xc4\xd7\xd6",
        "1.第一行文字。\r\n2.第二行文字",
        id="K.3",
    ),
]


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    value += b" " * (len(value) % 2)
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value


def data_set(terms: str, *elements: bytes) -> bytes:
    return element(0x00080005, b"CS", terms.encode()) + b"".join(elements)


def read(data: bytes) -> Dataset:
    return read_dataset(BytesIO(data), False, True)


def written(ds: Dataset) -> Dataset:
    """What pydicom reads of a data set that it has written."""
    stream = DicomBytesIO()
    stream.is_implicit_VR, stream.is_little_endian = False, True
    write_dataset(stream, ds)
    return read(stream.getvalue())


@pytest.mark.parametrize(("terms", "raw", "name"), NAMES)
def test_a_name_is_the_same_in_the_index_in_queries_and_in_the_json_model(terms: str, raw: bytes, name: str) -> None:
    data = data_set(terms, element(PATIENT_NAME, b"PN", raw))
    wanted = Attribute(PATIENT_NAME, "patient_name", "PN")
    assert read_attributes(data, EXPLICIT_LITTLE_ENDIAN, [wanted]) == {"patient_name": name}
    assert texts_of(read(data), BaseTag(PATIENT_NAME)) == [name]
    [groups] = json_model(read(data), lambda path: None)["00100010"]["Value"]
    alphabetic, ideographic, phonetic = (*name.split("="), "", "")[:3]
    assert groups.get("Alphabetic", "") == alphabetic
    assert groups.get("Ideographic", "") == ideographic
    assert groups.get("Phonetic", "") == phonetic


@pytest.mark.parametrize(("terms", "raw", "text"), TEXTS)
def test_lines_begin_with_the_first_character_set_again(terms: str, raw: bytes, text: str) -> None:
    assert read(data_set(terms, element(COMMENTS, b"LT", raw))).PatientComments == text


@pytest.mark.parametrize(
    ("terms", "name", "lines"),
    [
        ("\\ISO 2022 IR 58", "Zhang^XiaoDong=张^小东", "1.第一行\r\n2.第二行"),
        ("\\ISO 2022 IR 87", "Yamada^Haru=山田^春", "春\r\n夏"),
        ("ISO 2022 IR 203\\ISO 2022 IR 58", "Œ=张", "€ 张"),
        ("ISO_IR 203", "Œ^€", "€\r\n"),
    ],
)
def test_text_that_was_read_is_written_so_that_it_is_read_again(terms: str, name: str, lines: str) -> None:
    ds = Dataset()
    ds.SpecificCharacterSet = terms.split("\\")
    ds.PatientName, ds.PatientComments, ds.StudyDescription = name, lines, ["a", name]
    for _ in range(2):
        ds = written(ds)
        assert (str(ds.PatientName), ds.PatientComments) == (name, lines.strip(" "))
        assert texts(ds, "StudyDescription") == ("a", name)


@pytest.mark.parametrize(
    ("term", "name"), [("ISO 2022 IR 58", "Zhang^XiaoDong=张^小东"), ("ISO 2022 IR 87", "Yamada^Haru=山田^春")]
)
@pytest.mark.parametrize("is_single", [True, False])
def test_a_name_that_was_read_is_written_in_another_character_set(term: str, name: str, is_single: bool) -> None:
    inner, ds = Dataset(), Dataset()
    inner.ReferringPhysicianName = name
    ds.SpecificCharacterSet, ds.ReferencedPatientSequence = ["", term], [inner]
    ds.OtherPatientNames = name if is_single else ["A^B", name]
    changed = written(ds)
    Coercion.of({"InstitutionName": "Müller"}, {}, ()).apply(changed)
    found = written(changed)
    assert found.SpecificCharacterSet == "ISO_IR 192"
    assert found.ReferencedPatientSequence[0].ReferringPhysicianName == name
    assert found.OtherPatientNames == (name if is_single else ["A^B", name])


@pytest.mark.parametrize("terms", ["\\ISO 2022 IR 58", "\\ISO 2022 IR 149", "\\ISO 2022 IR 87"])
@given(text=st.text("aZ 0.,^=张小东길동洪春夏秋太郎", max_size=30))
def test_what_pydicom_writes_is_read_or_was_not_written(terms: str, text: str) -> None:
    encodings = convert_encodings(terms.split("\\"))
    try:
        groups = [encode_string(group, encodings) for group in text.split("^")]
    except (UnicodeError, UserWarning):
        return
    assert decoded(b"^".join(groups), encodings, "ST") == text


@given(
    raw=st.binary(max_size=60), vr=st.sampled_from(["PN", "LO", "UT"]), first=st.sampled_from([*NEW_CODECS, "", "X"])
)
def test_any_bytes_are_text(raw: bytes, vr: str, first: str) -> None:
    assert isinstance(decoded(b"\x1b$B" + raw, convert_encodings(first) if first != "X" else (), vr), str)


NAMES_BY_TERM = {
    "": "", "6": "", "13": "ﾔﾏﾀﾞ^ﾀﾛｳ", "58": "张^小东", "87": "山田^太郎=やまだ", "100": "Müller^Jörg", "101": "Łódź^Š",
    "109": "Ġorġ^Ħ", "110": "Ķēniņš^Ā", "126": "Αθηνά^Β", "127": "علي^محمد", "138": "שלום^א", "144": "Люкс^Иван",
    "148": "Işık^Ş", "149": "洪^吉洞=홍^길동", "159": "丂^丄", "166": "สมชาย^ก", "192": "Ł山Ü홍", "203": "Œuvre^€",
    "GB18030": "Ł山Ü홍", "GBK": "张^小东",
}  # fmt: skip
ASKED = [
    terms
    for term in python_encoding
    for terms in ([term], ["", term], ["ISO 2022 IR 100", term])
    if len(terms) == 1 or term.startswith("ISO 2022 IR")
]


@pytest.mark.parametrize("terms", [*ASKED, ["ISO_IR 999"], [], ["ISO_IR 192", "ISO 2022 IR 87"]], ids=str)
def test_an_answer_is_in_the_character_set_that_was_asked_in_if_it_holds_the_text(terms: list[str]) -> None:
    """PS3.4 C.4.1.1.3.1, over all Defined Terms that are known, by each way that an answer takes."""
    found = character_set_of(terms)
    term = terms[-1] if terms in ASKED else "ISO_IR 192"
    held = NAMES_BY_TERM[term.rpartition(" ")[2]]
    for name, is_held in ((f"A^{held}", True), (f"A^{held} Ł山Üا", term in ("ISO_IR 192", "GB18030"))):
        line = {"StudyDescription": f"a {name}\\~{name}"}
        ds = Dataset()
        ds.StudyDescription, ds.PatientName, ds.PatientComments = line["StudyDescription"], name, f"{name}\r\n{name}"
        answers = [
            AnswerEncoder(line, EXPLICIT_LITTLE_ENDIAN, None, found).encode(line),
            encoded_data_set(ds, EXPLICIT_LITTLE_ENDIAN, found),
            encoded_answer(json_model(ds, lambda path: None), EXPLICIT_LITTLE_ENDIAN, found),
        ]
        for answer in map(read, answers):
            asked = terms if is_held and terms in ASKED else ["ISO_IR 192"]
            assert answer.get("SpecificCharacterSet") == (None if name.isascii() else asked if asked[1:] else asked[0])
            assert texts(answer, "StudyDescription") == (f"a {name}", f"~{name}")
            assert str(answer.get("PatientName", name)) == name
            assert answer.get("PatientComments", f"{name}\r\n{name}") == f"{name}\r\n{name}"


@pytest.mark.parametrize(("terms", "raw", "name"), [one for one in NAMES if one.id != "not announced"])
def test_a_name_is_answered_in_the_bytes_of_the_standard(terms: str, raw: bytes, name: str) -> None:
    assert character_set_of(terms.split("\\")).encode(name, "PN") == raw


@pytest.mark.parametrize("term", ["ISO_IR_100", "ISO-IR 100", "iso ir 100", "ISO_IR100"])
def test_a_misspelt_term_is_answered_in_its_own_set(term: str) -> None:
    assert character_set_of([term]).terms == ("ISO_IR 100",)
