"""The walk over the encoding of a data set, held against pydicom's reading and against bytes that mean no good."""

import contextlib
import struct
import zlib
from collections.abc import Callable
from functools import partial
from io import BytesIO
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, Sequence, dcmread, dcmwrite
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
)

from node.dicom import header
from node.dicom.attributes import INDEXED_TAGS
from node.dicom.header import (
    read_every,
    read_header,
    read_header_by_windows,
    read_items,
    read_sequence,
    require_few_elements,
    require_inflatable,
    require_parsable,
)
from node.dicom.walker import MAX_ELEMENTS, MAX_VALUE_BYTES, HeaderCut, TooManyElements
from node.errors import NotUnderstood
from tests.make import PYDICOM_FILES

PATIENT_ID, ROWS = 0x00100020, 0x00280010
ENCODINGS = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)


def encoded(ds: Dataset, syntax: str) -> bytes:
    stream = BytesIO()
    uid = ExplicitVRLittleEndian if syntax == DeflatedExplicitVRLittleEndian else syntax
    dcmwrite(stream, ds, implicit_vr=uid.is_implicit_VR, little_endian=uid.is_little_endian)
    if syntax != DeflatedExplicitVRLittleEndian:
        return stream.getvalue()
    return deflated(stream.getvalue())


def nested(depth: int, undefined: bool) -> Dataset:
    """A data set whose Referenced Study Sequence (0008,1110) holds itself `depth` times, before what is wanted."""
    inner = Dataset()
    inner.PatientID = "INNER"
    for _ in range(depth):
        outer = Dataset()
        outer.ReferencedStudySequence = Sequence([inner])
        outer["ReferencedStudySequence"].is_undefined_length = undefined
        inner.is_undefined_length_sequence_item = undefined
        inner = outer
    inner.PatientID = "OUTER"
    inner.Rows = 7
    return inner


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("syntax", [*ENCODINGS, DeflatedExplicitVRLittleEndian])
def test_top_level_values_are_found_behind_sequences(syntax: str, undefined: bool) -> None:
    data = encoded(nested(3, undefined), syntax)
    elements = read_header(data, syntax, frozenset((PATIENT_ID, ROWS)))
    assert elements[PATIENT_ID].strip() == b"OUTER"
    assert elements[ROWS] == (b"\0\7" if syntax == ExplicitVRBigEndian else b"\7\0")
    every = read_every(data, syntax, frozenset((PATIENT_ID, ROWS)))
    assert [value.strip() for value in every[PATIENT_ID]] == [b"INNER", b"OUTER"]
    assert every[ROWS] == [elements[ROWS]]


UNDEFINED = 0xFFFFFFFF


def text(tag: int, value: bytes, length: int | None = None) -> bytes:
    """An element of VR LO in Explicit VR Little Endian."""
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, b"LO", len(value) if length is None else length) + value


def item(*elements: bytes, is_undefined: bool = False) -> bytes:
    value = b"".join(elements)
    if not is_undefined:
        return struct.pack("<HHL", 0xFFFE, 0xE000, len(value)) + value
    return struct.pack("<HHL", 0xFFFE, 0xE000, UNDEFINED) + value + struct.pack("<HHL", 0xFFFE, 0xE00D, 0)


def sequence(*items: bytes, is_undefined: bool = False, vr: bytes = b"SQ") -> bytes:
    """Request Attributes Sequence (0040,0275)."""
    value = b"".join(items)
    head = struct.pack("<HH2s2xL", 0x0040, 0x0275, vr, UNDEFINED if is_undefined else len(value))
    return head + value + (struct.pack("<HHL", 0xFFFE, 0xE0DD, 0) if is_undefined else b"")


A, B = text(0x00400007, b"one "), text(0x00400009, b"two ")
OF_A, OF_B = {0x00400007: (b"LO", b"one ")}, {0x00400009: (b"LO", b"two ")}
IN_IMPLICIT_VR = struct.pack("<HHL", 0x0008, 0x0100, 4) + b"CODE"


