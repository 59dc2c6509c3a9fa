"""Read a few top-level elements from the bytes of a data set, without decoding the rest.

A receiver needs about forty elements of each instance, four hundred times a second, from bytes that a hostile peer may
have written. This reader therefore walks the encoding of PS3.5 7 only up to the last wanted tag (`Walker`).
"""

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from node.dicom.encoding import (
    DEFLATED_LITTLE_ENDIAN,
    ITEM,
    LOOK_AHEAD_BYTES,
    SEQUENCE_END,
    UNDEFINED_LENGTH,
    Encoding,
    encoding_of,
    found_syntax,
)
from node.dicom.walker import (
    MAX_ELEMENTS,
    MAX_VALUE_BYTES,
    PIXEL_DATA,
    PIXELS_GROUP,
    Elements,
    HeaderCut,
    TooManyElements,
    Walker,
    syntax_of_items,
    too_many_elements,
)
from node.errors import NotUnderstood

LEAST_ELEMENT_BYTES = 8
"""Length of an element without a value, and of an item."""

MAX_ITEMS = 16
"""Items of a sequence that are read."""

WINDOW_BYTES = 1 << 20
HEAD_BYTES = 32 << 10

MAX_FRAGMENTS = 1_000_000
"""Fragments of pixels that are visited to find the end of the pixels."""

MAX_WINDOW_BYTES = 16 << 20
"""Largest part of a file that is read at once, to skip a sequence of undefined length; the first has `WINDOW_BYTES`."""

MAX_OTHERS = 2000
"""Elements of a data set that are read as `Elements`; those behind them are not looked for."""

MAX_COMPARED_BYTES = 65_536
"""Bytes of a header up to which others are compared with it."""

MAX_CHANGED = 100
"""Elements that are read alone; if more have changed, all are."""

NUMBER_OF_FRAMES, PHOTOMETRIC_INTERPRETATION = 0x00280008, 0x00280004

PIXEL_DATA_PROVIDER_URL = 0x00287FE0
"""Where the pixels of an instance are that has none by design (PS3.5 A.6)."""

_PIXEL_COUNTS = (NUMBER_OF_FRAMES, 0x00280002, 0x00280010, 0x00280011, 0x00280100)
"""Number of Frames, an IS, and Samples per Pixel, Rows, Columns, Bits Allocated, of which each pixel has bits."""

OF_PIXELS = frozenset((*_PIXEL_COUNTS, PHOTOMETRIC_INTERPRETATION, PIXEL_DATA_PROVIDER_URL))

REST = 0
"""In place of a tag: elements that are not named here may be there all the same."""

MAX_INFLATED_BYTES = 1 << 30
"""Largest deflated data set that is accepted, inflated: a few bytes inflate to a thousand times as many, so the length
of what came says nothing."""

MAX_INFLATED_AT_ONCE = 64 << 20
"""Largest one that pydicom reads, which has it in memory up to four times. Longer ones are read frame by frame."""


@dataclass(frozen=True, slots=True)
class Head:
    """A data set, from byte `at` of `data` on, in its transfer syntax; `is_cut`: there may be more than `data` has."""

    data: bytes
    at: int
    transfer_syntax_uid: str
    is_cut: bool = False


ReadHead = Callable[[], Head | None]
"""Reads a head when it is needed: those of many large instances are not in memory at the same time.

None: what it is read from is gone.
"""


@dataclass(frozen=True, slots=True)
class Header:
    """The elements before the pixels.

    `transfer_syntax_uid`: by whose encoding they were read.
    `pieces`: of each element, in their order: tag, the bytes that it begins with, and how many it has in all. One that
        begins with them elsewhere has the same value, or one that is too long. Empty: other headers cannot be compared
        with this one.
    `pixels_at`: where the pixels begin, if all elements before them were read.
    """

    elements: Elements
    transfer_syntax_uid: str
    pieces: list[tuple[int, bytes, int]]
    pixels_at: int


