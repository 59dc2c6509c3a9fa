"""List the elements of a file as pydicom prints them, up to a limit.

If pydicom fails at an element, the elements before it are listed, with the error. A deflated data set is inflated here,
up to a limit: pydicom would inflate all of it. Files may be hostile: children list them (`node.children.decoding`).
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from io import SEEK_END, BytesIO
from itertools import islice
from typing import Any, BinaryIO

from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag

from node.dicom.encoding import DEFLATED_LITTLE_ENDIAN, EXPLICIT_LITTLE_ENDIAN, META_BYTES, UNDEFINED_LENGTH, file_meta
from node.dicom.header import inflated
from node.dicom.values import CONVERSION_ERRORS
from node.errors import NotUnderstood

DEFER_BYTES = 1 << 20
"""Longer values are not read."""

MAX_NESTING = 64
"""Maximum nesting of sequences that is listed; real data sets stay below ten."""


@dataclass(frozen=True, slots=True)
class DumpedElement:
    """A line of a dump: an element, or the head of an item, which has neither tag nor VR.

    `depth`: number of sequences that it is in.
    `tag`: ``(gggg,eeee)``.
    `keyword`: keyword of the standard (PS3.6); for a private element, the name that pydicom knows.
    `text`: the value as pydicom prints it, or why it is not there.
    """

    depth: int
    tag: str
    vr: str
    keyword: str
    text: str


@dataclass(frozen=True, slots=True)
class DumpLimits:
    """How much of a file is listed.

    `elements`: most lines.
    `characters`: most characters of a value.
    `inflated_bytes`: bytes of a deflated data set that are inflated.
    `view`: returns the file from which pydicom reads, in each of its two passes.
    """

    elements: int
    characters: int
    inflated_bytes: int
    view: Callable[[BinaryIO], Any]


@dataclass(frozen=True, slots=True)
class Dump:
    """The elements of a file, File Meta Information first, and the error if the file ends early."""

    elements: tuple[DumpedElement, ...]
    error: str | None


def dump(file: BinaryIO, limits: DumpLimits) -> Dump:
    """Return the elements of an open file, with or without preamble and File Meta Information (PS3.10 7.1)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an odd value is visible in the dump
        try:
            file, cut = _plain(file, limits.inflated_bytes)
            ds, error = readable(file, limits.view)
        except Exception as failure:  # bytes that are not DICOM make the parser raise anything
            named = isinstance(failure, NotUnderstood)
            return Dump((), str(failure) if named else f"no data set can be read ({type(failure).__name__})")
        meta = getattr(ds, "file_meta", Dataset())
        if cut is not None:
            meta.TransferSyntaxUID = DEFLATED_LITTLE_ENDIAN
        lines = (line for part in (meta, ds) for line in _lines(part, limits.characters, 0))
        listed = tuple(islice(lines, limits.elements))
        more = f"only the first {len(listed)} elements are listed" if next(lines, None) is not None else None
        return Dump(listed, more or cut or error)


def _plain(file: BinaryIO, most: int) -> tuple[BinaryIO, str | None]:
    """Return a file as it is, or with its data set inflated up to `most` bytes and a text: why it ends there, or ""."""
    head = file.read(META_BYTES)
    elements, offset = file_meta(head)
    if head[128:132] != b"DICM" and not elements and head[:2] not in (b"\x08\x00", b"\x00\x08"):
        raise NotUnderstood("not a DICOM file")
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


def readable(file: BinaryIO, view: Callable[[BinaryIO], Any]) -> tuple[Dataset, str | None]:
    """Return the readable part of the data set, and the error that ends it, if any; raise if there is no such part."""
    seen: list[BaseTag] = []
    try:
        ds: Dataset = read_partial(view(file), _counting(seen, None), DEFER_BYTES, force=True)
        if not seen:
            return ds, "the file contains no data set"
        if seen[-1] in ds:
            return ds, _cut(ds.get_item(seen[-1], keep_deferred=True), file)
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


def _cut(raw: Any, file: BinaryIO) -> str | None:
    """Return how much of the last value of a file is present if that is not all of it, else None."""
    if not isinstance(raw, RawDataElement) or raw.length == UNDEFINED_LENGTH:
        return None
    present = len(raw.value) if raw.value is not None else file.seek(0, SEEK_END) - raw.value_tell
    if present >= raw.length:
        return None
    return f"the file ends within {raw.tag}: only {max(present, 0)} of {raw.length} bytes are present"


def _lines(ds: Dataset, characters: int, depth: int) -> Iterator[DumpedElement]:
    for tag in sorted(ds.keys()):
        raw: Any = ds.get_item(tag, keep_deferred=True)
        items: Sequence[Dataset] = ()
        vr, keyword, text = raw.VR or "", keyword_for_tag(tag), ""
        try:
            if isinstance(raw, RawDataElement) and raw.value is None and raw.length:
                text = f"not read: longer than {DEFER_BYTES} bytes"
            else:
                element = ds[tag]
                vr, keyword, text = element.VR, element.keyword or element.name, element.repval
                items = element.value if vr == "SQ" else ()
        except CONVERSION_ERRORS as failure:
            text = f"cannot be read ({type(failure).__name__})"
        if items and depth == MAX_NESTING:
            items, text = (), f"nested deeper than {MAX_NESTING} sequences"
        yield DumpedElement(depth, str(tag), vr, keyword, text[:characters])
        for number, item in enumerate(items, 1):
            yield DumpedElement(depth + 1, "", "", f"item {number}", "")
            yield from _lines(item, characters, depth + 1)
