"""Every element of a file for people to read: names, values, nesting; of what is binary only how long it is.

pydicom parses. What it cannot parse does not hide what comes before: the elements up to there are given, and the error.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import SEEK_END, BytesIO
from typing import Any, BinaryIO

from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.encaps import generate_fragments, parse_basic_offsets
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag

from node.dicom.header import UNDEFINED_LENGTH
from node.dicom.values import CONVERSION_ERRORS

DEFER_BYTES = 1 << 20
"""Longer values stay in the file: only their length is told."""

MAXIMUM_NESTING = 64
"""Deepest sequence that is shown; real data sets stay below ten."""

_BINARY_VRS = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "UN", "OB or OW"))
_NO_NAMES = frozenset(("Private tag data", "Unknown"))
_NAMED_VRS = {"OB or OW": "OW"}


@dataclass(frozen=True, slots=True)
class Element:
    """One element.

    Attributes
    ----------
    tag : str
        ``(gggg,eeee)``.
    vr : str
        Value representation; empty where nobody tells.
    keyword : str
        Of the standard (PS3.6); the name that pydicom knows for a private one; empty where there is none.
    creator : str
        Who reserved the block of a private element (PS3.5 7.8.1).
    values : tuple of str, int or float
        Empty for what is binary or a sequence.
    length : int or None
        Bytes of what is binary; of compressed pixels those of all fragments.
    items : tuple of tuple of Element
        Of a sequence.
    error : str or None
        Why the value cannot be read, or what of it is missing.
    """

    tag: str
    vr: str
    keyword: str
    creator: str = ""
    values: tuple[str | int | float, ...] = ()
    length: int | None = None
    items: tuple[tuple[Element, ...], ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Dump:
    """The elements of a file, those of its File Meta Information first, and why there are no more of them, if so."""

    elements: tuple[Element, ...]
    error: str | None


def dump(file: BinaryIO) -> Dump:
    """Return the elements of an open file with or without preamble and File Meta Information (PS3.10 7.1)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is odd about a value is seen in it
        try:
            ds, error = _parsed(file)
        except Exception as found:  # whatever bytes that are no DICOM make the parser raise
            return Dump((), f"no data set can be read ({type(found).__name__})")
        meta = getattr(ds, "file_meta", Dataset())
        return Dump((*_elements(meta, file, 0), *_elements(ds, file, 0)), error)


def _parsed(file: BinaryIO) -> tuple[Dataset, str | None]:
    """Return the data set, as far as it can be read, and what ended it."""
    seen: list[BaseTag] = []
    try:
        ds: Dataset = read_partial(file, _counting(seen, None), DEFER_BYTES, force=True)
        if not seen:
            return ds, "it holds no data set"
        if seen[-1] in ds:
            cut = _cut(ds.get_item(seen[-1], keep_deferred=True), file)
            return ds, f"the file ends within {seen[-1]}" if cut else None
        ended = f"the file ends within {seen[-1]}"  # pydicom warns, and forgets all that it has read
    except Exception as error:  # struct.error, ValueError, RecursionError, ...
        if not seen:
            raise
        ended = f"{seen[-1]} cannot be read ({type(error).__name__})"
    file.seek(0)
    return read_partial(file, _counting([], len(seen)), DEFER_BYTES, force=True), ended


def _counting(seen: list[BaseTag], stop_at: int | None) -> Callable[[BaseTag, str | None, int], bool]:
    """A condition for pydicom that notes each top-level tag, and ends before the one of number `stop_at`, from 1."""

    def stop(tag: BaseTag, _vr: str | None, _length: int) -> bool:
        seen.append(tag)
        return len(seen) == stop_at

    return stop


