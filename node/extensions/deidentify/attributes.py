"""Apply a profile to the attributes of a data set, to any depth. Elements that stay keep their bytes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydicom import Dataset
from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag

from node.children.pseudonyms import Patient, PseudonymKey
from node.dicom.coercion import LENGTH_TO_END
from node.dicom.uids import STANDARD_ROOT, registered_name
from node.dicom.values import CONVERSION_ERRORS, copy_encoding, held_elements
from node.extensions.deidentify.deidentification import NotDeidentified, RefusalReason
from node.extensions.deidentify.elements import (
    DUMMIES,
    FORMS,
    MAX_DEPTH,
    NUMBERS,
    SHORT_NUMBERS,
    TEXT_OF_NUMBERS,
    TEXT_VRS,
    UNKNOWN_VRS,
    Element,
    contradicts_dictionary,
    dummy_of,
    element_of,
    ended_value,
    identifiers,
    private_creators,
    safe_private_vr,
    shifted,
    stored_numbers,
    stored_value,
    texts_of,
    vr_of,
)
from node.extensions.deidentify.profile import AttributeAction, Option, Profile
from node.extensions.deidentify.text import Identities, Numbers, is_vocabulary

PATIENT_ID, ACCESSION_NUMBER, PATIENT_AGE, _TIMEZONE = 0x00100020, 0x00080050, 0x00101010, 0x00080201
_OVERLAY_TYPE, _OVERLAY_DATA, _OVERLAY_COMMENTS = 0x0040, 0x3000, 0x4000

_PARAGRAPHS = frozenset(("LT", "ST", "UT"))
_GROUP_OF_PIXELS = 0x0028
_TEMPORAL_VRS = frozenset(("DA", "DT", "TM"))


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

_OFFSET = re.compile(r"[-+](0[0-9]|1[0-4])[0-5][0-9]")


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
        self, ds: Dataset, tag: BaseTag, element: Element, creators: Mapping[int, str], free_text: bool, depth: int
    ) -> Element | None:
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
        vr = vr_of(tag, element)
        if vr is None or (action is None and (tag.group < 0x0008 or contradicts_dictionary(tag, vr))):
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
        self, ds: Dataset, tag: BaseTag, element: Element, vr: str, action: AttributeAction, depth: int
    ) -> Element | None:
        """Return an element that the table lists."""
        if vr == "SQ":
            return self._sequence(ds, tag, action, depth)
        element = ended_value(ds, tag, element, vr)
        if action is AttributeAction.KEEP:
            return self._kept(ds, tag, element, vr)
        if action is AttributeAction.UID or (action is AttributeAction.DUMMY and vr == "UI"):
            return element_of(tag, vr, [self._instance_uid(tag, uid) for uid in identifiers(ds, tag)])
        if action is AttributeAction.CLEAN:
            return self._cleaned(ds, tag, vr)
        if tag == PATIENT_ID:
            return element_of(tag, vr, [self.key.patient(self.patient)])
        if tag == ACCESSION_NUMBER:
            return element_of(tag, vr, [self.key.accession(number) for number in identifiers(ds, tag) if number])
        return dummy_of(ds, tag, vr) if action is AttributeAction.DUMMY else DataElement(tag, vr, None)

    def _kept(self, ds: Dataset, tag: BaseTag, element: Element, vr: str) -> Element:
        """Return an element as it is, without values that are not what its VR says, and without identities in texts."""
        if vr in NUMBERS:
            return self._number(ds, tag, element, vr)
        values = texts_of(ds, tag)
        if self._is_misformed(vr, values):
            return self._filled(tag, vr, [self.identities.cleaned(each) for each in values])
        if tag == _TIMEZONE:
            return self._offsets(ds, tag, vr)
        if vr in TEXT_VRS:
            return self._without_identities(ds, tag, element, vr)
        if vr not in FORMS:
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
        return FORMS[vr].fullmatch(value.strip(" ")) is not None

    def _is_misformed(self, vr: str, values: list[str]) -> bool:
        return vr == "CS" and not all(not each or self._is_plain(vr, each) for each in values)

    @staticmethod
    def _offsets(ds: Dataset, tag: BaseTag, vr: str) -> Element:
        return element_of(tag, vr, [each if _OFFSET.fullmatch(each.strip(" ")) else "" for each in texts_of(ds, tag)])

    def _sequence(self, ds: Dataset, tag: BaseTag, action: AttributeAction, depth: int) -> DataElement | None:
        if action is AttributeAction.EMPTY:
            return None if tag == _REFERENCED_STUDY and not depth else DataElement(tag, "SQ", Sequence())
        items = ds[tag].value
        if action is AttributeAction.DUMMY:
            return DataElement(tag, "SQ", Sequence(self.dummy_of(item, depth + 1) for item in items[:1]))
        cleaned = [self.data_set(item, free_text=action is AttributeAction.CLEAN, depth=depth + 1) for item in items]
        return DataElement(tag, "SQ", Sequence(cleaned))

    def dummy_of(self, item: Dataset, depth: int) -> Dataset:
        """Return an item with the attributes of another one, and no value of it."""
        new = Dataset()
        for tag, element in self.data_set(item, depth=depth).items():
            vr = vr_of(tag, element)
            if tag.is_private or vr is None:
                continue
            if vr == "SQ":
                new[tag] = DataElement(tag, "SQ", Sequence())
            else:
                new[tag] = dummy_of(item, tag, vr)
        return new

    def _cleaned(self, ds: Dataset, tag: BaseTag, vr: str) -> Element | None:
        """Return an element with action C, by its kind."""
        if vr in _TEMPORAL_VRS:
            return self._temporal(ds, tag, vr)
        if vr == "AE":
            return element_of(tag, vr, [self.key.ae_title(title) for title in texts_of(ds, tag) if title])
        if tag == _TIMEZONE:  # whole days are shifted, so that it stays true
            return self._offsets(ds, tag, vr)
        if vr in TEXT_VRS:
            return self._filled(tag, vr, [self.identities.cleaned(each) for each in texts_of(ds, tag)])
        return None if vr in ("OB", "UN") else dummy_of(ds, tag, vr)

    def _temporal(self, ds: Dataset, tag: BaseTag, vr: str) -> Element:
        if vr == "TM":
            return self._kept(ds, tag, held_elements(ds)[tag], vr)
        days = self.key.days_earlier(self.patient)
        values = [shifted(vr, each, days) for each in texts_of(ds, tag)]
        return self._filled(tag, vr, values if all(values) else [""] * len(values))

    def _unlisted(
        self, ds: Dataset, tag: BaseTag, element: Element, vr: str, free_text: bool, depth: int
    ) -> Element | None:
        """Return an element that the table does not list.

        It stays, except for what its VR shows to be a person, an instance or a time, and for identities in its text.
        """
        if vr == "SQ":
            items = [self.data_set(item, free_text=free_text, depth=depth + 1) for item in ds[tag].value]
            return DataElement(tag, "SQ", Sequence(items))
        element = ended_value(ds, tag, element, vr)
        if vr == "PN":
            return self._filled(tag, vr, [""] * len(texts_of(ds, tag)))
        if vr == "UI":
            return self._unlisted_uids(ds, tag, element)
        if vr in _TEMPORAL_VRS:
            return self._unlisted_time(ds, tag, element, vr)
        if vr not in TEXT_VRS:
            return self._kept(ds, tag, element, vr)
        keyword = keyword_for_tag(tag)
        if vr == "UR":
            texts = texts_of(ds, tag)
            is_of_scheme = keyword.startswith(("CodingScheme", "URNCodeValue"))
            if not texts or (is_of_scheme and not self.identities.are_in(texts)):
                return element
            return self._filled(tag, vr, [""])  # where it was retrieved from, with its UIDs
        if vr == "AE":
            return element_of(tag, vr, [self.key.ae_title(title) for title in texts_of(ds, tag) if title])
        is_typed = vr in _PARAGRAPHS or keyword in _TYPED_CODES or self._is_typed(tag, keyword, vr, free_text)
        if is_typed or self._is_misformed(vr, texts_of(ds, tag)):
            return self._filled(tag, vr, [self.identities.cleaned(each) for each in texts_of(ds, tag)])
        return self._without_identities(ds, tag, element, vr, forms="Version" not in keyword)

    def _is_typed(self, tag: BaseTag, keyword: str, vr: str, free_text: bool) -> bool:
        """Return whether a short text may be what a person has typed."""
        if vr == "CS":
            return False
        if free_text and vr != "SH":
            return True
        return not tag.is_private and _TECHNICAL.search(keyword) is None

    def _without_identities(
        self, ds: Dataset, tag: BaseTag, element: Element, vr: str, *, forms: bool = False
    ) -> Element:
        values = texts_of(ds, tag)
        without = [
            each if vr == "CS" and is_vocabulary(each) else self.identities.without(each, forms=forms)
            for each in values
        ]
        return element if without == values else self._filled(tag, vr, without)

    def _number(self, ds: Dataset, tag: BaseTag, element: Element, vr: str) -> Element:
        """Return a number, or 0 in the place of what is none or the number of a person.

        Numbers of pixels and of 16 bits are no person's, but their bytes may be letters of a name, as any bytes.
        """
        is_of_pixels = tag.group == _GROUP_OF_PIXELS
        if vr in TEXT_OF_NUMBERS:
            texts = stored_numbers(ds, tag, element)
            kept = [each if self._is_decimal(each, is_of_pixels) else DUMMIES[vr] for each in texts]
            return element if kept == texts else element_of(tag, vr, kept)
        if self.identities.are_in_bytes(stored_value(element, vr)):
            return dummy_of(ds, tag, vr)
        if is_of_pixels or vr in SHORT_NUMBERS:
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

    def _of_bytes(self, tag: BaseTag, element: Element, vr: str) -> Element:
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
        return element_of(tag, vr, [each or DUMMIES[vr] for each in values])

    def _instance_uid(self, tag: BaseTag, uid: str) -> str:
        """Return the UID in the place of one of an instance; those of PS3.6 stay where they name no study or so."""
        if registered_name(uid) is not None and not _INSTANCE_UIDS.search(keyword_for_tag(tag)):
            return uid
        return self.key.uid(uid)

    def _unlisted_uids(self, ds: Dataset, tag: BaseTag, element: Element) -> Element:
        if Option.UIDS in self.profile.options:
            return self._kept(ds, tag, element, "UI")
        uids = texts_of(ds, tag)
        of_classes = _CLASS_UIDS.search(keyword_for_tag(tag))
        replaced = [uid if of_classes and self.is_of_class(uid) else self._instance_uid(tag, uid) for uid in uids]
        return element if replaced == uids else element_of(tag, "UI", replaced)

    def is_of_class(self, uid: str) -> bool:
        """Return whether a UID can be that of a kind: of PS3.6, or a private one without the number of a person."""
        if registered_name(uid) is not None:
            return True
        components = uid.split(".")
        return (
            FORMS["UI"].fullmatch(uid) is not None
            and not uid.startswith(STANDARD_ROOT)
            and all(len(each) <= _CLASS_COMPONENT_DIGITS and not self.numbers.has(each) for each in components)
        )

    def _unlisted_time(self, ds: Dataset, tag: BaseTag, element: Element, vr: str) -> Element:
        if Option.FULL_DATES in self.profile.options:
            return self._kept(ds, tag, element, vr)
        if Option.MODIFIED_DATES in self.profile.options:
            return self._temporal(ds, tag, vr)
        return self._filled(tag, vr, [""] * len(texts_of(ds, tag)))

    def _private(
        self, ds: Dataset, tag: BaseTag, element: Element, creators: Mapping[int, str], depth: int
    ) -> Element | None:
        """Return a private element that is known to be safe (PS3.15 E.3.10), or the creator of such elements."""
        if Option.SAFE_PRIVATE not in self.profile.options:
            return None
        if tag.is_private_creator:
            return DataElement(tag, "LO", creators[tag])  # removed again if nothing of its block stays
        vr = safe_private_vr(tag, creators)
        if vr is None:
            return None
        found = element.VR
        if found in UNKNOWN_VRS and isinstance(element, RawDataElement) and vr != "SQ":
            ds[tag] = element = element._replace(VR=vr)
        elif found != vr:
            return None  # not what the vendor has documented
        try:
            return self._unlisted(ds, tag, element, vr, True, depth)
        except CONVERSION_ERRORS:
            return None

    def _graphics(self, ds: Dataset, tag: BaseTag, element: Element, depth: int) -> Element | None:
        """Return an element of an overlay that shows a region of interest; curves and other overlays go as a whole.

        An overlay is a bitmap, which cannot be cleaned: that of the type G may be text (PS3.3 C.9.2).
        """
        if Option.GRAPHICS not in self.profile.options or tag.group < 0x6000 or tag.element == _OVERLAY_COMMENTS:
            return None
        group = tag.group << 16
        if (group | _OVERLAY_DATA) not in ds or texts_of(ds, BaseTag(group | _OVERLAY_TYPE)) != ["R"]:
            return None
        vr = vr_of(tag, element)
        return None if vr is None else self._unlisted(ds, tag, element, vr, True, depth)
