"""Apply a profile to the attributes of a data set, to any depth. Elements that stay keep their bytes."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import cache
from typing import Any

from pydicom import Dataset
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag

from node.children.pseudonyms import STANDARD_ROOT, Patient, PseudonymKey
from node.dicom.coercion import LENGTH_TO_END
from node.dicom.encoding import NUMBER_CODES
from node.dicom.uids import registered_name
from node.dicom.values import CONVERSION_ERRORS, copy_encoding, held_elements, text
from node.extensions.deidentify.deidentification import NotDeidentified, RefusalReason
from node.extensions.deidentify.profile import AttributeAction, Option, Profile, rows, safe_private
from node.extensions.deidentify.text import Identities, Numbers, is_vocabulary, vocabulary

MAX_DEPTH = 64

_Element = DataElement | RawDataElement

PATIENT_ID, ACCESSION_NUMBER, PATIENT_AGE, _TIMEZONE = 0x00100020, 0x00080050, 0x00101010, 0x00080201
_OVERLAY_TYPE, _OVERLAY_DATA, _OVERLAY_COMMENTS = 0x0040, 0x3000, 0x4000

TEXT_VRS = frozenset(("AE", "CS", "LO", "LT", "SH", "ST", "UC", "UR", "UT"))
_PARAGRAPHS = frozenset(("LT", "ST", "UT"))
_BYTES = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "UN"))
_TEXT_OF_NUMBERS = frozenset(("DS", "IS"))
_SHORT_NUMBERS = frozenset(("AT", "SS", "US"))
_CODES = {**NUMBER_CODES, "AT": "H"}
_NUMBERS = _TEXT_OF_NUMBERS | _CODES.keys()
_GROUP_OF_PIXELS = 0x0028
_TEMPORAL_VRS = frozenset(("DA", "DT", "TM"))
_UNKNOWN_VRS = frozenset((None, "UN"))

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

_ENCRYPTED_ATTRIBUTES = 0x04000500
"""Encrypted Attributes Sequence: identities, for whoever has the key of an earlier de-identification (PS3.15 E.1.1)."""

_REFERENCED_STUDY = 0x00081110
"""Referenced Study Sequence, X/Z: Type 3 with an item or more in a study (PS3.3 C.7.2.1), Type 2 in a request."""

_NOT_LISTED = frozenset(
    (0x00100033, 0x00100034, 0x00401006, 0x00401007, 0x00402006, 0x00402007, 0x04000120, 0x04000520)
)
"""Not in Table E.1-1, but what it removes in other attributes: dates in other calendars, numbers of orders, signatures
and encrypted contents."""

_WAVEFORMS = 0x54000100

_PIXEL_GROUPS, _PIXEL_GROUP = range(0x7F00, 0x8000), 0x7FE0
_PIXEL_ELEMENTS = frozenset((0x0001, 0x0002, 0x0008, 0x0009, 0x0010))
"""Pixel data of PS3.3 C.7.6 and the offsets of frames; not retired elements, such as coefficients."""

_FORMS = {
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

_DAYS = {"D": 1, "W": 7, "M": 365.25 / 12, "Y": 365.25}
_OLDEST, _OLD = 89, "090Y"
"""Ages above this one are few, and would tell who it is; they become one (45 CFR 164.514(b)(2)(i)(C))."""

_DECIMAL = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|")
_CLASS_UIDS = re.compile(r"(?:SOPClass|TransferSyntax|CodingScheme|ContextGroup|ContextUID|MappingResource|Class)\w*")
"""Keywords of UIDs that name a kind, not an instance; a private one of them says who made the device at most."""

_INSTANCE_UIDS = re.compile(r"InstanceUID|FrameOfReferenceUID")
"""Keywords of UIDs that are never one of the standard's own, whatever they look like."""

_CLASS_COMPONENT_DIGITS = 6
"""Digits of a component of a UID that names a kind; numbers of enterprises have six."""