def read_header(
    data: bytes | bytearray | memoryview, transfer_syntax_uid: str, wanted: frozenset[int], *, is_cut: bool = False
) -> dict[int, bytes]:
    """Return the raw values of some top-level elements of a data set.

    `data`: the data set from its first byte (no preamble, no File Meta Information), or its beginning.
    `transfer_syntax_uid`: transfer syntax of the data set; unknown ones are read as Explicit VR Little Endian, like all
        compressed ones (PS3.5 A.4).
    `wanted`: tags as ``0xggggeeee``; the reader stops after the largest.
    `is_cut`: whether there may be more of the data set than `data` has.

    Values have their padding, and are cut to `MAX_VALUE_BYTES`; absent elements are omitted. The value of a sequence is
    its items, cut to `MAX_SEQUENCE_BYTES`, for `read_items`.

    Raises HeaderCut: `data` ends too early; read again with more of the data set.
    Raises NotUnderstood: the encoding is broken, or there are more than `MAX_ELEMENTS`; the message names the tag, or
        the byte offset.
    """
    if transfer_syntax_uid == DEFLATED_LITTLE_ENDIAN:
        data = _inflated(data)
    walker = Walker(data, found_syntax(data[:8], transfer_syntax_uid), is_cut=is_cut)
    elements = walker.values(wanted, {})
    if is_cut and walker.is_at_end:
        raise HeaderCut(walker.end)
    return elements


class Walked(NamedTuple):
    """Elements of a data set as `read_header` returns them, and the offset of the first element behind them."""

    elements: dict[int, bytes]
    at: int


def read_header_by_windows(
    read: Callable[[int, int], bytes], transfer_syntax_uid: str, wanted: frozenset[int]
) -> Walked:
    """As `read_header`, of a data set that is too large for memory.

    `read`: reads from the data set; fewer bytes at its end.

    Raises HeaderCut if the data set ends too early. Raises NotUnderstood as `read_header` does, and if a sequence of
    undefined length takes more than `MAX_WINDOW_BYTES`.
    """
    if transfer_syntax_uid == DEFLATED_LITTLE_ENDIAN:
        return Walked(read_header(read(0, MAX_WINDOW_BYTES), transfer_syntax_uid, wanted), 0)
    elements: dict[int, bytes] = {}
    offset, length, left = 0, WINDOW_BYTES, MAX_ELEMENTS
    transfer_syntax_uid = found_syntax(read(0, 8), transfer_syntax_uid)
    while True:
        if offset and not read(offset - 1, 1):
            raise HeaderCut(offset)
        window = read(offset, length)
        walker = Walker(window, transfer_syntax_uid, left, is_cut=len(window) == length)
        try:
            walker.values(wanted, elements)
            if len(window) < length or not walker.is_at_end:
                return Walked(elements, offset + walker.at)
            offset, length, left = offset + walker.at, WINDOW_BYTES, walker.left
        except HeaderCut as cut:
            if len(window) < length:
                raise HeaderCut(offset + cut.offset) from None
            if cut.offset > 0:
                offset, length, left = offset + cut.offset, WINDOW_BYTES, walker.left
            elif length < MAX_WINDOW_BYTES:
                length *= 4
            else:
                raise NotUnderstood(
                    f"the sequence of undefined length at byte {offset} takes more than {MAX_WINDOW_BYTES} bytes"
                ) from None


def read_items(raw: bytes, transfer_syntax_uid: str, wanted: frozenset[int]) -> list[dict[int, bytes]]:
    """Return the raw values of some elements of each item of a sequence that `read_header` returned.

    What is beyond the first `MAX_ITEMS`, was cut off, or is not encoded as PS3.5 7.5 says is left out. The items of a
    sequence of VR UN are not read.
    """
    walker = Walker(raw, syntax_of_items(raw, transfer_syntax_uid))
    items: list[dict[int, bytes]] = []
    try:
        while walker.at < walker.end and len(items) < MAX_ITEMS:
            tag, length = walker.element(walker.at)
            if tag != ITEM:
                break
            items.append({})
            walker.item(length, wanted, items[-1])
    except (HeaderCut, NotUnderstood):
        pass  # the items so far
    return items


