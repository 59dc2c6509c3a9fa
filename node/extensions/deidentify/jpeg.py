"""Frames of sequential JPEG (ITU-T T.81, processes 1, 2 and 4), written anew from what their blocks use.

A decoder stops at the last block and reads only the tables that blocks name, so anything else in a frame can hide a
text. The entropy-coded data are therefore walked code by code. What the walk does not prove is refused.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"
_SOF0, _SOF1, _DHT, _SOS, _DQT, _DRI, _APP0, _APP14 = 0xC0, 0xC1, 0xC4, 0xDA, 0xDB, 0xDD, 0xE0, 0xEE
_REFUSED = frozenset((0x00, 0x01, *range(0xC0, 0xD0), *range(0xD0, 0xDA), 0xDE)) - {_DHT}
"""Markers of other processes, without a length, or out of place; segments that are not known are left out."""

_SPECTRUM = b"\0\x3f\0"
"""Of a scan of a sequential process: all coefficients, with all their bits."""

_JFIF = b"JFIF\0\1\1\0\0\1\0\1\0\0"
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_AFTER_SCAN = re.compile(rb"\xff[^\0\xd0-\xd7]")

_SKIP, _ADVANCE_AT, _ADVANCE, _LAST = 0x1F, 5, 0x7F, 127
"""Of an entry of a table: bits of code and value together; then by how many coefficients a code moves on."""

_HAS_VALUE, _SYMBOL_AT = 1 << 12, 13
_AC, _LAST_DESTINATION, _MOST_CODES = 0x10, 3, 256
"""Of the class and destination of a Huffman table: it is one of AC coefficients (T.81 B.2.4.2)."""


class NotProven(Exception):
    """A frame has something else than blocks and what these use, or is damaged."""


@dataclass(slots=True)
class _Codes:
    """A Huffman table: counts of codes by length, symbols, and the entry of each 16 bits that begin with a code.

    `most`: bits that a value may have.
    """

    counts: bytes
    symbols: bytes
    is_ac: bool
    most: int
    used: set[int] = field(default_factory=set)
    entries: list[int] = field(init=False)

    def __post_init__(self) -> None:
        entries: list[int] = []
        at = 0
        for length, count in enumerate(self.counts, 1):
            for symbol in self.symbols[at : at + count]:
                entries += [self._entry(at, symbol, length)] * (1 << (16 - length))
                at += 1
        if len(entries) >= 1 << 16:  # no code is all ones (T.81 C.2)
            raise NotProven
        self.entries = entries + [0] * ((1 << 16) - len(entries))

    def _entry(self, index: int, symbol: int, length: int) -> int:
        """Return what a code does; 0 if the standard does not define its symbol (T.81 F.1.2)."""
        run, bits = divmod(symbol, 16)
        if bits > self.most:
            return 0
        entry = index << _SYMBOL_AT | length + bits
        if not self.is_ac:
            return 0 if run else entry
        if bits:
            return entry | _HAS_VALUE | (run + 1) << _ADVANCE_AT
        return entry | {0: _LAST, 15: 16}[run] << _ADVANCE_AT if run in (0, 15) else 0

    def segment(self, destination: int) -> bytes:
        """Return the table up to the last code that a block uses, with 0 in the place of symbols that none uses.

        Raises NotProven: blocks use several codes of one symbol, and the choice among these can be a text.
        """
        used = {entry >> _SYMBOL_AT for entry in self.used}
        kept = enumerate(self.symbols[: max(used, default=0) + 1])
        symbols = bytes(symbol if index in used else 0 for index, symbol in kept)
        if len({symbols[index] for index in used}) < len(used) or len(symbols) > _MOST_CODES:
            raise NotProven
        ends = [min(sum(self.counts[:length]), len(symbols)) for length in range(17)]
        counts = bytes(end - start for start, end in pairwise(ends))
        return _segment(_DHT, bytes([self.is_ac * _AC | destination]) + counts + symbols)


@dataclass(slots=True)
class _Component:
    """A component of a frame header (T.81 B.2.2): its new identifier, sampling, quantization table, and the
    coefficients that are not 0 everywhere."""

    identifier: int
    across: int
    down: int
    quantization: int
    indices: set[int] = field(default_factory=set)


def pixels_alone(frame: bytes) -> bytes:
    """Return a frame whose blocks are those of `frame`, with nothing beside them.

    Kept are: the frame header; of the tables that it and the scans name, what blocks use; each component's first
    scan up to its last block; whether the components are RGB. Padding bits are 1.

    Empty if blocks reach beyond the image: what they hold there nobody sees, and only decoding leaves it out.

    Raises NotProven: the frame is of another process, such as progressive ones, a code is in no table, or bytes are
        missing.
    """
    try:
        walk = _Walk(frame)
        new = b"".join(walk.parts())
        return b"" if walk.rows % (8 * walk.down) or walk.columns % (8 * walk.across) else new
    except (IndexError, KeyError, struct.error) as error:
        raise NotProven from error


class _Walk:
    """One pass over the segments of a frame."""

    def __init__(self, frame: bytes) -> None:
        self.frame = frame
        self.tables: dict[int, tuple[bytes, bytes]] = {}
        self.quantization: dict[int, list[int]] = {}
        self.components: dict[int, _Component] = {}
        self.left: set[int] = set()  # components of which no scan came
        self.header, self.interval, self.colours = b"", 0, b""

    def parts(self) -> Iterator[bytes]:
        """Yield the segments of the new frame."""
        at, scans = 2, []
        while not self.header or self.left:
            if self.frame[at] != 0xFF:
                raise NotProven
            marker = self.frame[at + 1]
            if marker == 0xFF:
                at += 1
                continue
            (length,) = struct.unpack_from(">H", self.frame, at + 2)
            content, at = self.frame[at + 4 : at + 2 + length], at + 2 + max(length, 2)
            if at > len(self.frame):
                raise NotProven
            if marker == _SOS:
                scan, at = self._scan(content, at)
                scans.append(scan)
            else:
                self._read(marker, content)
        yield _SOI + self.colours
        for destination in sorted({each.quantization for each in self.components.values()}):
            yield self._quantizers(destination)
        yield self.header
        yield from scans
        yield _EOI

    def _read(self, marker: int, content: bytes) -> None:
        if marker in (_SOF0, _SOF1) and not self.components:
            self._read_header(marker, content)
        elif marker == _DHT:
            self._read_codes(content)
        elif marker == _DQT:
            self._read_quantizers(content)
        elif marker == _DRI:
            (self.interval,) = struct.unpack_from(">H", content)
        elif marker == _APP14 and content.startswith(b"Adobe") and len(content) >= 12:
            self.colours = self.colours or _segment(_APP14, b"Adobe\0\x64\0\0\0\0" + content[11:12])
        elif marker == _APP0 and content.startswith(b"JFIF\0"):
            self.colours = _segment(_APP0, _JFIF)  # which decoders trust more
        elif marker in _REFUSED:
            raise NotProven

    def _read_header(self, marker: int, content: bytes) -> None:
        self.precision, self.rows, self.columns, count = struct.unpack_from(">BHHB", content)
        identifiers = content[6 : 6 + 3 * count : 3]
        are_named = identifiers == b"RGB"  # decoders go by these names
        header = content[:6]
        for index, identifier in enumerate(identifiers):
            sampling, quantization = content[7 + 3 * index : 9 + 3 * index]
            new = identifier if are_named else index + 1
            self.components[identifier] = _Component(new, sampling >> 4, sampling & 0xF, quantization)
            header += bytes([new, sampling, quantization])
        if not self.rows or len(self.components) != count:
            raise NotProven
        self.left, self.header = set(self.components), _segment(marker, header)
        self.across = max(each.across for each in self.components.values())
        self.down = max(each.down for each in self.components.values())

    def _read_codes(self, content: bytes) -> None:
        while content:
            counts = content[1:17]
            end = 17 + sum(counts)
            if len(content) < end or content[0] & ~(_AC | _LAST_DESTINATION):
                raise NotProven
            self.tables[content[0]] = counts, content[17:end]
            content = content[end:]

    def _read_quantizers(self, content: bytes) -> None:
        while content:
            size = 1 + (content[0] >> 4)
            self.quantization[content[0] & 0xF] = [size, *struct.unpack_from(">64" + "xBH"[size], content, 1)]
            content = content[1 + 64 * size :]

    def _quantizers(self, destination: int) -> bytes:
        """Return a quantization table with 1 where each coefficient is 0 in each block (T.81 B.2.4.1)."""
        size, *values = self.quantization[destination]
        sharing = (each for each in self.components.values() if each.quantization == destination)
        used = {0}.union(*(each.indices for each in sharing))
        kept = [value if index in used else 1 for index, value in enumerate(values)]
        if 0 in kept:  # nobody sees its coefficient
            raise NotProven
        return _segment(_DQT, bytes([(size - 1) << 4 | destination]) + struct.pack(">64" + "xBH"[size], *kept))

    def _scan(self, content: bytes, at: int) -> tuple[bytes, int]:
        """Return a scan with its tables, and where it ends in the frame."""
        named = {content[index]: content[index + 1] for index in range(1, 1 + 2 * content[0], 2)}
        tables = sorted({each >> 4 for each in named.values()} | {each & 0xF | _AC for each in named.values()})
        if len(named) != content[0] or not self.left.issuperset(named):
            raise NotProven
        self.left -= set(named)
        codes = {}
        for table in tables:
            is_ac = table >= _AC
            codes[table] = _Codes(*self.tables[table], is_ac, self.precision + (2 if is_ac else 3))
        blocks, units = self._units(named, codes)
        found = _AFTER_SCAN.search(self.frame, at)
        end = found.start() if found else len(self.frame)
        data = b""
        pieces = _RESTART.split(self.frame[at:end])
        for number, first in enumerate(range(0, units, self.interval or units)):
            count = min(self.interval or units, units - first)
            data += (b"\xff" + bytes([0xD0 + (number - 1) % 8])) * (number > 0) + _walked(pieces[number], blocks, count)
        heads = b"".join(codes[table].segment(table & 0xF) for table in tables)
        if 0 < self.interval < units:
            heads += _segment(_DRI, struct.pack(">H", self.interval))
        chosen = b"".join(bytes([self.components[each].identifier, tables]) for each, tables in named.items())
        return heads + _segment(_SOS, content[:1] + chosen + _SPECTRUM) + data, end

    def _units(
        self, named: dict[int, int], codes: dict[int, _Codes]
    ) -> tuple[list[tuple[_Codes, _Codes, set[int]]], int]:
        """Return the blocks of one unit of a scan, and how many units there are (T.81 A.2)."""
        chosen = [self.components[identifier] for identifier in named]
        across, down = (self.across, self.down) if len(chosen) > 1 else (1, 1)
        columns, rows = self.columns, self.rows
        if len(chosen) == 1:
            columns = -(-columns * chosen[0].across // self.across)
            rows = -(-rows * chosen[0].down // self.down)
        blocks = []
        for identifier, each in zip(named, chosen, strict=True):
            tables = named[identifier]
            of_one = codes[tables >> 4], codes[tables & 0xF | _AC], each.indices
            blocks += [of_one] * (each.across * each.down if len(chosen) > 1 else 1)
        return blocks, -(-columns // (8 * across)) * -(-rows // (8 * down))


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def _walked(stuffed: bytes, blocks: list[tuple[_Codes, _Codes, set[int]]], units: int) -> bytes:
    """Return the entropy-coded data of so many units, up to the last code, and note what they use (T.81 F.2.2)."""
    data = stuffed.replace(b"\xff\0", b"\xff")
    padded = np.frombuffer(data + bytes(8), np.uint8).astype(np.uint32)
    windows = (padded[:-2] << 16 | padded[1:-1] << 8 | padded[2:]).data  # 24 bits from each byte on
    tables = [(dc.entries, dc.used, ac.entries, ac.used, indices) for dc, ac, indices in blocks]
    at = 0
    for _ in range(units):
        for dc_entries, dc_used, ac_entries, ac_used, indices in tables:
            entry = dc_entries[windows[at >> 3] >> (8 - (at & 7)) & 0xFFFF]
            if not entry:
                raise NotProven
            dc_used.add(entry)
            at += entry & _SKIP
            index = 0
            while index < 63:
                entry = ac_entries[windows[at >> 3] >> (8 - (at & 7)) & 0xFFFF]
                if not entry:
                    raise NotProven
                ac_used.add(entry)
                at += entry & _SKIP
                index += entry >> _ADVANCE_AT & _ADVANCE
                if entry & _HAS_VALUE:
                    indices.add(index)
            if 63 < index < _LAST:
                raise NotProven
    if at > 8 * len(data):
        raise NotProven
    kept = bytearray(data[: -(-at // 8)])
    if at % 8:
        kept[-1] |= 0xFF >> at % 8
    return bytes(kept).replace(b"\xff", b"\xff\0")
