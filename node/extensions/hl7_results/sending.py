"""A receiver of results by HL7 v2: each message is sent over MLLP, and its acknowledgment says what became of it."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import select
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from urllib.parse import urlsplit

from node.errors import UsageError
from node.extensions.hl7_results.oru import Envelope, NoResult, is_result, oru_of
from node.extensions.worklist.hl7 import Message, MessageRefused, parse
from node.extensions.worklist.mllp import BEGIN, END, MAX_MESSAGE_BYTES
from node.files.reading import read_instance
from node.index.work.routes import DueInstance, OwedInstance
from node.routing.destination import Confirmation, Delivered, NotConfirmable, NotTaken, Prepared, Unreachable
from node.settings.model import Destination as Described
from node.tls import client_context, failure_reason

TICK_SECONDS = 0.5
"""Longest wait before it is seen that nobody waits for an answer any more."""

MAX_FILE_BYTES = 64_000_000
"""Bytes of the header of a result that are read."""

ACCEPTED = frozenset({"AA", "CA"})

ERRORS = {
    "100": "segment sequence error", "101": "required field missing", "102": "data type error",
    "103": "table value not found", "104": "value too long", "200": "unsupported message type",
    "201": "unsupported event code", "202": "unsupported processing id", "203": "unsupported version id",
    "204": "unknown key identifier", "205": "duplicate key identifier", "206": "application record locked",
    "207": "application internal error",
}  # fmt: skip
"""HL7 table 0357."""

FOR_NOW = frozenset({"206", "207"})
"""Errors of which a later attempt may be free."""

FOR_EVER = frozenset({"100", "101", "102", "103", "104", "200", "201", "202", "203"})
"""Errors of the message itself: for others, AR may be said of a system that is down (HL7 v2.5.1 2.9.2.2)."""


class Hl7Destination:
    """Sends results to one receiver, on one connection that stays open between them. Not thread-safe.

    Raises UsageError if `ca_file` cannot be used.
    """

    def __init__(self, described: Described) -> None:
        parts = urlsplit(described.hl7 or "")
        self._host, self._port = parts.hostname or "", parts.port or 0
        self._sender, self._receiver = described.hl7_sender, described.hl7_receiver
        self._timeout = described.timeout_seconds
        self._context = _context(described.ca_file) if parts.scheme == "mllps" else None
        self._socket: socket.socket | None = None

    def deliver(self, instances: Iterable[Prepared], is_abandoned: Callable[[], bool]) -> Iterator[Delivered]:
        """Send a message for each result. See `Destination.deliver`."""
        for prepared in instances:
            try:
                message = self._message(prepared)
            except NotTaken as problem:
                yield Delivered(prepared, problem)
                continue
            yield Delivered(prepared, self._problem(message, control_id_of(prepared), is_abandoned))

    def confirm(
        self, owed: Sequence[OwedInstance], transaction_uid: str, is_abandoned: Callable[[], bool]
    ) -> Confirmation | None:
        """Refuse: a receiver of messages cannot be asked. See `Destination.confirm`."""
        raise NotConfirmable("a receiver of HL7 cannot be asked what it keeps: set confirm = false")

    def is_origin(self, due: DueInstance) -> bool:
        """Return False: no instance comes from a receiver of HL7."""
        return False

    def rest(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def _message(self, prepared: Prepared) -> bytes:
        """Return the message of a result; raises NotTaken."""
        if not is_result(prepared.outgoing.sop_class_uid):
            reason = 'it is an original rather than a result: let where select results, such as { modality = "SR" }'
            raise NotTaken(reason, is_final=True)
        envelope = Envelope(self._sender, self._receiver, control_id_of(prepared), dt.datetime.now(dt.UTC))
        try:
            return oru_of(read_instance(prepared.outgoing.path, MAX_FILE_BYTES), envelope)
        except OSError as error:
            raise NotTaken(f"its file cannot be read now: {error.strerror}") from error
        except NoResult as error:
            raise NotTaken(str(error), is_final=True) from error
        except Exception as error:  # whatever pydicom raises for what a sender wrote
            raise NotTaken(f"its attributes cannot be read: {type(error).__name__}", is_final=True) from error

    def _problem(self, message: bytes, control_id: str, is_abandoned: Callable[[], bool]) -> NotTaken | None:
        """Send a message; return why it was not taken, or None.

        Without an answer, a new connection tells a receiver that is away from a message at which it fails. The message
        is sent again later; the receiver knows it by its control ID.
        """
        try:
            return self._exchanged(message, control_id, is_abandoned)
        except (OSError, _NoAnswer) as error:
            self.rest()
            lost = failure_reason(error) if isinstance(error, OSError) else str(error)
            if not is_abandoned():
                self._connect()
            return NotTaken(f"{lost}: the log of the receiver says why")

    def _connect(self) -> socket.socket:
        """Return the connection; raises Unreachable if there is none."""
        if self._socket is not None:
            if not _is_readable(self._socket):
                return self._socket
            self.rest()  # nothing was asked: the receiver has closed it
        try:
            opened = socket.create_connection((self._host, self._port), timeout=self._timeout)
            if self._context is not None:
                try:
                    opened = self._context.wrap_socket(opened, server_hostname=self._host)
                except OSError:
                    opened.close()
                    raise
        except OSError as error:
            raise Unreachable(f"{self._host} port {self._port} does not answer: {failure_reason(error)}") from error
        self._socket = opened
        return opened

    def _exchanged(self, message: bytes, control_id: str, is_abandoned: Callable[[], bool]) -> NotTaken | None:
        connection = self._connect()
        connection.settimeout(self._timeout)
        connection.sendall(BEGIN + message + END)
        return verdict_of(self._answer(connection, is_abandoned), control_id)

    def _answer(self, connection: socket.socket, is_abandoned: Callable[[], bool]) -> bytes:
        """Return the next message without its frame. Raises _NoAnswer, OSError."""
        deadline, data = monotonic() + self._timeout, bytearray()
        connection.settimeout(min(TICK_SECONDS, self._timeout))
        while (end := data.find(END)) < 0:
            if is_abandoned() or monotonic() > deadline or len(data) > MAX_MESSAGE_BYTES:
                raise _NoAnswer(f"no acknowledgment within {self._timeout:g} s")
            with suppress(TimeoutError):
                chunk = connection.recv(65536)
                if not chunk:
                    raise ConnectionResetError("the receiver closed the connection before it answered")
                data += chunk
        if not data.startswith(BEGIN) or end + len(END) != len(data):
            raise _NoAnswer("the answer is no message in the frame of MLLP")
        return bytes(data[len(BEGIN) : end])


def _is_readable(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


class _NoAnswer(Exception):
    """The connection stands, but no acknowledgment of the message came on it."""


def verdict_of(answer: bytes, control_id: str) -> NotTaken | None:
    """Return why a message was not taken, from its acknowledgment (HL7 v2.5.1 2.9.2); None if it was.

    Texts of the receiver may have patient data and are left out; codes and places say what is wrong.

    Raises
    ------
    _NoAnswer
        It is no acknowledgment of this message.
    """
    try:
        message = parse(answer)
    except MessageRefused as error:
        raise _NoAnswer(f"the answer is no acknowledgment: {error}") from error
    said = message.named("MSA")
    if message.value(said, 2) != control_id:
        raise _NoAnswer("the answer acknowledges another message")
    code = message.value(said, 1)
    if code in ACCEPTED:
        return None
    error_code, place = _error(message)
    if code not in ("AE", "AR", "CE", "CR"):
        raise _NoAnswer("the answer has no acknowledgment code")
    known = f": {ERRORS[error_code]} ({error_code})" if error_code in ERRORS else ""
    at = f" at {place}" if place else ""
    reason = f"the receiver refused the message with {code}{known}{at}: its log has the text of its answer"
    is_final = error_code in FOR_EVER if code in ("AR", "CR") else error_code not in FOR_NOW
    return NotTaken(reason, is_final=is_final)


def _error(message: Message) -> tuple[str, str]:
    """Return the code and the place of the first error."""
    segment = message.named("ERR")
    code = message.value(segment, 3) or message.value(message.named("MSA"), 6)
    place = "-".join(message.value(segment, 2, part) for part in (1, 3) if message.value(segment, 2, part))
    return code, place if re.fullmatch(r"[A-Z][A-Z0-9]{2}(-[0-9]{1,3})?", place) else ""


def control_id_of(prepared: Prepared) -> str:
    """Return the control ID of the message of an instance, the same for the same bytes (at most 20 characters)."""
    of = f"{prepared.outgoing.sop_instance_uid} {prepared.due.sha256}"
    return hashlib.sha256(of.encode()).hexdigest()[:20].upper()


def _context(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return client_context(ca_file)
    except OSError as error:
        raise UsageError(f"ca_file {ca_file} cannot be used: {error.strerror or error}") from error


def opened(described: Described, is_read_again: bool) -> Hl7Destination:
    """Return the receiver of a table. See `node.hookspecs.OpenReceiver`."""
    return Hl7Destination(described)
