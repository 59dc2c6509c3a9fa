"""Physiological logs of Siemens (log version EJA_1), which the sequences of CMRR put into DICOM.

The element holds blocks of equal length, each a file: its length and that of its name, the name, and from byte 1024 on
a text. One text lists the times of all slices, the others samples. All clocks count ticks of 2.5 ms since midnight.
"""

import re
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from node.errors import ConversionRefused
from node.volume.reasons import Reason

TICKS_PER_SECOND = 400.0
LOG_VERSION = "EJA_1"
TIMES = "ACQUISITION_INFO"

BLOCK_BYTES = 1024
"""A block is so many bytes times Acquisition Number (0020,0012)."""

MAX_HOURS = 3
"""No acquisition is longer: a tick that lies farther away is wrong."""

HOLD = 1.5
"""A sample holds until the next one if that follows within so many sample times; else for one sample time."""

EVENT_CHANNELS = frozenset(("EXT", "EXT1", "EXT2"))
"""Channels whose logs list only what happened: between these, the value is 0."""

DETECTED = {
    "PULS_TRIGGER": "cardiac_trigger",
    "RESP_TRIGGER": "respiratory_trigger",
    "ECG_TRIGGER": "ecg_trigger",
    "EXT_TRIGGER": "external_trigger",
}
"""What the scanner detects, by its mark: a line of its own between samples, whose value of 2048 is no sample."""

_LENGTHS = struct.Struct("<II")
_ASSIGNMENT = re.compile(r"\s*(\w+)\s*=\s*(.*?)\s*")
_NAME = re.compile(rb"[\x20-\x7e]+\.log")

Ticks = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class SampledChannel:
    """The samples of a channel in the order of their ticks."""

    ticks: Ticks
    values: Ticks
    sample_ticks: int


@dataclass(frozen=True, slots=True)
class PhysioLog:
    """All texts of one recording.

    `volume_starts`: tick at which the first slice of each volume begins.
    `planned_volumes`: how many the log announces.
    `detected`: ticks of what the scanner detects, by the names of `DETECTED`.
    `first`, `last`: ticks within which the samples lie.
    """

    channels: Mapping[str, SampledChannel]
    volume_starts: tuple[int, ...]
    planned_volumes: int | None
    first: int
    last: int
    detected: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def sampled(self, name: str) -> NDArray[np.float64]:
        """Return a channel with a value for each tick from `first` to `last`; NaN where it has none."""
        channel = self.channels[name]
        grid = np.arange(self.first, self.last + 1)
        latest = np.searchsorted(channel.ticks, grid, side="right") - 1
        gaps = np.append(np.diff(channel.ticks), channel.sample_ticks)
        holds = np.where(gaps <= HOLD * channel.sample_ticks, gaps, channel.sample_ticks)
        known = latest >= 0
        known[known] = (grid - channel.ticks[latest])[known] < holds[latest][known]
        return np.where(known, channel.values[latest], 0.0 if name in EVENT_CHANNELS else np.nan)


@dataclass(slots=True)
class _Text:
    """A text of the log: what it assigns, and the words of its other lines."""

    assigned: dict[str, str] = field(default_factory=dict)
    lines: list[list[str]] = field(default_factory=list)

    def whole(self, name: str) -> int | None:
        stated = self.assigned.get(name, "")
        return int(stated) if stated.isascii() and stated.isdigit() else None


def is_log(data: bytes) -> bool:
    """Return whether an element begins as a block does."""
    if len(data) < BLOCK_BYTES:
        return False
    _, length = _LENGTHS.unpack_from(data)
    return 0 < length <= BLOCK_BYTES - _LENGTHS.size and bool(_NAME.fullmatch(data[8 : 8 + length]))


def read_log(data: bytes, rows: int) -> PhysioLog:
    """Return a recording.

    `rows`: Acquisition Number (0020,0012).

    Raises ConversionRefused.
    """
    texts = [_parsed(text) for text in _texts(data, rows)]
    versions = {text.assigned.get("LogVersion", "none") for text in texts}
    if versions != {LOG_VERSION}:
        detail = f"logs of version {', '.join(sorted(versions))[:64]} are not known, only {LOG_VERSION}"
        raise ConversionRefused(Reason.UNPROVEN_LAYOUT, detail)
    if len({text.assigned.get("UUID") for text in texts}) > 1:
        raise ConversionRefused(Reason.CONTRADICTORY, "the logs are of several recordings: their UUIDs differ")
    of_times = [text for text in texts if text.assigned.get("LogDataType") == TIMES]
    if len(of_times) != 1:
        detail = f"the recording has {len(of_times)} lists of the times of slices, which say when it began"
        raise ConversionRefused(Reason.INCOMPLETE, detail)
    [times] = of_times
    channels: dict[str, SampledChannel] = {}
    detected: dict[str, tuple[int, ...]] = {}
    for text in texts:
        if text is not times:
            channels |= _channels(text)
            detected |= _detected(text)
    planned = times.whole("NumVolumes")
    return log_of(channels, _volume_starts(times), planned if planned and planned > 1 else None, detected)


