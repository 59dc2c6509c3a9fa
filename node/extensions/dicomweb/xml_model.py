"""Encode data sets of the DICOM JSON Model for answers: as JSON, or as XML in the Native DICOM Model."""

import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any
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
