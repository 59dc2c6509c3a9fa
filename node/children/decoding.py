"""What the children of `node.children.decoder` load and answer, and the function that transcodes a data set in them.

A function with a parameter `into` writes that file and returns empty bytes. The node imports the modules of such
functions to name a job, so the functions import NumPy and the codecs, which `LIBRARIES` has loaded in a child.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from node.archive.intact import data_set_offset
from node.dicom.encoding import DEFLATED_LITTLE_ENDIAN, EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN
from node.errors import ConversionRefused
from node.volume.read.transfer_syntaxes import NotTranscodable

if TYPE_CHECKING:
    from pydicom import Dataset

    from node.volume.read.pixels import FrameReader

CANNOT_BE_COMPARED = "the pixels cannot be compared"

_PILLOW_FORMATS = ("Bmp", "Gif", "Jpeg", "Ppm", "Png")
"""Formats that Pillow loads when it first writes one of them."""

LIBRARIES = (
    "node.volume.read.transcoding",
    "node.volume.display",
    "node.writers.pictures",
    *(f"PIL.{name}ImagePlugin" for name in _PILLOW_FORMATS),
)
"""Modules that a child loads before its first job: they do not count in the limits of a job, and the processes of all
files share them. Those of the module of a function, if it has any, are loaded before the process of its file."""


class NoSuchValue(Exception):
    """The data set does not contain what is requested of it, such as a frame or bulk data."""


def transcode(path: Path, transfer_syntax_uid: str, into: Path) -> bytes:
    """Write the data set of a file in another transfer syntax."""
    from node.volume.read.transcoding import transcoded

    with path.open("rb") as file:
        if transfer_syntax_uid == EXPLICIT_LITTLE_ENDIAN and _is_deflated(path):
            file.seek(data_set_offset(path) or 0)
            with into.open("wb") as inflated:
                for piece in _inflated(file):
                    inflated.write(piece)
        else:
            into.write_bytes(transcoded(file, transfer_syntax_uid))
    return b""


MAX_INFLATED_BYTES = 1 << 32
"""Longest data set that is inflated: about that of one value (PS3.5 7.1.1)."""

_PIECE_BYTES = 1 << 20


def _is_deflated(path: Path) -> bool:
    """Return whether a file of this node has a data set in Deflated Explicit VR Little Endian (PS3.5 A.5)."""
    from pydicom.filereader import read_file_meta_info

    return bool(read_file_meta_info(path).get("TransferSyntaxUID") == DEFLATED_LITTLE_ENDIAN)


def _inflated(file: BinaryIO) -> Iterator[bytes]:
    """Yield a deflated data set in pieces: its bytes are in Explicit VR Little Endian, perhaps 1000 times as many."""
    decompressor, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while not decompressor.eof:
        compressed = decompressor.unconsumed_tail or file.read(_PIECE_BYTES)
        if not compressed:
            raise NotTranscodable("the deflated data set is cut off")
        try:
            piece = decompressor.decompress(compressed, _PIECE_BYTES)
        except zlib.error as error:
            raise NotTranscodable("the deflated data set is damaged") from error
        total += len(piece)
        if total > MAX_INFLATED_BYTES:
            raise NotTranscodable(f"the deflated data set has more than {MAX_INFLATED_BYTES} bytes")
        yield piece


MAX_NAMED_ELEMENTS = 10
"""Elements that a comparison names; the others are counted."""


def differences_between(mine: Path, theirs: Path) -> bytes:
    """Return in words how the data sets of two files differ: in their pixels, decoded, and in which elements."""
    from node.files.reading import read_instance

    both = read_instance(mine), read_instance(theirs)
    try:
        pixels = _pixels_between(*both)
    except ConversionRefused as refused:
        pixels = f"{CANNOT_BE_COMPARED}: {refused.detail}"
    names = _different_elements(*both)
    if not names:
        return pixels.encode()
    more = f" and {len(names) - MAX_NAMED_ELEMENTS} more" if len(names) > MAX_NAMED_ELEMENTS else ""
    return f"{pixels}; elements that differ: {', '.join(names[:MAX_NAMED_ELEMENTS])}{more}".encode()


SAME = b"the same"


def recoded(mine: Path, theirs: Path) -> bytes:
    """Return `SAME` if two files have the same data set in different encodings, and no pixel of one differs; else b"".

    `mine` may be a copy of `theirs` that left with a decided identity.

    Raises ConversionRefused, NotTranscodable: the pixels of one cannot be decoded.
    """
    from pydicom import dcmread

    from node.dicom.coercion import take_back
    from node.dicom.recoded import DERIVATION_DESCRIPTION, OF_ENCODER, Encoded, is_recoded
    from node.dicom.walker import PIXELS_GROUP
    from node.files.reading import read_instance
    from node.volume.read.pixels import frame_reader
    from node.volume.read.transcoding import encoded

    headers: list[Encoded] = []
    readers: list[FrameReader] = []
    both = [dcmread(path) for path in (mine, theirs)]
    take_back(*both)
    is_one_syntax = len({ds.file_meta.TransferSyntaxUID for ds in both}) == 1
    for path, ds in zip((mine, theirs), both, strict=True):
        tags = list(ds.keys())
        is_overlaid = any(tag.group >> 8 == 0x60 and (tag.group, 0x3000) not in ds for tag in tags)
        if (pixels := [tag for tag in tags if tag.group == PIXELS_GROUP]) and not is_overlaid:
            readers.append(frame_reader(read_instance(path)))
            for tag in {*pixels, *OF_ENCODER} - ({DERIVATION_DESCRIPTION} if is_one_syntax else set()):
                ds.pop(tag, None)
        # Without a VR it stays: that of the dictionary is not that of the other one. Overlays may be in spare bits of
        # the pixels, which some encoders leave out: then all bits are compared, as values.
        syntax = IMPLICIT_LITTLE_ENDIAN if ds.is_implicit_VR else EXPLICIT_LITTLE_ENDIAN
        headers.append(Encoded.of(encoded(ds, syntax), syntax))
    is_same = is_recoded(*headers) and (not readers or _have_same_samples(*readers))
    return SAME if is_same else b""


def _have_same_samples(mine: FrameReader, *others: FrameReader) -> bool:
    if [(mine.frames, mine.photometric)] != [(one.frames, one.photometric) for one in others]:
        return False
    pairs = ((mine.stored(index), others[0].stored(index)) for index in range(mine.frames))
    return all(one.shape == other.shape and one.tobytes() == other.tobytes() for one, other in pairs)


def _different_elements(one: Dataset, other: Dataset) -> list[str]:
    """Return the names of elements that one data set lacks or has otherwise, but not of the pixels.

    Private elements without a VR, as Implicit VR has them, are compared only with their like.
    """
    from pydicom.datadict import keyword_for_tag

    from node.dicom.values import CONVERSION_ERRORS
    from node.volume.read.pixel_layout import PIXELS

    found = []
    for tag in sorted(one.keys() | other.keys()):
        name = keyword_for_tag(tag) or str(tag)
        if tag.element == 0 or name in PIXELS:
            continue
        try:
            first, second = one.get(tag), other.get(tag)
            is_same = first == second or (
                first is not None and second is not None and (first.VR == "UN") != (second.VR == "UN")
            )
        except CONVERSION_ERRORS:
            is_same = False
        if not is_same:
            found.append(name)
    return found


def _pixels_between(mine: Dataset, theirs: Dataset) -> str:
    """Raises ConversionRefused: the pixels of one cannot be decoded, or it has none."""
    import numpy as np

    from node.volume.read.pixels import frame_reader

    one, other = frame_reader(mine), frame_reader(theirs)
    sizes = [f"{reader.frames} x {reader.rows} x {reader.columns}" for reader in (one, other)]
    if sizes[0] != sizes[1]:
        return f"the pixels have other dimensions: {sizes[0]} and {sizes[1]}"
    different = values = 0
    for index in range(one.frames):
        first, second = one(index), other(index)
        if first.shape != second.shape:
            return "one version is in colour, and the other one is not"
        is_number = (first == first) | (second == second)  # NaN equals nothing, not even itself
        different += int(np.count_nonzero((first != second) & is_number))
        values += first.size
    if not different:
        return "the pixels are the same"
    return f"{different} of {values} pixel values {'differs' if different == 1 else 'differ'}"


MAX_LISTED_BYTES, MAX_LISTED_INFLATED = 64 << 20, 16 << 20
"""How much of a file is parsed to list its elements, and how much of a deflated data set is inflated."""


def elements_of(path: Path, elements: int, characters: int) -> bytes:
    """Return the elements of a file as the fields of a `node.dicom.dump.Dump`, in JSON; see `DumpLimits`."""
    from node.dicom.dump import DumpLimits, dump
    from node.files.reading import BoundedFile

    view = partial(BoundedFile, max_bytes=MAX_LISTED_BYTES)
    with path.open("rb") as file:
        return json.dumps(asdict(dump(file, DumpLimits(elements, characters, MAX_LISTED_INFLATED, view)))).encode()


def header_of_volume(path: Path) -> bytes:
    """Return the result of `node.writers.reading.read_header` in JSON."""
    from node.writers.reading import read_header

    try:
        return json.dumps(read_header(path)).encode()
    except ValueError as error:
        raise NoSuchValue(str(error).removeprefix(f"{path} ")) from error
