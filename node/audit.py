"""The audit log: who stored, deleted and changed what, and who was kept out; JSON lines, only ever appended.

It names patients and is kept apart from the diagnostic log, which does not. Events, actions and outcomes are those of
PS3.15 A.5 and of the codes that it takes from PS3.16. Each line holds the SHA-256 of the line before, so that a line
that was changed, removed or put in between is found by `verify`.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import logging
import logging.handlers
import os
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from time import monotonic
from typing import Any, ClassVar, Protocol

import structlog

from node.dicom.attributes import InstanceAttributes
from node.durable import sync_folder
from node.errors import UsageError, VoxelnodeError

log = structlog.get_logger()

FILE_NAME = "audit.jsonl"
LINE_SECONDS, LINE_STUDIES = 60.0, 100
"""What one line about a transfer sums up at most."""

FIRST = "0" * 64
"""What the first line says of the line before it."""


class AuditFailed(VoxelnodeError):
    """The audit log cannot be written: nothing is deleted or changed until it can."""


class AuditEvent(Enum):
    """What a line tells: DCM code and code meaning, PS3.15 A.5.3 and PS3.16 context group 400."""

    APPLICATION_ACTIVITY = ("110100", "Application Activity")
    BEGIN_TRANSFERRING = ("110102", "Begin Transferring DICOM Instances")
    INSTANCES_ACCESSED = ("110103", "DICOM Instances Accessed")
    INSTANCES_TRANSFERRED = ("110104", "DICOM Instances Transferred")
    STUDY_DELETED = ("110105", "DICOM Study Deleted")
    EXPORT = ("110106", "Export")
    IMPORT = ("110107", "Import")
    PATIENT_RECORD = ("110110", "Patient Record")
    QUERY = ("110112", "Query")
    SECURITY_ALERT = ("110113", "Security Alert")
    USER_AUTHENTICATION = ("110114", "User Authentication")


class Action(Enum):
    """Event Action Code, PS3.15 A.5.2."""

    CREATE = "C"
    READ = "R"
    UPDATE = "U"
    DELETE = "D"
    EXECUTE = "E"


class Result(Enum):
    """Event Outcome Indicator, PS3.15 A.5.2."""

    SUCCESS = 0
    MINOR_FAILURE = 4
    SERIOUS_FAILURE = 8


@dataclass(frozen=True, slots=True)
class Participant:
    """An active participant: an AE title or a user of this machine; `role` is a code of PS3.16 context group 402."""

    user: str
    role: str
    address: str = ""
    is_requestor: bool = False


APPLICATION, DESTINATION, SOURCE_MEDIA, SOURCE = "110150", "110152", "110154", "110153"
"""Roles of participants, PS3.16 context group 402."""


class Audit:
    """Appends to the audit log of one root; safe to use from many threads.

    Parameters
    ----------
    root : Path
        The file is ``audit.jsonl`` in it, readable by its owner only.
    ae_title : str
        Names this node as the source of every line.
    syslog : str or None
        ``HOST:PORT`` (UDP) or the path of a socket that gets every line too, with the facility of PS3.15 A.6.1.
    now : callable () -> aware datetime

    Raises
    ------
    AuditFailed
        The file cannot be opened.
    """

    def __init__(
        self,
        root: Path,
        ae_title: str,
        syslog: str | None = None,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._path, self._now = root.absolute() / FILE_NAME, now
        self._source = {"ae_title": ae_title, "host": socket.gethostname(), "pid": os.getpid()}
        self._lock = threading.Lock()
        self._syslog = _syslog(syslog) if syslog else None
        try:
            last = _last_line(self._path)
            self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            sync_folder(self._path.parent)
            if last and not last.endswith(b"\n"):  # a power cut tore it: it stays, and the next line tells its digest
                self._append(b"\n")
                last += b"\n"
        except OSError as error:
            raise _failed(self._path, error) from error
        self._previous = hashlib.sha256(last).hexdigest() if last else FIRST

    def record(
        self,
        event: AuditEvent,
        action: Action,
        result: Result,
        participants: Sequence[Participant],
        objects: Sequence[Mapping[str, Any]] = (),
        detail: str = "",
        *,
        durable: bool = False,
    ) -> None:
        """Append one line.

        Parameters
        ----------
        objects : sequence of mappings
            What it was done to: UIDs, Patient IDs, counts.
        durable : bool
            Return only when the line would survive a power cut.

        Raises
        ------
        AuditFailed
            It may not be written.
        """
        code, meaning = event.value
        told = {
            "at": self._now().isoformat(timespec="milliseconds"),
            "event": {"code": code, "scheme": "DCM", "meaning": meaning},
            "action": action.value,
            "outcome": result.value,
            "source": self._source,
            "participants": [
                {"user": one.user, "role": one.role, "address": one.address, "requestor": one.is_requestor}
                for one in participants
            ],
            "objects": [dict(one) for one in objects],
            "detail": detail,
        }
        with self._lock:
            line = json.dumps({**told, "previous": self._previous}, ensure_ascii=False).encode() + b"\n"
            try:
                self._append(line)
                if durable:
                    os.fdatasync(self._file)
            except OSError as error:
                raise _failed(self._path, error) from error
            self._previous = hashlib.sha256(line).hexdigest()
        if self._syslog is not None:
            self._syslog.handle(logging.makeLogRecord({"msg": line.decode().rstrip(), "levelname": "INFO"}))

    def close(self) -> None:
        """Make what was written durable, and let go of the file."""
        os.fsync(self._file)
        os.close(self._file)
        if self._syslog is not None:
            self._syslog.close()

    def _append(self, line: bytes) -> None:
        """Write a whole line; what a full disk cut off is taken back, so that no half line stands before the next."""
        end = os.fstat(self._file).st_size
        written = os.write(self._file, line)
        if written < len(line):
            os.ftruncate(self._file, end)
            raise OSError(28, os.strerror(28))


class Sender(Protocol):
    """Who brings instances; an `Origin` of `node.receive.ingest`."""

    @property
    def source(self) -> str: ...
    @property
    def calling_ae_title(self) -> str: ...
    @property
    def called_ae_title(self) -> str: ...
    @property
    def address(self) -> str: ...
    @property
    def association(self) -> str: ...


@dataclass(slots=True)
class _Study:
    patient_id: str
    sop_classes: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class _Transfer:
    began_at: float
    studies: dict[str, _Study] = field(default_factory=dict)


class Transfers:
    """Sums up what each association or import brings, study by study, for one line of the audit log.

    What is under way for long is told in several lines, so that a crash leaves no more than the last minute untold;
    of that the index still knows who sent what.
    """

    def __init__(self, audit: Audit) -> None:
        self._audit = audit
        self._lock = threading.Lock()
        self._open: dict[Sender, _Transfer] = {}

    def brought(self, sender: Sender, attributes: InstanceAttributes) -> None:
        """Count an instance that is stored; never raises for a log that cannot be written."""
        uid = str(attributes.study["study_instance_uid"])
        with self._lock:
            transfer = self._open.setdefault(sender, _Transfer(monotonic()))
            study = transfer.studies.setdefault(uid, _Study(str(attributes.patient["patient_id"] or "")))
            study.sop_classes[attributes.sop_class_uid] += 1
            due = monotonic() - transfer.began_at > LINE_SECONDS or len(transfer.studies) >= LINE_STUDIES
        if due:
            self.ended(sender, "under way")

    def ended(self, sender: Sender, outcome: str) -> None:
        """Write the line of an association that ended, if it brought anything; `outcome` says how it did."""
        with self._lock:
            transfer = self._open.pop(sender, None)
        if transfer is None:
            return
        is_import, is_ours = sender.source == "import", sender.source == "get"
        studies = [
            {"study_instance_uid": uid, "patient_id": study.patient_id, "sop_classes": dict(study.sop_classes)}
            for uid, study in transfer.studies.items()
        ]
        who = sender.calling_ae_title or sender.source
        try:
            self._audit.record(
                AuditEvent.IMPORT if is_import else AuditEvent.INSTANCES_TRANSFERRED,
                Action.CREATE,
                Result.SUCCESS if outcome in ("released", "under way", "ended") else Result.MINOR_FAILURE,
                [
                    Participant(who, SOURCE_MEDIA if is_import else SOURCE, sender.address, is_requestor=not is_ours),
                    Participant(sender.called_ae_title or "voxelnode", DESTINATION, is_requestor=is_ours),
                ],
                studies,
                outcome,
            )
        except AuditFailed:
            log.exception(
                "transfer_not_audited", count=sum(study.sop_classes.total() for study in transfer.studies.values())
            )

    def close(self) -> None:
        """Write what is still open."""
        for sender in list(self._open):
            self.ended(sender, "ended")


def verify(path: Path) -> list[str]:
    """Return what is wrong with the chain of an audit log, in sentences; empty when all is well."""
    problems, previous = [], FIRST
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                told = json.loads(line)["previous"]
            except (ValueError, KeyError, TypeError):
                problems.append(f"line {number} is no line of the audit log: torn by a power cut, or put there")
            else:
                if told != previous:
                    problems.append(f"line {number} does not follow the line before it: one was changed or removed")
            previous = hashlib.sha256(line).hexdigest()
    return problems


def _failed(path: Path, error: OSError) -> AuditFailed:
    return AuditFailed(f"{path} cannot be written ({error.strerror}): nothing is deleted or changed until it can")


def _last_line(path: Path) -> bytes:
    """The last line of a file, with its end if it has one; empty when there is none."""
    if not path.exists():
        return b""
    with path.open("rb") as file:
        at = file.seek(0, os.SEEK_END)
        tail = b""
        while at and tail.count(b"\n", 0, -1) < 1:
            step = min(65536, at)
            at = file.seek(at - step)
            tail = file.read(step) + tail
            file.seek(at)
        return tail.splitlines(keepends=True)[-1] if tail else b""


class _Syslog(logging.handlers.SysLogHandler):
    """PS3.15 A.6.1: facility 10 and, of what is normal but significant, severity 5."""

    priority_map: ClassVar[dict[str, str]] = {"INFO": "notice"}

    def handleError(self, record: logging.LogRecord) -> None:  # logging would print the line, which names patients
        log.error("audit_syslog_failed", error=type(sys.exc_info()[1]).__name__)


def _syslog(address: str) -> _Syslog:
    host, colon, port = address.rpartition(":")
    try:
        return _Syslog((host, int(port)) if colon and port.isdecimal() else address, _Syslog.LOG_AUTHPRIV)
    except OSError as error:
        raise UsageError(f"[audit] syslog = {address!r} cannot be used: {error.strerror or error}") from error