def log_of(
    channels: Mapping[str, SampledChannel],
    starts: tuple[int, ...],
    planned: int | None,
    detected: Mapping[str, tuple[int, ...]],
) -> PhysioLog:
    """Return a recording whose times are within reason.

    Raises ConversionRefused.
    """
    marks = [int(mark) for channel in channels.values() for mark in (channel.ticks[0], channel.ticks[-1])]
    marks += [*starts, *(tick for ticks in detected.values() for tick in ticks)]
    first, last = min(marks), max(marks)
    if last - first >= MAX_HOURS * 3600 * TICKS_PER_SECOND:
        raise ConversionRefused(
            Reason.CONTRADICTORY, f"the times of the recording are more than {MAX_HOURS} hours apart"
        )
    return PhysioLog(channels, starts, planned, first, last, detected)


def _texts(data: bytes, rows: int) -> list[str]:
    size = BLOCK_BYTES * rows
    if rows <= 0 or len(data) < size or len(data) % size:
        detail = f"{len(data)} bytes are not a multiple of {BLOCK_BYTES} times Acquisition Number (0020,0012), {rows}"
        raise ConversionRefused(Reason.CONTRADICTORY, detail)
    texts = []
    for start in range(0, len(data), size):
        length, _ = _LENGTHS.unpack_from(data, start)
        if not is_log(data[start : start + BLOCK_BYTES]) or length > size - BLOCK_BYTES:
            detail = "a block of the recording has no name, or is longer than the space for it"
            raise ConversionRefused(Reason.CONTRADICTORY, detail)
        texts.append(data[start + BLOCK_BYTES : start + BLOCK_BYTES + length].decode("ascii", "replace"))
    return texts


def _parsed(content: str) -> _Text:
    text = _Text()
    for line in content.splitlines():
        line = line.partition("#")[0]
        assignment = _ASSIGNMENT.fullmatch(line)
        if assignment is not None:
            text.assigned[assignment[1]] = assignment[2]
        elif words := line.split():
            text.lines.append(words)
    return text


def _rows(text: _Text, least: int) -> list[list[str]]:
    """Return the lines of numbers; the first other one has the names of the columns."""
    kind = text.assigned.get("LogDataType", "")[:16]
    rows = [words for words in text.lines if words[0].lstrip("-").isdigit()]
    if any(len(words) < least for words in rows) or len(text.lines) - len(rows) > 1:
        raise ConversionRefused(Reason.CONTRADICTORY, f"a line of the log {kind} lacks columns")
    return rows


def _channels(text: _Text) -> dict[str, SampledChannel]:
    """Return the channels of a text that have any value but 0, by name."""
    kind, sample_ticks = text.assigned.get("LogDataType", "")[:16], text.whole("SampleTime")
    if not sample_ticks:
        raise ConversionRefused(Reason.INCOMPLETE, f"the log {kind} states no SampleTime")
    samples: dict[str, list[tuple[int, int]]] = {}
    for tick, channel, value, *mark in _rows(text, 3):
        if not mark or channel in EVENT_CHANNELS:
            samples.setdefault(channel, []).append((_number(tick, kind), _number(value, kind)))
    found = {name: channel_of(pairs, sample_ticks, kind) for name, pairs in samples.items()}
    return {name: channel for name, channel in found.items() if channel.values.any()}


def channel_of(pairs: Sequence[tuple[int, int]], sample_ticks: int, kind: str) -> SampledChannel:
    """Return a channel from ticks and values; of several at one tick, the last one counts.

    Raises ConversionRefused: the times do not ascend.
    """
    ticks, values = np.array(pairs, np.int64).T
    if np.diff(ticks).min(initial=1) < 0:
        raise ConversionRefused(Reason.CONTRADICTORY, f"the times of the log {kind} do not ascend")
    last_of_tick = np.append(np.diff(ticks) > 0, True)
    return SampledChannel(ticks[last_of_tick], values[last_of_tick], sample_ticks)


