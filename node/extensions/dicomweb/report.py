"""Structured reports as HTML: every content item in its order, nothing interpreted, nothing active (PS3.3 C.17.3).

A report comes from strangers. All text is escaped, and the document has no script, style, link or image.
"""

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.multival import MultiValue

from node.children.decoding import NoSuchValue, elements_of
from node.dicom.values import CONVERSION_ERRORS, value
from node.files.reading import read_instance

MAX_DEPTH = 64
"""Deepest nesting of content items."""

MAX_ITEMS = 100_000
MAX_ELEMENTS, MAX_CHARACTERS = 5000, 1000
"""Most elements of an instance that is shown by its attributes, and characters of a value."""

HEADER = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyDescription", "AccessionNumber",
    "ReferringPhysicianName", "InstitutionName", "ContentDate", "ContentTime", "CompletionFlag", "VerificationFlag",
    "PreliminaryFlag",
)  # fmt: skip
"""Attributes above the content."""

VALUES = {
    "TEXT": "TextValue",
    "DATE": "Date",
    "TIME": "Time",
    "DATETIME": "DateTime",
    "PNAME": "PersonName",
    "UIDREF": "UID",
}
"""The attribute with the value of a content item, by Value Type (PS3.3 table C.17.3-1)."""

RELATIONSHIPS = {"CONTAINS": ""}
"""Relationships that need no words, because the list shows them."""

_WORDS = re.compile(r"(?<=[a-z])(?=[A-Z])")
"""Where a keyword of PS3.6 has its spaces."""

