"""How an element begins in each encoding of data sets: tag, value representation and length (PS3.5 7.1).

This is the one place that knows it; readers and writers of data sets use it. It loads no library, because finding files
needs none. The head of a DICOM file is here too: preamble, prefix and File Meta Information (PS3.10 7.1).
"""

import struct
from collections.abc import Callable, Sequence
from functools import cache, lru_cache, partial
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

NUMBER_CODES = {"US": "H", "SS": "h", "UL": "L", "SL": "l", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}
"""Binary numbers by their value representations, as `struct` names them behind a byte order (PS3.5 6.2)."""

_LISTED_VRS = SHORT_VRS | _LONG_VRS

LOOK_AHEAD_BYTES = 16
"""What `Encoding.head` reads at most: the head of an element, or two heads."""

Head = tuple[int, bytes, int, int]
"""Tag, value representation (empty if it is not encoded), length, and offset of the value."""

IMPLEMENTATION_CLASS_UID = "2.25.203918237049125317709215371926431094752"
"""UID of voxelnode, from a UUID as PS3.5 B.2 allows."""

IMPLEMENTATION_VERSION_NAME = "VOXELNODE_0"

_PREAMBLE = b"\x00" * 128 + b"DICM"
META_BYTES = 1 << 16
"""File Meta Information is shorter than this."""

_META_READ = frozenset((0x0002, 0x0003, 0x0010, 0x0016))
"""SOP Class UID, SOP Instance UID, Transfer Syntax UID, Source Application Entity Title."""


class Encoding:
    """The encoding of one transfer syntax; compressed ones and unknown ones are Explicit VR Little Endian (PS3.5 A.4).

    `order`: ``<`` or ``>``, the byte order as `struct` writes it. `short_head`: unpacks the first eight bytes of an
    element with a VR of `SHORT_VRS`.
    """

    def __init__(self, transfer_syntax_uid: str) -> None:
        self.transfer_syntax_uid = transfer_syntax_uid
        self.is_implicit = transfer_syntax_uid == IMPLICIT_LITTLE_ENDIAN
        self.order = ">" if transfer_syntax_uid == EXPLICIT_BIG_ENDIAN else "<"
        self._short = struct.Struct(f"{self.order}HH2sH")
        self._long = struct.Struct(f"{self.order}HH2s2xL")
        self._implicit = struct.Struct(f"{self.order}HHL")
        self.short_head = self._short.unpack_from

    def head(self, data: bytes | bytearray | memoryview, at: int, *, is_implicit: bool, is_whole: bool = False) -> Head:
        """Return the head of the element at an offset; two bytes that are no VR of PS3.5 6.2 are read as UN.

        `is_implicit` is that of the encoding, except within a sequence of VR UN (PS3.5 6.2.2). `is_whole`: the data set
        ends where `data` ends.

        Raises struct.error if the data end within the head, or before it is known how long the length is.
        Raises NotUnderstood if no length of an unknown VR fits into the whole data.
        """
        group, number, vr, length = self.short_head(data, at)
        if is_implicit or group == 0xFFFE:
            return group << 16 | number, b"", self._implicit.unpack_from(data, at)[2], at + 8
        if vr in _LONG_VRS:
            return group << 16 | number, vr, self._long.unpack_from(data, at)[3], at + 12
        if vr in SHORT_VRS:
            return group << 16 | number, vr, length, at + 8
        return self._unknown(data, at, is_whole)

    def _unknown(self, data: bytes | bytearray | memoryview, at: int, is_whole: bool) -> Head:
        """Return the head of an element whose VR is unknown.

        A new VR has a length of four bytes behind two that are 0 (PS3.5 7.1.2). Old devices and de-identifiers write
        two bytes as VR that are none, and a length of two: it is that unless it is 0, and no element follows it.
        """
        group, number, vr, length = self.short_head(data, at)
        start, end = at + 8, len(data)
        if not length and (start < end or not is_whole):
            if not is_whole and at + LOOK_AHEAD_BYTES > end:
                raise struct.error("the head goes on behind the data")
            if not self._begins_next(data, start, group, number):
                length, start = self._long.unpack_from(data, at)[3], at + 12
        if is_whole and length != UNDEFINED_LENGTH and start + length > end:
            raise NotUnderstood(
                f"element ({group:04X},{number:04X}) at byte {at} has no value representation (PS3.5 6.2), but "
                f"{vr!r}; check that the sender uses the negotiated transfer syntax"
            )
        return group << 16 | number, b"UN", length, start

    def _begins_next(self, data: bytes | bytearray | memoryview, at: int, group: int, number: int) -> bool:
        """Return whether an element, item or delimiter begins here, and not the length of (`group`, `number`).

        A length below 2^16 would be the number 0 of a group, whose VR is known; one in the same group would be longer.
        """
        try:
            next_group, next_number, vr, length = self.short_head(data, at)
        except struct.error:
            return False
        if next_group == 0xFFFE:
            return (next_group << 16 | next_number) in (ITEM, ITEM_END, SEQUENCE_END)
        if not next_number:
            return (vr, length) == (b"UL", 4)
        return vr in _LISTED_VRS or (next_group == group and next_number > number)

    def head_writer(self, tag: int, vr: str = "") -> Callable[[int], bytes]:
        """Return a function that encodes the head of an element, or of an item, by the length of its value."""
        group, number, encoded_vr = tag >> 16, tag & 0xFFFF, vr.encode("ascii")
        if self.is_implicit or group == 0xFFFE:
            return partial(self._implicit.pack, group, number)
        return partial((self._long if encoded_vr in _LONG_VRS else self._short).pack, group, number, encoded_vr)


