"""Answers to queries, and their encodings for C-FIND and QIDO-RS.

An answer about stored objects is a mapping and not a pydicom data set, which would take several times as long to build
and to encode. Threads that receive wait for that time, because Python runs one thread at a time. Entries of a worklist
are data sets of text and numbers; `_Encoding` encodes them at a tenth of pydicom's cost.
"""

import struct
from collections.abc import Iterable, Mapping
from functools import lru_cache
from io import BytesIO
from typing import Any

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.multival import MultiValue
from pydicom.uid import UID

from node.dicom.character_sets import UTF_8, CharacterSet
from node.dicom.encoding import EXPLICIT_LITTLE_ENDIAN, ITEM, MAX_SHORT_LENGTH, NUMBER_CODES, encoding_of, max_length
from node.dicom.json_model import SHORT_BYTES, Json, text_element, write_model
from node.dicom.values import held_elements, standard_tag

Item = Mapping[str, str]
"""An item of a sequence: values by keyword, as in `Answer`."""

Answer = Mapping[str, str | list[Item]]
"""Values by keyword. Text has backslashes between several values, and a number of any value representation is decimal
text. A sequence is a list of items. An empty value is empty text."""


class Found(dict[str, str | list[Item]]):
    """An answer of the index.

    `others`: attributes that have no column, in the DICOM JSON Model.
    `is_certain`: whether it is known that it matches all keys.
    """

    def __init__(self, answer: Answer, others: Json, is_certain: bool) -> None:
        super().__init__(answer)
        self.others, self.is_certain = others, is_certain


CHARACTER_SET: Answer = {"SpecificCharacterSet": "ISO_IR 192"}
"""UTF-8. Answers have the element if a value needs it; no other element of theirs has a lower tag."""

_TEXT = frozenset(
    ["AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"]
)
_CHARACTER_SET = standard_tag("SpecificCharacterSet")
FLAT_VRS = _TEXT | NUMBER_CODES.keys()
"""Value representations that `_Encoding` encodes, besides SQ."""


class NotFlat(Exception):
    """The data set contains an element that needs a different encoding."""


def encoded_answer(model: Json, transfer_syntax_uid: str, character_set: CharacterSet = UTF_8) -> bytes:
    """Return an answer of the DICOM JSON Model as a data set; `character_set`: see `encoded_data_set`."""
    written = write_model(model)
    if transfer_syntax_uid == EXPLICIT_LITTLE_ENDIAN and character_set is UTF_8:
        return written
    ds = read_dataset(BytesIO(written), is_implicit_VR=False, is_little_endian=True)
    return encoded_data_set(ds, transfer_syntax_uid, character_set)


def encoded_data_set(ds: Dataset, transfer_syntax_uid: str, character_set: CharacterSet = UTF_8) -> bytes:
    """Return a data set in an uncompressed transfer syntax (PS3.5 7.1).

    Text beyond ASCII is in `character_set`, if it holds all of the text, else in UTF-8 (PS3.4 C.4.1.1.3.1). Elements
    that are not converted yet are little endian and UTF-8.
    """
    try:
        try:
            return _Encoding(transfer_syntax_uid, character_set).data_set(ds)
        except UnicodeError:
            return _Encoding(transfer_syntax_uid, UTF_8).data_set(ds)
    except NotFlat:
        ds.SpecificCharacterSet = "ISO_IR 192"
        syntax, encoded = UID(transfer_syntax_uid), DicomBytesIO()
        encoded.is_implicit_VR, encoded.is_little_endian = syntax.is_implicit_VR, syntax.is_little_endian
        write_dataset(encoded, ds)
        return bytes(encoded.getvalue())


class AnswerEncoder:
    """Encodes answers that have the same attributes, in an uncompressed transfer syntax (PS3.5 7.1).

    `keywords`: the attributes of the answers.
    `items`: the attributes in the items of sequences.
    `character_set`: see `encoded_data_set`.
    """

    def __init__(
        self,
        keywords: Iterable[str],
        transfer_syntax_uid: str,
        items: Mapping[str, Iterable[str]] | None = None,
        character_set: CharacterSet = UTF_8,
    ) -> None:
        self._attributes = _Attributes(keywords, transfer_syntax_uid, items or {})
        self._asked, self._named = character_set, _Attributes(CHARACTER_SET, transfer_syntax_uid, {})

    def encode(self, answer: Answer) -> bytes:
        """Return an answer as a data set. Attributes that it lacks are empty; others are left out."""
        if _is_ascii(answer):
            return self._attributes.encode(answer, UTF_8)
        try:
            return self._in(self._asked, answer)
        except UnicodeError:
            return self._in(UTF_8, answer)

    def _in(self, character_set: CharacterSet, answer: Answer) -> bytes:
        named = {"SpecificCharacterSet": "\\".join(character_set.terms)}
        return self._named.encode(named, UTF_8) + self._attributes.encode(answer, character_set)