_TECHNICAL = re.compile(
    r"Manufacturer|Software|Version|Coding|CodeValue|CodeMeaning|MappingResource|PrivateCreator|MIMEType|Selector"
    r"|SequenceName|Coil|ConvolutionKernel|Nucleus|Filter|Radionuclide|Radiopharmaceutical|Algorithm|LUTType"
    r"|RescaleType|DigitalImageFormat|Method$|Detector|TimeSource|TransducerData|AcquisitionMode"
)
"""Keywords of short texts that devices and the standard write. All others that the table does not list may be typed."""

_TYPED_CODES = frozenset(("ContentLabel", "GraphicLayer", "ModifiedImageID", "TherapyDescription"))
"""Attributes with the VR CS that people type."""

_BYTES_OF_DOCUMENTS = frozenset(("HPGLDocument", "RecordKey", "PriorRecordKey"))
"""Bytes that the table does not list, and that are no numbers of an image, a shape or a waveform."""

_LONG_NUMBER = re.compile(r"[0-9]{6,}")
_OFFSET = re.compile(r"[-+](0[0-9]|1[0-4])[0-5][0-9]")
_WHOLE_DAY = re.compile(r"([0-9]{4})\.?([0-9]{2})\.?([0-9]{2})")


@dataclass(frozen=True)
class Cleaner:
    """Applies one profile to the data sets of one instance.

    `identities`: what the instance says of its patient anywhere; removed from text that stays.
    """

    profile: Profile
    key: PseudonymKey
    patient: Patient
    identities: Identities = field(default_factory=lambda: Identities(()))

    @property
    def numbers(self) -> Numbers:
        """The numbers among the identities."""
        return self.identities.numbers

    def data_set(self, ds: Dataset, *, free_text: bool = False, depth: int = 0) -> Dataset:
        """Return a data set without identities; pixel data and bulk data are shared with `ds`.

        `free_text`: all text is cleaned, also of attributes that the table does not list: the item is of a kept
        structure.

        Raises NotDeidentified if the sequences are nested more than `MAX_DEPTH` deep, or an element is unreadable.
        """
        if depth > MAX_DEPTH:
            raise NotDeidentified(RefusalReason.UNREADABLE, f"sequences are nested more than {MAX_DEPTH} deep")
        new = Dataset()
        copy_encoding(ds, new)
        creators = private_creators(ds)
        for tag, element in list(held_elements(ds).items()):
            kept = self._of_element(ds, tag, element, creators, free_text, depth)
            if kept is not None:
                new[tag] = kept
        for tag in [tag for tag in held_elements(new) if tag.is_private_creator]:
            if not any(other >> 8 == (tag.group << 8 | tag.element) for other in held_elements(new) if other != tag):
                del new[tag]
        return new

    def _of_element(
        self, ds: Dataset, tag: BaseTag, element: _Element, creators: Mapping[int, str], free_text: bool, depth: int
    ) -> _Element | None:
        if tag.element == 0 or tag == LENGTH_TO_END:  # lengths of the original, retired
            return None
        if tag.is_private:
            return self._private(ds, tag, element, creators, depth)
        if tag.group >> 8 in (0x50, 0x60):
            return self._graphics(ds, tag, element, depth)
        if tag.group in _PIXEL_GROUPS and (depth or tag.group != _PIXEL_GROUP or tag.element not in _PIXEL_ELEMENTS):
            return None  # another picture than that of the instance
        if depth and tag == _WAVEFORMS:
            return None  # `voice` looks at those of the instance
        action = self.profile.action(tag)
        if action is AttributeAction.REMOVE or tag == _ENCRYPTED_ATTRIBUTES or tag in _NOT_LISTED:
            return None
        vr = _vr(tag, element)
        if vr is None or (action is None and (tag.group < 0x0008 or _contradicts_dictionary(tag, vr))):
            return None  # nobody knows what it is, or it is of a command, a file or a directory
        try:
            if action is None:
                return self._unlisted(ds, tag, element, vr, free_text, depth)
            return self._changed(ds, tag, element, vr, action, depth)
        except CONVERSION_ERRORS as error:
            raise NotDeidentified(
                RefusalReason.UNREADABLE, f"({tag.group:04X},{tag.element:04X}) cannot be read: {type(error).__name__}"
            ) from error

    def _changed(
        self, ds: Dataset, tag: BaseTag, element: _Element, vr: str, action: AttributeAction, depth: int
    ) -> _Element | None:
        """Return an element that the table lists."""
        if vr == "SQ":
            return self._sequence(ds, tag, action, depth)
        element = _ended(ds, tag, element, vr)
        if action is AttributeAction.KEEP:
            return self._kept(ds, tag, element, vr)
        if action is AttributeAction.UID or (action is AttributeAction.DUMMY and vr == "UI"):
            return _made(tag, vr, [self._instance_uid(tag, uid) for uid in identifiers(ds, tag)])
        if action is AttributeAction.CLEAN:
            return self._cleaned(ds, tag, vr)
        if tag == PATIENT_ID:
            return _made(tag, vr, [self.key.patient(self.patient)])
        if tag == ACCESSION_NUMBER:
            return _made(tag, vr, [self.key.accession(number) for number in identifiers(ds, tag) if number])
        return _dummy(ds, tag, vr) if action is AttributeAction.DUMMY else DataElement(tag, vr, None)

    def _kept(self, ds: Dataset, tag: BaseTag, element: _Element, vr: str) -> _Element:
        """Return an element as it is, without values that are not what its VR says, and without identities in texts."""
        if vr in _NUMBERS:
            return self._number(ds, tag, element, vr)
        values = _texts(ds, tag)
        if self._is_misformed(vr, values):
            return self._filled(tag, vr, [self.identities.cleaned(each) for each in values])
        if tag == _TIMEZONE:
            return self._offsets(ds, tag, vr)
        if vr in TEXT_VRS:
            return self._without_identities(ds, tag, element, vr)
        if vr not in _FORMS:
            return self._of_bytes(tag, element, vr)
        kept = [value if self._is_plain(vr, value) else self.key.uid(value) if vr == "UI" else "" for value in values]
        if tag == PATIENT_AGE:
            kept = [
                _OLD if each and int(each[:3]) * _DAYS[each[3]] >= (_OLDEST + 1) * _DAYS["Y"] else each for each in kept
            ]
        return element if kept == values else self._filled(tag, vr, kept if all(kept) else [""] * len(kept))

    def _is_plain(self, vr: str, value: str) -> bool:
        if vr == "UI" and Option.UIDS not in self.profile.options and any(map(self.numbers.has, value.split("."))):
            return False  # of a device, by the option that keeps these, with the number of a patient
        return _FORMS[vr].fullmatch(value.strip(" ")) is not None

    def _is_misformed(self, vr: str, values: list[str]) -> bool:
        return vr == "CS" and not all(not each or self._is_plain(vr, each) for each in values)

    @staticmethod
    def _offsets(ds: Dataset, tag: BaseTag, vr: str) -> _Element:
        return _made(tag, vr, [each if _OFFSET.fullmatch(each.strip(" ")) else "" for each in _texts(ds, tag)])

    def _sequence(self, ds: Dataset, tag: BaseTag, action: AttributeAction, depth: int) -> DataElement | None:
        if action is AttributeAction.EMPTY:
            return None if tag == _REFERENCED_STUDY and not depth else DataElement(tag, "SQ", Sequence())
        items = ds[tag].value
        if action is AttributeAction.DUMMY:
            return DataElement(tag, "SQ", Sequence(self._dummy(item, depth + 1) for item in items[:1]))
        cleaned = [self.data_set(item, free_text=action is AttributeAction.CLEAN, depth=depth + 1) for item in items]
        return DataElement(tag, "SQ", Sequence(cleaned))

    def _dummy(self, item: Dataset, depth: int) -> Dataset:
        """Return an item with the attributes of another one, and no value of it."""
        new = Dataset()
        for tag, element in self.data_set(item, depth=depth).items():
            vr = _vr(tag, element)
            if tag.is_private or vr is None:
                continue
            if vr == "SQ":
                new[tag] = DataElement(tag, "SQ", Sequence())
            else:
                new[tag] = _dummy(item, tag, vr)
        return new

    def _cleaned(self, ds: Dataset, tag: BaseTag, vr: str) -> _Element | None:
        """Return an element with action C, by its kind."""
        if vr in _TEMPORAL_VRS:
            return self._temporal(ds, tag, vr)
        if vr == "AE":
            return _made(tag, vr, [self.key.ae_title(title) for title in _texts(ds, tag) if title])
        if tag == _TIMEZONE:  # whole days are shifted, so that it stays true
            return self._offsets(ds, tag, vr)
        if vr in TEXT_VRS:
            return self._filled(tag, vr, [self.identities.cleaned(each) for each in _texts(ds, tag)])
        return None if vr in ("OB", "UN") else _dummy(ds, tag, vr)

    def _temporal(self, ds: Dataset, tag: BaseTag, vr: str) -> _Element:
        if vr == "TM":
            return self._kept(ds, tag, held_elements(ds)[tag], vr)
        days = self.key.days_earlier(self.patient)
        shifted = shifted_date if vr == "DA" else shifted_datetime
        values = [shifted(each, days) for each in _texts(ds, tag)]
        return self._filled(tag, vr, values if all(values) else [""] * len(values))

    def _unlisted(
        self, ds: Dataset, tag: BaseTag, element: _Element, vr: str, free_text: bool, depth: int
    ) -> _Element | None:
        """Return an element that the table does not list.

        It stays, except for what its VR shows to be a person, an instance or a time, and for identities in its text.
        """
        if vr == "SQ":
            items = [self.data_set(item, free_text=free_text, depth=depth + 1) for item in ds[tag].value]
            return DataElement(tag, "SQ", Sequence(items))
        element = _ended(ds, tag, element, vr)
        if vr == "PN":
            return self._filled(tag, vr, [""] * len(_texts(ds, tag)))
        if vr == "UI":
            return self._unlisted_uids(ds, tag, element)
        if vr in _TEMPORAL_VRS:
            return self._unlisted_time(ds, tag, element, vr)
        if vr not in TEXT_VRS:
            return self._kept(ds, tag, element, vr)
        keyword = keyword_for_tag(tag)
        if vr == "UR":
            texts = _texts(ds, tag)
            is_of_scheme = keyword.startswith(("CodingScheme", "URNCodeValue"))
            if not texts or (is_of_scheme and not self.identities.are_in(texts)):
                return element
            return self._filled(tag, vr, [""])  # where it was retrieved from, with its UIDs
        if vr == "AE":
            return _made(tag, vr, [self.key.ae_title(title) for title in _texts(ds, tag) if title])
        is_typed = vr in _PARAGRAPHS or keyword in _TYPED_CODES or self._is_typed(tag, keyword, vr, free_text)
        if is_typed or self._is_misformed(vr, _texts(ds, tag)):
            return self._filled(tag, vr, [self.identities.cleaned(each) for each in _texts(ds, tag)])
        return self._without_identities(ds, tag, element, vr, forms="Version" not in keyword)

    def _is_typed(self, tag: BaseTag, keyword: str, vr: str, free_text: bool) -> bool:
        """Return whether a short text may be what a person has typed."""
        if vr == "CS":
            return False
        if free_text and vr != "SH":
            return True
        return not tag.is_private and _TECHNICAL.search(keyword) is None

    def _without_identities(
        self, ds: Dataset, tag: BaseTag, element: _Element, vr: str, *, forms: bool = False
    ) -> _Element:
        values = _texts(ds, tag)
        without = [
            each if vr == "CS" and is_vocabulary(each) else self.identities.without(each, forms=forms)
            for each in values
        ]
        return element if without == values else self._filled(tag, vr, without)

    def _number(self, ds: Dataset, tag: BaseTag, element: _Element, vr: str) -> _Element:
        """Return a number, or 0 in the place of what is none or the number of a person.

        Numbers of pixels and of 16 bits are no person's, but their bytes may be letters of a name, as any bytes.
        """
        is_of_pixels = tag.group == _GROUP_OF_PIXELS
        if vr in _TEXT_OF_NUMBERS:
            texts = _stored_numbers(ds, tag, element)
            kept = [each if self._is_decimal(each, is_of_pixels) else DUMMIES[vr] for each in texts]
            return element if kept == texts else _made(tag, vr, kept)
        if self.identities.are_in_bytes(_stored(element, vr)):
            return _dummy(ds, tag, vr)
        if is_of_pixels or vr in _SHORT_NUMBERS:
            return element
        if isinstance(element, RawDataElement) and not self.numbers.are_in(element.value, vr):
            return element
        value: Any = ds[tag].value
        several = isinstance(value, MultiValue | list)
        values = list(value) if several else [value]
        kept_numbers = [DUMMIES[vr] if self.numbers.has(each) else each for each in values]
        return element if kept_numbers == values else DataElement(tag, vr, kept_numbers if several else kept_numbers[0])

    def _is_decimal(self, text: str, is_of_pixels: bool) -> bool:
        if _DECIMAL.fullmatch(text.strip(" ")) is None:
            return False
        return not (self.identities.are_in([text]) if is_of_pixels else self.numbers.has(text))

    def _of_bytes(self, tag: BaseTag, element: _Element, vr: str) -> _Element:
        """Return bytes, or two of them in the place of those that hold a document or an identity."""
        if tag.group == _PIXEL_GROUP:
            return element
        value = element.value
        if keyword_for_tag(tag) in _BYTES_OF_DOCUMENTS or (value and self.identities.are_in_bytes(bytes(value))):
            return DataElement(tag, vr, DUMMIES[vr])
        return element

    def _filled(self, tag: BaseTag, vr: str, values: list[str]) -> DataElement:
        """Return an element with texts, and dummies in the place of those of which nothing is left.

        Only what was empty before, or what the table lets be empty, is empty: an attribute may be one that needs a
        value (PS3.15 E.1.1, action D).
        """
        if not any(values) and not self.profile.dummy_if_empty(tag):
            return DataElement(tag, vr, None)
        return _made(tag, vr, [each or DUMMIES[vr] for each in values])

    def _instance_uid(self, tag: BaseTag, uid: str) -> str:
        """Return the UID in the place of one of an instance; those of PS3.6 stay where they name no study or so."""
        if registered_name(uid) is not None and not _INSTANCE_UIDS.search(keyword_for_tag(tag)):
            return uid
        return self.key.uid(uid)

    def _unlisted_uids(self, ds: Dataset, tag: BaseTag, element: _Element) -> _Element:
        if Option.UIDS in self.profile.options:
            return self._kept(ds, tag, element, "UI")
        uids = _texts(ds, tag)
        of_classes = _CLASS_UIDS.search(keyword_for_tag(tag))
        replaced = [uid if of_classes and self.is_of_class(uid) else self._instance_uid(tag, uid) for uid in uids]
        return element if replaced == uids else _made(tag, "UI", replaced)

    def is_of_class(self, uid: str) -> bool:
        """Return whether a UID can be that of a kind: of PS3.6, or a private one without the number of a person."""
        if registered_name(uid) is not None:
            return True
        components = uid.split(".")
        return (
            _FORMS["UI"].fullmatch(uid) is not None
            and not uid.startswith(STANDARD_ROOT)
            and all(len(each) <= _CLASS_COMPONENT_DIGITS and not self.numbers.has(each) for each in components)
        )

    def _unlisted_time(self, ds: Dataset, tag: BaseTag, element: _Element, vr: str) -> _Element:
        if Option.FULL_DATES in self.profile.options:
            return self._kept(ds, tag, element, vr)
        if Option.MODIFIED_DATES in self.profile.options:
            return self._temporal(ds, tag, vr)
        return self._filled(tag, vr, [""] * len(_texts(ds, tag)))

    def _private(
        self, ds: Dataset, tag: BaseTag, element: _Element, creators: Mapping[int, str], depth: int
    ) -> _Element | None:
        """Return a private element that is known to be safe (PS3.15 E.3.10), or the creator of such elements."""
        if Option.SAFE_PRIVATE not in self.profile.options:
            return None
        if tag.is_private_creator:
            return DataElement(tag, "LO", creators[tag])  # removed again if nothing of its block stays
        vr = safe_private_vr(tag, creators)
        if vr is None:
            return None
        found = element.VR
        if found in _UNKNOWN_VRS and isinstance(element, RawDataElement) and vr != "SQ":
            ds[tag] = element = element._replace(VR=vr)
        elif found != vr:
            return None  # not what the vendor has documented
        try:
            return self._unlisted(ds, tag, element, vr, True, depth)
        except CONVERSION_ERRORS:
            return None

    def _graphics(self, ds: Dataset, tag: BaseTag, element: _Element, depth: int) -> _Element | None:
        """Return an element of an overlay that shows a region of interest; curves and other overlays go as a whole.

        An overlay is a bitmap, which cannot be cleaned: that of the type G may be text (PS3.3 C.9.2).
        """
        if Option.GRAPHICS not in self.profile.options or tag.group < 0x6000 or tag.element == _OVERLAY_COMMENTS:
            return None
        group = tag.group << 16
        if (group | _OVERLAY_DATA) not in ds or _texts(ds, BaseTag(group | _OVERLAY_TYPE)) != ["R"]:
            return None
        vr = _vr(tag, element)
        return None if vr is None else self._unlisted(ds, tag, element, vr, True, depth)


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
        vr = _vr(tag, element)
        if vr == "SQ":
            for item in ds[tag].value:
                yield from _identities(item, identifying, depth + 1)
        elif vr == "PN" or tag in identifying:
            yield from _identities_in(_texts(ds, tag), vr)


