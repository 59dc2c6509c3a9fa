"""Encode data sets of the DICOM JSON Model for answers: as JSON, or as XML in the Native DICOM Model."""

import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

from pydicom.datadict import keyword_for_tag

from node.dicom.json_model import NAME_GROUPS, Json

_JSON = json.JSONEncoder(ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":"))
"""Models have no cycles, and looking for one doubles the time."""


def encoded_model(model: Json, *, as_xml: bool = False) -> bytes:
    """Return a data set of the DICOM JSON Model as JSON, or as XML in the Native DICOM Model; ordered by tag."""
    model = dict(sorted(model.items()))
    return native_model(model) if as_xml else _JSON.encode(model).encode("utf-8", "replace")


NAME_COMPONENTS = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")

_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NUMBERS = {"inf": "INF", "-inf": "-INF"}
"""Infinities of the DICOM JSON Model, as XML Schema writes them."""

FLOATS = frozenset(("FL", "FD"))
ATTRIBUTE = "DicomAttribute"


def native_model(model: Json) -> bytes:
    """Return a data set of the DICOM JSON Model as a document in the Native DICOM Model.

    `model`: see `node.dicom.json_model.json_model`.

    XML in UTF-8. Characters that XML cannot represent are U+FFFD.
    """
    body = "".join(_attributes(model))
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<NativeDicomModel xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM" xml:space="preserve">{body}'
        "</NativeDicomModel>\n"
    ).encode()


def _attributes(model: Json) -> Iterator[str]:
    for tag, element in model.items():
        yield f"<{ATTRIBUTE} tag={_identity(model, tag)} vr={quoteattr(element['vr'])}{_keyword(tag)}>"
        if "BulkDataURI" in element:
            yield f"<BulkData uri={quoteattr(_text(element['BulkDataURI']))}/>"
        elif "InlineBinary" in element:
            yield f"<InlineBinary>{element['InlineBinary']}</InlineBinary>"
        for number, value in enumerate(element.get("Value", ()), start=1):
            yield from _value(element["vr"], number, value)
        yield f"</{ATTRIBUTE}>"


def _identity(model: Json, tag: str) -> str:
    """Return the attributes ``tag`` and ``privateCreator``; a private tag has no block then (PS3.19 table A.1.5-2)."""
    group, block, number = tag[:4], tag[4:6], tag[6:]
    if int(group, 16) % 2 == 0 or block == "00":
        return f'"{tag}"'
    creator = next(iter(model.get(f"{group}00{block}", {}).get("Value", ())), None)
    if not isinstance(creator, str) or first_block(model, group, creator) != block:
        return f'"{tag}"'
    return f'"{group}00{number}" privateCreator={quoteattr(_text(creator))}'


def first_block(model: Json, group: str, creator: str) -> str | None:
    """Return the first block that a private creator reserves in a group, as two hexadecimal digits."""
    names = (f"{group}00{block:02X}" for block in range(0x10, 0x100))
    return next((name[6:] for name in names if model.get(name, {}).get("Value") == [creator]), None)


@lru_cache(maxsize=8192)
def _keyword(tag: str) -> str:
    keyword = keyword_for_tag(int(tag, 16))
    return f' keyword="{keyword}"' if keyword else ""


def _value(vr: str, number: int, value: Any) -> Iterator[str]:
    if vr == "SQ":
        yield f'<Item number="{number}">'
        yield from _attributes(value or {})
        yield "</Item>"
    elif isinstance(value, Mapping):
        yield f'<PersonName number="{number}">'
        for group in NAME_GROUPS:
            if value.get(group):
                components = zip(NAME_COMPONENTS, str(value[group]).split("^", 4), strict=False)
                named = "".join(f"<{name}>{_content(text)}</{name}>" for name, text in components if text)
                yield f"<{group}>{named}</{group}>"
        yield "</PersonName>"
    elif vr == "PN":
        yield f'<PersonName number="{number}"/>'
    elif value is None:
        yield f'<Value number="{number}"/>'
    else:
        text = value if isinstance(value, str) else repr(value)
        yield f'<Value number="{number}">{_content(_NUMBERS.get(text, text) if vr in FLOATS else text)}</Value>'


def _content(text: str) -> str:
    return escape(_text(text), {"\r": "&#13;"})


def _text(text: str) -> str:
    return _NOT_IN_XML.sub("\ufffd", text)


MAX_DEPTH = 32
"""Deepest nesting of sequences in a document that is read."""

MAX_MISSING = 256
"""Values or items that may be missing before one; they are empty."""

_WHOLE = frozenset(("US", "SS", "UL", "SL", "UV", "SV"))
_TAG, _VR = re.compile(r"[0-9A-Fa-f]{8}"), re.compile(r"[A-Z]{2}")


class NotNative(Exception):
    """A document is not in the Native DICOM Model; the message says why."""


def json_from_native(document: bytes) -> Json:
    """Return a document in the Native DICOM Model as a data set in the DICOM JSON Model.

    Values of DS and IS stay text, as the sender wrote them; the JSON Model allows that (PS3.18 table F.2.3-1).

    Raises NotNative: the document is no XML, has a document type definition, or is not in the model.
    """
    reader = _Reader()
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.StartElementHandler, parser.EndElementHandler = reader.begin, reader.end
    parser.CharacterDataHandler = reader.add
    try:
        parser.Parse(document, True)
    except expat.ExpatError as error:
        raise NotNative(f"not well-formed XML: {expat.ErrorString(error.code)}, line {error.lineno}") from error
    return reader.model


