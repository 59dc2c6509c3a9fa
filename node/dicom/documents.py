"""The attributes of an instance that have no column, as one JSON document, and the matching of keys against it.

A document is an object. Its names are keywords of PS3.6; ``GGGGEEEE`` where there is none; and ``GGGG,CREATOR,EE`` for
private elements, because the block that a creator reserves differs between files (PS3.5 7.8.1). Its values are

- text, decoded, with backslashes between several values; numbers are decimal text, as sent in DS and IS;
- ``[VR, text]`` if the VR is not that of PS3.6;
- a list of documents, for a sequence;
- null for an attribute that is there but left out: bulk data, and values and sequences beyond a bound. Nobody knows
  whether it matches;
- false, only in the document of an instance, for an attribute that the document of its series has and it has not.

The document of a series has the attributes of its first instance, that of an instance only what differs.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from pydicom.datadict import dictionary_VR, keyword_for_tag, private_dictionary_VR

from node.dicom.attributes import COLUMN_TAGS, SPECIFIC_CHARACTER_SET, clean_text, text_of
from node.dicom.encoding import EXPLICIT_BIG_ENDIAN, NUMBER_CODES
from node.dicom.header import REST, Head, Header, read_changed, read_elements, read_sequence
from node.dicom.json_model import Json, finite, text_element
from node.dicom.key_values import Match, matches_any, matches_of
from node.dicom.keys import InvalidQuery, Key, Level
from node.dicom.values import standard_tag
from node.dicom.walker import Elements, HeaderCut
from node.errors import NotUnderstood

Document = dict[str, Any]

OTHERS = "..."
"""Name in a document, with null: attributes that it does not name may be there all the same."""

MAX_DEPTH = 4
"""Deepest nesting of sequences in a document; deeper ones are left out."""

MAX_BYTES = 65_536
"""Bytes of all values from which on those longer than `SHORT_BYTES` are left out."""

SHORT_BYTES = 64

_SINGLE = frozenset(("LT", "ST", "UR", "UT"))
"""Value representations in which a backslash is text."""

_TEXTS = _SINGLE | {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "PN", "SH", "TM", "UC", "UI"}

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\ud800-\udfff]")

_TAG = re.compile(r"[0-9A-F]{8}")

DOCUMENT_VRS = _TEXTS | NUMBER_CODES.keys() | {"AT", "SQ"}
"""Value representations of the values that documents have; others are left out."""

PIXELS = 0x7FE0
"""Group from which on documents have nothing."""


@dataclass(frozen=True, slots=True)
class DocumentKey:
    """A key of a query for an attribute that has no column: it is returned, and matched if it has values.

    `name`: in documents.
    `tag`: in the query; the block of a private tag is that of the query.
    `creator`: of a private element; else empty.
    `vr`: of the query; empty if it is not known.
    `texts`: values to match, of which one must match.
    `items`: keys in the item of a sequence (PS3.4 C.2.2.2.6); empty: all attributes of its items.
    `restricts`: whether it is matched, or one of its items.
    """

    name: str
    tag: int
    creator: str = ""
    vr: str = ""
    texts: tuple[str, ...] = ()
    fuzzy: bool = False
    items: tuple[DocumentKey, ...] = ()
    restricts: bool = False


def document_of(header: Header) -> Document:
    """Return the document of an instance."""
    elements = header.elements
    if _bytes(elements) > MAX_BYTES:
        elements = {
            tag: (vr, value if value is not None and len(value) <= SHORT_BYTES else None)
            for tag, (vr, value) in elements.items()
        }
    return _document(elements, _character_set(header.elements), header.transfer_syntax_uid, 0)


def _bytes(elements: Elements) -> int:
    return sum(len(value) for _, value in elements.values() if value)


def _character_set(elements: Elements) -> bytes:
    return elements.get(SPECIFIC_CHARACTER_SET, (b"", b""))[1] or b""


class SeriesDocument:
    """The document of a series, beside which the instances of the series tell what differs.

    Most elements of an instance have the bytes that they had in one before: only the others are read and decoded.
    """

    def __init__(self, document: Document) -> None:
        self.document = document
        self._read: tuple[Header, int, Document] | None = None  # with its number of bytes

    def own(self, head: Head) -> Document:
        """Return the document of an instance of the series."""
        if self._read is not None:
            before, bytes_before, own = self._read
            changed = read_changed(head, before)
            if changed is not None and _are_alone(changed.elements, bytes_before):
                return self._updated(own, before, changed.elements)
        header = read_elements(head)
        own = differences(document_of(header), self.document)
        self._read = (header, _bytes(header.elements), own) if header.pieces else None
        return own

    def _updated(self, own: Document, before: Header, changed: Elements) -> Document:
        own = dict(own)
        elements = before.elements | changed
        character_set = _character_set(elements)
        for tag in changed.keys() - COLUMN_TAGS:
            name, value = _named_value(tag, elements, character_set, before.transfer_syntax_uid, 0)
            if name and name in self.document and self.document[name] == value:
                own.pop(name, None)
            elif name:
                own[name] = value
        return own


def _are_alone(changed: Elements, bytes_before: int) -> bool:
    """Return whether elements can be decoded alone: no other elements depend on them, nor on how long they are."""
    if any(tag == SPECIFIC_CHARACTER_SET or (tag >> 16 & 1 and tag & 0xFFFF < 0x1000) for tag in changed):
        return False
    return bytes_before + _bytes(changed) <= MAX_BYTES


def differences(document: Document, base: Document) -> Document:
    """Return what an instance has to tell beside the document of its series."""
    new = {name: value for name, value in document.items() if name not in base or base[name] != value}
    return new | {name: False for name in base if name not in document}


def effective(base: Document, own: Document) -> Document:
    """Return the document of an instance from that of its series and its own."""
    return {name: value for name, value in (base | own).items() if value is not False}


def private_name(group: int, creator: str, element: int) -> str:
    """Return the name of a private element. No name has characters that a path of JSON would need escaped."""
    quoted = creator.replace("%", "%25").replace('"', "%22").replace("\\", "%5C")
    return f"{group:04X},{quoted},{element & 0xFF:02X}"


@lru_cache(maxsize=8192)
def standard_name(tag: int) -> str:
    """Return the name of an element that is not private."""
    return keyword_for_tag(tag) or f"{tag:08X}"


@lru_cache(maxsize=8192)
def vr_of(tag: int) -> str:
    """Return the VR of PS3.6; empty if the tag is not in it, or may have several."""
    try:
        vr = dictionary_VR(tag)
    except KeyError:
        return ""
    return vr if len(vr) == 2 else ""


def document_key(
    name: str,
    tag: int,
    *,
    creator: str = "",
    vr: str = "",
    texts: Iterable[str] = (),
    fuzzy: bool = False,
    items: tuple[DocumentKey, ...] = (),
) -> DocumentKey:
    """Return a key of a query.

    Raises InvalidQuery if a value violates the VR.
    """
    key = DocumentKey(name, tag, creator, vr, tuple(texts), fuzzy, items)
    return replace(key, restricts=bool(_matches(key, vr)) or any(item.restricts for item in items))


def _known(key: DocumentKey, document: Document) -> bool | None:
    """Return whether a document matches a key that restricts; None if that is not known."""
    value = document.get(key.name, False)
    if value is None or (value is False and OTHERS in document):
        return None
    if value is False:
        return False
    if is_sequence(value):
        return _any(holds(key.items, item) for item in value) if key.items else False
    vr, text = value if isinstance(value, list) else (vr_of(key.tag), value)
    return matches_any(_matches(key, vr), [text] if vr in _SINGLE else text.split("\\")) if key.texts else False


def is_sequence(value: Any) -> bool:
    """Return whether a value of a document is that of a sequence."""
    return isinstance(value, list) and not (value and isinstance(value[0], str))


def holds(keys: Iterable[DocumentKey], document: Document) -> bool | None:
    """Return whether a document matches all keys; None if that is not known."""
    return _all(_known(key, document) for key in keys if key.restricts)


def _all(known: Iterable[bool | None]) -> bool | None:
    several = set(known)
    return False if False in several else None if None in several else True


def _any(known: Iterable[bool | None]) -> bool | None:
    several = set(known)
    return True if True in several else None if None in several else False


@lru_cache(maxsize=512)
def _matches(key: DocumentKey, vr: str) -> tuple[Match, ...]:
    """Return the matches of the values of a key, for an attribute that has them in a VR."""
    name = "" if key.creator else keyword_for_tag(key.tag)
    texts = [single_precision(text) if vr == "FL" else text for text in key.texts]
    if name and vr == key.vr:
        return matches_of(Key(name, vr or "LO", Level.IMAGE), texts, fuzzy=key.fuzzy)
    try:
        return matches_of(Key("PatientComments", vr or "LO", Level.IMAGE), texts, fuzzy=key.fuzzy)
    except InvalidQuery:  # the key is not written in the VR that this attribute has: it is compared as text
        return matches_of(Key("PatientComments", "LO", Level.IMAGE), list(key.texts), fuzzy=False)


def selected(document: Document, keys: Iterable[DocumentKey]) -> Json:
    """Return the attributes of a document that keys ask for in the DICOM JSON Model; those it lacks are empty."""
    model: Json = {}
    for key in keys:
        value = document.get(key.name)
        vr, content = _represented(value, key.tag, key.vr)
        if key.creator:
            model[f"{key.tag & 0xFFFF0000 | key.tag >> 8 & 0xFF:08X}"] = {"vr": "LO", "Value": [key.creator]}
        if isinstance(content, list) and key.items:
            items = [selected(item, key.items) for item in content]
            model[f"{key.tag:08X}"] = {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
        else:
            model[f"{key.tag:08X}"] = _element(vr, content)
    return model


def whole_model(document: Document) -> Json:
    """Return a document in the DICOM JSON Model, without what it left out; creators reserve blocks from 10 on."""
    model: Json = {}
    blocks: dict[tuple[int, str], int] = {}
    for name, value in sorted(document.items()):
        if value is None:
            continue
        tag = _tag(name, blocks)
        if tag is not None:
            model[f"{tag:08X}"] = _element(*_represented(value, tag, ""))
    for (group, creator), block in blocks.items():
        model[f"{group:04X}{block:04X}"] = {"vr": "LO", "Value": [creator]}
    return model


def _tag(name: str, blocks: dict[tuple[int, str], int]) -> int | None:
    group, comma, rest = name.partition(",")
    if not comma:
        return int(name, 16) if _TAG.fullmatch(name) else standard(name)
    quoted, _, element = rest.rpartition(",")
    creator = quoted.replace("%22", '"').replace("%5C", "\\").replace("%25", "%")
    of_group = [block for (other, _), block in blocks.items() if other == int(group, 16)]
    block = blocks.setdefault((int(group, 16), creator), 0x10 + len(of_group))
    return int(group, 16) << 16 | block << 8 | int(element, 16)


def standard(name: str) -> int | None:
    """Return the tag of a name in documents that is a keyword; None if it is none."""
    try:
        return standard_tag(name)
    except KeyError:
        return None


def _represented(value: Any, tag: int, vr: str) -> tuple[str, Any]:
    """Return VR and text, or VR and items, of a value of a document."""
    if isinstance(value, list) and value and isinstance(value[0], str):
        return value[0], value[1]
    if isinstance(value, list):
        return "SQ", value
    return vr_of(tag) or vr or "UN", value or ""


def _element(vr: str, content: Any) -> Json:
    if isinstance(content, list):
        items = [whole_model(item) for item in content]
        return {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
    if vr in _SINGLE:
        return {"vr": vr, "Value": [content]} if content else {"vr": vr}
    if vr in NUMBER_CODES:
        numbers = [_number(vr, part) for part in content.split("\\")] if content else []
        return {"vr": vr, "Value": numbers} if numbers and None not in numbers else {"vr": vr}
    if vr in ("DS", "IS"):
        return {"vr": vr, "Value": [part or None for part in content.split("\\")]} if content else {"vr": vr}
    return text_element(vr, content)


def _number(vr: str, text: str) -> Any:
    try:
        number = float(text)
        return finite(number) if vr in ("FL", "FD") else int(text)
    except (ValueError, OverflowError):
        return None


def _document(elements: Elements, character_set: bytes, syntax: str, depth: int) -> Document:
    document: Document = {}
    if depth and SPECIFIC_CHARACTER_SET in elements:
        character_set = _character_set(elements)
    for tag in elements:
        name, value = _named_value(tag, elements, character_set, syntax, depth)
        if name:
            document[name] = value
    return document


def _named_value(tag: int, elements: Elements, character_set: bytes, syntax: str, depth: int) -> tuple[str, Any]:
    """Return name and value of an element; an empty name if documents do not have it."""
    if depth == 0 and tag in COLUMN_TAGS:
        return "", None
    raw_vr, raw = elements[tag]
    name, known_vr = _standard_name_and_vr(tag)
    if not name:
        creator = _creator(elements, tag, character_set) if tag >> 16 & 1 and tag & 0xFFFF >= 0x1000 else ""
        if not creator:
            return "", None
        name = private_name(tag >> 16, creator, tag)
        if raw_vr in (b"", b"UN"):
            raw_vr = _private_vr(tag, creator).encode()
    vr = known_vr if not raw_vr or (raw_vr == b"UN" and known_vr) else raw_vr.decode("ascii")
    value = _value(raw, vr, character_set, syntax, depth)
    return name, [vr, value] if vr != known_vr and isinstance(value, str) else value


@lru_cache(maxsize=8192)
def _standard_name_and_vr(tag: int) -> tuple[str, str]:
    """Return name and VR of an element; an empty name for private ones, and those that no document has."""
    if tag == REST:
        return OTHERS, ""
    if tag >> 16 & 1 or tag & 0xFFFF == 0 or tag == SPECIFIC_CHARACTER_SET:
        return "", ""
    return standard_name(tag), vr_of(tag)


def _creator(elements: Elements, tag: int, character_set: bytes) -> str:
    raw = elements.get(tag & 0xFFFF0000 | tag >> 8 & 0xFF, (b"", None))[1]
    return clean_text(text_of(raw, character_set, "LO")) or "" if raw else ""


@lru_cache(maxsize=2048)
def _private_vr(tag: int, creator: str) -> str:
    try:
        vr = private_dictionary_VR(tag, creator)
    except KeyError:
        return "UN"
    return vr if len(vr) == 2 else "UN"


def _value(raw: bytes | None, vr: str, character_set: bytes, syntax: str, depth: int) -> Any:
    if vr == "SQ":
        return _items(raw, character_set, syntax, depth)
    if raw is None:
        return None
    return (_text if len(raw) <= SHORT_BYTES else _text.__wrapped__)(raw, vr, character_set, syntax)


def _items(raw: bytes | None, character_set: bytes, syntax: str, depth: int) -> list[Document] | None:
    if raw is None or depth >= MAX_DEPTH:
        return None
    try:
        return [_document(elements, character_set, syntax, depth + 1) for elements in read_sequence(raw, syntax)]
    except (NotUnderstood, HeaderCut):
        return None


@lru_cache(maxsize=8192)
def _text(raw: bytes, vr: str, character_set: bytes, syntax: str) -> str | None:
    """Return the text of a value; None if its VR has none."""
    if not raw:
        return ""
    if vr in _SINGLE:
        return _CONTROL.sub("", text_of(raw, character_set, vr)).rstrip(" ")
    if vr in _TEXTS:
        return clean_text(text_of(raw, character_set, vr)) or ""
    order = ">" if syntax == EXPLICIT_BIG_ENDIAN else "<"
    if vr == "AT":
        pairs = struct.unpack(f"{order}{len(raw) // 4 * 2}H", raw[: len(raw) // 4 * 4])
        return "\\".join(f"{group:04X}{element:04X}" for group, element in zip(pairs[::2], pairs[1::2], strict=True))
    if vr not in NUMBER_CODES:
        return None
    code = NUMBER_CODES[vr]
    size = struct.calcsize("<" + code)
    numbers = struct.unpack_from(f"{order}{len(raw) // size}{code}", raw)
    return "\\".join(_decimal(number, vr) for number in numbers)


def _decimal(number: float, vr: str) -> str:
    if vr == "FL" and math.isfinite(number):
        packed = struct.pack("<f", number)
        return next(
            text for digits in (6, 7, 8, 9) if struct.pack("<f", float(text := f"{number:.{digits}g}")) == packed
        )
    return repr(number)


def single_precision(text: str) -> str:
    """Return a number in the digits in which documents have it as FL; what is no such number as it is.

    Programs write the same value of 32 bits as 1.7e+38 or as 1.6999999760721821e+38.
    """
    try:
        (number,) = struct.unpack("<f", struct.pack("<f", float(text)))
    except (ValueError, OverflowError):
        return text
    return _decimal(number, "FL") if math.isfinite(number) else text
