"""The bytes of a segment: a header of one page, then records. `docs/journal.md` describes the format.

All numbers are little endian. A record belongs to the segment whose salt it repeats: a segment is reused without being
cleared, and what an earlier use left behind carries another salt.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import google_crc32c

VERSION = 1
"""Version of the format, in each segment."""

SEGMENT_MAGIC = b"VOXELJNL"
RECORD_MAGIC = b"VXJR"
HEADER_BYTES = 4096
"""Of a segment; the first record begins behind them."""

_SEGMENT = struct.Struct("<8sL16s8sQL")  # magic, version, journal, salt, first sequence number, checksum
_RECORD = struct.Struct("<4s8sQLQLL")  # magic, salt, sequence number, bytes of facts and payload, two checksums
RECORD_HEAD_BYTES = _RECORD.size
_CHECKSUM_BYTES = 4


@dataclass(frozen=True, slots=True)
class SegmentHead:
    """The header of a segment that was used."""

    version: int
    journal: bytes
    salt: bytes
    first: int

    def encoded(self) -> bytes:
        """Return the bytes of the header, without the rest of its page."""
        head = _SEGMENT.pack(SEGMENT_MAGIC, self.version, self.journal, self.salt, self.first, 0)[:-_CHECKSUM_BYTES]
        return head + checksum(head).to_bytes(_CHECKSUM_BYTES, "little")


@dataclass(frozen=True, slots=True)
class RecordHead:
    """The header of a record; `checksum` is of the facts and the payload behind it."""

    salt: bytes
    sequence: int
    facts_bytes: int
    payload_bytes: int
    checksum: int

    @property
    def body_bytes(self) -> int:
        """Bytes of the record behind its header."""
        return self.facts_bytes + self.payload_bytes

    def encoded(self) -> bytes:
        """Return the bytes of the header."""
        fields = (self.salt, self.sequence, self.facts_bytes, self.payload_bytes, self.checksum)
        head = _RECORD.pack(RECORD_MAGIC, *fields, 0)[:-_CHECKSUM_BYTES]
        return head + checksum(head).to_bytes(_CHECKSUM_BYTES, "little")


def segment_head(data: bytes) -> SegmentHead | None:
    """Return the header of a segment, or None if it was never used or is damaged."""
    if len(data) < _SEGMENT.size:
        return None
    magic, version, journal, salt, first, expected = _SEGMENT.unpack_from(data)
    if magic != SEGMENT_MAGIC or checksum(data[: _SEGMENT.size - _CHECKSUM_BYTES]) != expected:
        return None
    return SegmentHead(version, journal, salt, first)


def record_head(data: bytes) -> RecordHead | None:
    """Return the header of a record, or None where there is none or it is damaged."""
    if len(data) < RECORD_HEAD_BYTES:
        return None
    magic, *fields, expected = _RECORD.unpack_from(data)
    if magic != RECORD_MAGIC or checksum(data[: RECORD_HEAD_BYTES - _CHECKSUM_BYTES]) != expected:
        return None
    return RecordHead(*fields)


def checksum(*parts: bytes) -> int:
    """Return the CRC-32C of consecutive bytes."""
    value = 0
    for part in parts:
        value = google_crc32c.extend(value, part)
    return value
