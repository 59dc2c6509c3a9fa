"""How an element begins in each encoding of data sets: tag, value representation and length (PS3.5 7.1).

This is the one place that knows it; readers and writers of data sets use it. It loads no library, because finding files
needs none.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from itertools import pairwise

from node.errors import NotUnderstood

IMPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
EXPLICIT_BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED_LITTLE_ENDIAN = "1.2.840.10008.1.2.1.99"

UNDEFINED_LENGTH = 0xFFFFFFFF
MAX_LONG_LENGTH, MAX_SHORT_LENGTH = 0xFFFFFFFE, 0xFFFE
"""Longest values of elements whose length has four bytes, and two bytes; lengths are even."""

ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
"""Tags of an item and of the delimiters of items and sequences (PS3.5 7.5); they never carry a VR."""

_LONG_VRS = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
"""Value representations whose length has two bytes (PS3.5 7.1.2)."""

NO_VRS = frozenset((b"\0\0", b"  ", b"??"))
"""What stands for the VR of private elements in files of old devices and de-identifiers; their length has two bytes."""

Head = tuple[int, bytes, int, int]
"""Tag, value representation (empty if it is not encoded), length, and offset of the value."""


class Encoding:
    """The encoding of one transfer syntax; compressed ones and unknown ones are Explicit VR Little Endian (PS3.5 A.4).

    `order`: ``<`` or ``>``, the byte order as `struct` writes it. `short_head`: unpacks the first eight bytes of an
    element with a VR of `SHORT_VRS`.
    """

    def __init__(self, transfer_syntax_uid: str) -> None:
        self.is_implicit = transfer_syntax_uid == IMPLICIT_LITTLE_ENDIAN
        self.order = ">" if transfer_syntax_uid == EXPLICIT_BIG_ENDIAN else "<"
        self._short = struct.Struct(f"{self.order}HH2sH")
        self._long = struct.Struct(f"{self.order}HH2s2xL")
        self._implicit = struct.Struct(f"{self.order}HHL")
        self.short_head = self._short.unpack_from

    def head(self, data: bytes | bytearray | memoryview, at: int, *, is_implicit: bool) -> Head:
        """Return the head of the element at an offset; a VR may be none that PS3.5 knows.

        A private element without a VR (`NO_VRS`) is of VR UN, as other programs read it.

        `is_implicit` is that of the encoding, except within a sequence of VR UN (PS3.5 6.2.2).

        Raises struct.error if the data end within the head.
        """
        group, number, vr, length = self.short_head(data, at)
        if is_implicit or group == 0xFFFE:
            return group << 16 | number, b"", self._implicit.unpack_from(data, at)[2], at + 8
        if vr in _LONG_VRS:
            return group << 16 | number, vr, self._long.unpack_from(data, at)[3], at + 12
        if vr in NO_VRS and group % 2:
            return group << 16 | number, b"UN", length, at + 8
        return group << 16 | number, vr, length, at + 8

    def head_writer(self, tag: int, vr: str = "") -> Callable[[int], bytes]:
        """Return a function that encodes the head of an element, or of an item, by the length of its value."""
        group, number, encoded_vr = tag >> 16, tag & 0xFFFF, vr.encode("ascii")
        if self.is_implicit or group == 0xFFFE:
            return partial(self._implicit.pack, group, number)
        return partial((self._long if encoded_vr in _LONG_VRS else self._short).pack, group, number, encoded_vr)


def found_syntax(data: bytes | bytearray | memoryview, announced: str) -> str:
    """Return the transfer syntax by whose encoding to read a data set: the announced one, unless its bytes differ.

    Some writers encode with an implicit VR under a compressed syntax, or with an explicit one under Implicit VR Little
    Endian. The first element of `data` shows it: there is a VR, or a length below 2^16, or an undefined one.
    """
    vr = bytes(data[4:6])
    has_vr = vr in SHORT_VRS or vr in _LONG_VRS
    if announced == IMPLICIT_LITTLE_ENDIAN:
        return EXPLICIT_LITTLE_ENDIAN if has_vr else announced
    is_implicit = not has_vr and announced != EXPLICIT_BIG_ENDIAN and (data[6:8] == b"\0\0" or data[4:8] == b"\xff" * 4)
    return IMPLICIT_LITTLE_ENDIAN if is_implicit else announced


def is_as_announced(data: bytes, announced: str) -> bool:
    """Return whether a data set has the encoding of its transfer syntax, by its first eight bytes as `found_syntax`."""
    return announced == DEFLATED_LITTLE_ENDIAN or found_syntax(data, announced) == announced


def locates_frames(offsets: Sequence[int], frames: int) -> bool:
    """Return whether an offset table names the place of each frame: from 0 on, each behind the one before (PS3.5 A.4).

    Raises NotUnderstood: frames are not in the order of their fragments, as PS3.5 A.4 has them; either may be wrong.
    """
    if any(later < earlier for earlier, later in pairwise(offsets)):
        raise NotUnderstood("the offset table has the frames in another order than their fragments (PS3.5 A.4)")
    return len(offsets) == frames and offsets[0] == 0 and len(set(offsets)) == frames


@lru_cache(maxsize=64)
def encoding_of(transfer_syntax_uid: str) -> Encoding:
    """Return the encoding of a transfer syntax."""
    return Encoding(transfer_syntax_uid)


def max_length(vr: str) -> int:
    """Return the longest value of a VR where it is explicit, in bytes."""
    return MAX_LONG_LENGTH if vr.encode("ascii") in _LONG_VRS else MAX_SHORT_LENGTH