def _identities_in(values: list[str], vr: str | None) -> Iterator[tuple[str, bool]]:
    for each in values:
        if vr == "PN":
            for group in each.split("="):
                for name in _names(re.split(r"[\^\s,]+", group.strip("^ "))):
                    yield name, False
        elif vr in ("DA", "DT"):
            yield each, True
        elif vr in TEXT_VRS and each.lower() not in vocabulary():  # "Siemens" in an address is the manufacturer too
            yield each, False
            for number in _LONG_NUMBER.findall(each):  # of "H-735182", the number alone is as good
                yield number, False


def _names(components: list[str]) -> Iterator[str]:
    """Yield the parts of a name, and its first two together: alone, they may be too short to be searched for."""
    yield from components
    if len(components) > 1:
        yield " ".join(components[:2])
        yield " ".join(components[1::-1])


def patient_of(ds: Dataset) -> Patient:
    """Return whose instance it is; its study stands in for a patient without Patient ID."""
    patient_id = text(ds, "PatientID")
    if patient_id:
        return Patient(text(ds, "IssuerOfPatientID") or "", patient_id)
    return Patient("study", text(ds, "StudyInstanceUID") or "")


def _vr(tag: BaseTag, element: _Element) -> str | None:
    """Return the VR of an element, that of the dictionary where the file has none or UN; None if it is unknown."""
    vr = element.VR
    try:
        vr = str(dictionary_VR(tag) if vr in _UNKNOWN_VRS else vr).split(" or ")[-1]
    except KeyError:
        return None
    return vr if vr in DUMMIES or vr == "SQ" else None