@pytest.mark.parametrize("vr", [b"SQ", b"UN", b"sq", b"ZZ", b"\0\0"])
def test_each_item_shows_its_own_encoding_whatever_its_sequence_is(vr: bytes) -> None:
    """PS3.5 6.2.2: items of a UN are in an implicit VR, but those that a scanner called so may be as they were."""
    for first, second in product((IN_IMPLICIT_VR, A, b""), repeat=2):
        items = (item(held, is_undefined=True) for held in (first, second))
        data = A + sequence(*items, is_undefined=True, vr=vr) + text(0x00401001, b"AFTR")
        assert read_header(data, ExplicitVRLittleEndian, frozenset((0x00401001,))) == {0x00401001: b"AFTR"}


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (b"", []),
        (item(A), [OF_A]),
        (item(A, B), [OF_A | OF_B]),
        (item(A) + item(B), [OF_A, OF_B]),
        (item(A, is_undefined=True) + item(B), [OF_A, OF_B]),
        (item(A) + item(B, is_undefined=True) + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0), [OF_A, OF_B]),
        (item() + item(A), [{}, OF_A]),
        (item(is_undefined=True) + item() + item(A), [{}, {}, OF_A]),
        (item() + item(is_undefined=True), [{}, {}]),
    ],
)
def test_each_item_of_a_sequence_has_its_own_elements(raw: bytes, found: list[header.Elements]) -> None:
    assert read_sequence(raw, ExplicitVRLittleEndian) == found


@pytest.mark.parametrize("syntax", ENCODINGS)
def test_items_are_read_in_their_own_encoding_behind_empty_ones(syntax: str) -> None:
    ds = Dataset()
    ds.RequestAttributesSequence = Sequence([Dataset(), Dataset(), Dataset()])
    ds.RequestAttributesSequence[2].ScheduledProcedureStepID = "1"
    raw = encoded(ds, syntax)[8 if syntax == ImplicitVRLittleEndian else 12 :]
    assert [[value for _, value in one.values()] for one in read_sequence(raw, syntax)] == [[], [], [b"1 "]]
    assert read_items(raw, syntax, frozenset((0x00400009,))) == [{}, {}, {0x00400009: b"1 "}]


@pytest.mark.parametrize("raw", [item(A)[:-1], item(A[:-1]), item(A) + item(B)[:-2], item(A, is_undefined=True)[:12]])
def test_a_sequence_that_is_cut_is_reported(raw: bytes) -> None:
    with pytest.raises(HeaderCut):
        read_sequence(raw, ExplicitVRLittleEndian)


@pytest.mark.parametrize("read", [read_header, read_every])
def test_a_cut_value_asks_for_more_from_its_own_element_on(read: Callable[..., object]) -> None:
    with pytest.raises(HeaderCut) as cut:
        read(text(0x00080005, b"abcd") + text(PATIENT_ID, b"ab", 4), ExplicitVRLittleEndian, frozenset((PATIENT_ID,)))
    assert cut.value.offset == 12


@pytest.mark.parametrize("syntax", [*ENCODINGS, DeflatedExplicitVRLittleEndian])
def test_every_value_is_cut_to_what_is_kept_and_only_wanted_ones_are_found(syntax: str) -> None:
    ds = nested(2, undefined=False)
    ds.StudyID, ds.PatientComments = "1", "c" * (MAX_VALUE_BYTES + 2)
    found = read_every(encoded(ds, syntax), syntax, frozenset((PATIENT_ID, 0x00104000)))
    assert [value.strip() for value in found.pop(PATIENT_ID)] == [b"INNER", b"OUTER"]
    assert found == {0x00104000: [b"c" * MAX_VALUE_BYTES]}


def in_implicit_vr() -> bytes:
    ds = Dataset()
    ds.RequestAttributesSequence = Sequence([Dataset(), Dataset()])
    ds.RequestAttributesSequence[0].ScheduledProcedureStepID = "1"
    return encoded(ds, ImplicitVRLittleEndian)


@pytest.mark.parametrize(
    ("data", "syntax", "count"),
    [
        (b"", ExplicitVRLittleEndian, 0),
        (A + B, ExplicitVRLittleEndian, 2),
        (sequence(item(A, B), item(A)), ExplicitVRLittleEndian, 6),
        (sequence(item(A, B), is_undefined=True) + A, ExplicitVRLittleEndian, 6),  # one is the end
        (sequence(sequence(item()), vr=b"UN"), ExplicitVRLittleEndian, 1),  # bytes, for a decoder too
        (in_implicit_vr(), ImplicitVRLittleEndian, 4),  # the dictionary says that it is a sequence
    ],
)
def test_so_many_elements_and_items_are_decoded_and_no_more(data: bytes, syntax: str, count: int) -> None:
    require_few_elements(data, syntax, count)
    if count:
        with pytest.raises(NotUnderstood, match=f"more than {count - 1} elements"):
            require_few_elements(data, syntax, count - 1)
        with pytest.raises(HeaderCut):
            require_few_elements(data[:-1], syntax, count)


