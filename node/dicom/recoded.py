"""Whether two data sets are the same in different encodings (PS3.5 7, A).

Both are walked together, element by element, as `node.dicom.header` walks one: without recursion, without allocating by
a length that was read, and with a budget of elements. Nothing is decoded: of pixels, or data sets, that must be before
they can be compared, this says only that.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from node.dicom.encoding import (
    DEFLATED_LITTLE_ENDIAN,
    EXPLICIT_BIG_ENDIAN,
    ITEM,
    ITEM_END,
    SEQUENCE_END,
    UNDEFINED_LENGTH,
    encoding_of,
    found_syntax,
)
from node.dicom.header import MAX_WINDOW_BYTES, WINDOW_BYTES
from node.dicom.walker import MAX_ELEMENTS, MAX_NESTING, PIXELS_GROUP, HeaderCut, is_sequence
from node.errors import NotUnderstood

TRAILING_PADDING = 0xFFFCFFFC
"""Data Set Trailing Padding (PS3.10 7.2), of no meaning."""

MAX_LONG_PIXELS = 8
"""Most elements of the pixels that are longer than what is read at once; PS3.6 has six."""

LOSSLESS = frozenset(
    f"1.2.840.10008.1.2{rest}"
    for rest in ("", ".1", ".1.99", ".2", ".5", ".8.1", ".4.57", ".4.70", ".4.80", ".4.90", ".4.201", ".4.202")
)
"""Native transfer syntaxes, and those of RLE, deflated frames, JPEG, JPEG-LS, JPEG 2000 and HTJ2K that lose nothing."""

DERIVATION_DESCRIPTION = 0x00082111
OF_ENCODER = frozenset({DERIVATION_DESCRIPTION, 0x00280004, 0x00280006})
"""What encoders change: Derivation Description, and Photometric Interpretation and Planar Configuration (PS3.5 8.2)."""

_BYTES = frozenset((b"", b"OB", b"OW", b"UN"))
"""VRs that say no more of a value than its bytes do, in little endian: of no meaning beside another one."""

_CLOSED, _ENDED, _DIFFERENT, _ENCODED = -1, -2, -3, -4
"""In place of a tag or a length: the end of a sequence or an item, that of the data set, a difference, and pixels that
must be decoded."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A data set of `length` bytes; `read` reads from it by offset and length."""

    read: Callable[[int, int], bytes]
    length: int
    transfer_syntax_uid: str

    @classmethod
    def of(cls, data: bytes, transfer_syntax_uid: str) -> Encoded:
        """Return a data set that is in memory."""
        return cls(lambda offset, length: data[offset : offset + length], len(data), transfer_syntax_uid)


def is_recoded(mine: Encoded, theirs: Encoded) -> bool | None:
    """Return whether two data sets have the same elements with the same values, native pixels included.

    Not compared: group lengths, trailing padding, whether lengths are defined, and VRs of which one is of bytes. False
    as well if one is cut, or has a header of more than `MAX_WINDOW_BYTES`. None: up to its pixels, or to its first
    element in big endian or deflated, nothing differs but what is `OF_ENCODER`; both must be decoded, and are in
    lossless syntaxes, perhaps in one: encoders differ in fragments, offset tables and how they compress.
    """
    try:
        found = _is_recoded(mine, theirs)
    except (HeaderCut, NotUnderstood, struct.error):
        return False
    are_lossless = {mine.transfer_syntax_uid, theirs.transfer_syntax_uid} <= LOSSLESS
    return found if found is not None or are_lossless else False


def _is_recoded(mine: Encoded, theirs: Encoded) -> bool | None:
    both = mine, theirs
    syntaxes = [found_syntax(one.read(0, 8), one.transfer_syntax_uid) for one in both]
    if not {DEFLATED_LITTLE_ENDIAN, EXPLICIT_BIG_ENDIAN}.isdisjoint(syntaxes):
        return None
    starts = [0, 0]
    for _ in range(MAX_LONG_PIXELS + 1):
        for size in (WINDOW_BYTES, MAX_WINDOW_BYTES):
            cursors = [_Cursor(*whence, size) for whence in zip(both, syntaxes, starts, strict=True)]
            try:
                length = _walk(*cursors)
                break
            except HeaderCut:
                if size == MAX_WINDOW_BYTES:
                    raise
        if length < 0:
            is_same = length == _ENDED and cursors[0].of_encoder == cursors[1].of_encoder
            return None if length == _ENCODED else is_same
        begins = [start + cursor.at for start, cursor in zip(starts, cursors, strict=True)]
        starts = [begin + length for begin in begins]
        if any(start > one.length for start, one in zip(starts, both, strict=True)):
            return False
        for at in range(0, length, WINDOW_BYTES):
            size = min(WINDOW_BYTES, length - at)
            if mine.read(begins[0] + at, size) != theirs.read(begins[1] + at, size):
                return False
    return False


