"""The attributes of an instance that are indexed. Only this module reads them.

Values are decoded leniently, because the original bytes are kept: invalid text gets replacement characters, and an
invalid date becomes None.
"""

from __future__ import annotations

import datetime as dt
import re
import unicodedata
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from node.dicom.character_sets import complete_pydicom, decoded
from node.dicom.encoding import EXPLICIT_BIG_ENDIAN
from node.dicom.header import read_header, read_header_by_windows, read_items
from node.dicom.walker import MAX_VALUE_BYTES, HeaderCut
from node.errors import NotUnderstood

SPECIFIC_CHARACTER_SET = 0x00080005
SOP_CLASS_UID, SOP_INSTANCE_UID = 0x00080016, 0x00080018
STUDY_INSTANCE_UID, SERIES_INSTANCE_UID = 0x0020000D, 0x0020000E
PATIENT_ID, ISSUER_OF_PATIENT_ID = 0x00100020, 0x00100021

REQUEST_ATTRIBUTES_SEQUENCE = 0x00400275

UID_LENGTH = 64
"""Maximum length of a UID, PS3.5 9.1."""

MAX_TEXT_BYTES = 1024
"""Most bytes in UTF-8 of a text that is indexed. A longer one is refused, not cut: two values that are equal up to
there would be one. Senders exceed the lengths of PS3.5 6.2; a key of an index in PostgreSQL has at most 2704 bytes."""


@dataclass(frozen=True, slots=True, eq=False)  # compared by identity, which costs nothing to hash
class Attribute:
    """One indexed element: its column, and how its value is read."""

    tag: int
    column: str
    vr: str

    def __str__(self) -> str:
        from pydicom.datadict import dictionary_description  # here: commands start without pydicom

        return f"{dictionary_description(self.tag)} ({self.tag >> 16:04X},{self.tag & 0xFFFF:04X})"


TIMEZONE_OFFSET = Attribute(0x00080201, "timezone_offset_from_utc", "SH")
"""Each level has it: the times of a level are those of the instance that gave the level its attributes."""

PATIENT = (
    Attribute(0x00100010, "patient_name", "PN"),
    Attribute(PATIENT_ID, "patient_id", "LO"),
    Attribute(ISSUER_OF_PATIENT_ID, "issuer_of_patient_id", "LO"),
    Attribute(0x00100030, "patient_birth_date", "DA"),
    Attribute(0x00100032, "patient_birth_time", "TM"),
    Attribute(0x00100040, "patient_sex", "CS"),
)
STUDY = (
    Attribute(STUDY_INSTANCE_UID, "study_instance_uid", "UI"),
    Attribute(0x00080020, "study_date", "DA"),
    Attribute(0x00080030, "study_time", "TM"),
    Attribute(0x00080050, "accession_number", "SH"),
    Attribute(0x00200010, "study_id", "SH"),
    Attribute(0x00081030, "study_description", "LO"),
    Attribute(0x00080090, "referring_physician_name", "PN"),
    Attribute(0x00101010, "patient_age", "AS"),
    TIMEZONE_OFFSET,
)
SERIES = (
    Attribute(SERIES_INSTANCE_UID, "series_instance_uid", "UI"),
    Attribute(0x00080060, "modality", "CS"),
    Attribute(0x00200011, "series_number", "IS"),
    Attribute(0x0008103E, "series_description", "LO"),
    Attribute(0x00080021, "series_date", "DA"),
    Attribute(0x00080031, "series_time", "TM"),
    Attribute(0x00180015, "body_part_examined", "CS"),
    Attribute(0x00200060, "laterality", "CS"),
    Attribute(0x00181030, "protocol_name", "LO"),
    Attribute(0x00080070, "manufacturer", "LO"),
    Attribute(0x00081090, "manufacturer_model_name", "LO"),
    Attribute(0x00081010, "station_name", "SH"),
    Attribute(0x00200052, "frame_of_reference_uid", "UI"),
    Attribute(0x00400244, "performed_procedure_step_start_date", "DA"),
    Attribute(0x00400245, "performed_procedure_step_start_time", "TM"),
    TIMEZONE_OFFSET,
)
IMAGE = (
    Attribute(SOP_INSTANCE_UID, "sop_instance_uid", "UI"),
    Attribute(SOP_CLASS_UID, "sop_class_uid", "UI"),
    Attribute(0x00200013, "instance_number", "IS"),
    Attribute(0x00280008, "number_of_frames", "IS"),
    Attribute(0x00280010, "rows", "US"),
    Attribute(0x00280011, "columns", "US"),
    Attribute(0x00200012, "acquisition_number", "IS"),
    Attribute(0x00080023, "content_date", "DA"),
    Attribute(0x00080033, "content_time", "TM"),
    Attribute(0x00201002, "images_in_acquisition", "IS"),
    Attribute(0x00200105, "number_of_temporal_positions", "IS"),
    Attribute(0x00540081, "number_of_slices", "US"),
    Attribute(0x00540101, "number_of_time_slices", "US"),
    Attribute(0x00201209, "number_of_series_related_instances", "IS"),
    TIMEZONE_OFFSET,
)
REQUEST = (Attribute(0x00400009, "ScheduledProcedureStepID", "SH"), Attribute(0x00401001, "RequestedProcedureID", "SH"))
"""Attributes of an item of the Request Attributes Sequence (0040,0275), PS3.3 10.6; `column` is the keyword."""

