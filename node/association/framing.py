"""PDUs and PDVs on the wire (PS3.8 9.3): decoded in one fixed buffer, with limits; encoded in fragments.

Bytes go in; pieces of messages and other PDUs come out. Outgoing data sets are from files or from memory. Nothing here
uses sockets, and decoding no pynetdicom.
"""

import mmap
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom.dsutils import encode

from node.errors import VoxelnodeError

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)
"""PDU types, PS3.8 9.3.1."""

NOT_SPECIFIED, UNRECOGNIZED_PDU, UNEXPECTED_PDU = 0, 1, 2
INVALID_PARAMETER = 6
"""Reasons of an A-ABORT by the service provider, PS3.8 table 9-26."""

MAXIMUM_COMMAND_BYTES = 65536
MAXIMUM_COMMAND_FRAGMENTS = 64
"""A command set has about 300 bytes; these bounds stop a peer that never ends one."""

MAX_REQUEST_BYTES = 131072
"""Largest A-ASSOCIATE-RQ that is read."""

_PDU = struct.Struct(">BxL")
_PDV = struct.Struct(">LBB")
PDV_HEADER_BYTES = _PDV.size
_CONTROL = 2
"""Bytes that the length of a PDV counts besides the fragment: context ID and message control header."""

MAXIMUM_PDU_BYTES = 131072
"""Largest PDU sent to a peer that sets no limit."""


class Violation(VoxelnodeError):
    """The peer violated PS3.8; `reason` goes into the A-ABORT that answers it (table 9-26)."""

    def __init__(self, message: str, reason: int) -> None:
        super().__init__(message)
        self.reason = reason


