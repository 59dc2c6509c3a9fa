"""Coercion: attributes of a copy that are set, replaced or removed on its way to a destination."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from pydicom.config import RAISE
from pydicom.datadict import dictionary_VR, keyword_dict, keyword_for_tag, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import PersonName, validate_value

from node.dicom.values import text
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
            ds.decode()
            ds.SpecificCharacterSet = "ISO_IR 192"
        for tag, value in values.items():
            vr = dictionary_VR(tag)
            if not _is_value(vr, value):
                raise NotCoerced(f"the value that the route gives {keyword_for_tag(tag)} is not valid for VR {vr}")
            ds.add_new(tag, vr, value.split("\\") if "\\" in value else value)


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
