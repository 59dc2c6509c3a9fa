"""The diagnostic log: one line for each event on standard error, and in a file if wanted, without patient data.

Only fields in `ALLOWED_FIELDS` keep their values, so every new field is a deliberate decision. Messages and warnings of
libraries may quote a data set: only their location in the code is logged.
"""

import json
import logging
import os
import stat
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import nullcontext, suppress
from io import TextIOWrapper
from pathlib import Path
from time import monotonic
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import Processor

from node.errors import UsageError, VoxelnodeError, kind_of
from node.runtime.network import block_of

log = structlog.get_logger()

ALLOWED_FIELDS = frozenset(
    {
        # of every line
        "event", "level", "timestamp", "logger", "exception",
        # peers: titles and addresses of machines
        "association", "calling_ae_title", "called_ae_title", "peer", "host", "port", "address", "ae_title",
        # identifiers of objects, not of persons
        "study_instance_uid", "series_instance_uid", "sop_instance_uid", "sop_class_uid", "transfer_syntax_uid",
        "abstract_syntax", "presentation_context_id", "modality", "revision", "stack", "series", "deletion",
        # events
        "status", "reason", "detail", "error", "state", "verdict", "attempt", "attempts", "exit_code", "signal", "step",
        "result", "source", "kind", "format", "warnings", "command", "pdu_type", "implementation", "limit", "action",
        "tried_again", "is_refusal",
        # amounts, durations, locations
        "parts", "adopted", "quarantined", "missing", "claims", "applied", "restored", "damaged", "record",
        "batch", "instances", "volumes", "refusals", "exclusions", "files", "failed",
        "frames", "images", "count", "bytes", "free_bytes", "reserve_bytes", "seconds", "retry_seconds",
        "quiet_seconds", "deadline_seconds", "associations", "due_at", "root", "path", "folder", "pid", "worker",
        "version", "schema", "workers", "code", "template", "hook", "service",
        "project", "restart",
        # HTTP: the account and the route, never the values in the path
        "method", "route", "account",
    }
)  # fmt: skip
"""Fields whose values are logged: they describe the node or a machine, never a person."""

MAX_VALUE_CHARACTERS = 500
NOT_LOGGED = "[not logged]"
QUIET_LIBRARIES = (
    "pydicom", "pynetdicom", "highdicom", "PIL", "nibabel", "pylibjpeg", "py.warnings", "alembic", "httpx", "httpx2",
)  # fmt: skip
"""Libraries whose messages quote data sets or do not help an operator.

`alembic` logs each migration twice, and `httpx` each request that the node makes, which a line of its own tells if it
fails.
"""

MINUTE_SECONDS, LINES_OF_MINUTE, KINDS_OF_MINUTE, MAX_ADDRESSES = 60.0, 5, 32, 1000
"""Lines of one event that an address causes in a minute and that are written, kinds of which the first is written, too,
and for how many addresses these are counted at once."""


KEPT_LINES = 500
"""The newest lines that a process can keep, of HTTP requests and of all else: half a megabyte of each at most."""

HTTP_REQUEST = "http_request"
"""The event of a line about a request, of which open pages make many."""

Event = MutableMapping[str, Any]


class LinesOfAddresses:
    """Lines that anybody can cause: a flood must not fill the log, nor push out what else it has. Thread-safe.

    Of each event and address, the first lines of a minute are written and the first of each kind of reason, and the
    number of the others once the minute is over. If the process dies before, that number is lost.

    `report`: called with event, address and number of the lines that were left out.
    """

    def __init__(
        self,
        clock: Callable[[], float] = monotonic,
        report: Callable[[str, str, int], object] = lambda event, block, count: log.warning(
            "lines_left_out", kind=event, address=block, count=count, is_refusal=False
        ),
    ) -> None:
        self._clock, self._lock, self._report = clock, threading.Lock(), report
        # When the minute began, in this order; the lines, those of them that are left out, and the kinds.
        self._counts: dict[tuple[str, str], tuple[float, int, int, set[int]]] = {}

    def is_due(self, event: str, address: str, reason: str = "") -> bool:
        """Return whether the next line of an event is to be written; else it is counted."""
        self.report_ended()
        key, kind = (event, block_of(address)), hash(kind_of(reason))
        with self._lock:
            began, count, left_out, kinds = self._counts.get(key, (self._clock(), 0, 0, set()))
            is_due = count < LINES_OF_MINUTE or (kind not in kinds and len(kinds) < KINDS_OF_MINUTE)
            self._counts[key] = began, count + 1, left_out + (not is_due), kinds | {kind} if is_due else kinds
        return is_due

    def report_ended(self, now: float | None = None) -> None:
        """Report what was left out of the minutes that are over; `now`: infinity ends all."""
        with self._lock:
            ended = list(self._take_ended(self._clock() if now is None else now))
        for (event, block), left_out in ended:
            if left_out > 0:
                self._report(event, block, left_out)

    def _take_ended(self, now: float) -> Iterator[tuple[tuple[str, str], int]]:
        while self._counts:
            key, (began, _, left_out, _) = next(iter(self._counts.items()))
            if now < began + MINUTE_SECONDS and len(self._counts) < MAX_ADDRESSES:
                return
            del self._counts[key]
            yield key, left_out