def found_syntax(data: bytes | bytearray | memoryview, announced: str) -> str:
    """Return the transfer syntax by whose encoding to read a data set: the announced one, unless its bytes differ.

    Some writers encode with an implicit VR under a compressed syntax, or with an explicit one under Implicit VR Little
    Endian. The first element of `data` shows it: there is a VR, or a length below 2^16, or an undefined one. Two
    capital letters may be a new VR. If `data` has more than that head, the element behind it has to follow in order.
    """
    vr = bytes(data[4:6])
    has_vr = vr in _LISTED_VRS or (announced != IMPLICIT_LITTLE_ENDIAN and vr.isalpha() and vr.isupper())
    if announced == IMPLICIT_LITTLE_ENDIAN:
        return EXPLICIT_LITTLE_ENDIAN if has_vr else announced
    is_implicit = not has_vr and announced != EXPLICIT_BIG_ENDIAN and (data[6:8] == b"\0\0" or data[4:8] == b"\xff" * 4)
    return IMPLICIT_LITTLE_ENDIAN if is_implicit and (len(data) <= 8 or _goes_on(data)) else announced


def _goes_on(data: bytes | bytearray | memoryview) -> bool:
    """Return whether the data end behind an element with an implicit VR, or a larger tag or a delimiter follows it."""
    by = encoding_of(IMPLICIT_LITTLE_ENDIAN)
    tag, _, length, at = by.head(data, 0, is_implicit=True)
    at += length
    if length == UNDEFINED_LENGTH or at == len(data):
        return True
    return at + 8 <= len(data) and by.head(data, at, is_implicit=True)[0] > tag


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


def file_head(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, source_ae_title: str = "") -> bytes:
    """Return the bytes before the data set in a DICOM file.

    `sop_class_uid`, `sop_instance_uid`, `transfer_syntax_uid`: (0002,0002), (0002,0003) and (0002,0010).
    `source_ae_title`: (0002,0016), the sender of the instance; left out if empty.

    128 zeros, ``DICM`` and group 0002 in explicit VR little endian (PS3.10 7.1, table 7.1-1). The data set's own bytes
    follow unchanged.
    """
    before, behind = _around_instance_uid(sop_class_uid, transfer_syntax_uid, source_ae_title)
    body = before + _text(0x00020003, "UI", sop_instance_uid) + behind
    return _PREAMBLE + _element(0x00020000, "UL", struct.pack("<L", len(body))) + body


@lru_cache(maxsize=256)
def _around_instance_uid(sop_class_uid: str, transfer_syntax_uid: str, source_ae_title: str) -> tuple[bytes, bytes]:
    """Return the elements before the SOP Instance UID and those behind it: the same for all instances of a sender."""
    before = _element(0x00020001, "OB", b"\x00\x01") + _text(0x00020002, "UI", sop_class_uid)
    behind = _text(0x00020010, "UI", transfer_syntax_uid)
    behind += _text(0x00020012, "UI", IMPLEMENTATION_CLASS_UID)
    behind += _text(0x00020013, "SH", IMPLEMENTATION_VERSION_NAME)
    if source_ae_title:
        behind += _text(0x00020016, "AE", source_ae_title)
    return before, behind


def file_meta(head: bytes) -> tuple[dict[int, str], int]:
    """Return the texts of group 0002 that identify an instance, by element, and where the data set begins.

    Preamble and group may be absent. The group's own length is often wrong, and is not believed.

    `head`: the beginning of a file.
    """
    values: dict[int, str] = {}
    at = 132 if head[128:132] == b"DICM" else 0
    while head[at : at + 2] == b"\x02\x00" and at + 12 <= len(head):
        try:
            tag, _, length, at = encoding_of(EXPLICIT_LITTLE_ENDIAN).head(head, at, is_implicit=False)
        except struct.error:
            break
        if tag & 0xFFFF in _META_READ:
            values[tag & 0xFFFF] = head[at : at + length].rstrip(b"\x00 ").decode("ascii", "replace")
        at += length
    return values, at


def _text(tag: int, vr: str, value: str) -> bytes:
    raw = value.encode("ascii", "replace")
    return _element(tag, vr, raw + (b"\x00" if vr == "UI" else b" ") * (len(raw) % 2))


def _element(tag: int, vr: str, value: bytes) -> bytes:
    return _head_writer(tag, vr)(len(value)) + value


_head_writer = cache(encoding_of(EXPLICIT_LITTLE_ENDIAN).head_writer)
"""Every received instance needs the same seven heads."""