def test_elements_of_what_is_deflated_or_undefined_are_counted_too() -> None:
    with pytest.raises(NotUnderstood, match="only read as an instance"):
        require_few_elements(deflated(A), DeflatedExplicitVRLittleEndian, 1000)
    unknown = sequence(item(IN_IMPLICIT_VR) * 25, is_undefined=True, vr=b"UN")
    require_few_elements(unknown + A, ExplicitVRLittleEndian, 53)
    with pytest.raises(NotUnderstood, match="more than"):
        require_few_elements(unknown + A, ExplicitVRLittleEndian, 52)


@pytest.mark.parametrize("is_item_undefined", [False, True])
@pytest.mark.parametrize("is_undefined", [False, True])
def test_elements_in_items_of_an_unknown_sequence_are_counted(is_undefined: bool, is_item_undefined: bool) -> None:
    """pydicom makes an object of each as well, whatever lengths the items and the sequence have."""
    held = item(IN_IMPLICIT_VR * 100, is_undefined=is_item_undefined)
    data = sequence(held, is_undefined=is_undefined, vr=b"UN")
    count = 1 + 1 + 100 + is_item_undefined + is_undefined
    outside = A + B  # in an explicit VR again
    require_few_elements(data + outside, ExplicitVRLittleEndian, count + 2)
    with pytest.raises(TooManyElements):
        require_few_elements(data + outside, ExplicitVRLittleEndian, count + 1)


def reader(data: bytes) -> Callable[[int, int], bytes]:
    return lambda offset, length: data[offset : offset + length]


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("syntax", [*ENCODINGS, DeflatedExplicitVRLittleEndian])
@pytest.mark.parametrize("window", [24, 64, 100, 1 << 20])
def test_windows_of_any_size_agree(syntax: str, undefined: bool, window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header, "WINDOW_BYTES", window)
    ds = nested(3, undefined)
    ds.add_new(0x00091001, "UN", bytes(5000))
    data, wanted = encoded(ds, syntax), frozenset((PATIENT_ID, ROWS, 0x00091001))
    assert read_header_by_windows(reader(data), syntax, wanted).elements == read_header(data, syntax, wanted)


@pytest.mark.parametrize("window", [24, 100, 1 << 20])
def test_windows_tell_of_a_data_set_that_ends_too_early(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header, "WINDOW_BYTES", window)
    data = encoded(nested(1, True), ExplicitVRLittleEndian)
    wanted = frozenset((PATIENT_ID, ROWS))
    for end in range(1, len(data)):
        whole = values_or_cut(lambda end=end: read_header(data[:end], ExplicitVRLittleEndian, wanted))
        read = reader(data[:end])
        walk = partial(read_header_by_windows, read, ExplicitVRLittleEndian, wanted)
        assert values_or_cut(lambda walk=walk: walk().elements) == whole


def values_or_cut(read: Callable[[], dict[int, bytes]]) -> dict[int, bytes] | None:
    try:
        return read()
    except HeaderCut:
        return None


@pytest.mark.parametrize("syntax", ENCODINGS)
def test_of_a_cut_data_set_all_is_found_or_it_is_called_cut(syntax: str) -> None:
    ds = nested(2, undefined=False)
    ds.PatientID, ds.StudyID, ds.Rows = "7", "12", 16
    data = encoded(ds, syntax)
    wanted = frozenset((PATIENT_ID, ROWS, 0x00200010))
    for read in (read_header, read_every):
        whole = read(data, syntax, wanted)
        assert len(whole) == 3
        cut = 0
        for end in range(8, len(data)):
            try:
                assert read(data[:end], syntax, wanted, is_cut=True) == whole
            except HeaderCut:
                cut += 1
        assert cut > 50


def test_a_long_value_is_cut_to_what_the_index_can_hold() -> None:
    data = struct.pack("<HH2s2xL", 0x0010, 0x0020, b"UT", 20 << 20) + bytes(20 << 20)
    assert read_header(data, ExplicitVRLittleEndian, frozenset((PATIENT_ID,))) == {PATIENT_ID: bytes(MAX_VALUE_BYTES)}