_SAID = ("account", "method", "route", "status", "reason")
"""What tells kinds of one event apart: nothing that a stranger chooses, who could use up all kinds."""

refusals = LinesOfAddresses()
"""Of all lines of the log that somebody elsewhere can cause."""


def within_bounds(_logger: Any, method: str, event: Event) -> Event:
    """Drop a warning or an error about an address, or what says that it is a refusal, if it is one of many.

    A refusal without an address, as of who comes by a proxy, is one of nobody in particular.

    This is the one place that decides: who logs a refusal asks nobody, and can forget nothing.
    """
    address = str(event.get("address") or str(event.get("peer", "")).rpartition(":")[0])
    is_refusal = event.pop("is_refusal", bool(address) and method not in ("debug", "info"))
    reason = " ".join(str(event.get(key, "")) for key in _SAID)
    if is_refusal and not refusals.is_due(event["event"], address, reason):
        raise structlog.DropEvent
    return event


class _LinesOfLibraries(logging.Filter):
    """Lines of libraries, which anybody can cause, too: a few of each place in the code in a minute."""

    _lines = LinesOfAddresses()

    def filter(self, record: logging.LogRecord) -> bool:
        """Decide once for all handlers that a line goes to."""
        if isinstance(record.msg, dict):  # of structlog, as all lines of the node and of packages that add to it
            return True
        if (is_due := record.__dict__.get("is_due")) is None:
            record.__dict__["is_due"] = is_due = self._lines.is_due(
                f"{record.name} {record.module}:{record.lineno}", ""
            )
        return bool(is_due)


_of_libraries = _LinesOfLibraries()


def configure(
    level: Literal["debug", "info", "warning", "error"] = "info",
    format: Literal["auto", "console", "json"] = "auto",
    stream: TextIO | None = None,
) -> None:
    """Write all log lines of this process to `stream` (standard error); auto: text on a terminal, else JSON lines.

    Call it once in each process, child processes included.
    """
    stream = stream or sys.stderr
    for lines in (refusals, _LinesOfLibraries._lines):
        lines._counts.clear()
    last = structlog.stdlib.ProcessorFormatter.wrap_for_formatter
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *_ours(), within_bounds, last],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    as_text = format == "console" or (format == "auto" and stream.isatty())
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(colors=stream.isatty()) if as_text else structlog.processors.JSONRenderer()
    )
    handler = _Handler(stream)
    handler.setFormatter(_formatter(renderer))
    handler.addFilter(_of_libraries)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    for name in QUIET_LIBRARIES:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def set_level(level: Literal["debug", "info", "warning", "error"]) -> None:
    """Write the lines of another level from now on."""
    logging.getLogger().setLevel(level.upper())


def configure_command(
    format: Literal["auto", "console", "json"] = "auto", level: Literal["warning", "error"] = "warning"
) -> None:
    """Write warnings of the node, or errors alone, to standard error, for a command that people read.

    Warnings of libraries are dropped: as their texts may quote a data set, a line has the location in the code alone.
    """
    configure(level, format)
    [handler] = logging.getLogger().handlers
    handler.addFilter(lambda record: record.name.split(".")[0] == "node" or record.levelno >= logging.ERROR)


FILE_BYTES, FILE_COUNT = 10_000_000, 5
"""Length at which the file of the log is renamed, and how many renamed files are kept."""


def write_to_file(path: Path, max_bytes: int = FILE_BYTES, count: int = FILE_COUNT) -> None:
    """Write the lines of this process to a file as well, as JSON; call it after `configure`.

    A line is in the file as soon as it was logged, and survives the end of the process. Beyond `max_bytes`, the file is
    renamed, and the oldest of `count` renamed ones is removed. If the disk is full, lines go to the stream alone.

    Raises UsageError if the file cannot be written.
    """
    from logging.handlers import RotatingFileHandler  # here: few nodes need it

    class File(RotatingFileHandler):
        """Its files are their owner's alone; a line that cannot be written is dropped."""

        def _open(self) -> TextIOWrapper:
            descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            if stat.S_ISREG(os.fstat(descriptor).st_mode):  # it may be older than this setting
                os.fchmod(descriptor, 0o600)
            return open(descriptor, "a", encoding="utf-8")

        def handleError(self, record: logging.LogRecord) -> None:
            """Pass over the line: the stream has it."""

        def write_line(self, line: str) -> None:
            """Write a line that is made already."""
            record = logging.makeLogRecord({"made": line})
            with self.lock or nullcontext():
                self.emit(record)

        def format(self, record: logging.LogRecord) -> str:
            """Return a line that is made already as it is."""
            return getattr(record, "made", None) or super().format(record)

    try:
        handler = File(path, maxBytes=max_bytes, backupCount=count, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"[log] file = {str(path)!r} cannot be written: {error.strerror}; name a file in a folder that this user "
            "may write to, or leave it out"
        ) from error
    handler.setFormatter(_formatter(structlog.processors.JSONRenderer()))
    handler.addFilter(_of_libraries)
    logging.getLogger().addHandler(handler)