SHARED = (PATIENT, STUDY, SERIES)
INDEXED_TAGS = frozenset(
    [
        SPECIFIC_CHARACTER_SET,
        REQUEST_ATTRIBUTES_SEQUENCE,
        *(attribute.tag for level in (*SHARED, IMAGE) for attribute in level),
    ]
)
COLUMN_TAGS = INDEXED_TAGS - {SPECIFIC_CHARACTER_SET, REQUEST_ATTRIBUTES_SEQUENCE}
"""Of the elements with a column of their own; the items of a sequence have more attributes than columns."""

_IDENTIFYING = (IMAGE[0], IMAGE[1], STUDY[0], SERIES[0])
"""SOP Instance UID, SOP Class UID, Study and Series Instance UID."""

_REQUEST_TAGS = frozenset(attribute.tag for attribute in REQUEST)

ByteOrder = Literal["big", "little"]
Requests = list[dict[str, str]]
"""The items of a Request Attributes Sequence: keyword -> value, without those that are empty."""

Value = str | int | dt.date | dt.time | Requests | None


@dataclass(frozen=True, slots=True)
class InstanceAttributes:
    """The indexed attributes of one instance: for each level, a mapping of column to value."""

    patient: Mapping[str, Value]
    study: Mapping[str, Value]
    series: Mapping[str, Value]
    image: Mapping[str, Value]

    @property
    def study_instance_uid(self) -> str:
        return str(self.study["study_instance_uid"] or "")

    @property
    def series_instance_uid(self) -> str:
        return str(self.series["series_instance_uid"] or "")

    @property
    def sop_class_uid(self) -> str:
        return str(self.image["sop_class_uid"] or "")

    @property
    def sop_instance_uid(self) -> str:
        return str(self.image["sop_instance_uid"] or "")


def instance_attributes(
    data: bytes | bytearray | memoryview, transfer_syntax_uid: str, *, is_cut: bool = False
) -> InstanceAttributes:
    """Return the indexed attributes of a data set.

    `data`: the data set, or its beginning up to the pixels.
    `transfer_syntax_uid`: transfer syntax of the data set.
    `is_cut`: whether there may be more before the pixels than `data` has.

    Raises HeaderCut: `data` ends before the last indexed element.
    Raises NotUnderstood: the encoding is broken, one of the four identifying UIDs is missing (PS3.4 C.6: the unique
        keys), or a text has more than `MAX_TEXT_BYTES`.
    """
    return attributes_within(read_header(data, transfer_syntax_uid, INDEXED_TAGS, is_cut=is_cut), transfer_syntax_uid)


def attributes_by_windows(read: Callable[[int, int], bytes], transfer_syntax_uid: str) -> InstanceAttributes:
    """As `instance_attributes`, of a data set that may be too large for memory: see `read_header_by_windows`."""
    return attributes_within(
        read_header_by_windows(read, transfer_syntax_uid, INDEXED_TAGS).elements, transfer_syntax_uid
    )