def read_elements(head: Head) -> Header:
    """Return all elements before the pixels, as far as they can be read."""
    elements: Elements = {}
    pieces: list[tuple[int, bytes, int]] = []
    try:
        head = _plain(head)
        walker = Walker(head.data, head.transfer_syntax_uid, MAX_OTHERS, head.at, is_cut=head.is_cut)
        is_whole = walker.rest(elements, walker.end, pieces) and not (head.is_cut and walker.at >= walker.end)
    except (HeaderCut, NotUnderstood):
        is_whole = False
    if not is_whole:
        elements[REST] = b"", None
    is_compared = len(pieces) == len(elements) and sum(len(piece) for _, piece, _ in pieces) <= MAX_COMPARED_BYTES
    pixels_at = head.at + sum(length for _, _, length in pieces)
    return Header(elements, head.transfer_syntax_uid, pieces if is_compared else [], pixels_at)


def _plain(head: Head) -> Head:
    """Return a head inflated, with the transfer syntax by whose encoding it is to be read."""
    data, at, is_cut = head.data, head.at, head.is_cut
    if head.transfer_syntax_uid == DEFLATED_LITTLE_ENDIAN:
        data, at = _inflated(memoryview(data)[at:], WINDOW_BYTES), 0
        is_cut |= len(data) == WINDOW_BYTES
    return Head(data, at, found_syntax(data[at : at + 8], head.transfer_syntax_uid), is_cut)


def read_changed(head: Head, before: Header) -> Header | None:
    """Return what is not as in another header; None unless this has the same elements in this order.

    Nearly all elements of an instance have the bytes that they have in the others of its series: comparing them takes a
    tenth of the time of reading them.
    """
    changed: Elements = {}
    try:
        head = _plain(head)
        if head.transfer_syntax_uid != before.transfer_syntax_uid:
            return None
        walker = Walker(head.data, head.transfer_syntax_uid, is_cut=head.is_cut)
        at, is_same = head.at, head.data.startswith
        for tag, piece, length in before.pieces:
            if is_same(piece, at):
                at += length
                continue
            walker.at = at
            if len(changed) == MAX_CHANGED or not walker.keep_one(tag, changed):
                return None
            at = walker.at
        is_whole = not head.is_cut if at == walker.end else walker.is_at_pixels(at)
    except (HeaderCut, NotUnderstood):
        return None
    return Header(changed, head.transfer_syntax_uid, [], at) if is_whole else None


def read_sequence(raw: bytes, transfer_syntax_uid: str) -> list[Elements]:
    """Return the elements of each item of a sequence that `Elements` has.

    Raises NotUnderstood or HeaderCut if it is not encoded as PS3.5 7.5 says.
    """
    walker = Walker(raw, syntax_of_items(raw, transfer_syntax_uid))
    items: list[Elements] = []
    while walker.at < walker.end:
        tag, length = walker.element(walker.at)
        if tag != ITEM:
            break
        items.append({})
        end = walker.end if length == UNDEFINED_LENGTH else min(walker.end, walker.at + length)
        walker.rest(items[-1], end)
    return items


def read_every(
    data: bytes | bytearray | memoryview,
    transfer_syntax_uid: str,
    wanted: frozenset[int],
    *,
    is_cut: bool = False,
    most: int = MAX_ELEMENTS,
) -> dict[int, list[bytes]]:
    """Return the raw values of some elements wherever they are in a data set: at the top, and in all sequences.

    Values are cut to `MAX_VALUE_BYTES` and in their order, so those that each item of the functional groups has once
    are in the order of the frames. Ends before pixels that are compressed or not in `data`.

    Raises HeaderCut and NotUnderstood as `read_header` does.
    """
    if transfer_syntax_uid == DEFLATED_LITTLE_ENDIAN:
        data = _inflated(data)
    walker = Walker(data, found_syntax(data[:8], transfer_syntax_uid), most, is_cut=is_cut)
    found: dict[int, list[bytes]] = {}
    while walker.at < walker.end:
        begin = walker.at
        tag, length = walker.element(begin)
        walker.left -= 1
        if walker.left < 0:
            raise too_many_elements(tag)
        stop = walker.at + length
        if tag >> 16 == PIXELS_GROUP and (length == UNDEFINED_LENGTH or stop > walker.end):
            return found
        if walker.enters(tag):
            continue  # what it holds is next
        if length == UNDEFINED_LENGTH:
            walker.skip_undefined(tag, begin)
            continue
        if stop > walker.end:
            raise HeaderCut(begin)
        if tag in wanted:
            found.setdefault(tag, []).append(bytes(data[walker.at : min(stop, walker.at + MAX_VALUE_BYTES)]))
        walker.at = stop
    if is_cut:
        raise HeaderCut(walker.end)
    return found


