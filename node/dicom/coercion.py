"""Coercion: attributes of a copy that are set, replaced or removed on its way; and the identity of its patient."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from pydicom.charset import convert_encodings, encode_string
from pydicom.config import RAISE
from pydicom.datadict import dictionary_VR, keyword_dict, keyword_for_tag, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import PersonName, validate_value

from node.dicom.attributes import date_of, time_of
from node.dicom.values import CONVERSION_ERRORS, copy_encoding, text, texts
from node.dicom.values import value as value_of
from node.errors import UsageError, VoxelnodeError, nearest

TEXT_REPRESENTATIONS = frozenset(
    ("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UR", "UT")
)
"""Value representations whose values are text (PS3.5 6.2); UIDs are not set, since they identify."""

FILLING_REPRESENTATIONS = TEXT_REPRESENTATIONS | {"UI", "US", "SS", "UL", "SL", "UV", "SV", "FL", "FD", "US or SS"}
"""Value representations that a placeholder may stand for."""

KEPT = frozenset(
    (
        "SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Rows",
        "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel", "NumberOfFrames",
        "PhotometricInterpretation", "PlanarConfiguration", "PixelData", "FloatPixelData", "DoubleFloatPixelData",
    )
)  # fmt: skip
"""Attributes that say what an instance is, or how its pixels are read: a copy without them would be another one."""

LENGTH_TO_END = BaseTag(0x00080001)
"""Retired, but some programs read no more than it says: a copy with other elements must not have it."""

_PLACEHOLDER = re.compile(r"\{([A-Za-z]+)\}")
_NUMBER = re.compile(r"\(?([0-9A-Fa-f]{4}),?([0-9A-Fa-f]{4})\)?")


class NotCoerced(VoxelnodeError):
    """The values of an instance do not fit an attribute that is to be set; the message names no value."""


@dataclass(frozen=True, slots=True)
class Coercion:
    """What is changed in a copy; each attribute by its tag. Templates may contain ``{Keyword}`` of the original."""

    set: tuple[tuple[int, str], ...] = ()
    replace: tuple[tuple[int, str], ...] = ()
    remove: tuple[int, ...] = ()

    @classmethod
    def of(cls, set_: Mapping[str, str], replace: Mapping[str, str], remove: Sequence[str]) -> Coercion:
        """Return the coercion of a configuration.

        `set_`: values that the copy has, whether or not the original has the attribute.
        `replace`: values of attributes that the original has.
        `remove`: keywords, or tags such as ``(0009,1010)``, of attributes that the copy lacks, at every level.

        Raises UsageError: a keyword does not exist, or a value is invalid for it; the message names both.
        """
        return cls(
            tuple((_settable(name, value, "set"), value) for name, value in set_.items()),
            tuple((_settable(name, value, "replace"), value) for name, value in replace.items()),
            tuple(_tag(name, "remove") for name in remove),
        )

    def __bool__(self) -> bool:
        return bool(self.set or self.replace or self.remove)

    def apply(self, ds: Dataset) -> None:
        """Change a data set.

        Raises NotCoerced: a template gives a value that its attribute cannot have.
        """
        values = {tag: _filled(template, ds) for tag, template in self.set}
        values |= {tag: _filled(template, ds) for tag, template in self.replace if tag in ds}
        ds.pop(LENGTH_TO_END, None)
        for tag in self.remove:
            _remove(ds, Tag(tag))
        if not all(map(str.isascii, values.values())):
            _in_utf_8(ds)
        for tag, value in values.items():
            vr = dictionary_VR(tag)
            if not _is_value(vr, value):
                raise NotCoerced(f"the value that the route gives {keyword_for_tag(tag)} is not valid for VR {vr}")
            ds.add_new(tag, vr, value.split("\\") if "\\" in value else value)


OF_BODY = frozenset(
    (
        *range(0x00101023, 0x00101031), *range(0x00102201, 0x00102211), *range(0x00102292, 0x00102297),
        *range(0x00100200, 0x00100230), 0x00109431,
    )
)  # fmt: skip
"""Elements of group 0010 that were measured of the body that was examined, such as the weight of a scanned patient, or
say that it is none of a human. Age, size, history and comments are of the record of the one who was named (PS3.3 C.2.3,
C.7.2.2)."""

MODIFYING_SYSTEM = "VOXELNODE"

_REFERENCED_PATIENT = 0x00081120
_ORIGINAL_ATTRIBUTES = 0x04000561

_COLUMNS = (
    ("PatientName", "patient_name", True), ("PatientID", "patient_id", True),
    ("IssuerOfPatientID", "issuer_of_patient_id", False), ("PatientBirthDate", "patient_birth_date", True),
    ("PatientBirthTime", "patient_birth_time", False), ("PatientSex", "patient_sex", True),
)  # fmt: skip
"""Keyword, column, and whether the attribute is there without a value as well (type 2, PS3.3 C.7.1.1)."""


def identifies(tag: int) -> bool:
    """Return whether an element says who a patient is: all of group 0010 does, but what is known to be of the body.

    An element that a later edition of PS3.6 adds therefore leaves with no identity that somebody has corrected.
    """
    return (tag >> 16 == 0x0010 and tag & 0xFFFF > 0 and tag not in OF_BODY) or tag == _REFERENCED_PATIENT


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a patient is, after somebody has decided it; as C-FIND and QIDO-RS say. Empty: nobody knows.

    `reason`: CORRECT or COERCE, and `decided_at` when that was (PS3.3 C.12.1.1.9).
    """

    patient_name: str
    patient_id: str
    issuer_of_patient_id: str
    patient_birth_date: str
    patient_birth_time: str
    patient_sex: str
    reason: str
    decided_at: dt.datetime

    def version(self, sha256: str) -> str:
        """Return a digest of what an instance with a digest is in this identity: another one for other copies."""
        return hashlib.sha256(f"{sha256} {self!r}".encode()).hexdigest()

    def apply(self, ds: Dataset) -> bool:
        """Give a data set this identity, and note what it was; return False, with nothing changed, if it has it.

        What else identifies the patient goes, since it is of the one who was named wrongly. The values before are in a
        new item of Original Attributes Sequence (0400,0561), as they were encoded.

        Raises NotCoerced: the data set cannot be read, or an attribute cannot have a value of this identity.
        """
        try:
            return self._apply(ds)
        except CONVERSION_ERRORS as error:
            raise NotCoerced(f"the identity of its patient cannot be written: {type(error).__name__}") from error

    def _apply(self, ds: Dataset) -> bool:
        wanted = {keyword: str(getattr(self, column)) for keyword, column, _ in _COLUMNS}
        if all(_said(ds, keyword) == _parsed(keyword, value) for keyword, value in wanted.items()):
            return False
        if not _can_encode(ds, wanted.values()):
            _in_utf_8(ds)
        before = Dataset()
        copy_encoding(ds, before)
        for tag in [tag for tag in ds.keys() if identifies(tag)]:  # noqa: SIM118 - iterating converts each element
            keyword = keyword_for_tag(tag)
            if keyword not in wanted or _said(ds, keyword) != _parsed(keyword, wanted[keyword]):
                before[tag] = ds.get_item(tag)
                del ds[tag]
        for keyword, _, is_required in _COLUMNS:
            if keyword not in ds and (wanted[keyword] or is_required):
                setattr(ds, keyword, wanted[keyword])
        item = Dataset()
        item.SourceOfPreviousValues = ""
        item.AttributeModificationDateTime = f"{self.decided_at.astimezone(dt.UTC):%Y%m%d%H%M%S.%f}+0000"
        item.ModifyingSystem = MODIFYING_SYSTEM
        item.ReasonForTheAttributeModification = self.reason
        item.ModifiedAttributesSequence = [before]
        earlier = ds[_ORIGINAL_ATTRIBUTES].value if _ORIGINAL_ATTRIBUTES in ds else ()
        ds.OriginalAttributesSequence = [*earlier, item]
        ds.pop(LENGTH_TO_END, None)
        return True