def read_also(read: Callable[[], list[dict[str, Any]]]) -> None:
    """Have `newest` return the newest lines of another process as well."""
    _elsewhere.append(read)


def hand_on(write: Callable[[str], None]) -> None:
    """Have another process write the lines of this one to its file."""

    class Elsewhere(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            write(self.format(record))

    handler = Elsewhere()
    handler.setFormatter(_formatter(structlog.processors.JSONRenderer()))
    handler.addFilter(_of_libraries)
    logging.getLogger().addHandler(handler)


_elsewhere: list[Callable[[], list[dict[str, Any]]]] = []


def write_line(line: str) -> None:
    """Write a line of another process to the file of the log, if there is one."""
    for handler in logging.getLogger().handlers:
        if (write := getattr(handler, "write_line", None)) is not None:
            write(line)


class _Newest(logging.Handler):
    """Keeps the newest lines in memory, as they are in a file."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self.requests: deque[str] = deque(maxlen=KEPT_LINES)  # else they would push out what else there is
        self.setFormatter(_formatter(structlog.processors.JSONRenderer()))
        self.addFilter(_of_libraries)

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        (self.requests if f'"event": "{HTTP_REQUEST}"' in line else self.lines).append(line)

    def handleError(self, record: logging.LogRecord) -> None:
        """Pass over the line: the stream has it."""


def keep_newest() -> None:
    """Keep the newest lines of this process from now on, for `newest`; call it after `configure`."""
    handlers = logging.getLogger().handlers
    if not any(isinstance(handler, _Newest) for handler in handlers):
        logging.getLogger().addHandler(_Newest())


def newest() -> list[dict[str, Any]]:
    """Return the newest lines of this process, the oldest first; none unless they are kept."""
    rings = [handler for handler in logging.getLogger().handlers if isinstance(handler, _Newest)]
    lines = [json.loads(line) for ring in rings for line in (*ring.lines, *ring.requests)]
    lines += (line for read in _elsewhere for line in read())
    return sorted(lines, key=lambda line: str(line["timestamp"]))


def _ours() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        traceback_without_values,
        allow_listed,
    ]


def _formatter(renderer: Processor) -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[place_in_the_code, *_ours()],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        use_get_message=False,
        pass_foreign_args=True,
    )


class _Handler(logging.StreamHandler[TextIO]):
    """Writes lines to a stream; a line that cannot be written is dropped."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Report the type of the error; the default prints the record, with values that are not allowed."""
        error = type(sys.exc_info()[1]).__name__
        with suppress(OSError, ValueError):  # the stream is gone or closed
            self.stream.write(json.dumps({"event": "line_not_logged", "error": error}) + self.terminator)
            self.flush()


def allow_listed(_logger: Any, _method: str, event: Event) -> Event:
    """Remove the values of fields that are not allowed, and make the others short and printable."""
    for name, value in event.items():
        if name.startswith("_") or name == "exception":  # removed by structlog before rendering; made by us
            continue
        event[name] = _harmless(value) if name in ALLOWED_FIELDS else NOT_LOGGED
    return event


def _harmless(value: Any) -> Any:
    """Escape control characters, so that text from a peer cannot forge lines or move the cursor of a terminal."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        return [_harmless(item) for item in value]
    if isinstance(value, Mapping):
        return {str(_harmless(key)): _harmless(item) for key, item in value.items()}
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(value))
    return text if len(text) <= MAX_VALUE_CHARACTERS else f"{text[:MAX_VALUE_CHARACTERS]}..."


def traceback_without_values(_logger: Any, _method: str, event: Event) -> Event:
    """Replace ``exc_info`` by frames and type names, with the messages of our own errors and of `OSError` only.

    The message of a library may quote the data set that it failed on.
    """
    exc_info = event.pop("exc_info", None)
    if not exc_info:
        return event
    error = exc_info if isinstance(exc_info, BaseException) else sys.exc_info()[1]
    if isinstance(exc_info, tuple):
        error = exc_info[1]
    lines: list[str] = []
    while error is not None:
        name = f"{type(error).__module__}.{type(error).__qualname__}"
        message = f": {_harmless(error)}" if isinstance(error, VoxelnodeError | OSError) else ""
        lines.insert(0, "".join(traceback.format_tb(error.__traceback__)) + name + message)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    event["exception"] = "\n\nthen:\n".join(lines)
    return event


def place_in_the_code(_logger: Any, _method: str, event: Event) -> Event:
    """Replace the message of a library by its location in the code, and by its template if it has arguments."""
    record: logging.LogRecord = event["_record"]
    if event.pop("positional_args", None):
        event["template"] = event["event"]
    event["event"] = "library_message"
    event["logger"] = record.name
    event["code"] = f"{record.module}:{record.lineno}"
    return event
