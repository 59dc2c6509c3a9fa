"""Values of elements as they are stored, the dummies that replace them, and dates that are shifted."""

import re
import struct
from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from functools import cache
from typing import Any

from pydicom import Dataset
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag

from node.children.pseudonyms import Patient
from node.dicom.encoding import NUMBER_CODES
from node.dicom.json_model import BINARY
from node.dicom.values import held_elements, text
from node.extensions.deidentify.profile import AttributeAction, Option, Profile, rows, safe_private
from node.extensions.deidentify.text import Identities, vocabulary

MAX_DEPTH = 64


Element = DataElement | RawDataElement


TEXT_VRS = frozenset(("AE", "CS", "LO", "LT", "SH", "ST", "UC", "UR", "UT"))

TEXT_OF_NUMBERS = frozenset(("DS", "IS"))


SHORT_NUMBERS = frozenset(("AT", "SS", "US"))


_CODES = {**NUMBER_CODES, "AT": "H"}


NUMBERS = TEXT_OF_NUMBERS | _CODES.keys()


UNKNOWN_VRS = frozenset((None, "UN"))


DUMMIES: Mapping[str, Any] = {
    **dict.fromkeys(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT"), "ANON"),
    **dict.fromkeys(("AT", "SL", "SS", "SV", "UL", "US", "UV"), 0),
    **dict.fromkeys(("FD", "FL"), 0.0),
    **dict.fromkeys(("DS", "IS"), "0"),
    **dict.fromkeys(("OB", "OW", "UN"), bytes(2)),
    **dict.fromkeys(("OF", "OL"), bytes(4)),
    **dict.fromkeys(("OD", "OV"), bytes(8)),
    "AS": "000D",
    "DA": "19000101",
    "DT": "19000101000000",
    "TM": "000000",
    "UI": "2.25.0",
    "UR": "urn:anon",
}
"""Values without meaning by VR; of action D in Table E.1-1."""


FORMS = {
    "AS": re.compile(r"[0-9]{3}[DWMY]"),
    "CS": re.compile(r"[A-Z0-9_ ]{1,16}"),
    "DA": re.compile(r"[0-9]{4}(\.?)(0[1-9]|1[0-2])\1(0[1-9]|[12][0-9]|3[01])"),
    "DT": re.compile(
        r"[0-9]{4}((0[1-9]|1[0-2])((0[1-9]|[12][0-9]|3[01])(([01][0-9]|2[0-3])([0-5][0-9](([0-5][0-9]|60)"
        r"(\.[0-9]{1,6})?)?)?)?)?)?([-+](0[0-9]|1[0-4])[0-5][0-9])?"
    ),
    "TM": re.compile(
        r"([01][0-9]|2[0-3])([0-5][0-9](([0-5][0-9]|60)(\.[0-9]{1,6})?)?)?"
        r"|([01][0-9]|2[0-3]):[0-5][0-9](:([0-5][0-9]|60)(\.[0-9]{1,6})?)?"
    ),
    "UI": re.compile(r"[0-9.]{1,64}"),
}
"""What values look like that may be kept (PS3.5 6.2), to their last character: anything else would be a text.

Dates and times may have the marks of ACR-NEMA; components of UIDs may be empty or begin with zeros, as real ones do.
"""


_BETWEEN_NAMES = re.compile(r'[\s,;:./_()\[\]"&+]+')
_MARKS_IN_NAMES = re.compile("[-'\u02b9-\u02cf\u2010-\u2019]")


_LONG_NUMBER = re.compile(r"[0-9]{6,}")


_WHOLE_DAY = re.compile(r"([0-9]{4})\.?([0-9]{2})\.?([0-9]{2})")


def identities_of(ds: Dataset, profile: Profile) -> Identities:
    """Return what a data set says of persons, places and identifiers, and that the profile does not keep."""
    found = set(_identities(ds, _identifying(profile), 0))
    return Identities(
        (value for value, is_date in found if not is_date),
        (value for value, is_date in found if is_date),
        uids=Option.UIDS not in profile.options,
        keeps_dates=Option.FULL_DATES in profile.options,
    )


@cache
def _identifying(profile: Profile) -> frozenset[int]:
    """Return the tags whose values are identities; descriptions are not, because their words are common ones."""
    return frozenset(
        int(row.tag.replace(",", ""), 16)
        for row in rows()
        if "x" not in row.tag and "g" not in row.tag
        if Option.DESCRIPTORS not in row.options and row.action(profile.options) is not AttributeAction.KEEP
    )


def _identities(ds: Dataset, identifying: frozenset[int], depth: int) -> Iterator[tuple[str, bool]]:
    """Yield values, and whether they are dates."""
    if depth > MAX_DEPTH:
        return
    for tag, element in list(held_elements(ds).items()):
        vr = vr_of(tag, element)
        if vr == "SQ":
            for item in ds[tag].value:
                yield from _identities(item, identifying, depth + 1)
        elif vr == "PN" or tag in identifying:
            yield from _identities_in(texts_of(ds, tag), vr)


def _identities_in(values: list[str], vr: str | None) -> Iterator[tuple[str, bool]]:
    for each in values:
        if vr == "PN":
            for group in each.split("="):
                for name in _names([_BETWEEN_NAMES.split(part.strip()) for part in group.split("^")]):
                    yield name, False
        elif vr in ("DA", "DT"):
            yield each, True
        elif vr in TEXT_VRS and each.lower() not in vocabulary():  # "Siemens" in an address is the manufacturer too
            yield each, False
            for part in (each, re.sub(r"\D", "", each)):  # of "H-73.51.82", the number alone is as good
                for number in _LONG_NUMBER.findall(part):
                    yield number, False
                    yield number.lstrip("0"), False


def _names(components: list[list[str]]) -> Iterator[str]:
    """Yield the words of a name, also of a double one, those of a component, and the first two together: alone, they
    may be too short."""
    words = [word for component in components for word in component]
    yield from words
    yield from (part for word in words for part in _MARKS_IN_NAMES.split(word))
    yield from map(" ".join, components)
    yield " ".join(words[:2])
    yield " ".join(words[1::-1])


def patient_of(ds: Dataset) -> Patient:
    """Return whose instance it is; its study stands in for a patient without Patient ID."""
    patient_id = text(ds, "PatientID")
    if patient_id:
        return Patient(text(ds, "IssuerOfPatientID") or "", patient_id)
    return Patient("study", text(ds, "StudyInstanceUID") or "")


def vr_of(tag: BaseTag, element: Element) -> str | None:
    """Return the VR of an element, that of the dictionary where the file has none or UN; None if it is unknown."""
    vr = element.VR
    try:
        vr = str(dictionary_VR(tag) if vr in UNKNOWN_VRS else vr).split(" or ")[-1]
    except KeyError:
        return None
    return vr if vr in DUMMIES or vr == "SQ" else None


def ended_value(ds: Dataset, tag: BaseTag, element: Element, vr: str) -> Element:
    """Return an element whose texts end at their first NUL: more is what lay behind them in the memory of a program."""
    if vr not in TEXT_VRS | TEXT_OF_NUMBERS | FORMS.keys() or not element.value:
        return element
    if isinstance(element, RawDataElement):
        value = element.value.rstrip(b"\0 ")
        if b"\0" not in value:
            return element
        value = re.sub(rb"\0[^\\]*", b"", value)
        value += (b"\0" if vr == "UI" else b" ") * (len(value) % 2)
        ds[tag] = element = element._replace(value=value, length=len(value))
    else:
        values = [each.rstrip("\0 ") for each in texts_of(ds, tag)]
        if any("\0" in each for each in values):
            ds[tag] = element = element_of(tag, vr, [each.split("\0")[0] for each in values])
    return element


def identifiers(ds: Dataset, tag: BaseTag) -> list[str]:
    """Return the values of an identifier that pseudonyms are made of: up to a NUL, and without padding."""
    if tag in ds:
        element = held_elements(ds)[tag]
        ended_value(ds, tag, element, vr_of(tag, element) or "")
    return [each.strip(" \0") for each in texts_of(ds, tag)]


def texts_of(ds: Dataset, tag: BaseTag) -> list[str]:
    """Return the values of an element as text."""
    value: Any = ds[tag].value if tag in ds else None
    if value is None or value == "":
        return []
    if isinstance(value, bytes):
        value = value.decode("latin-1").rstrip("\0 ")
    return [str(each) for each in value] if isinstance(value, MultiValue | list) else [str(value)]


def contradicts_dictionary(tag: BaseTag, vr: str) -> bool:
    """Return whether a file has another kind of value than the standard: nobody can tell what is in it."""
    try:
        return _kind(vr) not in map(_kind, dictionary_VR(tag).split(" or "))
    except KeyError:
        return True


def _kind(vr: str) -> str:
    """Return whether values are bytes, numbers, items or texts, to which names, dates and UIDs belong."""
    if vr == "SQ":
        return "items"
    return "bytes" if vr in BINARY else "numbers" if vr in NUMBERS else "texts"


def stored_value(element: Element, vr: str) -> bytes:
    """Return binary numbers as they are encoded in little endian; nothing if they cannot be."""
    value: Any = element.value
    if isinstance(value, bytes):
        return value
    values = list(value) if isinstance(value, MultiValue | list) else [value]
    if vr == "AT":  # the group comes before the element
        values = [half for tag in values for half in (BaseTag(tag).group, BaseTag(tag).element)]
    try:
        return struct.pack(f"<{len(values)}{_CODES.get(vr, '')}", *values)
    except struct.error:
        return b""


def stored_numbers(ds: Dataset, tag: BaseTag, element: Element) -> list[str]:
    """Return the values of a DS or IS as they are stored."""
    if isinstance(element.value, bytes):
        return element.value.decode("latin-1").rstrip("\0 ").split("\\")
    value: Any = ds[tag].value
    several = isinstance(value, MultiValue | list)
    return ["" if each is None else str(each) for each in (value if several else [value])]


def dummy_of(ds: Dataset, tag: BaseTag, vr: str) -> DataElement:
    """Return an element without meaning, with as many numbers as there were: some attributes need two or more."""
    count = ds[tag].VM if vr in NUMBERS else 1
    return DataElement(tag, vr, [DUMMIES[vr]] * count if count > 1 else DUMMIES[vr])


def element_of(tag: BaseTag, vr: str, values: list[str]) -> DataElement:
    return (
        DataElement(tag, vr, values if len(values) != 1 else values[0]) if any(values) else DataElement(tag, vr, None)
    )


def safe_private_vr(tag: BaseTag, creators: Mapping[int, str]) -> str | None:
    """Return the VR of a private element that is known to be safe (PS3.15 E.3.10); None if it is not."""
    creator = creators.get(tag.group << 16 | tag.element >> 8, "")
    return safe_private().get((creator, tag.group, tag.element & 0xFF))


def private_creators(ds: Dataset) -> dict[int, str]:
    """Return the private creators of a data set by their tags (PS3.5 7.8.1)."""
    return {tag: "".join(texts_of(ds, tag)).strip() for tag in held_elements(ds) if tag.is_private_creator}


def shifted(vr: str, text: str, days_earlier: int) -> str:
    """Return a DA, also of ACR-NEMA's form with dots, or a DT with its time and offset from UTC as they are.

    It is empty if it is not one whole day, or less exact than a day.
    """
    text = text.strip()
    match = _WHOLE_DAY.match(text)
    if match is None or FORMS[vr].fullmatch(text) is None:
        return ""
    try:
        day = date(int(match[1]), int(match[2]), int(match[3])) - timedelta(days_earlier)
    except (ValueError, OverflowError):
        return ""
    return f"{day:%Y%m%d}".zfill(8) + text[match.end() :]
