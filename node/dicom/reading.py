"""Read the data set of an instance: the result of pydicom's `dcmread`, at a fifth of its cost for a small instance.

A time series has 20,000 files of about forty elements each, and pydicom's reader spends 3 us on each element. This
reader creates pydicom's raw elements, which pydicom converts on access. Unusual encodings are left to pydicom, which is
more tolerant. `node.files.reading` opens the files.

Most elements of a file have the same bytes in the file that was read before. Both data sets then share them: raw
elements and their values never change, because pydicom puts a converted element in the place of the raw one. Elements
that follow each other and were the same in the last two files are compared as one piece, a run.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from itertools import groupby
from operator import and_, itemgetter
from typing import Any, NamedTuple, TypeVar, cast

from pydicom import Dataset, FileDataset
from pydicom.charset import convert_encodings, default_encoding
from pydicom.dataelem import RawDataElement, convert_raw_data_element, empty_value_for_VR
from pydicom.dataset import FileMetaDataset
from pydicom.tag import BaseTag
from pydicom.valuerep import VR

from node.dicom.element_generator import elements_of
from node.dicom.encoding import (
    DEFLATED_LITTLE_ENDIAN,
    EXPLICIT_BIG_ENDIAN,
    EXPLICIT_LITTLE_ENDIAN,
    IMPLICIT_LITTLE_ENDIAN,
    UNDEFINED_LENGTH,
    encoding_of,
)
from node.dicom.values import TAGS, Element, copy_encoding, held, standard_tag, tag_read, text
from node.errors import NotUnderstood

LONG_PIXELS = 1 << 16
"""Native pixel data of at least this length are read only on access."""

_META = 132
"""Offset of File Meta Information, after preamble and prefix (PS3.10 7.1)."""

_GROUP_LENGTH = b"DICM\x02\x00\x00\x00UL\x04\x00"
_MAX_META_BYTES = 1 << 15
_NOT_READ_HERE = frozenset((EXPLICIT_BIG_ENDIAN, DEFLATED_LITTLE_ENDIAN))
_ITEMS_GROUP = 0xFFFE
_PIXEL_DATA = 0x7FE00010
_CHARACTER_SET = BaseTag(0x00080005)

_VRS = {vr.encode(): str(vr) for vr in VR if len(vr) == 2}
"""Value representations with an encoding of their own: encoded, and their names."""

_EMPTY: dict[str | None, Any] = {name: empty_value_for_VR(name, raw=True) for name in _VRS.values()} | {None: None}

_Elements = dict[BaseTag, Element]
_Kind = TypeVar("_Kind", bound=Dataset)

MAX_SHARED_BYTES, MAX_RUNS = 1 << 12, 1 << 10
"""Longest element that data sets share, and the number of runs that are remembered of a file."""


class _Run(NamedTuple):
    """Elements that follow each other in a file: their encoding, the elements, and the last tag.

    `parts` are the runs of one element each that a longer run consists of.
    """

    encoded: bytes
    elements: _Elements
    last: int
    parts: tuple[_Run, ...] = ()

    @classmethod
    def joined(cls, runs: Sequence[_Run]) -> _Run:
        """Return one run of several that follow each other."""
        parts = tuple(part for run in runs for part in run.parts or (run,))
        elements = {tag: element for part in parts for tag, element in part.elements.items()}
        return cls(b"".join(part.encoded for part in parts), elements, parts[-1].last, parts)


_read_before: dict[tuple[bool, bool], list[_Run]] = {}
"""Runs of the last file in its order, by whether the VR is implicit, and whether they are File Meta Information.