def require_few_elements(data: bytes | bytearray | memoryview, transfer_syntax_uid: str, maximum: int) -> None:
    """Raise if decoding a whole data set would make more than `maximum` elements and items, on all levels.

    A decoder makes an object of each. Sequences are entered here, without recursion: those of undefined length, those
    that the encoding or the data dictionary (PS3.6) calls a sequence, and values of an unknown VR that begin with an
    item.

    Raises HeaderCut: the data set ends too early.
    Raises NotUnderstood: the encoding is broken, or there are more.
    """
    if transfer_syntax_uid == DEFLATED_LITTLE_ENDIAN:
        raise NotUnderstood("a deflated data set is only read as an instance")
    walker = Walker(data, transfer_syntax_uid, maximum, is_cut=False)
    walker.count()
    if walker.at > walker.end:
        raise HeaderCut(walker.at)


def require_parsable(read: Callable[[int, int], bytes], length: int, transfer_syntax_uid: str) -> None:
    """Raise TooManyElements if an instance has more than `MAX_ELEMENTS` elements and items, on all levels.

    They are counted in its first `MAX_WINDOW_BYTES`, up to the functional groups of frames, which may have as many as
    the pixels have frames, or to compressed pixels. What is broken or cut is for those to find who need it.

    `read`: reads from the data set, of `length` bytes.
    """
    is_deflated = transfer_syntax_uid == DEFLATED_LITTLE_ENDIAN
    if length < LEAST_ELEMENT_BYTES * MAX_ELEMENTS and not is_deflated:
        return
    for size in (WINDOW_BYTES, MAX_WINDOW_BYTES):
        data = read(0, size)
        try:
            data = _inflated(data) if is_deflated else data
            walker = Walker(data, found_syntax(data[:8], transfer_syntax_uid), MAX_ELEMENTS)
            walker.count(to_frames=True)
        except TooManyElements:
            raise
        except (HeaderCut, NotUnderstood):
            continue
        if walker.at < walker.end or len(data) >= length:
            return


@dataclass(frozen=True, slots=True)
class CutPixels:
    """How many bytes of its pixels a data set has, and how many its own header states; at least, if compressed."""

    there: int
    stated: int

    def __str__(self) -> str:
        what = "cut within its pixels" if self.there else "without its pixels"
        return f"{what}: {self.there} of {self.stated} bytes"


def cut_pixels(
    read: Callable[[int, int], bytes], length: int, transfer_syntax_uid: str, walked: Walked | None = None
) -> CutPixels | None:
    """Return what a data set has of its pixels if it ends before or within them, or has less native ones than stated.

    That it should have any, its header says: the elements without which there is no image (PS3.3 C.7.6.3).

    `read`: reads from the data set, of `length` bytes. None for a deflated one: see `require_inflatable`.
    `walked`: what a reader that looked for `OF_PIXELS` has read of the data set: the walk goes on behind it.
    """
    if transfer_syntax_uid == DEFLATED_LITTLE_ENDIAN:
        return None
    for size in (WINDOW_BYTES, MAX_WINDOW_BYTES):
        data, (elements, at) = memoryview(read(0, size)), walked or Walked({}, 0)
        stated, walker = dict(elements), Walker(data, found_syntax(data[:8], transfer_syntax_uid), at=at)
        try:
            walker.values(OF_PIXELS | {PIXEL_DATA}, stated)
            at = walker.at
            if not walker.is_at_end and walker.is_at_pixels(at):
                break
        except HeaderCut:
            pass
        except NotUnderstood:
            return None
        if size >= length:
            wanted = 0 if PIXEL_DATA_PROVIDER_URL in stated else _stated_bytes(stated, walker.encoding)
            return CutPixels(0, wanted) if wanted else None
    else:
        return None
    if not at:
        return None
    encoding = encoding_of(found_syntax(read(0, 8), transfer_syntax_uid))
    return _ending_early(read, at, length, encoding) or _short(read(at, LOOK_AHEAD_BYTES), stated, encoding)