@pytest.mark.parametrize(
    "read", [read_header, read_every, lambda data, *rest: read_header_by_windows(reader(data), *rest)]
)
def test_a_header_without_end_is_refused(read: Callable[..., object]) -> None:
    opening = struct.pack("<HH2s2xL", 0x0009, 0x1001, b"SQ", 0xFFFFFFFF)
    items = struct.pack("<HHL", 0xFFFE, 0xE000, 0) * (MAX_ELEMENTS + 1)
    many = struct.pack("<HH2sH", 0x0009, 0x1001, b"LO", 0) * (MAX_ELEMENTS + 1)
    for data in (opening + items, many):
        with pytest.raises(NotUnderstood, match=f"more than {MAX_ELEMENTS} elements"):
            read(data, ExplicitVRLittleEndian, frozenset((PATIENT_ID,)))


def test_reading_stops_before_the_pixels() -> None:
    data = encoded(nested(0, False), ExplicitVRLittleEndian)
    data += struct.pack("<HH2s2xL", 0x7FE0, 0x0010, b"OW", 0x10000000)
    assert read_header(data, ExplicitVRLittleEndian, frozenset((ROWS, 0xFFFCFFFC))) == {ROWS: b"\7\0"}
    assert read_every(data, ExplicitVRLittleEndian, frozenset((ROWS,))) == {ROWS: [b"\7\0"]}


def test_a_length_beyond_the_end_allocates_nothing_and_asks_for_more() -> None:
    data = struct.pack("<HH2s2xL", 0x0008, 0x0005, b"UT", 0xFFFFFFF0)
    with pytest.raises(HeaderCut):
        read_header(data, ExplicitVRLittleEndian, frozenset((PATIENT_ID,)))


def test_nesting_beyond_the_limit_is_refused_without_recursion() -> None:
    opening = struct.pack("<HH2s2xL", 0x0008, 0x1110, b"SQ", 0xFFFFFFFF) + struct.pack(
        "<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    with pytest.raises(NotUnderstood, match="nested deeper"):
        read_header(opening * 5000, ExplicitVRLittleEndian, frozenset((PATIENT_ID,)))


def test_another_encoding_than_announced_is_reported_with_tag_and_place() -> None:
    data = encoded(nested(0, False), ExplicitVRLittleEndian)
    rest = encoded(nested(0, False), ImplicitVRLittleEndian)
    with pytest.raises(NotUnderstood, match=rf"\(0010,0020\) at byte {len(data)} has no value representation"):
        read_header(data + rest, ExplicitVRLittleEndian, frozenset((0x7FDFFFFF,)))


@pytest.mark.parametrize("tag", [0xE000, 0xE00D, 0xE0DD])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_an_item_or_a_delimiter_in_no_sequence_is_refused_by_name(tag: int, syntax: str) -> None:
    data = encoded(nested(1, True), syntax)
    stray = struct.pack("<HHL", 0xFFFE, tag, 0)
    with pytest.raises(NotUnderstood, match=rf"\(FFFE,{tag:04X}\) at byte {len(data)} is in no sequence"):
        read_header(data + stray + data, syntax, frozenset((0x7FDFFFFF,)))


@pytest.mark.parametrize("announced", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit])
@pytest.mark.parametrize("actual", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_the_first_element_shows_whether_the_representation_is_implicit(actual: str, announced: str) -> None:
    """highdicom 0.1 wrote JPEG data sets with an implicit VR, and others write explicit ones under the default."""
    data = encoded(nested(4, True), actual)
    wanted = frozenset((PATIENT_ID, ROWS))
    expected = read_header(data, actual, wanted)
    assert len(expected) == 2
    assert read_header(data, announced, wanted) == expected
    assert read_header_by_windows(reader(data), announced, wanted).elements == expected


@pytest.mark.slow
def test_a_deflate_bomb_is_read_to_its_limit_only() -> None:
    deflate = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    element = struct.pack("<HH2s2xL", 0x0009, 0x1001, b"OB", 0x7FFFFFFE)
    bomb = deflate.compress(element) + deflate.compress(b"\0" * 200_000_000) + deflate.flush()
    with pytest.raises(HeaderCut):
        read_header(bomb, DeflatedExplicitVRLittleEndian, frozenset((ROWS,)))


def deflated(data: bytes) -> bytes:
    deflate = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    return deflate.compress(data) + deflate.flush()


def test_a_deflated_data_set_is_taken_whole_and_within_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header, "MAX_INFLATED_BYTES", 3_000_000)
    whole = deflated(b"\0" * 3_000_000)
    require_inflatable([whole])
    require_inflatable([whole[:1000], whole[1000:], b"\0"])  # padded to an even length (PS3.5 A.5)
    require_inflatable([whole + b"\0"])
    with pytest.raises(NotUnderstood, match="more than 3000000 bytes"):
        require_inflatable([deflated(b"\0" * 3_000_001)])
    with pytest.raises(NotUnderstood, match="cut"):
        require_inflatable([whole[:-10]])
    with pytest.raises(NotUnderstood, match="cannot be inflated"):
        require_inflatable([b"\xff" * 100])