def read_attributes(data: bytes, transfer_syntax_uid: str, wanted: Sequence[Attribute]) -> Mapping[str, Value]:
    """Return attributes of any data set, such as an answer to a query, by column.

    Raises NotUnderstood: the encoding is broken, or a text has more than `MAX_TEXT_BYTES`.
    """
    tags = frozenset({SPECIFIC_CHARACTER_SET, *(attribute.tag for attribute in wanted)})
    try:
        elements = read_header(data, transfer_syntax_uid, tags)
    except HeaderCut as error:
        raise NotUnderstood(str(error)) from error
    order: ByteOrder = "big" if transfer_syntax_uid == EXPLICIT_BIG_ENDIAN else "little"
    raws = [elements.get(attribute.tag) for attribute in wanted]
    return _level(wanted, raws, elements.get(SPECIFIC_CHARACTER_SET, b""), order)


def attributes_within(elements: Mapping[int, bytes], transfer_syntax_uid: str) -> InstanceAttributes:
    """Return the indexed attributes by the elements that a reader of `node.dicom.header` returned.

    Raises NotUnderstood as `instance_attributes` does.
    """
    for attribute in _IDENTIFYING:
        # As sent: `clean_text` would make one UID of two that differ in a control character.
        raw = elements.get(attribute.tag, b"")
        if len(raw) == MAX_VALUE_BYTES or not is_identifier(raw.decode("ascii", "replace").strip(" \0")):
            raise NotUnderstood(f"{attribute} is missing, or not a UID of up to {UID_LENGTH} characters (PS3.5 9.1)")
    character_set = elements.get(SPECIFIC_CHARACTER_SET, b"")
    order: ByteOrder = "big" if transfer_syntax_uid == EXPLICIT_BIG_ENDIAN else "little"
    patient, study, series = (
        _shared_level(level, tuple([elements.get(attribute.tag) for attribute in level]), character_set, order)
        for level in SHARED
    )
    image = _level(IMAGE, [elements.get(attribute.tag) for attribute in IMAGE], character_set, order)
    requests = _requests(elements.get(REQUEST_ATTRIBUTES_SEQUENCE, b""), transfer_syntax_uid, character_set)
    return InstanceAttributes(patient, study, {**series, "request_attributes": requests}, image)


_IDENTIFIER = re.compile(r"(?!\.+\Z)[!#-.0-\[\]-~]{1,64}")


def is_identifier(uid: object) -> bool:
    """Return whether `uid` can identify an object: 1 to 64 visible ASCII characters, which need not be those of a UID.

    A backslash separates values, a slash and dots alone lead elsewhere in a URL, and a quote ends a text of a selector.
    """
    return isinstance(uid, str) and _IDENTIFIER.fullmatch(uid) is not None


_UID = re.compile(r"[0-9]+(\.[0-9]+)*")


def is_uid(uid: str) -> bool:
    """Return whether a text is a UID by PS3.5 9.1, except that components may begin with zeros: real senders have such.

    `is_identifier` has what an archive accepts by ``[storage] any_uids``.
    """
    return len(uid) <= UID_LENGTH and _UID.fullmatch(uid) is not None


def _level(
    level: Sequence[Attribute], raws: Sequence[bytes | None], character_set: bytes, order: ByteOrder
) -> Mapping[str, Value]:
    return {
        attribute.column: None if raw is None else _value(raw, attribute, character_set, order)
        for attribute, raw in zip(level, raws, strict=True)
    }


_shared_level = lru_cache(maxsize=512)(_level)
"""`_level` with a cache, for attributes shared by all instances of a patient, study or series."""


@lru_cache(maxsize=256)  # of 16 KiB at most: the instances of a series have the same items
def _requests(raw: bytes, transfer_syntax_uid: str, character_set: bytes) -> Requests | None:
    """Return the items of a Request Attributes Sequence (0040,0275), empty ones left out; None if there are none."""
    if not raw:
        return None
    items = []
    for elements in read_items(raw, transfer_syntax_uid, _REQUEST_TAGS):
        texts = (
            (attribute.column, _text(elements.get(attribute.tag, b""), attribute, character_set))
            for attribute in REQUEST
        )
        items.append({keyword: text for keyword, text in texts if text is not None})
    return [item for item in items if item] or None


