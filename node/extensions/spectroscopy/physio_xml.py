"""Physiological recordings of Siemens XA ("PhysioLogging"): a document in XML, compressed by gzip, in (7FE1,xx10)."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from xml.etree import ElementTree

import numpy as np

from node.errors import ConversionRefused
from node.extensions.spectroscopy.physio_log import PhysioLog, SampledChannel, channel_of, log_of
from node.volume.reasons import Reason

GZIP = b"\x1f\x8b"
MAX_BYTES = 1 << 28
ROOT = "PhysioData"


def read_xml(data: bytes) -> PhysioLog | None:
    """Return a recording; None if the element is no such document.

    What the scanner detects (``PhysioTriggers``) is a bit mask whose bits are not documented: it is left out.

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
    channels = dict(_channels(root))
    return log_of(channels, _volume_starts(root), None, {})


def _channels(root: ElementTree.Element) -> Iterator[tuple[str, SampledChannel]]:
    for stream in root.iter("PhysioStream"):
        name = stream.get("TYPE", "")
        pairs = [(_ticks(sample, "TIME_TICS"), _ticks(sample, "DATA")) for sample in stream.iter("PMU")]
        if len(pairs) > 1 and any(value for _, value in pairs):
            gaps = np.diff([tick for tick, _ in pairs])
            yield name, channel_of(pairs, max(1, int(np.median(gaps))), name[:16])


def _volume_starts(root: ElementTree.Element) -> tuple[int, ...]:
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