class _Cursor:
    """A position in the part of a data set that was read, and what is open there."""

    def __init__(self, one: Encoded, syntax: str, start: int, size: int) -> None:
        self.data, self.at, self.left = one.read(start, size), 0, MAX_ELEMENTS
        self.is_all = start + len(self.data) >= one.length
        self.encoding = encoding_of(syntax)
        self.is_implicit, self.vr = self.encoding.is_implicit, b""
        self.of_encoder: list[tuple[int, bytes]] = []
        self.open: list[tuple[float, bool]] = []  # where sequences and items end, and whether it is implicit around

    def next(self) -> tuple[int, int]:
        """Return tag and length of the next element that means something, and move to its value."""
        while True:
            if self.open and self.open[-1][0] <= self.at:
                return self._close()
            if self.at >= len(self.data):
                if self.open or not self.is_all:
                    raise HeaderCut(self.at)
                return _ENDED, 0
            tag, self.vr, length, self.at = self.encoding.head(
                self.data, self.at, is_implicit=self.is_implicit, is_whole=self.is_all
            )
            self.left -= 1
            if self.left < 0:
                raise NotUnderstood("too many elements")
            if tag in (ITEM_END, SEQUENCE_END):
                if not self.open or self.open[-1][0] != inf:
                    raise NotUnderstood("an end of nothing")
                return self._close()
            if tag in OF_ENCODER and not self.open:
                self.of_encoder.append((tag, self.value(length)))
            elif tag & 0xFFFF and tag != TRAILING_PADDING:
                return tag, length
            else:
                self.value(length)

    def value(self, length: int) -> bytes:
        """Return the current value, and move behind it."""
        begin, self.at = self.at, self.at + length
        if self.at > len(self.data):
            raise HeaderCut(begin)
        return self.data[begin : self.at]

    def is_at_sequence(self, tag: int, length: int) -> bool:
        """Return whether the current element is a sequence, or an item, as its own encoding shows."""
        return tag == ITEM or length == UNDEFINED_LENGTH or self.vr == b"SQ" or (not self.vr and is_sequence(tag))

    def enter(self, length: int) -> None:
        """Let the elements of the current sequence or item be next."""
        if len(self.open) == 2 * MAX_NESTING:
            raise NotUnderstood("nested too deep")
        self.open.append((inf if length == UNDEFINED_LENGTH else self.at + length, self.is_implicit))
        self.is_implicit = self.is_implicit or self.vr == b"UN"  # PS3.5 6.2.2

    def _close(self) -> tuple[int, int]:
        self.is_implicit = self.open.pop()[1]
        return _CLOSED, 0


def _walk(mine: _Cursor, theirs: _Cursor) -> int:
    """Compare element by element; return the length of pixels at which both are, or one of the constants."""
    while True:
        (tag, length), (other, other_length) = mine.next(), theirs.next()
        is_native = UNDEFINED_LENGTH not in (length, other_length) and mine.of_encoder == theirs.of_encoder
        is_pixels = tag >> 16 == other >> 16 == PIXELS_GROUP  # of icons too, which some encoders compress
        if is_pixels and not (is_native and tag == other):
            return _ENCODED
        if tag != other:
            return _DIFFERENT
        if tag == _ENDED:
            return _ENDED
        if tag == _CLOSED:
            continue
        if mine.is_at_sequence(tag, length) or theirs.is_at_sequence(tag, other_length):
            mine.enter(length)
            theirs.enter(other_length)
            continue
        if length != other_length or (mine.vr != theirs.vr and _BYTES.isdisjoint((mine.vr, theirs.vr))):
            return _DIFFERENT
        if is_pixels and not mine.open and length > WINDOW_BYTES // 2:
            return length
        if mine.value(length) != theirs.value(length):
            return _DIFFERENT
