"""The diagnostic log: one line an event on standard error, and no patient data in any of them.

What may be logged is a list of field names, `ALLOWED_FIELDS`: a field that is not on it loses its value, so that
a new one is a decision. Text that libraries log or warn with may quote a data set; of them only the place in the code
is told.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Mapping, MutableMapping
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import Processor

from node.errors import VoxelnodeError

ALLOWED_FIELDS = frozenset(
    {
        # of every line
        "event", "level", "timestamp", "logger", "exception",
        # who talks to us: titles and addresses of machines
        "association", "calling_ae_title", "called_ae_title", "peer", "host", "port", "address", "ae_title",
        # which object: identifiers of objects, not of persons
        "study_instance_uid", "series_instance_uid", "sop_instance_uid", "sop_class_uid", "transfer_syntax_uid",
        "abstract_syntax", "presentation_context_id", "modality", "revision", "stack", "series",
        # what happened
        "status", "reason", "detail", "error", "state", "verdict", "attempt", "attempts", "exit_code", "signal", "step",
        "result", "source", "kind", "format", "warnings", "command", "pdu_type", "implementation", "limit", "action",
        "tried_again",
        # how much, how long, where
        "parts", "adopted", "quarantined", "missing", "claims", "batch", "instances", "volumes", "refusals",
        "exclusions", "files", "failed",
        "frames", "images", "count", "bytes", "free_bytes", "reserve_bytes", "seconds", "retry_seconds",
        "quiet_seconds", "deadline_seconds", "associations", "due_at", "root", "path", "folder", "pid", "worker",
        "version", "schema", "workers", "code", "template", "hook", "service",
        # who asks over HTTP, and for which of our routes: never what is in its place
        "method", "route", "account",
    }
)  # fmt: skip
"""Names of fields whose values may be written; everything in them is ours or a machine's, never a person's."""

LONGEST_VALUE = 500
NOT_LOGGED = "[not logged]"
QUIET_LIBRARIES = ("pydicom", "pynetdicom", "highdicom", "PIL", "nibabel", "pylibjpeg", "py.warnings", "alembic")
"""Their text quotes data sets or is of no use to an operator; `alembic` tells each migration twice."""

Event = MutableMapping[str, Any]


def configure(
    level: Literal["debug", "info", "warning", "error"] = "info",
    format: Literal["auto", "console", "json"] = "auto",
    stream: TextIO | None = None,
) -> None:
    """Send every log line of this process to `stream` (standard error), as text on a terminal, else as JSON lines.

    To be called once a process, also in the child processes that convert.
    """
    stream = stream or sys.stderr
    ours: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        traceback_without_values,
        allow_listed,
    ]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *ours, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    as_text = format == "console" or (format == "auto" and stream.isatty())
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(colors=stream.isatty()) if as_text else structlog.processors.JSONRenderer()
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[place_in_the_code, *ours],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
            use_get_message=False,
            pass_foreign_args=True,
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    for name in QUIET_LIBRARIES:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def allow_listed(_logger: Any, _method: str, event: Event) -> Event:
    """Take the value of every field that is not allowed, and make the others one short, printable line."""
    for name, value in event.items():
        if name.startswith("_") or name == "exception":  # structlog's own, removed before rendering; made by us
            continue
        event[name] = _harmless(value) if name in ALLOWED_FIELDS else NOT_LOGGED
    return event


def _harmless(value: Any) -> Any:
    """`value` with control characters escaped: what a peer sent must not forge lines or move a terminal's cursor."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        return [_harmless(item) for item in value]
    if isinstance(value, Mapping):
        return {str(_harmless(key)): _harmless(item) for key, item in value.items()}
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(value))
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


def traceback_without_values(_logger: Any, _method: str, event: Event) -> Event:
    """Turn ``exc_info`` into frames and type names; only our own errors and the system's may say their message.

    A library's message may quote the data set that it failed on.
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
        says = f": {_harmless(error)}" if isinstance(error, VoxelnodeError | OSError) else ""
        lines.insert(0, "".join(traceback.format_tb(error.__traceback__)) + name + says)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    event["exception"] = "\n\nthen:\n".join(lines)
    return event


def place_in_the_code(_logger: Any, _method: str, event: Event) -> Event:
    """Replace a library's message by where it was logged, and by its constant template if it has arguments."""
    record: logging.LogRecord = event["_record"]
    if event.pop("positional_args", None):
        event["template"] = event["event"]
    event["event"] = "library_message"
    event["logger"] = record.name
    event["code"] = f"{record.module}:{record.lineno}"
    return event
