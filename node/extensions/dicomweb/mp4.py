"""MP4 files as bulk data: the one video track, its transfer syntax and what it says of its frames (ISO/IEC 14496-12).

Only boxes are read, never pictures.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from node.dicom.json_model import NotEncodable

_CONTAINERS = frozenset((b"moov", b"trak", b"mdia", b"minf", b"stbl"))
_MAX_BOX_BYTES = 64 << 20
"""Longest box that is read; the samples of an hour take less than a megabyte."""

_MAX_BOXES = 10_000
_SAMPLE_ENTRY_BYTES = 86
"""Length of a visual sample entry up to its own boxes (14496-12 12.1.3)."""

_AVC, _HEVC = (b"avc1", b"avc3"), (b"hvc1", b"hev1")


class Readable(Protocol):
    """Bytes that are read in parts."""

    @property
    def length(self) -> int:
        """Their number."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Return those from an offset."""


@dataclass(frozen=True, slots=True)
class Video:
    """The video track of a file; `frame_time_ms` is the mean time between frames."""

    transfer_syntax_uid: str
    rows: int
    columns: int
    frames: int
    frame_time_ms: float
    bits: int


def read_video(data: Readable) -> Video:
    """Return what an MP4 file says of its video.

    Raises
    ------
    NotEncodable
        It is no such file, has none or several video tracks, or a codec without a transfer syntax (PS3.5 A.4.6 to
        A.4.11).
    """
    try:
        tracks = [track for track in _tracks(data) if track.get(b"hdlr", b"")[8:12] == b"vide"]
        if len(tracks) != 1:
            raise NotEncodable(f"7FE00010: an MP4 file with {len(tracks)} video tracks: one is needed")
        return _video(tracks[0])
    except (struct.error, IndexError, KeyError, ZeroDivisionError):
        raise NotEncodable("7FE00010: the boxes of the MP4 file are broken or incomplete") from None


def _tracks(data: Readable) -> list[dict[bytes, bytes]]:
    """Return the boxes in each track, by type."""
    found: list[dict[bytes, bytes]] = []
    for kind, at, end in _boxes(data, 0, data.length):
        if kind == b"trak":
            found.append({})
        elif found and kind in (b"hdlr", b"mdhd", b"stsd", b"stsz"):
            if end - at > _MAX_BOX_BYTES:
                raise NotEncodable("7FE00010: a box of the MP4 file is too long")
            found[-1].setdefault(kind, data.read_at(at, end - at))
    return found


def _boxes(data: Readable, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, begin and end of the content of each box that matters, outer ones first."""
    pending = [(at, end)]
    count = 0
    while pending:
        at, end = pending.pop()
        while at + 8 <= end:
            count += 1
            if count > _MAX_BOXES:
                raise NotEncodable("7FE00010: an MP4 file with too many boxes")
            head = data.read_at(at, 16)
            length, kind = int.from_bytes(head[:4], "big"), head[4:8]
            begin = at + 8
            if length == 1:
                length, begin = int.from_bytes(head[8:16], "big"), at + 16
            elif length == 0:
                length = end - at
            if length < begin - at or at + length > end:
                raise NotEncodable("7FE00010: the MP4 file is truncated, or its boxes are broken")
            yield kind, begin, at + length
            if kind in _CONTAINERS:
                pending.append((at + length, end))
                at, end = begin, at + length
                continue
            at += length


def _video(track: dict[bytes, bytes]) -> Video:
    entry = track[b"stsd"][8:]
    codec = entry[4:8]
    columns, rows = struct.unpack_from(">HH", entry, 32)
    _, frames = struct.unpack_from(">II", track[b"stsz"], 4)
    if not frames:
        raise NotEncodable("7FE00010: a fragmented MP4 file: send one whose frames are listed")
    header = track[b"mdhd"]
    timescale, duration = struct.unpack_from(">IQ" if header[0] == 1 else ">II", header, 20 if header[0] == 1 else 12)
    syntax, bits = _syntax(codec, _configuration(entry))
    return Video(syntax, rows, columns, frames, 1000 * duration / timescale / frames, bits)


def _configuration(entry: bytes) -> bytes:
    """Return the decoder configuration record of a sample entry."""
    at = _SAMPLE_ENTRY_BYTES
    while at + 8 <= len(entry):
        length = int.from_bytes(entry[at : at + 4], "big")
        if entry[at + 4 : at + 8] in (b"avcC", b"hvcC"):
            return entry[at + 8 : at + length]
        at += max(length, 8)
    raise KeyError


def _syntax(codec: bytes, configuration: bytes) -> tuple[str, int]:
    """Return the transfer syntax of a codec with its profile and level (PS3.5 8.2.7 to 8.2.12), and its bits."""
    if codec in _AVC:
        profile, level = configuration[1], configuration[3]
        if profile == 100 and level <= 42:
            return f"1.2.840.10008.1.2.4.{102 if level <= 41 else 104}", 8
        raise NotEncodable(
            f"7FE00010: H.264 of profile {profile}, level {level / 10:g}: DICOM has High up to 4.2 (PS3.5 8.2.7)"
        )
    if codec in _HEVC:
        profile, level = configuration[1] & 0x1F, configuration[12]
        if profile in (1, 2) and level <= 153:
            return f"1.2.840.10008.1.2.4.{107 if profile == 1 else 108}", 8 if profile == 1 else 10
        raise NotEncodable(
            f"7FE00010: H.265 of profile {profile}, level {level / 30:g}: DICOM has Main and Main 10 up to 5.1"
        )
    raise NotEncodable("7FE00010: the video is neither H.264 nor H.265, which DICOM has in MP4 (PS3.5 8.2.7)")