OTHER_PROTOCOLS = (
    ("TLS", (b"\x16\x03",), "switch TLS off at the sender, or set [dicom] tls_certificate and tls_key"),
    (
        "HTTP",
        tuple(f"{verb} ".encode() for verb in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "PRI")),
        "this is the port for DICOM: pages and DICOMweb are at [web] port",
    ),
    ("the PROXY protocol", (b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n"), "switch it off at the load balancer"),
    ("HL7", (b"\x0bMSH",), "send it to [worklist] hl7_port"),
    ("SSH", (b"SSH-",), "correct the port of the client"),
)
"""Other protocols of clients at the wrong port: name, first bytes, and the remedy."""


@dataclass(frozen=True, slots=True)
class OtherPdu:
    """A whole PDU of any type but P-DATA-TF."""

    kind: int
    encoded: bytes


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive bytes of the command set or data set of one message.

    `data` points into the buffer and is valid until more bytes are read. Adjacent fragments form one piece.
    """

    context_id: int
    is_command: bool
    data: memoryview
    last: bool


class Framing:
    """The receive buffer of one connection, and the decoder's position in it.

    `buffer_bytes`: size of the buffer; the largest PDU other than P-DATA-TF must fit; `maximum_pdu_bytes`: the *Maximum
    Length Received* that we announced (PS3.8 D.1); `maximum_request_bytes`: largest A-ASSOCIATE-RQ.
    """

    def __init__(self, buffer_bytes: int, maximum_pdu_bytes: int, maximum_request_bytes: int) -> None:
        # A mapping: unused pages cost nothing, and all pages go back to the system when the connection closes.
        self._pages = mmap.mmap(-1, buffer_bytes)
        self._buffer = memoryview(self._pages)
        self._start = self._end = 0
        self._expected = frozenset({ASSOCIATE_RQ, ABORT})
        # Some senders count the PDU header into the length that we announced.
        self._limits = {
            ASSOCIATE_RQ: maximum_request_bytes,
            ASSOCIATE_AC: maximum_request_bytes,
            P_DATA: maximum_pdu_bytes + _PDU.size,
        }
        self._pdu_left = 0
        self._fragment: tuple[int, bool] | None = None  # context ID, whether of a command set
        self._fragment_left = 0
        self._fragment_last = False
        self._command_fragments = 0
        self._pdu_length = 0
        self.pdus = 0
        """P-DATA-TF PDUs that have begun."""

    def expect_answer(self) -> None:
        """Expect the answer to our A-ASSOCIATE-RQ: acceptance, rejection or A-ABORT (PS3.8 table 9-10)."""
        self._expected = frozenset({ASSOCIATE_AC, ASSOCIATE_RJ, ABORT})

    def expect_data(self, *, asks_release: bool = False) -> None:
        """Expect the PDUs of an open association: P-DATA-TF, A-RELEASE-RQ and A-ABORT (PS3.8 table 9-10).

        Who asks for the release also expects A-RELEASE-RP.
        """
        self._expected = frozenset({P_DATA, RELEASE_RQ, ABORT} | ({RELEASE_RP} if asks_release else set()))

    def expect_release_answer(self) -> None:
        """Expect the end alone: both sides have asked for the release (PS3.8 table 9-10, Sta10)."""
        self._expected = frozenset({RELEASE_RP, ABORT})

    def space(self) -> memoryview:
        """Return the free end of the buffer to read into; this invalidates the pieces returned before."""
        if self._start:
            rest = self._end - self._start
            self._buffer[:rest] = self._buffer[self._start : self._end]
            self._start, self._end = 0, rest
        return self._buffer[self._end :]

    def filled(self, count: int) -> None:
        """Record that `count` bytes were read into `space()`."""
        self._end += count

    def other_protocol(self) -> tuple[str, str] | None:
        """Return the name of the protocol that the peer seems to speak instead, and a remedy; None if none is known."""
        begin = bytes(self._buffer[self._start : min(self._end, self._start + 16)])
        for name, beginnings, remedy in OTHER_PROTOCOLS:
            if any(begin.startswith(beginning[: len(begin)]) for beginning in beginnings if begin):
                return name, remedy
        return None

    def clear(self) -> None:
        """Forget what was read and not decoded."""
        self._start = self._end = 0

    def close(self) -> None:
        """Give the buffer back to the system, unless somebody still looks at a piece of it."""
        with suppress(BufferError):
            self._buffer.release()
            self._pages.close()

    @property
    def open_pdu_bytes(self) -> int | None:
        """Length of the PDU that has begun and is not complete; None between PDUs."""
        if self._pdu_left or self._end > self._start:
            return self._pdu_length
        return None

    def next(self) -> Piece | OtherPdu | None:
        """Return the next piece or PDU in the buffer, or None if more bytes are needed.

        Raises Violation: an unknown or unexpected PDU, a length beyond its limit, or a PDV that overruns its PDU.
        """
        piece = self._next_piece()
        if piece is not None or self._pdu_left:
            return piece
        return self._next_other_pdu()

    def _next_piece(self) -> Piece | None:
        """Join the fragments of one message that the buffer holds, and return them as one piece."""
        kind = None
        begin = stop = self._start
        while self._fragment is not None or self._open_fragment():
            if kind is None:
                kind, begin, stop = self._fragment, self._start, self._start
            elif kind != self._fragment:
                break
            take = min(self._fragment_left, self._end - self._start)
            if stop != self._start:
                self._buffer[stop : stop + take] = self._buffer[self._start : self._start + take]
            stop += take
            self._start += take
            self._fragment_left -= take
            self._pdu_left -= take
            if self._fragment_left:
                break
            self._fragment = None
            if self._fragment_last:
                self._command_fragments = 0
                return self._piece(kind, begin, stop, True)
        return self._piece(kind, begin, stop, False) if stop > begin else None

    def _piece(self, kind: tuple[int, bool] | None, begin: int, stop: int, last: bool) -> Piece:
        context_id, is_command = kind or (0, False)
        return Piece(context_id, is_command, self._buffer[begin:stop], last)

    def _open_fragment(self) -> bool:
        """Read the header of the next PDV, and of its PDU; False if the buffer does not hold them yet."""
        if not self._pdu_left:
            if self._check_pdu_header() != P_DATA:
                return False
            self._start += _PDU.size
            self._pdu_left = self._pdu_length
            self.pdus += 1
        if self._end - self._start < _PDV.size:
            return False
        length, context_id, control = _PDV.unpack_from(self._buffer, self._start)
        if length < _CONTROL or length + 4 > self._pdu_left:
            raise Violation(f"a PDV of {length} bytes in the {self._pdu_left} left of its PDU", INVALID_PARAMETER)
        self._start += _PDV.size
        self._pdu_left -= _PDV.size
        self._fragment_left = length - _CONTROL
        if self._pdu_left - self._fragment_left in range(1, _PDV.size):
            raise Violation("a PDU that ends within the header of a PDV", INVALID_PARAMETER)
        self._fragment = (context_id, bool(control & 1))
        self._fragment_last = bool(control & 2)
        if control & 1:
            self._command_fragments += 1
            if self._command_fragments > MAXIMUM_COMMAND_FRAGMENTS:
                raise Violation("a command set of more than 64 fragments", INVALID_PARAMETER)
        return True

    def _check_pdu_header(self) -> int | None:
        """Return the type of the PDU that starts here, or None if its header is incomplete."""
        if self._end - self._start < _PDU.size:
            self._pdu_length = 0
            return None
        kind, length = _PDU.unpack_from(self._buffer, self._start)
        if kind not in self._expected:
            known = ASSOCIATE_RQ <= kind <= ABORT
            raise Violation(f"PDU type 0x{kind:02x} is not allowed here", UNEXPECTED_PDU if known else UNRECOGNIZED_PDU)
        lowest = _PDV.size if kind == P_DATA else 4
        if not lowest <= length <= self._limits.get(kind, 4):
            raise Violation(f"PDU type 0x{kind:02x} of {length} bytes", INVALID_PARAMETER)
        self._pdu_length = int(length)
        return int(kind)

    def _next_other_pdu(self) -> OtherPdu | None:
        kind = self._check_pdu_header()
        if kind is None or kind == P_DATA:
            return None
        stop = self._start + _PDU.size + self._pdu_length
        if stop > self._end:
            return None
        encoded = bytes(self._buffer[self._start : stop])
        self._start = stop
        return OtherPdu(kind, encoded)


def short_pdu(kind: int, result: int = 0, source: int = 0, reason: int = 0) -> bytes:
    """Encode an A-ASSOCIATE-RJ, an A-RELEASE-RQ, an A-RELEASE-RP or an A-ABORT (PS3.8 9.3.4, 9.3.6 to 9.3.8)."""
    return struct.pack(">BxLx3B", kind, 4, result, source, reason)


def data_header(context_id: int, is_command: bool, last: bool, fragment_bytes: int) -> bytes:
    """Encode what precedes the fragment of a P-DATA-TF PDU with one PDV (PS3.8 9.3.5, E.2)."""
    control = int(is_command) | int(last) << 1
    length = fragment_bytes + _CONTROL
    return _PDU.pack(P_DATA, length + 4) + _PDV.pack(length, context_id, control)


class SourceLost(VoxelnodeError):
    """An instance could not be read to its end; the bytes already sent cannot be taken back."""


def fragment_bytes(peer_maximum_bytes: int) -> int:
    """Return the fragment size in bytes: the peer's *Maximum Length Received* (PS3.8 D.1; 0: no limit) or ours."""
    return max(min(peer_maximum_bytes or MAXIMUM_PDU_BYTES, MAXIMUM_PDU_BYTES) - PDV_HEADER_BYTES, 2)


def message_pdus(context_id: int, command: bytes, size: int, data_set: bytes | None = None) -> bytes:
    """Put an encoded command set and data set into P-DATA-TF PDUs with fragments of `size` bytes."""
    pdus = [*fragment_pdus(context_id, True, [command], size)]
    if data_set is not None:
        pdus += fragment_pdus(context_id, False, [data_set], size)
    return b"".join(pdus)


def fragment_pdus(
    context_id: int, is_command: bool, fragments: Iterable[bytes], size: int
) -> Iterator[bytes | memoryview]:
    """Yield the parts of P-DATA-TF PDUs: a header, and behind it up to `size` bytes of a command set or data set.

    The final PDU is marked as last. Nothing is copied: a part is valid as long as its fragment is.
    """
    full = data_header(context_id, is_command, False, size)
    pending = memoryview(b"")
    is_first = True
    for fragment in fragments:
        view = memoryview(fragment)
        for at in range(0, len(view), size):
            if not is_first:
                yield full if len(pending) == size else data_header(context_id, is_command, False, len(pending))
                yield pending
            pending, is_first = view[at : at + size], False
    yield data_header(context_id, is_command, True, len(pending))
    yield pending


@dataclass(frozen=True, slots=True)
class InstanceBytes:
    """The encoded data set to send: a range of a file, or bytes in memory."""

    path: Path | None = None
    offset: int = 0
    length: int = 0
    data: bytes = b""

    @contextmanager
    def fragments(self, size: int) -> Iterator[Iterator[bytes]]:
        """Yield an iterator over fragments of at most `size` bytes.

        Raises SourceLost: the file is gone, or shorter than it was.
        """
        if self.path is None:
            yield iter([self.data])
            return
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(self.offset)
                yield _read_fragments(file, self.length, size)
        except OSError as error:
            raise SourceLost(f"the file cannot be read ({error.strerror or error})") from error


def _read_fragments(file: BinaryIO, left: int, size: int) -> Iterator[bytes]:
    while left > 0:
        fragment = file.read(min(size, left))
        if not fragment:
            raise SourceLost("the file is shorter than when it was stored")
        left -= len(fragment)
        yield fragment


def encoded(ds: Dataset, transfer_syntax_uid: str) -> bytes:
    """Encode a data set without pixels, such as an identifier, in an uncompressed transfer syntax.

    Raises VoxelnodeError: a value cannot be encoded.
    """
    syntax = UID(transfer_syntax_uid)
    data = encode(ds, syntax.is_implicit_VR, syntax.is_little_endian, False)
    if data is None:
        raise VoxelnodeError("a data set cannot be encoded")
    return bytes(data)
