"""Find a few top-level elements in the bytes of a data set, without decoding the rest.

A receiver needs some forty elements of each instance, four hundred times a second, from bytes that a hostile peer may
have written. So this reader walks the encoding of PS3.5 7 only as far as the wanted tags go: it never recurses (nested
sequences are counted, not entered), never allocates by a length that it read, and stops before the pixels.
"""

from __future__ import annotations

import struct
import zlib

from node.errors import NotUnderstood

IMPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED_LITTLE_ENDIAN = "1.2.840.10008.1.2.1.99"

UNDEFINED_LENGTH = 0xFFFFFFFF
PIXELS_GROUP = 0x7FE0
MAXIMUM_NESTING = 256
"""Deepest sequence that is walked; real data sets stay below ten."""

_LONG_VRS = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD


class HeaderCut(Exception):
    """The bytes end before the last wanted element: more of them are needed, if there are any."""


def read_header(
    data: bytes | bytearray | memoryview, transfer_syntax_uid: str, wanted: frozenset[int]
) -> dict[int, bytes]:
    """Return the raw values of some top-level elements of a data set.

    Parameters
    ----------
    data : bytes-like
        The data set from its first byte (no preamble, no File Meta Information), or its beginning.
    transfer_syntax_uid : str
        How it is encoded; unknown syntaxes are explicit VR little endian, as all compressed ones are (PS3.5 A.4).
    wanted : frozenset of int
        Tags as ``0xggggeeee``; reading stops behind the largest.

    Returns
    -------
    dict of int to bytes
        Values with their padding; absent tags are absent.

    Raises
    ------
    HeaderCut
        `data` ends too early; read again with more of the data set.
    NotUnderstood
        The encoding is broken; the message names the tag and the byte offset.
    """
    if transfer_syntax_uid == DEFLATED_LITTLE_ENDIAN:
        data = _inflated(data)
    walker = _Walker(data, transfer_syntax_uid)
    last = max(wanted)
    found: dict[int, bytes] = {}
    while walker.at < walker.end:
        tag, length = walker.element()
        if tag > last or tag >> 16 >= PIXELS_GROUP:
            break
        if length == UNDEFINED_LENGTH:
            walker.skip_undefined(tag)
            continue
        stop = walker.at + length
        if stop > walker.end:
            raise HeaderCut
        if tag in wanted and tag not in found:
            found[tag] = bytes(data[walker.at : stop])
        walker.at = stop
    return found


def _inflated(data: bytes | bytearray | memoryview, limit: int = 16_000_000) -> bytes:
    """The beginning of a deflated data set (PS3.5 A.5), never more than `limit` bytes of it."""
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(bytes(data), limit)
    except zlib.error as error:
        raise NotUnderstood(f"deflated data set cannot be inflated: {error}") from error


class _Walker:
    """A place in the bytes, and how elements are encoded there."""

    def __init__(self, data: bytes | bytearray | memoryview, transfer_syntax_uid: str) -> None:
        self.data, self.at, self.end = data, 0, len(data)
        self.implicit = transfer_syntax_uid == IMPLICIT_LITTLE_ENDIAN
        self.vr = b""
        order = ">" if transfer_syntax_uid == EXPLICIT_BIG_ENDIAN else "<"
        self._tag_and_vr = struct.Struct(order + "HH2sH").unpack_from
        self._tag_and_length = struct.Struct(order + "HHL").unpack_from
        self._length = struct.Struct(order + "L").unpack_from

    def element(self) -> tuple[int, int]:
        """Tag and length of the element here; moves to its value (PS3.5 7.1.2, 7.1.3)."""
        if self.at + 8 > self.end:
            raise HeaderCut
        group, number, self.vr, length = self._tag_and_vr(self.data, self.at)
        tag = group << 16 | number
        if self.implicit or group == 0xFFFE:  # items and delimiters never carry a VR, PS3.5 7.5
            length = self._length(self.data, self.at + 4)[0]
            self.at += 8
        elif self.vr in _LONG_VRS:
            if self.at + 12 > self.end:
                raise HeaderCut
            length = self._length(self.data, self.at + 8)[0]
            self.at += 12
        elif self.vr.isalpha() and self.vr.isupper():
            self.at += 8
        else:
            raise NotUnderstood(
                f"element ({group:04X},{number:04X}) at byte {self.at} has no value representation (PS3.5 6.2); "
                "is the transfer syntax the one that was agreed?"
            )
        return tag, length

    def skip_undefined(self, tag: int) -> None:
        """Move behind the value of undefined length here: a sequence, or an UN that holds one (PS3.5 6.2.2)."""
        outside = self.implicit
        self.implicit = outside or self.vr == b"UN"
        open_values = [(_SEQUENCE_END, outside)]  # delimiter that closes it, encoding outside of it
        while open_values:
            inner, length = self.element()
            if inner == open_values[-1][0]:
                self.implicit = open_values.pop()[1]
            elif length != UNDEFINED_LENGTH:
                self.at += length
                if self.at > self.end:
                    raise HeaderCut
            else:
                open_values.append((_ITEM_END if inner == _ITEM else _SEQUENCE_END, self.implicit))
                self.implicit = self.implicit or (inner != _ITEM and self.vr == b"UN")
                if len(open_values) > 2 * MAXIMUM_NESTING:
                    raise NotUnderstood(
                        f"sequence ({tag >> 16:04X},{tag & 0xFFFF:04X}) is nested deeper than {MAXIMUM_NESTING} levels"
                    )