def _ended(ds: Dataset, tag: BaseTag, element: _Element, vr: str) -> _Element:
    """Return an element whose texts end at their first NUL: more is what lay behind them in the memory of a program."""
    if vr not in TEXT_VRS | _TEXT_OF_NUMBERS | _FORMS.keys() or not element.value:
        return element
    if isinstance(element, RawDataElement):
        value = element.value.rstrip(b"\0 ")
        if b"\0" not in value:
            return element
        value = re.sub(rb"\0[^\\]*", b"", value)
        value += (b"\0" if vr == "UI" else b" ") * (len(value) % 2)
        ds[tag] = element = element._replace(value=value, length=len(value))
    else:
        values = [each.rstrip("\0 ") for each in _texts(ds, tag)]
        if any("\0" in each for each in values):
            ds[tag] = element = _made(tag, vr, [each.split("\0")[0] for each in values])
    return element


def identifiers(ds: Dataset, tag: BaseTag) -> list[str]:
    """Return the values of an identifier that pseudonyms are made of: up to a NUL, and without padding."""
    if tag in ds:
        element = held_elements(ds)[tag]
        _ended(ds, tag, element, _vr(tag, element) or "")
    return [each.strip(" \0") for each in _texts(ds, tag)]


def _texts(ds: Dataset, tag: BaseTag) -> list[str]:
    """Return the values of an element as text."""
    value: Any = ds[tag].value if tag in ds else None
    if value is None or value == "":
        return []
    if isinstance(value, bytes):
        value = value.decode("latin-1").rstrip("\0 ")
    return [str(each) for each in value] if isinstance(value, MultiValue | list) else [str(value)]