def _elements(ds: Dataset, file: BinaryIO, depth: int) -> Iterator[Element]:
    for tag in sorted(ds.keys()):
        raw: Any = ds.get_item(tag, keep_deferred=True)
        creator = _creator(ds, tag)
        error = _cut(raw, file)
        if error or _is_long(raw):
            length = _length(raw, file)
            yield Element(str(tag), raw.VR or "", keyword_for_tag(tag), creator, length=length, error=error)
            continue
        try:
            yield _element(ds[tag], creator, file, depth)
        except CONVERSION_ERRORS as found:
            error = f"value cannot be read ({type(found).__name__})"
            yield Element(str(tag), getattr(raw, "VR", "") or "", keyword_for_tag(tag), creator, error=error)


def _creator(ds: Dataset, tag: BaseTag) -> str:
    """Who reserved the block of a private element; empty for others."""
    if not tag.is_private or tag.is_private_creator:
        return ""
    try:
        return str(ds[tag.group, tag.element >> 8].value or "").strip()
    except CONVERSION_ERRORS:
        return ""


def _element(found: DataElement, creator: str, file: BinaryIO, depth: int) -> Element:
    vr = str(found.VR)
    name = found.keyword or (found.name.strip("[]") if creator else "")
    keyword = "" if name in _NO_NAMES else name
    head = (str(found.tag), _NAMED_VRS.get(vr, vr), keyword, creator)
    value: Any = found.value
    if vr == "SQ":
        if depth == MAXIMUM_NESTING:
            return Element(*head, error=f"nested deeper than {MAXIMUM_NESTING} sequences")
        return Element(*head, items=tuple(tuple(_elements(item, file, depth + 1)) for item in value))
    if isinstance(value, bytes):
        shown = _as_text(value) if vr == "UN" else ""
        if shown:
            return Element(*head, values=tuple(shown.split("\\")))
        length = _fragments_length(BytesIO(value)) if found.is_undefined_length else 0
        return Element(*head, length=length or len(value))
    if value is None or (isinstance(value, str) and not value):
        return Element(*head, length=0 if vr in _BINARY_VRS else None)
    several = value if isinstance(value, list) or hasattr(value, "append") else [value]
    return Element(*head, values=tuple(each if type(each) in (int, float) else _plain(each) for each in several))


def _plain(value: Any) -> str | int | float:
    """A number as such, anything else as the text that stands in the file."""
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    return f"({value:08X})" if isinstance(value, BaseTag) else str(value)


def _as_text(value: bytes) -> str:
    """Printable ASCII without its padding; empty where the bytes are anything else."""
    stripped = value.rstrip(b" \0")
    shown = stripped.decode("ascii", "replace")
    return shown if shown.isascii() and shown.isprintable() else ""


def _is_long(raw: Any) -> bool:
    """Whether a value stayed in the file, or might as well have."""
    return isinstance(raw, RawDataElement) and bool(raw.length) and (raw.value is None or len(raw.value) > DEFER_BYTES)


def _cut(raw: Any, file: BinaryIO) -> str | None:
    """How much of a value is there, if that is not all of it."""
    if not isinstance(raw, RawDataElement) or raw.length == UNDEFINED_LENGTH:
        return None
    there = len(raw.value) if raw.value is not None else file.seek(0, SEEK_END) - raw.value_tell
    return f"{max(there, 0)} of {raw.length} bytes are there" if there < raw.length else None


def _length(raw: RawDataElement, file: BinaryIO) -> int:
    """Bytes that a value should have, without those that tell its fragments apart."""
    if raw.length != UNDEFINED_LENGTH:
        return raw.length
    if raw.value is not None:
        return _fragments_length(BytesIO(raw.value)) or len(raw.value)
    file.seek(raw.value_tell)
    return _fragments_length(file)


def _fragments_length(stream: BinaryIO) -> int:
    """Bytes of all fragments of an encapsulated value (PS3.5 A.4); 0 where it is none."""
    try:
        parse_basic_offsets(stream)
        return sum(map(len, generate_fragments(stream)))
    except CONVERSION_ERRORS:
        return 0