_NOT_SHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, and those that change the direction of the text behind them."""


class NotReport(NoSuchValue):
    """A data set is no structured report, or too large for one."""


def report_file(path: Path, into: Path) -> bytes:
    """Write the structured report of an instance as HTML, in a child of `node.children.decoder`."""
    into.write_text(report_html(read_instance(path)), encoding="utf-8")
    return b""


def attributes_file(path: Path, into: Path) -> bytes:
    """Write the elements of an instance as HTML, in a child of `node.children.decoder`."""
    found = json.loads(elements_of(path, MAX_ELEMENTS, MAX_CHARACTERS))
    lines = "".join(
        f"<tr><td>{'&gt;' * one['depth']}{one['tag']}</td><td>{one['keyword']}</td><td>{_shown(one['text'])}</td></tr>"
        for one in found["elements"]
        if not one["tag"].startswith("(0002,")
    )
    error = f"<p>{_shown(found['error'])}</p>"
    into.write_text(_document("Attributes", f"<table>{lines}</table>{error}"), encoding="utf-8")
    return b""


def _document(title: str, body: str) -> str:
    head = f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>'
    return f"{head}<body><h1>{title}</h1>{body}</body></html>\n"


def report_html(ds: Dataset) -> str:
    """Return a structured report as a document in HTML.

    Raises NotReport: the data set has no content items, or more than `MAX_ITEMS`, or they are nested more deeply than
        `MAX_DEPTH`.
    """
    if value(ds, "ValueType") != "CONTAINER":
        raise NotReport("the instance has no content tree of a structured report (PS3.3 C.17.3)")
    title = _concept(ds) or "Structured report"
    rows = "".join(
        f"<tr><th>{_shown(_WORDS.sub(' ', keyword))}</th><td>{text}</td></tr>"
        for keyword in HEADER
        if (text := _shown(value(ds, keyword)))
    )
    content = "".join(_Tree().items(ds, 1))
    return _document(title, f"<table>{rows}</table>{content}{_verified(ds)}")


def _shown(found: Any) -> str:
    """Return a value as HTML; several values are separated by commas, and lines of a text stay lines."""
    if found is None:
        return ""
    parts = [str(part) for part in found] if isinstance(found, list | tuple | MultiValue) else [str(found)]
    escaped = html.escape(_NOT_SHOWN.sub("\ufffd", ", ".join(parts).replace("\r\n", "\n").replace("\r", "\n")))
    return f"<bdi>{escaped.strip()}</bdi>".replace("\n", "<br>") if escaped.strip() else ""


def _concept(ds: Dataset, keyword: str = "ConceptNameCodeSequence") -> str:
    """Return the meaning of a coded concept, or its code if it has no meaning."""
    item = _first(ds, keyword)
    if item is None:
        return ""
    meaning = _shown(value(item, "CodeMeaning"))
    if meaning:
        return meaning
    code = value(item, "CodeValue") or value(item, "LongCodeValue") or value(item, "URNCodeValue")
    return _shown([code, value(item, "CodingSchemeDesignator")] if code else None)


def _first(ds: Dataset, keyword: str) -> Dataset | None:
    items = value(ds, keyword)
    return items[0] if items and isinstance(items[0], Dataset) else None


class _Tree:
    """Writes content items, and counts them."""

    def __init__(self) -> None:
        self._count = 0

    def items(self, ds: Dataset, depth: int) -> Iterator[str]:
        children = value(ds, "ContentSequence")
        if not children:
            return
        if depth > MAX_DEPTH:
            raise NotReport("the content items are nested too deeply")
        yield "<ol>"
        for item in children:
            self._count += 1
            if self._count > MAX_ITEMS:
                raise NotReport(f"the report has more than {MAX_ITEMS} content items")
            yield "<li>"
            yield from self._item(item, depth)
            yield "</li>"
        yield "</ol>"

    def _item(self, item: Dataset, depth: int) -> Iterator[str]:
        relationship = str(value(item, "RelationshipType") or "")
        words = RELATIONSHIPS.get(relationship, relationship.lower())
        if words:
            yield f"<small>{_shown(words)}</small> "
        target = value(item, "ReferencedContentItemIdentifier")
        if target is not None:
            yield f"see item {_shown('.'.join(str(part) for part in _as_list(target)))}"
            return
        kind, name = str(value(item, "ValueType") or ""), _concept(item)
        shown = _content(item, kind)
        yield f"<b>{name}</b>" if name else ""
        yield ": " if name and shown else ""
        yield shown
        yield from self.items(item, depth + 1)


def _content(item: Dataset, kind: str) -> str:
    """Return the value of a content item as HTML; for a type without a known form, its type in brackets."""
    if kind in VALUES:
        return _shown(value(item, VALUES[kind]))
    if kind == "CODE":
        return _concept(item, "ConceptCodeSequence")
    if kind == "NUM":
        return _number(item)
    if kind in ("IMAGE", "COMPOSITE", "WAVEFORM"):
        return _reference(item, kind)
    if kind in ("SCOORD", "SCOORD3D"):
        return f"{_shown(value(item, 'GraphicType'))} {_shown(value(item, 'GraphicData'))}"
    if kind == "TCOORD":
        offsets = ("ReferencedSamplePositions", "ReferencedTimeOffsets", "ReferencedDateTime")
        found = [_shown(value(item, keyword)) for keyword in offsets]
        return " ".join((_shown(value(item, "TemporalRangeType")), *filter(None, found)))
    return "" if kind == "CONTAINER" else f"[{_shown(kind or 'no value type')}: not shown]"


def _number(item: Dataset) -> str:
    measured = _first(item, "MeasuredValueSequence")
    if measured is None:
        return _concept(item, "NumericValueQualifierCodeSequence") or "no value"
    unit = _first(measured, "MeasurementUnitsCodeSequence")
    code = value(unit, "CodeValue") if unit is not None else None
    return f"{_shown(value(measured, 'NumericValue'))} {_shown(code) if code != '1' else ''}".strip()


def _reference(item: Dataset, kind: str) -> str:
    parts = [_shown(kind.lower())]
    for referenced in value(item, "ReferencedSOPSequence") or ():
        parts.append(_shown(value(referenced, "ReferencedSOPInstanceUID")))
        frames = value(referenced, "ReferencedFrameNumber")
        if frames is not None:
            parts.append(f"frames {_shown(frames)}")
    return " ".join(parts)


def _verified(ds: Dataset) -> str:
    """Return who verified the report (PS3.3 C.17.2)."""
    lines = []
    for observer in value(ds, "VerifyingObserverSequence") or ():
        found = [_shown(value(observer, keyword)) for keyword in ("VerifyingObserverName", "VerificationDateTime")]
        lines.append(f"<p>Verified: {' '.join(found)}</p>")
    return "".join(lines)


def _as_list(found: Any) -> list[Any]:
    try:
        return list(found) if not isinstance(found, str) else [found]
    except CONVERSION_ERRORS:
        return [found]