def _contradicts_dictionary(tag: BaseTag, vr: str) -> bool:
    """Return whether a file has another kind of value than the standard: nobody can tell what is in it."""
    try:
        return _kind(vr) not in map(_kind, dictionary_VR(tag).split(" or "))
    except KeyError:
        return True


def _kind(vr: str) -> str:
    """Return whether values are bytes, numbers, items or texts, to which names, dates and UIDs belong."""
    if vr == "SQ":
        return "items"
    return "bytes" if vr in _BYTES else "numbers" if vr in _NUMBERS else "texts"


def _stored(element: _Element, vr: str) -> bytes:
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


def _stored_numbers(ds: Dataset, tag: BaseTag, element: _Element) -> list[str]:
    """Return the values of a DS or IS as they are stored."""
    if isinstance(element.value, bytes):
        return element.value.decode("latin-1").rstrip("\0 ").split("\\")
    value: Any = ds[tag].value
    several = isinstance(value, MultiValue | list)
    return ["" if each is None else str(each) for each in (value if several else [value])]


def _dummy(ds: Dataset, tag: BaseTag, vr: str) -> DataElement:
    """Return an element without meaning, with as many numbers as there were: some attributes need two or more."""
    count = ds[tag].VM if vr in _NUMBERS else 1
    return DataElement(tag, vr, [DUMMIES[vr]] * count if count > 1 else DUMMIES[vr])