def _detected(text: _Text) -> dict[str, tuple[int, ...]]:
    """Return the ticks of what the scanner detected, by the names of columns."""
    kind = text.assigned.get("LogDataType", "")[:16]
    ticks: dict[str, set[int]] = {}
    for tick, channel, _, *mark in _rows(text, 3):
        if mark and channel not in EVENT_CHANNELS:
            if mark[0] not in DETECTED:
                raise ConversionRefused(Reason.UNPROVEN_LAYOUT, f"the log {kind} has a mark that is not known")
            ticks.setdefault(DETECTED[mark[0]], set()).add(_number(tick, kind))
    return {name: tuple(sorted(found)) for name, found in ticks.items()}


def _number(word: str, kind: str) -> int:
    try:
        number = int(word)
    except ValueError:
        number = -1
    if not 0 <= number < 1 << 40:
        raise ConversionRefused(Reason.CONTRADICTORY, f"a value of the log {kind} is not a number of ticks or a sample")
    return number


def _volume_starts(times: _Text) -> tuple[int, ...]:
    """Return the tick at which each volume begins, by its number from 0."""
    starts: dict[int, int] = {}
    for words in _rows(times, 4):
        volume, start = _number(words[0], TIMES), _number(words[2], TIMES)
        starts[volume] = min(start, starts.get(volume, start))
    ordered = [starts[volume] for volume in sorted(starts)]
    if not ordered or sorted(starts) != list(range(len(starts))):
        raise ConversionRefused(Reason.INCOMPLETE, "the list of the times of slices lacks a volume")
    if any(later <= earlier for earlier, later in pairwise(ordered)):
        raise ConversionRefused(Reason.CONTRADICTORY, "the times of the volumes do not ascend")
    return tuple(ordered)


GZIP = b"\x1f\x8b"
MAX_BYTES = 1 << 28
ROOT = "PhysioData"


def read_xml(data: bytes) -> PhysioLog | None:
    """Return a recording; None if the element is no such document.

    What the scanner detects (PhysioTriggers) is a bit mask whose bits are not documented: it is left out.

    Raises ConversionRefused.
    """
    if not data.startswith(GZIP):
        return None
    unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        content = unpacker.decompress(data, MAX_BYTES)
    except zlib.error:
        raise ConversionRefused(Reason.CONTRADICTORY, "the recording is compressed, but not whole") from None
    if f"<{ROOT}".encode() not in content:
        return None
    if unpacker.unconsumed_tail or not unpacker.eof:
        raise ConversionRefused(Reason.CONTRADICTORY, f"the recording is cut off, or has more than {MAX_BYTES} bytes")
    if b"<!ENTITY" in content:  # such documents have none, and some grow without end
        raise ConversionRefused(Reason.CONTRADICTORY, "the recording defines entities of XML")
    try:
        root = ElementTree.fromstring(content.rstrip(b"\0\r\n "))
    except ElementTree.ParseError:
        raise ConversionRefused(Reason.CONTRADICTORY, "the recording is not well-formed XML") from None
    channels = dict(_xml_channels(root))
    return log_of(channels, _xml_volume_starts(root), None, {})


def _xml_channels(root: ElementTree.Element) -> Iterator[tuple[str, SampledChannel]]:
    for stream in root.iter("PhysioStream"):
        name = stream.get("TYPE", "")
        pairs = [(_ticks(sample, "TIME_TICS"), _ticks(sample, "DATA")) for sample in stream.iter("PMU")]
        if len(pairs) > 1 and any(value for _, value in pairs):
            gaps = np.diff([tick for tick, _ in pairs])
            yield name, channel_of(pairs, max(1, int(np.median(gaps))), name[:16])


def _xml_volume_starts(root: ElementTree.Element) -> tuple[int, ...]:
    """Return the tick at which each volume begins, those of the first echo."""
    volumes = list(root.iter("Volume"))
    echoes = [_whole(volume.get("ECO_ID", "0")) for volume in volumes]
    starts = []
    for volume, echo in zip(volumes, echoes, strict=True):
        if echo == min(echoes):
            slices = [each for each in (volume, *volume.iter("AnatomSlice")) if "ACQUISITION_TIME_TICS" in each.attrib]
            starts += [min(_ticks(each, "ACQUISITION_TIME_TICS") for each in slices)] if slices else []
    if not starts:
        raise ConversionRefused(Reason.INCOMPLETE, "the recording has no volume with a time, which says when it began")
    if sorted(set(starts)) != starts:
        raise ConversionRefused(Reason.CONTRADICTORY, "the times of the volumes do not ascend")
    return tuple(starts)


def _ticks(element: ElementTree.Element, name: str) -> int:
    return _whole(element.get(name, ""))


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        raise ConversionRefused(Reason.CONTRADICTORY, "a time or a sample of the recording is not a whole number")
    return int(text)