@lru_cache(maxsize=64)
def _encodings(raw: bytes) -> list[str]:
    from pydicom.charset import convert_encodings  # here: most values are ASCII, and commands start without pydicom

    complete_pydicom()
    terms = [term.strip(" \0") for term in raw.decode("ascii", "replace").split("\\")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an unknown term falls back to the default repertoire, as intended
        try:
            return convert_encodings(terms)
        except (LookupError, ValueError):
            return ["iso8859"]


def _value(raw: bytes, attribute: Attribute, character_set: bytes, order: ByteOrder) -> Value:
    text = raw.decode("ascii", "replace").strip(" \0")
    match attribute.vr:
        case "US":
            return int.from_bytes(raw[:2], order) if len(raw) >= 2 else None
        case "IS":
            return _integer(text)
        case "DA":
            return date_of(text)
        case "TM":
            return clock_of(text)
    return _text(raw, attribute, character_set)


def _text(raw: bytes, attribute: Attribute, character_set: bytes) -> str | None:
    has_letters = attribute.vr in ("PN", "LO", "SH")
    cleaned = clean_text(text_of(raw, character_set, attribute.vr) if has_letters else raw.decode("ascii", "replace"))
    if len(raw) == MAX_VALUE_BYTES or not is_short(cleaned or ""):  # the reader of headers cuts there
        raise NotUnderstood(f"{attribute} has more than {MAX_TEXT_BYTES} bytes of text")
    return cleaned


def text_of(raw: bytes, character_set: bytes, vr: str) -> str:
    """Return the text of a value, decoded by the raw value of *Specific Character Set* (0008,0005)."""
    if raw.isascii() and b"\x1b" not in raw:
        return raw.decode("ascii")
    try:
        return decoded(raw, _encodings(character_set), vr)
    except LookupError:
        return raw.decode("latin-1")


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def is_short(text: str) -> bool:
    """Return whether a text has at most `MAX_TEXT_BYTES`, also without the case of its letters, as names are compared.

    Without case, the characters of some scripts become longer: ``U+FDFA`` becomes 18.
    """
    if text.isascii():
        return len(text) <= MAX_TEXT_BYTES
    forms = text, unicodedata.normalize("NFKC", text.casefold())
    return all(len(form.encode("utf-8", "replace")) <= MAX_TEXT_BYTES for form in forms)


def clean_text(text: str) -> str | None:
    """Return the values of a text without padding and without characters that could harm a database or a terminal."""
    return _CONTROL.sub("", text.strip(" \0")) or None


def _integer(text: str) -> int | None:
    first = text.split("\\", 1)[0].strip()
    if not re.fullmatch(r"[+-]?\d{1,12}(\.0*)?", first):
        return None
    number = int(first.split(".", 1)[0])
    return number if -(2**31) <= number < 2**31 else None  # IS, PS3.5 6.2


def date_of(text: str) -> dt.date | None:
    """Return the date of a DA value (or its old form ``yyyy.mm.dd``), PS3.5 6.2; None if it is invalid."""
    digits = text.split("\\", 1)[0].replace(".", "").strip()
    if not re.fullmatch(r"\d{8}", digits):
        return None
    try:
        return dt.date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
    except ValueError:
        return None


def clock_of(text: str) -> str | None:
    """Return the time of day of a TM value in ISO 8601, no more of it than the value says; None if it is invalid."""
    time, digits = time_of(text), text.split("\\", 1)[0].strip().replace(":", "")
    return None if time is None else time.isoformat("microseconds")[: {2: 2, 4: 5}.get(len(digits), len(digits) + 2)]


_TIME = re.compile(r"(\d\d)(?::?(\d\d)(?::?(\d\d)(?:\.(\d{1,6}))?)?)?")


def time_of(text: str) -> dt.time | None:
    """Return the time of day of a TM value (or its old form ``hh:mm:ss``), PS3.5 6.2; None if it is invalid."""
    match = _TIME.fullmatch(text.split("\\", 1)[0].strip())
    if match is None:
        return None
    hour, minute, second, fraction = match.groups()
    try:
        return dt.time(
            int(hour), int(minute or 0), min(int(second or 0), 59), int((fraction or "0").ljust(6, "0"))
        )  # 60 is a leap second, which Python's time cannot hold
    except ValueError:
        return None