def _made(tag: BaseTag, vr: str, values: list[str]) -> DataElement:
    return (
        DataElement(tag, vr, values if len(values) != 1 else values[0]) if any(values) else DataElement(tag, vr, None)
    )


def safe_private_vr(tag: BaseTag, creators: Mapping[int, str]) -> str | None:
    """Return the VR of a private element that is known to be safe (PS3.15 E.3.10); None if it is not."""
    creator = creators.get(tag.group << 16 | tag.element >> 8, "")
    return safe_private().get((creator, tag.group, tag.element & 0xFF))


def private_creators(ds: Dataset) -> dict[int, str]:
    """Return the private creators of a data set by their tags (PS3.5 7.8.1)."""
    return {tag: "".join(_texts(ds, tag)).strip() for tag in held_elements(ds) if tag.is_private_creator}


def shifted_date(text: str, days_earlier: int) -> str:
    """Return a DA, also of ACR-NEMA's form with dots; empty if it is not one whole day."""
    return _shifted("DA", text.strip(), days_earlier)


def shifted_datetime(text: str, days_earlier: int) -> str:
    """Return a DT with its time and offset from UTC as they are; empty if it is less exact than a day."""
    return _shifted("DT", text.strip(), days_earlier)


def _shifted(vr: str, text: str, days_earlier: int) -> str:
    match = _WHOLE_DAY.match(text)
    if match is None or _FORMS[vr].fullmatch(text) is None:
        return ""
    try:
        day = date(int(match[1]), int(match[2]), int(match[3])) - timedelta(days_earlier)
    except (ValueError, OverflowError):
        return ""
    return f"{day:%Y%m%d}".zfill(8) + text[match.end() :]