def take_back(copy: Dataset, stored: Dataset) -> None:
    """Give a copy that came back the identity that it had before it left, if it left with another one.

    Both have one character set then.
    """
    ours, theirs = (list(ds.get("OriginalAttributesSequence") or ()) for ds in (copy, stored))
    own = ours[len(theirs) :]
    if not own or any(item.get("ModifyingSystem") != MODIFYING_SYSTEM for item in own):
        return
    if texts(copy, "SpecificCharacterSet") != texts(stored, "SpecificCharacterSet"):
        for ds in (copy, stored):
            _in_utf_8(ds)
    for item in reversed(own):
        copy.update(item.ModifiedAttributesSequence[0])
    for tag in copy.keys() - stored.keys():
        if identifies(tag):
            del copy[tag]
    stored.pop(LENGTH_TO_END, None)
    if theirs:
        copy.OriginalAttributesSequence = ours[: len(theirs)]
    else:
        del copy.OriginalAttributesSequence


def _in_utf_8(ds: Dataset) -> None:
    _keep_private(ds)
    ds.decode()
    ds.SpecificCharacterSet = "ISO_IR 192"


def _keep_private(ds: Dataset) -> None:
    """Let private elements without a VR have bytes, at every level, since what they are is not known."""
    for tag in list(ds.keys()):
        held = ds.get_item(tag)
        if held.VR in (None, "UN") and tag.is_private and not tag.is_private_creator:
            ds.add_new(tag, "UN", held.value)
        elif ds[tag].VR == "SQ":
            for item in ds[tag].value:
                _keep_private(item)


