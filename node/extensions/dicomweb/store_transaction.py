"""A STOW-RS request: its parts are written to the archive, and a report lists which were stored.

The bytes of a part are written while they are received; only the head, which identifies the instance, is held in
memory. A refused part does not stop the others.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import structlog
from fastapi import HTTPException
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from node.dicom.status import (
    ANOTHER_VERSION_IS_CURRENT,
    CANNOT_UNDERSTAND,
    CLASS_MISMATCH,
    DATA_SET_IS_CUT,
    OUT_OF_RESOURCES,
    SOP_CLASS_NOT_SUPPORTED,
    answer_to,
    remedy_of,
)
from node.dicom.uids import is_accepted_transfer_syntax, is_storage_class
from node.errors import InstanceRefused
from node.extensions.dicomweb.media_types import DICOM
from node.index.rows.records import NOT_CURRENT_OUTCOMES, Outcome, Refused
from node.receive.dicom_files import HEAD_BYTES, LONG_HEAD_BYTES, Identity, NotDicom, identify
from node.receive.ingest import Acknowledgement, Announced, Incoming, Ingest, Origin

log = structlog.get_logger()

MAX_PARTS = 50_000
"""Maximum instances per request, twice the size of the largest time series."""

FINISHING = 8
"""Number of instances of a request that wait for the disk together and share syncs."""

TRANSFER_SYNTAX_NOT_SUPPORTED = 0xC122
PROCESSING_FAILURE = 0x0110
"""Failure Reasons of PS3.18 I.2.2 that do not exist in C-STORE."""

_STATUS_OF_REASON = {OUT_OF_RESOURCES: 503, TRANSFER_SYNTAX_NOT_SUPPORTED: 415}
"""Status codes if nothing was stored and all failures have this reason; otherwise 409."""

_REMEDIES = {TRANSFER_SYNTAX_NOT_SUPPORTED: "have the sender use Explicit VR Little Endian"}


@dataclass(frozen=True, slots=True)
class PartFailure:
    """A part that was not stored: Failure Reason (0008,1197), a comment, and `identity` if readable."""

    reason: int
    comment: str
    identity: Identity | None = None


@dataclass(slots=True)
class StoreReport:
    """The stored instances and the failed parts.

    `stored`: SOP Instance UIDs.
    `warnings`: Warning Reason (0008,1196) of some of `stored`.
    `is_indexed`: whether the index is known to have what is stored.
    """

    stored: list[str] = field(default_factory=list)
    failures: list[PartFailure] = field(default_factory=list)
    warnings: dict[str, int] = field(default_factory=dict)
    is_indexed: bool = False

    @property
    def status(self) -> int:
        """The status code, PS3.18 table 10.5.3-1."""
        if not self.failures:
            return 202 if self.warnings else 200
        if self.stored:
            return 202
        reasons = {failure.reason for failure in self.failures}
        return _STATUS_OF_REASON.get(reasons.pop(), 409) if len(reasons) == 1 else 409


MAX_PREAMBLE_BYTES = 65_536
"""Longest text before the first part; it is for mail programs that do not know multipart messages."""


class BoundaryMissing(Exception):
    """A message does not have its boundary within `MAX_PREAMBLE_BYTES`."""


class PreambleFilter:
    """Removes what stands before the first boundary, and the padding behind it (RFC 2046 5.1.1).

    `python_multipart` handles the rest: the padding of later boundaries, and the epilogue.
    """

    def __init__(self, boundary: bytes) -> None:
        self._delimiter = b"\r\n--" + boundary
        self._held: bytearray | None = bytearray(b"\r\n")  # the first boundary may be at the start of the body

    def strip(self, data: bytes) -> bytes:
        """Return the bytes of `data` from the first boundary on, or raise BoundaryMissing."""
        if self._held is None:
            return data
        self._held += data
        at = self._held.find(self._delimiter, 0, MAX_PREAMBLE_BYTES)
        while at >= 0:
            after = bytes(self._held[at + len(self._delimiter) :]).lstrip(b" \t")
            if after.startswith((b"\r\n", b"--")):
                self._held = None
                return self._delimiter[2:] + after
            if len(after) < 2:
                break  # the rest of the line is yet to come
            at = self._held.find(self._delimiter, at + 1, MAX_PREAMBLE_BYTES)
        if len(self._held) > MAX_PREAMBLE_BYTES:
            raise BoundaryMissing
        return b""


class StoreTransaction:
    """One request, with its parts in sequence. Used by one thread at a time; `close` must be called."""

    def __init__(
        self,
        ingest: Ingest,
        origin: Origin,
        boundary: bytes,
        study_instance_uid: str | None,
        on_refusal: Callable[[Refused], None],
    ) -> None:
        self._ingest, self._origin, self._study, self._on_refusal = ingest, origin, study_instance_uid, on_refusal
        self._preamble = PreambleFilter(boundary)
        self._part: _Part | None = None
        self._header: tuple[bytes, bytes] = b"", b""
        self._part_headers: dict[bytes, bytes] = {}
        self.parts, self.is_whole = 0, False  # the last boundary was received
        self._finishing: list[tuple[Identity, Future[bool], Future[Outcome]]] = []
        self._outcomes: list[tuple[Identity, Future[Outcome]]] = []  # of what is stored
        self._threads = ThreadPoolExecutor(FINISHING, thread_name_prefix="stow")
        self.report = StoreReport()
        self.studies: set[str] = set()
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin_part,
                    "on_header_begin": self._begin_header,
                    "on_header_field": self._add_to_name,
                    "on_header_value": self._add_to_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._begin_data,
                    "on_part_data": self._add_data,
                    "on_part_end": self.end_part,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise HTTPException(400, f"the boundary cannot be used: {error}") from error

    def write(self, data: bytes) -> None:
        """Process bytes of the body: 400 if it is not a multipart message, 413 if it has too many parts.

        Instances that are stored already stay stored.
        """
        try:
            self._parser.write(self._preamble.strip(data))
        except BoundaryMissing:
            raise HTTPException(
                400, "the body does not contain the boundary of its Content-Type (RFC 2046 5.1.1)"
            ) from None
        except FormParserError as error:
            raise HTTPException(400, f"the body is not a multipart message: {error} (RFC 2046 5.1.1)") from error

    def end(self) -> StoreReport:
        """Wait until every part is stored or refused; 400 if the body ended early, or has no parts."""
        self._finish_incoming(0)
        if not self.is_whole:
            raise HTTPException(
                400, "the body ends before its last boundary; complete parts are stored; send the request again"
            )
        if not self.parts:
            raise HTTPException(400, "the body has no parts")
        if self._ingest.acknowledgement is not None:
            self._await(self._ingest.acknowledgement)
            return self.report
        self._ingest.applier.catch_up()
        for identity, outcome in self._outcomes:  # what is not indexed by now is durable all the same
            if outcome.done() and outcome.exception() is None:
                self._note(identity, outcome.result())
        return self.report

    def _await(self, acknowledgement: Acknowledgement) -> None:
        """Wait until what is durable may be acknowledged; what may not be, in time, counts as not stored."""
        self.report.is_indexed = True
        seconds = acknowledgement.seconds
        for identity, outcome in self._outcomes:
            try:
                self._note(identity, acknowledgement.wait(outcome, seconds))
            except InstanceRefused as error:
                if not outcome.done():
                    seconds = 0.0  # all others have waited as long
                self.report.stored.remove(identity.sop_instance_uid)
                self.refused(_failure(error, identity))

    def _note(self, identity: Identity, outcome: Outcome) -> None:
        if outcome in NOT_CURRENT_OUTCOMES and self._ingest.warns:
            self.report.warnings[identity.sop_instance_uid] = ANOTHER_VERSION_IS_CURRENT

    def close(self) -> None:
        """Discard an incomplete part, and wait until complete ones are stored."""
        if self._part is not None:
            self._part.abandon()
        self._finish_incoming(0)
        self._threads.shutdown()
        if self._ingest.transfers is not None:
            self._ingest.transfers.ended(self._origin, "ended")

    # Callbacks of the parser

    def _begin_part(self) -> None:
        self.parts += 1
        if self.parts > MAX_PARTS:
            raise HTTPException(413, f"more than {MAX_PARTS} instances in one request: send several requests")
        self._part_headers = {}

    def _begin_header(self) -> None:
        self._header = b"", b""

    def _add_to_name(self, data: bytes, start: int, end: int) -> None:
        self._header = self._header[0] + data[start:end], self._header[1]

    def _add_to_value(self, data: bytes, start: int, end: int) -> None:
        self._header = self._header[0], self._header[1] + data[start:end]

    def _end_header(self) -> None:
        name, value = self._header
        self._part_headers[name.lower()] = value

    def _begin_data(self) -> None:
        """Begin a part; a Content-Type is optional for DICOM files."""
        media_type, _ = parse_options_header(self._part_headers.get(b"content-type", DICOM.encode()))
        self.begin_part(media_type.decode("latin-1").strip().lower())

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        self.write_part(memoryview(data)[start:end])

    def _end(self) -> None:
        self.is_whole = True

    # Parts

    def begin_part(self, media_type: str) -> None:
        """Begin a part, whose headers are complete."""
        self._part = _Part(self._ingest, self._origin, self._study)
        if media_type != DICOM:
            self._part.refuse(CANNOT_UNDERSTAND, f"the part is not {DICOM}")

    def write_part(self, data: memoryview) -> None:
        """Process bytes of the part."""
        if self._part is not None:
            self._part.write(data)

    def end_part(self) -> None:
        """Store the part, or refuse it."""
        part, self._part = self._part, None
        if part is None:
            return
        incoming = part.end()
        if part.failure is not None:
            self.refused(part.failure)
        elif incoming is not None and part.identity is not None:
            self._finish_incoming(FINISHING - 1)
            outcome: Future[Outcome] = Future()
            self._finishing.append((part.identity, self._threads.submit(incoming.keep, outcome), outcome))

    def _finish_incoming(self, left: int) -> None:
        """Record the outcome of instances that wait for the disk, until at most `left` wait."""
        while len(self._finishing) > left:
            identity, future, outcome = self._finishing.pop(0)
            try:
                lacks_pixels = future.result()
            except Exception as error:
                self.refused(_failure(error, identity))
            else:
                if lacks_pixels:
                    self.report.warnings[identity.sop_instance_uid] = DATA_SET_IS_CUT
                self._outcomes.append((identity, outcome))
                self.report.stored.append(identity.sop_instance_uid)
                self.studies.add(identity.study_instance_uid)

    def refused(self, failure: PartFailure) -> None:
        """Record a part that was not stored, for the response and the table of rejections."""
        self.report.failures.append(failure)
        identity, status = failure.identity, f"status 0x{failure.reason:04X}"
        offered = "" if identity is None else f"{identity.sop_class_uid}: {identity.transfer_syntax_uid}"
        remedy = _REMEDIES.get(failure.reason) or remedy_of(failure.reason)
        peer = self._origin.address
        self._on_refusal(Refused("instance", status, failure.comment, remedy, peer=peer, offered=offered[:200]))


class SingleTransaction(StoreTransaction):
    """A request whose body is one instance, without boundaries (PS3.18 10.5.1). Used by one thread; close it."""

    def __init__(
        self, ingest: Ingest, origin: Origin, study_instance_uid: str | None, on_refusal: Callable[[Refused], None]
    ) -> None:
        super().__init__(ingest, origin, b"none", study_instance_uid, on_refusal)
        self.begin_part(DICOM)

    def write(self, data: bytes) -> None:
        """Process bytes of the instance."""
        self.parts = 1 if data else self.parts
        self.write_part(memoryview(data))

    def end(self) -> StoreReport:
        """Wait until the instance is stored or refused; 400 if the body was empty."""
        self.is_whole = True  # a body that is cut short disconnects
        if self.parts:
            self.end_part()
        return super().end()


class _Part:
    """One part: the head is collected until it identifies the instance; the rest is written to the archive."""

    def __init__(self, ingest: Ingest, origin: Origin, study_instance_uid: str | None) -> None:
        self._ingest, self._origin, self._study = ingest, origin, study_instance_uid
        self._head = bytearray()
        self._wanted = HEAD_BYTES
        self._incoming: Incoming | None = None
        self.identity: Identity | None = None
        self.failure: PartFailure | None = None

    def write(self, data: memoryview) -> None:
        """Process bytes of the file; never raises."""
        if self.failure is not None:
            return
        try:
            if self._incoming is not None:
                self._incoming.take_fragment(data)
                return
            self._head += data
            if len(self._head) >= self._wanted:
                self._begin(is_whole=False)
        except Exception as error:
            self._fail(error)

    def end(self) -> Incoming | None:
        """Return the instance, ready to be finished, or None if it was refused; see `failure`."""
        if self.failure is None and self._incoming is None:
            try:
                self._begin(is_whole=True)
            except Exception as error:
                self._fail(error)
        incoming, self._incoming = self._incoming, None
        return incoming

    def refuse(self, reason: int, comment: str) -> None:
        """Refuse the part and ignore the rest of it."""
        self.failure = PartFailure(reason, comment, self.identity)
        self._head = bytearray()
        self.abandon()

    def abandon(self) -> None:
        """Discard the received bytes."""
        incoming, self._incoming = self._incoming, None
        if incoming is not None:
            incoming.abandon()

    def _begin(self, *, is_whole: bool) -> None:
        identity = identify(bytes(self._head))
        if self._study and not identity.study_instance_uid and not is_whole and len(self._head) < LONG_HEAD_BYTES:
            self._wanted = min(4 * self._wanted, LONG_HEAD_BYTES)  # a long header, with the study further on
            return
        self.identity = identity
        refusal = self._refusal(identity)
        if refusal is not None:
            self.refuse(*refusal)
            return
        announced = Announced(identity.sop_class_uid, identity.sop_instance_uid, identity.transfer_syntax_uid)
        self._incoming = self._ingest.begin(announced, self._origin)
        self._incoming.take_fragment(memoryview(self._head)[identity.data_set_offset :])
        self._head = bytearray()

    def _refusal(self, identity: Identity) -> tuple[int, str] | None:
        if not is_accepted_transfer_syntax(identity.transfer_syntax_uid):
            return TRANSFER_SYNTAX_NOT_SUPPORTED, "this transfer syntax is not accepted"
        if not is_storage_class(identity.sop_class_uid):
            return SOP_CLASS_NOT_SUPPORTED, "the SOP class is not a storage class"
        if self._study is not None and identity.study_instance_uid != self._study:
            return CLASS_MISMATCH, "the instance belongs to a study other than that of the URL"
        return None

    def _fail(self, error: Exception) -> None:
        self.abandon()
        self.failure = _failure(error, self.identity)
        self._head = bytearray()


def _failure(error: Exception, identity: Identity | None) -> PartFailure:
    if isinstance(error, NotDicom):
        return PartFailure(CANNOT_UNDERSTAND, str(error))
    if isinstance(error, InstanceRefused):
        answer = answer_to(error)
        log.warning("stow_refused", status=f"0x{answer.status:04X}", reason=str(error))
        return PartFailure(answer.status, str(error), identity)
    log.error("stow_failed", exc_info=error)
    return PartFailure(PROCESSING_FAILURE, "internal failure, see the log of this node", identity)