Lists are replaced, never changed, so that threads can read files at the same time."""


class LeftToPydicom(Exception):
    """An encoding that pydicom must parse."""


class DataSetCut(Exception):
    """The data set continues after the bytes that were read."""


class InstanceSource(ABC):
    """Where an instance was read from, for values that are read only on access."""

    @abstractmethod
    def read_at(self, offset: int, length: int) -> bytes:
        """Return bytes from an offset; fewer at the end of the file. Threads may call it at the same time."""

    @abstractmethod
    def read(self, size: int = -1) -> bytes:
        """Return bytes from the current position, as pydicom reads a value on access."""

    @abstractmethod
    def seek(self, offset: int, whence: int = 0) -> int:
        """Move the position, and return it."""

    @abstractmethod
    def tell(self) -> int:
        """Return the position."""


@dataclass(frozen=True, slots=True)
class FileBytes:
    """A long value that stays in its file; it is sliced like `bytes`, which reads the slice from the file."""

    file: InstanceSource
    offset: int
    length: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, part: slice) -> bytes:
        start, stop, _ = part.indices(self.length)
        data = self.file.read_at(self.offset + start, max(stop - start, 0))
        if len(data) < stop - start:
            raise EOFError("the file is shorter than when it was opened")
        return data


def stored_bytes(ds: Dataset, keyword: str) -> tuple[bytes | FileBytes | None, bool]:
    """Return the bytes of an element (perhaps still in their file), and whether its length is undefined.

    None if it is absent or not bytes. Bytes need no conversion, so pydicom's is bypassed.
    """
    element = held(ds, standard_tag(keyword))
    is_deferred = isinstance(element, RawDataElement) and element.value is None
    if is_deferred and element.length and (file := _file_of(ds)) is not None:
        return FileBytes(file, element.value_tell, element.length), False
    if is_deferred:
        element = ds.get(standard_tag(keyword))  # pydicom has deferred it
    if element is None or not isinstance(element.value, bytes):
        return None, False
    if isinstance(element, RawDataElement):
        return element.value, element.length == UNDEFINED_LENGTH
    return element.value, bool(element.is_undefined_length)


def with_elements(ds: Dataset, elements: _Elements) -> Dataset:
    """Return a data set with other elements of the encoding of `ds`; pixels may still be in the file of `ds`."""
    file = _file_of(ds)
    new = Dataset(elements) if file is None else FileDataset(cast(BytesIO, file), elements)
    copy_encoding(ds, new)
    return new


def _file_of(ds: Dataset) -> InstanceSource | None:
    """Return where `data_set_of_file` has left the pixels of a data set; None if it has read them."""
    file = ds.buffer if isinstance(ds, FileDataset) else None
    return file if isinstance(file, InstanceSource) else None


def data_set_of_file(data: bytes, file_bytes: int, file: InstanceSource) -> Dataset:
    """Return the data set of a file, with its `file_meta`; native pixel data of `LONG_PIXELS` or more stay in the file.

    `data`: the file, or its beginning.
    `file_bytes`: length of the file.

    Raises DataSetCut: the data set goes on behind `data`, and not with pixel data that end the file; call again with
        the whole file.
    Raises LeftToPydicom: pydicom must read the file.
    Raises Exception: anything that pydicom raises for a damaged file.
    """
    whole = len(data) >= file_bytes
    length = struct.unpack_from("<I", data, 140)[0] if data[128:140] == _GROUP_LENGTH and len(data) > 144 else 0
    start = _META + 12 + length
    if not 0 < length <= _MAX_META_BYTES or data[start : start + 2] in (b"\x02\x00", b""):
        raise LeftToPydicom
    of_meta = _walked(data, _META + 12, start, EXPLICIT_LITTLE_ENDIAN, True, is_meta=True)
    if any(tag >> 16 != 0x0002 for tag in of_meta):
        raise LeftToPydicom  # the group length counts elements of the data set
    meta = _new(FileMetaDataset, of_meta)
    syntax = text(meta, "TransferSyntaxUID")
    if not syntax or syntax in _NOT_READ_HERE:
        raise LeftToPydicom
    elements = _walked(data, start, len(data), syntax, whole)
    pixels = elements.get(standard_tag("PixelData"))
    if isinstance(pixels, RawDataElement) and pixels.value is None and pixels.length:
        if not whole and pixels.value_tell + pixels.length != file_bytes:
            raise DataSetCut  # elements follow the pixels, or the pixels are truncated
        ds: Dataset = _new(FileDataset, file, elements, file_meta=meta)  # reads the pixels on access
    else:
        ds = _new(Dataset, elements)
        ds.file_meta = meta
    ds.set_original_encoding(syntax == IMPLICIT_LITTLE_ENDIAN, True, _encoding_in(elements))
    return ds


_UNCHECKED: dict[type[Dataset], type[Dataset]] = {
    kind: type(kind.__name__, (kind,), {"__setattr__": object.__setattr__})
    for kind in (Dataset, FileDataset, FileMetaDataset)
}
"""Classes of pydicom that do not look for keywords of elements among the names of the attributes that they set."""


def _new(kind: type[_Kind], *arguments: Any, **named: Any) -> _Kind:
    """Return a new data set at a third of its cost: nothing that its class sets while it is made is an element."""
    ds: Any = _UNCHECKED[kind](*arguments, **named)
    ds.__class__ = kind
    made: _Kind = ds
    return made


def _walked(data: bytes, at: int, end: int, syntax: str, whole: bool, *, is_meta: bool = False) -> _Elements:
    """Return the top-level elements of `data` from `at` to `end`; long pixel data stay in the file."""
    implicit = syntax == IMPLICIT_LITTLE_ENDIAN
    if implicit and data[at + 4 : at + 6].isalpha() and data[at + 4 : at + 6].isupper():
        raise LeftToPydicom  # the data set is explicit, contrary to its transfer syntax
    head_at = encoding_of(syntax).head
    short = LeftToPydicom if whole else DataSetCut
    elements: _Elements = {}
    expected = list(reversed(_read_before.get((implicit, is_meta), ())))  # the next run is the last one
    runs: list[_Run] = []
    known: list[bool] = []  # of each run, whether it was in the file before
    stop = end if whole else end + 1  # at the end of what was read, another element is looked for, and is cut
    while at < stop:
        run = _run_at(at, data, end, expected)
        if run is not None:
            elements.update(run.elements)
            runs.append(run)
            known.append(True)
            at += len(run.encoded)
            continue
        begin = at
        try:
            tag, encoded_vr, length, start = head_at(data, at, is_implicit=implicit, is_whole=whole)
        except (struct.error, NotUnderstood):
            raise short from None
        if tag >> 16 == _ITEMS_GROUP or not (implicit or encoded_vr in _VRS):
            raise LeftToPydicom
        vr = _VRS.get(encoded_vr)
        while expected and expected[-1].last <= tag:
            expected.pop()
        if length == UNDEFINED_LENGTH:
            at = _add_by_pydicom(elements, data, at, implicit, short)
            continue
        at = start + length
        stays = tag == _PIXEL_DATA and length >= LONG_PIXELS
        if at > end and (whole or not stays):
            raise short
        key = TAGS.get(tag) or tag_read(tag)
        value = None if stays else data[start:at] if length else _EMPTY[vr]
        element = elements[key] = RawDataElement(key, vr, length, value, start, implicit, True)
        if not stays and at - begin <= MAX_SHARED_BYTES and len(runs) < MAX_RUNS:
            runs.append(_Run(data[begin:at], {key: element}, tag))
            known.append(False)
    _read_before[implicit, is_meta] = _with_longer_runs(runs, known)
    return elements


def _run_at(at: int, data: bytes, end: int, expected: list[_Run]) -> _Run | None:
    """Take the next of the expected runs, or its first part, if it is at `at`; None if something else is there."""
    while expected:
        run = expected[-1]
        if at + len(run.encoded) <= end and data.startswith(run.encoded, at):
            return expected.pop()
        if not run.parts:
            break
        expected[-1:] = reversed(run.parts)
    return None


def _with_longer_runs(runs: list[_Run], known: Sequence[bool]) -> list[_Run]:
    """Return the runs of a file with neighbours joined that are both `known`."""
    if not any(map(and_, known, known[1:])):
        return runs
    joined: list[_Run] = []
    for is_known, group in groupby(zip(known, runs, strict=True), key=itemgetter(0)):
        neighbours = [run for _, run in group]
        joined += [_Run.joined(neighbours)] if is_known and len(neighbours) > 1 else neighbours
    return joined


def _add_by_pydicom(elements: _Elements, data: bytes, at: int, implicit: bool, short: type[Exception]) -> int:
    """Add an element of undefined length, a sequence or compressed frames; return its end."""
    stream = BytesIO(data)
    stream.seek(at)
    try:
        element = next(elements_of(stream, implicit, True, encoding=_encoding_in(elements)))
    except Exception:  # StopIteration too: a broken or truncated item makes pydicom raise anything
        raise short from None
    if stream.tell() >= len(data) and short is DataSetCut:
        raise short
    elements[tag_read(element.tag)] = element
    return stream.tell()


def _encoding_in(elements: _Elements) -> str | list[str]:
    """Return the names of the encodings of Specific Character Set (0008,0005)."""
    element = elements.get(_CHARACTER_SET)
    if not isinstance(element, RawDataElement) or not element.value:
        return default_encoding
    return list(_encodings(element.VR, element.value))


@lru_cache(maxsize=64)
def _encodings(vr: str | None, value: bytes) -> tuple[str, ...]:
    element = RawDataElement(_CHARACTER_SET, vr, len(value), value, 0, vr is None, True)
    return tuple(convert_encodings(convert_raw_data_element(element).value))