class _Attributes:
    """The attributes of a data set or of an item, in the order of their tags."""

    def __init__(self, keywords: Iterable[str], syntax: str, items: Mapping[str, Iterable[str]]) -> None:
        encoding = encoding_of(syntax)
        self._item = encoding.head_writer(ITEM)
        self._number = struct.Struct(f"{encoding.order}H").pack
        self._heads = []
        for name, vr, keyword in sorted((*_element(keyword), keyword) for keyword in {*keywords}):
            head, long_head = (encoding.head_writer(int(name, 16), each) for each in (vr, "UN"))
            self._heads.append((keyword, vr, b"\0" if vr == "UI" else b" ", head, long_head))
        self._items = {keyword: _Attributes(inner, syntax, {}) for keyword, inner in items.items()}

    def encode(self, answer: Answer, character_set: CharacterSet) -> bytes:
        chunks: list[bytes] = []
        for keyword, vr, padding, head, long_head in self._heads:
            held = answer.get(keyword, "")
            if isinstance(held, list):
                items = [self._items[keyword].encode(item, character_set) for item in held]
                value = b"".join(self._item(len(item)) + item for item in items)
            else:
                value = self._number(int(held)) if vr == "US" and held else character_set.encode(held, vr)
                if len(value) % 2:
                    value += padding
                if len(value) > MAX_SHORT_LENGTH:
                    head = long_head  # as UN (PS3.5 6.2.2)
            chunks += (head(len(value)), value)
        return b"".join(chunks)


def answer_model(answer: Answer) -> Json:
    """Return an answer in the DICOM JSON Model (PS3.18 Annex F). Its elements are shared and must not be changed."""
    return _model(answer) if _is_ascii(answer) else _model(CHARACTER_SET) | _model(answer)


def _model(answer: Answer) -> Json:
    model: Json = {}
    for keyword, value in answer.items():
        name, vr = _element(keyword)
        if isinstance(value, list):
            items = [_model(item) for item in value]
            model[name] = {"vr": vr, "Value": items} if items else {"vr": vr}
        else:
            model[name] = _repeated(vr, value) if len(value) <= SHORT_BYTES else text_element(vr, value)
    return model


_repeated = lru_cache(maxsize=8192)(text_element)
"""Values that repeat between answers."""


def _is_ascii(answer: Answer) -> bool:
    return all(value.isascii() if isinstance(value, str) else all(map(_is_ascii, value)) for value in answer.values())


@lru_cache(maxsize=1024)
def _element(keyword: str) -> tuple[str, str]:
    """Return tag and value representation of a keyword of the standard."""
    tag = standard_tag(keyword)
    return f"{tag:08X}", dictionary_VR(tag)


class _Encoding:
    """The encoding of one transfer syntax and character set.

    Raises NotFlat: the VR of an element is not in `FLAT_VRS`; UnicodeError: the character set does not hold a text.
    """

    def __init__(self, transfer_syntax_uid: str, character_set: CharacterSet) -> None:
        encoding = encoding_of(transfer_syntax_uid)
        self._order, self._head_writer, self._item = encoding.order, encoding.head_writer, encoding.head_writer(ITEM)
        self._character_set, self._is_ascii = character_set, True

    def data_set(self, ds: Dataset) -> bytes:
        elements = self._elements(ds)
        if not self._is_ascii:
            terms = "\\".join(self._character_set.terms)
            elements[_CHARACTER_SET] = self._element(_CHARACTER_SET, "CS", terms.encode())
        return b"".join(elements[tag] for tag in sorted(elements))

    def _elements(self, ds: Dataset) -> dict[int, bytes]:
        elements = {}
        for tag, held in held_elements(ds).items():
            if tag == _CHARACTER_SET:
                continue
            is_encoded = isinstance(held, RawDataElement) and (self._order == "<" or held.VR in _TEXT)
            element: Any = held if is_encoded else ds[tag]
            vr = element.VR
            if vr == "SQ":
                items = [
                    b"".join(one for _, one in sorted(self._elements(item).items())) for item in ds[tag].value or ()
                ]
                value = b"".join(self._item(len(item)) + item for item in items)
            elif vr in FLAT_VRS:
                value = self._value(vr, element.value)
            else:
                raise NotFlat
            elements[int(tag)] = self._element(tag, vr, value)
        return elements

    def _element(self, tag: int, vr: str, value: bytes) -> bytes:
        value += (b"\0" if vr == "UI" else b" ") * (len(value) % 2)
        explicit = vr if len(value) <= max_length(vr) else "UN"  # PS3.5 6.2.2
        return self._head_writer(tag, explicit)(len(value)) + value

    def _value(self, vr: str, content: Any) -> bytes:
        values = content if isinstance(content, (MultiValue, list)) else [] if content is None else [content]
        if vr in NUMBER_CODES and not isinstance(content, bytes):
            return struct.pack(f"{self._order}{len(values)}{NUMBER_CODES[vr]}", *values)
        if vr in NUMBER_CODES:
            return bytes(content)
        text = content.decode("utf-8", "replace") if isinstance(content, bytes) else "\\".join(map(str, values))
        self._is_ascii &= text.isascii()
        return self._character_set.encode(text, vr)
