"""List every element of a file in readable form: names, values, nesting; of binary values, only the length.

pydicom parses the file. If it fails at an element, the elements before it are listed, with the error. A deflated data
set is inflated here, up to a limit: pydicom would inflate all of it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from io import SEEK_END, BytesIO
from itertools import takewhile
from typing import Any, BinaryIO

from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.encaps import generate_fragments, parse_basic_offsets
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag

from node.dicom.encoding import DEFLATED_LITTLE_ENDIAN, EXPLICIT_LITTLE_ENDIAN, UNDEFINED_LENGTH
from node.dicom.header import MAX_INFLATED_AT_ONCE, inflated
from node.dicom.part10 import META_BYTES, file_meta
from node.dicom.values import CONVERSION_ERRORS
from node.errors import NotUnderstood

DEFER_BYTES = 1 << 20
"""Longer values are not read; only their length is listed."""

MAX_NESTING = 64
"""Maximum nesting of sequences that is listed; real data sets stay below ten."""

_BINARY_VRS = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "UN", "OB or OW"))
_NO_NAMES = frozenset(("Private tag data", "Unknown"))
_NAMED_VRS = {"OB or OW": "OW"}


@dataclass(frozen=True, slots=True)
class DumpedElement:
    """One element of a dump.

    `tag`: ``(gggg,eeee)``.
    `vr`: value representation; empty if it is unknown.
    `keyword`: keyword of the standard (PS3.6); for a private element the name that pydicom knows; else empty.
    `creator`: private creator of the block of a private element (PS3.5 7.8.1).
    `values`: empty for binary values and sequences.
    `length`: length of a binary value in bytes; for compressed pixels, of all fragments.
    `items`: items of a sequence.
    `error`: the reason why the value cannot be read, or how much of it is missing.
    """

    tag: str
    vr: str
    keyword: str
    creator: str = ""
    values: tuple[str | int | float, ...] = ()
    length: int | None = None
    items: tuple[tuple[DumpedElement, ...], ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Dump:
    """The elements of a file, File Meta Information first, and the error if the file ends early."""

    elements: tuple[DumpedElement, ...]
    error: str | None


@dataclass(frozen=True, slots=True)
class DumpLimits:
    """How much of a file is listed.

    `elements`: most elements and items, on all levels; None: all.
    `characters`: most values of an element, and most characters of each; None: all.
    `inflated_bytes`: bytes of a deflated data set that are inflated.
    `view`: returns the file from which pydicom reads, in each of its two passes.
    """

    elements: int | None = None
    characters: int | None = None
    inflated_bytes: int = MAX_INFLATED_AT_ONCE
    view: Callable[[BinaryIO], Any] = lambda file: file


ALL = DumpLimits()


def dump(file: BinaryIO, limits: DumpLimits = ALL) -> Dump:
    """Return the elements of an open file, with or without preamble and File Meta Information (PS3.10 7.1)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an odd value is visible in the dump
        try:
            file, cut = _plain(file, limits.inflated_bytes)
            ds, error = _parsed(file, limits.view)
        except Exception as failure:  # bytes that are not DICOM make the parser raise anything
            return Dump((), f"no data set can be read ({type(failure).__name__})")
        meta = getattr(ds, "file_meta", Dataset())
        if cut is not None:
            meta.TransferSyntaxUID = DEFLATED_LITTLE_ENDIAN
        lister = _Lister(file, limits)
        listed = (*lister.elements(meta, 0), *lister.elements(ds, 0))
        return Dump(listed, lister.error or cut or error)


def _plain(file: BinaryIO, most: int) -> tuple[BinaryIO, str | None]:
    """Return a file as it is, or with its data set inflated up to `most` bytes and a text: why it ends there, or ""."""
    head = file.read(META_BYTES)
    elements, offset = file_meta(head)
    file.seek(0)
    if elements.get(0x0010) != DEFLATED_LITTLE_ENDIAN:
        return file, None
    syntax = EXPLICIT_LITTLE_ENDIAN.encode().ljust(len(DEFLATED_LITTLE_ENDIAN), b"\0")
    plain, cut = bytearray(head[:offset].replace(DEFLATED_LITTLE_ENDIAN.encode(), syntax)), ""
    file.seek(offset)
    try:
        for piece in inflated(iter(partial(file.read, META_BYTES), b"")):
            plain += piece
            if len(plain) > most:
                cut = f"only the first {most} bytes of the deflated data set are listed"
                break
    except NotUnderstood as error:
        cut = str(error)
    return BytesIO(plain), cut


def _parsed(file: BinaryIO, view: Callable[[BinaryIO], Any]) -> tuple[Dataset, str | None]:
    """Return the readable part of the data set, and the error that ends it, if any."""
    seen: list[BaseTag] = []
    try:
        ds: Dataset = read_partial(view(file), _counting(seen, None), DEFER_BYTES, force=True)
        if not seen:
            return ds, "the file contains no data set"
        if seen[-1] in ds:
            cut = _cut(ds.get_item(seen[-1], keep_deferred=True), file)
            return ds, f"the file ends within {seen[-1]}" if cut else None
        ended = f"the file ends within {seen[-1]}"  # pydicom warns, and drops everything read so far
    except Exception as error:  # struct.error, ValueError, RecursionError, ...
        if not seen:
            raise
        ended = f"{seen[-1]} cannot be read ({type(error).__name__})"
    file.seek(0)
    return read_partial(view(file), _counting([], len(seen)), DEFER_BYTES, force=True), ended