def _ending_early(read: Callable[[int, int], bytes], at: int, length: int, encoding: Encoding) -> CutPixels | None:
    """Return what is there of pixels, which begin at `at`, within which a data set ends."""
    left, is_open = MAX_FRAGMENTS, False  # open: within the fragments of encapsulated pixels
    value_at = at
    while left and (is_open or at < length):
        left -= 1
        try:
            tag, _, value_length, start = encoding.head(read(at, LOOK_AHEAD_BYTES), 0, is_implicit=encoding.is_implicit)
        except struct.error:
            return CutPixels(max(length - value_at, 0), at + LEAST_ELEMENT_BYTES - value_at)
        if not is_open:
            if tag >> 16 != PIXELS_GROUP:
                return None
            value_at = at + start
        if value_length == UNDEFINED_LENGTH or tag == SEQUENCE_END:
            is_open, value_length = tag != SEQUENCE_END, 0
        at += start + value_length
    return CutPixels(max(length - value_at, 0), at - value_at) if at > length else None


def _short(head: bytes, stated: Mapping[int, bytes], encoding: Encoding) -> CutPixels | None:
    """Return the lengths of native pixels, of which this is the head, if they are shorter than the header states."""
    try:
        tag, _, value_length, _ = encoding.head(head, 0, is_implicit=encoding.is_implicit)
    except struct.error:
        return None
    wanted = _stated_bytes(stated, encoding)
    is_short = tag == PIXEL_DATA and value_length != UNDEFINED_LENGTH and value_length < wanted
    return CutPixels(value_length, wanted) if is_short else None


def _stated_bytes(stated: Mapping[int, bytes], encoding: Encoding) -> int:
    """Return the length of native pixels by the elements that state it; 0 if one is missing or broken."""
    try:
        frames = int(stated.get(NUMBER_OF_FRAMES, b"").strip(b" \0") or 1)
        counts: list[int] = [struct.unpack(f"{encoding.order}H", stated[count])[0] for count in _PIXEL_COUNTS[1:]]
    except (KeyError, ValueError, struct.error):
        return 0
    is_subsampled = stated.get(PHOTOMETRIC_INTERPRETATION, b"").startswith((b"YBR_FULL_422", b"YBR_PARTIAL"))
    return frames * prod(counts) // (2 if is_subsampled else 1) // 8


def require_inflatable(pieces: Iterable[bytes], most: int | None = None) -> int:
    """Return the length of a deflated data set, inflated; keep nothing of it.

    `most`: the length that it may have, or `MAX_INFLATED_BYTES`.

    Raises NotUnderstood: it is cut or damaged, or it is a bomb: a few bytes can inflate to a thousand times as many.
    """
    length, most = 0, most or MAX_INFLATED_BYTES
    for piece in inflated(pieces):
        length += len(piece)
        if length > most:
            raise NotUnderstood(
                f"the deflated data set inflates to more than {most} bytes: send it in Explicit VR Little Endian"
            )
    return length


def inflated(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield a deflated data set (PS3.5 A.5) in pieces of up to `WINDOW_BYTES`.

    Raises NotUnderstood, behind what can be inflated, if it is cut or damaged.
    """
    inflator = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for piece in pieces:
            while piece and not inflator.eof:  # behind the end is the byte that makes the length even
                if plain := inflator.decompress(piece, WINDOW_BYTES):
                    yield plain
                piece = inflator.unconsumed_tail
    except zlib.error as error:
        raise _not_inflated(error) from error
    if not inflator.eof:
        raise NotUnderstood("the deflated data set is cut: it does not end")


def _inflated(data: bytes | bytearray | memoryview, limit: int = 16_000_000) -> bytes:
    """Return at most the first `limit` bytes of a deflated data set (PS3.5 A.5)."""
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(bytes(data), limit)
    except zlib.error as error:
        raise _not_inflated(error) from error


def _not_inflated(error: zlib.error) -> NotUnderstood:
    return NotUnderstood(f"the deflated data set cannot be inflated: {error}")