@settings(max_examples=300)
@given(data=st.binary(max_size=300), syntax=st.sampled_from(ENCODINGS))
def test_random_bytes_give_values_or_a_typed_refusal(data: bytes, syntax: str) -> None:
    for read in (read_header, read_every):
        with contextlib.suppress(HeaderCut, NotUnderstood):
            read(data, syntax, INDEXED_TAGS)


@pytest.mark.slow
@settings(max_examples=200)
@given(at=st.integers(0, 400), flip=st.integers(1, 255))
def test_a_flipped_byte_gives_values_or_a_typed_refusal(at: int, flip: int) -> None:
    data = bytearray(encoded(nested(4, True), ExplicitVRLittleEndian))
    data[at % len(data)] ^= flip
    for read in (read_header, read_every):
        with contextlib.suppress(HeaderCut, NotUnderstood):
            read(data, ExplicitVRLittleEndian, INDEXED_TAGS)


@pytest.mark.filterwarnings("ignore")  # what pydicom says of its own odd files
def test_it_finds_what_pydicom_finds_in_pydicoms_own_files() -> None:
    compared = 0
    for name in sorted(PYDICOM_FILES.rglob("*.dcm")):
        try:
            ds = dcmread(name)
        except Exception:  # some of them are broken on purpose
            continue
        syntax = ds.file_meta.get("TransferSyntaxUID")
        content = name.read_bytes()
        if syntax is None or content[128:132] != b"DICM" or "FileMetaInformationGroupLength" not in ds.file_meta:
            continue
        try:
            elements = read_header(content[144 + ds.file_meta.FileMetaInformationGroupLength :], syntax, INDEXED_TAGS)
        except (HeaderCut, NotUnderstood):
            continue
        for tag, raw in elements.items():
            theirs = ds.get_item(tag)
            if isinstance(theirs.value, bytes):
                assert raw.rstrip(b"\0 ") == theirs.value.rstrip(b"\0 "), f"{name} {tag:08X}"
        compared += 1
    assert compared > 60


def elements_of(count: int, group: int = 0x5401) -> bytes:
    return b"".join(struct.pack("<HHI", group, 0x1000 + number % 0xE000, 0) for number in range(count))


@pytest.mark.parametrize("place", ["behind", "nested", "in an item", "deflated"])
def test_elements_count_wherever_they_are(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setattr(header, "MAX_ELEMENTS", 1000)
    few, many = elements_of(400), elements_of(2000)
    content = struct.Struct("<HHI")
    head, syntax = content.pack(0x0008, 0x0060, 2) + b"CT", ImplicitVRLittleEndian

    def placed(elements: bytes) -> bytes:
        if place in ("behind", "deflated"):
            return head + elements
        item = content.pack(0xFFFE, 0xE000, len(elements)) + elements
        if place == "nested":
            return head + content.pack(0x0040, 0xA730, len(item)) + item
        return head + content.pack(0x0040, 0xA730, 0xFFFFFFFF) + item + content.pack(0xFFFE, 0xE0DD, 0)

    def require(data: bytes, length: int | None = None) -> None:
        require_parsable(lambda at, size: data[at : at + size], length or len(data), syntax)

    if place == "deflated":  # in explicit VR
        syntax = DeflatedExplicitVRLittleEndian
        explicit = [struct.pack("<HH2sH", 0x5401, 0x1000 + number, b"LO", 0) for number in range(2000)]
        require(deflated(b"".join(explicit[:400])))
        with pytest.raises(TooManyElements):
            require(deflated(b"".join(explicit)))
        return
    require(placed(few))
    with pytest.raises(TooManyElements, match="more than 1000 elements"):
        require(placed(many))
    frames = content.pack(0x5200, 0x9230, 0xFFFFFFFF) + content.pack(0xFFFE, 0xE000, len(many)) + many
    require(placed(few) + frames)  # there are as many as the pixels have frames
    require(placed(few) + frames[:-3])
    require(placed(few) + content.pack(0x7FE0, 0x0010, 100_000) + bytes(100_000))
    require(placed(few)[:-2])  # the end of an element is for others to miss