def _counting(seen: list[BaseTag], stop_at: int | None) -> Callable[[BaseTag, str | None, int], bool]:
    """Return a stop condition for pydicom that notes each top-level tag, and stops before number `stop_at` (from 1)."""

    def stop(tag: BaseTag, _vr: str | None, _length: int) -> bool:
        seen.append(tag)
        return len(seen) == stop_at

    return stop


@dataclass(slots=True)
class _Lister:
    """Lists data sets until it has as many elements as it may."""

    file: BinaryIO
    limits: DumpLimits
    count: int = 0
    error: str | None = None

    def has_room(self) -> bool:
        """Count one more, or note that there are too many."""
        if self.count == self.limits.elements:
            self.error = f"only the first {self.count} elements are listed; `voxelnode dump` lists all"
            return False
        self.count += 1
        return True

    def elements(self, ds: Dataset, depth: int) -> Iterator[DumpedElement]:
        for tag in takewhile(lambda _: self.has_room(), sorted(ds.keys())):
            raw: Any = ds.get_item(tag, keep_deferred=True)
            creator = _creator(ds, tag)
            error = _cut(raw, self.file)
            if error or _is_long(raw):
                length = _length(raw, self.file)
                yield DumpedElement(str(tag), raw.VR or "", keyword_for_tag(tag), creator, length=length, error=error)
                continue
            try:
                yield self._element(ds[tag], creator, depth)
            except CONVERSION_ERRORS as failure:
                error = f"value cannot be read ({type(failure).__name__})"
                yield DumpedElement(str(tag), getattr(raw, "VR", "") or "", keyword_for_tag(tag), creator, error=error)

    def _element(self, element: DataElement, creator: str, depth: int) -> DumpedElement:
        vr = str(element.VR)
        name = element.keyword or (element.name.strip("[]") if creator else "")
        keyword = "" if name in _NO_NAMES else name
        head = (str(element.tag), _NAMED_VRS.get(vr, vr), keyword, creator)
        value: Any = element.value
        most = self.limits.characters
        if vr == "SQ":
            if depth == MAX_NESTING:
                return DumpedElement(*head, error=f"nested deeper than {MAX_NESTING} sequences")
            items = takewhile(lambda _: self.has_room(), value)
            return DumpedElement(*head, items=tuple(tuple(self.elements(item, depth + 1)) for item in items))
        if isinstance(value, bytes):
            shown = _as_text(value) if vr == "UN" else ""
            if shown:
                return DumpedElement(*head, values=tuple(part[:most] for part in shown.split("\\")[:most]))
            length = _fragments_length(BytesIO(value)) if element.is_undefined_length else 0
            return DumpedElement(*head, length=length or len(value))
        if value is None or (isinstance(value, str) and not value):
            return DumpedElement(*head, length=0 if vr in _BINARY_VRS else None)
        values = value if isinstance(value, list) or hasattr(value, "append") else [value]
        return DumpedElement(
            *head, values=tuple(part if type(part) in (int, float) else _shown(part, most) for part in values[:most])
        )


def _creator(ds: Dataset, tag: BaseTag) -> str:
    """Return the private creator of a private element's block; empty for other elements."""
    if not tag.is_private or tag.is_private_creator:
        return ""
    try:
        return str(ds[tag.group, tag.element >> 8].value or "").strip()
    except CONVERSION_ERRORS:
        return ""


def _shown(value: Any, most: int | None) -> str | int | float:
    """Return a number unchanged, and anything else as the text in the file, up to `most` characters."""
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    return f"({value:08X})" if isinstance(value, BaseTag) else str(value)[:most]


def _as_text(value: bytes) -> str:
    """Return printable ASCII without its padding; empty for any other bytes."""
    stripped = value.rstrip(b" \0")
    shown = stripped.decode("ascii", "replace")
    return shown if shown.isascii() and shown.isprintable() else ""


def _is_long(raw: Any) -> bool:
    """Return whether a value was not read, or need not have been."""
    return isinstance(raw, RawDataElement) and bool(raw.length) and (raw.value is None or len(raw.value) > DEFER_BYTES)


def _cut(raw: Any, file: BinaryIO) -> str | None:
    """Return a description of how much of an incomplete value is present, else None."""
    if not isinstance(raw, RawDataElement) or raw.length == UNDEFINED_LENGTH:
        return None
    present = len(raw.value) if raw.value is not None else file.seek(0, SEEK_END) - raw.value_tell
    return f"only {max(present, 0)} of {raw.length} bytes are present" if present < raw.length else None


def _length(raw: RawDataElement, file: BinaryIO) -> int:
    """Return the length that a value should have, without the item headers of its fragments."""
    if raw.length != UNDEFINED_LENGTH:
        return raw.length
    if raw.value is not None:
        return _fragments_length(BytesIO(raw.value)) or len(raw.value)
    file.seek(raw.value_tell)
    return _fragments_length(file)


def _fragments_length(stream: BinaryIO) -> int:
    """Return the bytes of all fragments of an encapsulated value (PS3.5 A.4); 0 if it is not encapsulated."""
    try:
        parse_basic_offsets(stream)
        return sum(map(len, generate_fragments(stream)))
    except CONVERSION_ERRORS:
        return 0