def _refuse_doctype(*_: Any) -> None:
    raise NotNative("a document type definition is not allowed")


class _Reader:
    """Collects the elements of a document; each method is a handler of expat."""

    def __init__(self) -> None:
        self.model: Json = {}
        self._sets: list[Json] = [self.model]  # the data set, then the items that are open in it
        self._elements: list[Json] = []
        self._path: list[str] = []
        self._text: list[str] = []
        self._name: dict[str, dict[str, str]] = {}

    def begin(self, name: str, attributes: dict[str, str]) -> None:
        name = name.rpartition(" ")[2]
        parent = self._path[-1] if self._path else ""
        self._path.append(name)
        self._text.clear()
        if parent not in _PARENTS.get(name, ()):
            raise NotNative(f"the element {name[:32]} must not be in {parent[:32] or 'the document'}")
        if name == ATTRIBUTE:
            self._begin_attribute(attributes)
        elif name == "Item":
            if len(self._sets) > MAX_DEPTH:
                raise NotNative("sequences are nested too deeply")
            item: Json = {}
            self._place(attributes, item)
            self._sets.append(item)
        elif name == "PersonName":
            self._name = {}
            self._place(attributes, None)
        elif name in NAME_GROUPS:
            self._name[name] = {}
        elif name == "Value":
            self._place(attributes, None)
        elif name == "BulkData":
            self._elements[-1]["BulkDataURI"] = attributes.get("uri") or attributes.get("uuid") or ""

    def add(self, text: str) -> None:
        self._text.append(text)

    def end(self, name: str) -> None:
        name = self._path.pop()
        text = "".join(self._text)
        self._text.clear()
        if name == ATTRIBUTE:
            self._elements.pop()
        elif name == "Item":
            self._sets.pop()
        elif name == "InlineBinary":
            self._elements[-1]["InlineBinary"] = "".join(text.split())
        elif name == "Value":
            element = self._elements[-1]
            element["Value"][-1] = _read_value(element["vr"], text) if text else None
        elif name in NAME_COMPONENTS:
            self._name[self._path[-1]][name] = text
        elif name == "PersonName":
            groups = {
                group: "^".join(parts.get(component, "") for component in NAME_COMPONENTS).rstrip("^")
                for group, parts in self._name.items()
            }
            self._elements[-1]["Value"][-1] = {group: text for group, text in groups.items() if text} or None

    def _begin_attribute(self, attributes: dict[str, str]) -> None:
        tag, vr = attributes.get("tag", "").upper(), attributes.get("vr", "")
        if not _TAG.fullmatch(tag) or not _VR.fullmatch(vr):
            raise NotNative("a DicomAttribute needs tag, eight hexadecimal digits, and vr, two letters")
        tag = self._with_block(tag, attributes.get("privateCreator"))
        if tag in self._sets[-1]:
            raise NotNative(f"the element {tag} occurs twice")
        element: Json = {"vr": vr}
        self._sets[-1][tag] = element
        self._elements.append(element)

    def _with_block(self, tag: str, creator: str | None) -> str:
        """Return a private tag with the block of its creator, which is reserved if the data set does not do that."""
        group = tag[:4]
        if creator is None or tag[4:6] != "00" or int(group, 16) % 2 == 0:
            return tag
        ds = self._sets[-1]
        block = first_block(ds, group, creator)
        if block is None:
            free = (f"{block:02X}" for block in range(0x10, 0x100) if f"{group}00{block:02X}" not in ds)
            block = next(free, None)
            if block is None:
                raise NotNative(f"group {group} has no block left for a private creator")
            ds[f"{group}00{block}"] = {"vr": "LO", "Value": [creator]}
        return f"{group}{block}{tag[6:]}"

    def _place(self, attributes: dict[str, str], value: Any) -> None:
        """Append a value under its number, which starts at 1; missing ones before it are empty."""
        values = self._elements[-1].setdefault("Value", [])
        number = attributes.get("number", "")
        if not re.fullmatch(r"[0-9]{1,7}", number) or not 0 < int(number) - len(values) <= MAX_MISSING + 1:
            raise NotNative("values and items must be numbered from 1 on, in order")
        missing: Any = {} if isinstance(value, dict) else None
        values += [missing] * (int(number) - len(values) - 1)
        values.append(value)


_PARENTS: Mapping[str, tuple[str, ...]] = {
    "NativeDicomModel": ("",),
    ATTRIBUTE: ("NativeDicomModel", "Item"),
    **dict.fromkeys(("Value", "Item", "PersonName", "InlineBinary", "BulkData"), (ATTRIBUTE,)),
    **dict.fromkeys(NAME_GROUPS, ("PersonName",)),
    **dict.fromkeys(NAME_COMPONENTS, NAME_GROUPS),
}
"""The elements in which each element may be."""


def _read_value(vr: str, text: str) -> Any:
    """Return a number where the JSON Model has one; DS and IS stay text."""
    try:
        if vr in FLOATS:
            return {"INF": "inf", "-INF": "-inf", "NaN": "NaN"}.get(text) or float(text)
        return int(text) if vr in _WHOLE else text
    except ValueError:
        raise NotNative(f"a value of {vr} is not a number") from None