def _said(ds: Dataset, keyword: str) -> object:
    return _parsed(keyword, "\\".join(texts(ds, keyword)) or _plain(ds, keyword))


def _parsed(keyword: str, value: str) -> object:
    """Return a value as it is compared: a date and a time can be written in several forms."""
    parsed = {"PatientBirthDate": date_of, "PatientBirthTime": time_of}.get(keyword)
    return (parsed(value) or value) if parsed is not None else value.strip()


def _can_encode(ds: Dataset, values: Iterable[str]) -> bool:
    """Return whether the character set of a data set has all characters of some values."""
    terms = texts(ds, "SpecificCharacterSet")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # pydicom would write question marks
        try:
            encodings = convert_encodings(list(terms)) if any(terms) else ["ascii"]
            return all(value.isascii() or encode_string(value, encodings) for value in values)
        except (LookupError, ValueError, UserWarning):
            return False


def _tag(name: str, key: str) -> int:
    number = _NUMBER.fullmatch(name)
    tag = int(number[1] + number[2], 16) if number else tag_for_keyword(name)
    if tag is None:
        known = [keyword for keyword in keyword_dict if keyword[:2].lower() == name[:2].lower()]
        raise UsageError(f"{key}: {name!r} is not a keyword of PS3.6{nearest(name, known) if known else ''}")
    if keyword_for_tag(tag) in KEPT or tag >> 16 in (0x0000, 0x0002):
        raise UsageError(f"{key}: {name} says what the instance is, or how it is read, and cannot be changed")
    return int(tag)


def _settable(name: str, value: str, key: str) -> int:
    tag = _tag(name, key)
    try:
        vr = dictionary_VR(tag)
    except KeyError as error:
        raise UsageError(f"{key}: {name} is a private attribute: give a keyword of PS3.6") from error
    if vr not in TEXT_REPRESENTATIONS:
        raise UsageError(f"{key}: {name} has no text as its value (VR {vr}): it can only be removed")
    for placeholder in _PLACEHOLDER.findall(value):
        filling = tag_for_keyword(placeholder)
        if filling is None:
            raise UsageError(f"{key}: {{{placeholder}}} in the value of {name} is not a keyword of PS3.6")
        if dictionary_VR(filling) not in FILLING_REPRESENTATIONS:
            raise UsageError(
                f"{key}: {{{placeholder}}} in the value of {name} has neither text nor a number as its value"
            )
    if not _PLACEHOLDER.search(value) and not _is_value(vr, value):
        raise UsageError(f"{key}: {value!r} is not a value of {name} (VR {vr}, PS3.5 6.2)")
    return tag


def _is_value(vr: str, value: str) -> bool:
    try:
        for one in value.split("\\"):
            validate_value(vr, one, RAISE)
    except ValueError:
        return False
    return True


def _filled(template: str, ds: Dataset) -> str:
    return _PLACEHOLDER.sub(lambda found: text(ds, found[1]) or _plain(ds, found[1]), template)


def _plain(ds: Dataset, keyword: str) -> str:
    """Return the (first) value of an element that is a name or a number; empty if it is absent, or something else."""
    content = value_of(ds, keyword)
    if isinstance(content, MultiValue):
        content = content[0]
    return str(content).strip() if isinstance(content, PersonName | int | float | Decimal) else ""


def _remove(ds: Dataset, tag: BaseTag) -> None:
    ds.pop(tag, None)
    for other in list(ds.keys()):
        raw = ds.get_item(other)
        if raw.VR == "SQ" or (raw.VR in (None, "UN") and ds[other].VR == "SQ"):
            for item in ds[other].value:
                _remove(item, tag)
