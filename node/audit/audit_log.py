"""The audit log: who stored, read, changed and deleted what, and who was refused; JSON lines, only ever appended.

A durable line precedes every deletion or change that a person orders: `Audit.require` raises if it cannot write that
line. All other lines are written by `Audit.note`, which never raises: receiving and reading continue without an audit
log, and the diagnostic log counts the missing lines.

The audit log names patients; the diagnostic log does not. Events, actions and outcomes have the codes of PS3.15 A.5 and
PS3.16. Each line contains the SHA-256 of the line before it, so `node.audit.audit_files.verify` finds lines that were
changed, removed or inserted. If the process dies while writing, the torn line stays, and the next line contains its
digest.
"""

import datetime as dt
import hashlib
import json
import math
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from time import monotonic
from typing import Any, Literal, Protocol, Self, TypeVar

import structlog

from node.audit.audit_files import FILE_NAME, FIRST, last_line, set_full_file_aside
from node.dicom.attributes import InstanceAttributes
from node.errors import VoxelnodeError
from node.files.durable import sync_data, sync_folder
from node.runtime.logs import LinesOfAddresses

log = structlog.get_logger()

Made = TypeVar("Made")

MAX_LINE_SECONDS, MAX_LINE_STUDIES = 60.0, 100
"""Maximum time and number of studies covered by one line about a transfer."""

MAXIMUM_BYTES = 100_000_000
"""Size at which audit.jsonl becomes audit-000001.jsonl (and so on), and a new file begins."""


class AuditFailed(VoxelnodeError):
    """The audit log cannot be written; nothing is deleted or changed until it can."""


class AuditEvent(Enum):
    """The event of a line: DCM code and code meaning, PS3.15 A.5.3 and PS3.16 context group 400."""

    APPLICATION_ACTIVITY = ("110100", "Application Activity")
    BEGIN_TRANSFERRING = ("110102", "Begin Transferring DICOM Instances")
    INSTANCES_ACCESSED = ("110103", "DICOM Instances Accessed")
    INSTANCES_TRANSFERRED = ("110104", "DICOM Instances Transferred")
    STUDY_DELETED = ("110105", "DICOM Study Deleted")
    EXPORT = ("110106", "Export")
    IMPORT = ("110107", "Import")
    PATIENT_RECORD = ("110110", "Patient Record")
    PROCEDURE_RECORD = ("110111", "Procedure Record")
    QUERY = ("110112", "Query")
    SECURITY_ALERT = ("110113", "Security Alert")
    USER_AUTHENTICATION = ("110114", "User Authentication")


TYPED = frozenset({AuditEvent.APPLICATION_ACTIVITY, AuditEvent.SECURITY_ALERT})
"""Events that have a type."""


class EventType(Enum):
    """What kind of an event it was, PS3.16 context group 401."""

    APPLICATION_START = ("110120", "Application Start")
    APPLICATION_STOP = ("110121", "Application Stop")
    LOGIN = ("110122", "Login")
    LOGOUT = ("110123", "Logout")
    NODE_AUTHENTICATION = ("110126", "Node Authentication")
    SOFTWARE_CONFIGURATION = ("110131", "Software Configuration")
    RESTRICTED_FUNCTION = ("110132", "Use of Restricted Function")
    OBJECT_SECURITY_CHANGED = ("110135", "Object Security Attributes Changed")
    ROLES_CHANGED = ("110136", "Security Roles Changed")
    USER_SECURITY_CHANGED = ("110137", "User Security Attributes Changed")
    AUTHENTICATION_DECISION = ("110143", "Authentication Decision")


class AuditAction(Enum):
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


CHANGES = frozenset({AuditAction.UPDATE, AuditAction.DELETE})

Stage = Literal["ordered", "done", "not done"]
"""Of a change: the line before it, or the one that says what became of it."""


@dataclass(frozen=True, slots=True)
class Participant:
    """An AE title, an account or a user of this machine; `role` is a code of PS3.16 context group 402."""

    user: str
    role: str
    address: str = ""
    is_requestor: bool = False
    certificate: str = ""


@dataclass(frozen=True, slots=True)
class AuditMessage:
    """Who did what to which `objects`: UIDs, Patient IDs, counts (PS3.15 A.5.2).

    `of`: of what a deletion is, if not of what is here.
    """

    event: AuditEvent
    action: AuditAction
    result: Result
    participants: Sequence[Participant]
    objects: Sequence[Mapping[str, Any]] = ()
    detail: str = ""
    type: EventType | None = None
    stage: Stage | None = None
    of: Literal["trash", "lost"] | None = None

    def at(self, stage: Stage) -> Self:
        """Return the line of a stage of a change, which its detail says as well."""
        result = Result.SERIOUS_FAILURE if stage == "not done" else self.result
        return replace(self, stage=stage, result=result, detail=f"{stage}: {self.detail}")

    @classmethod
    def by(
        cls,
        who: str,
        event: AuditEvent,
        action: AuditAction,
        detail: str,
        objects: Sequence[Mapping[str, Any]] = (),
        result: Result = Result.SUCCESS,
        kind: EventType | None = None,
    ) -> Self:
        """Return the message that an account, or a user of this machine, did something."""
        return cls(event, action, result, [Participant(who, APPLICATION, is_requestor=True)], objects, detail, kind)

    def __post_init__(self) -> None:
        assert self.event not in TYPED or self.type is not None, "PS3.15 A.5.3.1, A.5.3.11: of what type?"


APPLICATION, DESTINATION, SOURCE_MEDIA, SOURCE = "110150", "110152", "110155", "110153"
"""Codes of roles, PS3.16 context group 402."""


class AuditCopy(Protocol):
    """Where each line is sent as well. Thread-safe; never waits for the receiver, and never raises."""

    def send(self, line: str, at: str) -> None: ...

    def close(self) -> None: ...


class Audit:
    """Appends to the audit log of one root. Thread-safe.

    `root`: folder of the files (`node.audit.audit_files`), which only their owner can read.
    `ae_title`: AE title of this node, the source of every line.
    `copy`: where every line is sent as well.

    Raises AuditFailed: the file cannot be opened.
    """

    def __init__(
        self,
        root: Path,
        ae_title: str,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
        copy: AuditCopy | None = None,
    ) -> None:
        self._path, self._now = root.absolute() / FILE_NAME, now
        self._source = {"ae_title": ae_title, "host": socket.gethostname(), "pid": os.getpid()}
        self._lock = threading.Lock()
        self._copy = copy
        self.refusals = LinesOfAddresses(report=self._note_left_out)
        try:
            last = last_line(self._path.parent)
            self._file = self._open()
            if last and not last.endswith(b"\n"):  # torn by a power cut: it stays, and the next line holds its digest
                self._append(b"\n")
                last += b"\n"
        except OSError as error:
            raise _failed(self._path, error) from error
        self._previous = hashlib.sha256(last).hexdigest() if last else FIRST

    def require(self, message: AuditMessage) -> None:
        """Append a line before something is destroyed or changed; it survives a power cut.

        Raises AuditFailed if the line may be missing; the announced action must not be performed.
        """
        self._record(message, durable=True)

    def note(self, message: AuditMessage, *, is_idle: bool = False) -> None:
        """Append a line about something that has happened; never raises.

        Of refusals of an address, as many lines are written as in the diagnostic log, and the number of the others.
        `is_idle`: what was asked for changed nothing, and counts as a refusal.
        A line that cannot be written is reported in the diagnostic log. Lines about a change or a deletion are durable;
        of all others a power cut may take the last ones.
        """
        if message.result is Result.MINOR_FAILURE and all("study_instance_uid" not in one for one in message.objects):
            is_idle = True  # else some of the study may have come or gone: each line counts
        who = next((one for one in message.participants if is_idle and one.is_requestor and one.address), None)
        kind = f"{message.event.name} {message.type.name if message.type else ''}".strip()
        # Whom an account is refused as is proven; others may call themselves what they like, to use up all kinds.
        reason = message.detail + (who.user if who and message.type is EventType.RESTRICTED_FUNCTION else "")
        if who is None or self.refusals.is_due(kind, who.address, reason):
            self._try(message, durable=message.action in CHANGES and who is None)

    def _try(self, message: AuditMessage, *, durable: bool) -> None:
        try:
            self._record(message, durable=durable)
        except Exception:
            log.exception("not_audited", kind=message.event.value[1], count=len(message.objects))

    def _note_left_out(self, kind: str, address: str, count: int) -> None:
        who, what = [Participant("", SOURCE, address, is_requestor=True)], EventType.RESTRICTED_FUNCTION
        detail = f"{kind}: {count} more were refused within a minute, each without a line of its own"
        event, action, result = AuditEvent.SECURITY_ALERT, AuditAction.EXECUTE, Result.MINOR_FAILURE
        self._try(AuditMessage(event, action, result, who, (), detail, what), durable=False)

    def change(
        self,
        order: AuditMessage,
        make: Callable[..., Made],
        done: Callable[[Made], AuditMessage] | None = None,
        *,
        is_late: bool = False,
    ) -> Made:
        """Make a change that somebody orders, with a line before it and a line after it; return what `make` returns.

        `order`: who orders what. The lines add to its detail whether it is ordered, done or not done.
        `make`: makes the change, or raises VoxelnodeError and has changed nothing.
        `done`: returns what the last line is about, from what `make` returned; None for what the first line is about.
        `is_late`: `make` is given what writes the first line, and calls it before it commits; without it, no line.

        Raises AuditFailed if nothing was changed because the first line may be missing. If the process dies in between,
        the log has an order of which it does not say what became of it.
        """
        begun: list[bool] = []

        def ordered() -> None:
            self.require(order.at("ordered"))
            begun.append(True)

        if not is_late:
            ordered()
        try:
            made = make(ordered) if is_late else make()
        except VoxelnodeError:
            if begun:
                self.note(order.at("not done"))
            raise
        if begun:
            self.note((done(made) if done is not None else order).at("done"))
        return made

    def _record(self, message: AuditMessage, *, durable: bool) -> None:
        code, meaning = message.event.value
        content = {
            "at": self._now().isoformat(timespec="milliseconds"),
            "event": {"code": code, "scheme": "DCM", "meaning": meaning, **_typed(message.type)},
            "action": message.action.value,
            "outcome": message.result.value,
            "source": self._source,
            "participants": [
                {
                    "user": participant.user,
                    "role": participant.role,
                    "address": participant.address,
                    "requestor": participant.is_requestor,
                    **({"certificate": participant.certificate} if participant.certificate else {}),
                }
                for participant in message.participants
            ],
            "objects": [dict(item) for item in message.objects],
            "detail": message.detail,
            **{name: value for name, value in (("stage", message.stage), ("of", message.of)) if value},
        }
        with self._lock:
            text = json.dumps({**content, "previous": self._previous}, ensure_ascii=False)
            line = text.encode(errors="backslashreplace") + b"\n"  # a file name may not be valid text
            try:
                self._append(line)
                if durable:
                    sync_data(self._file)
            except OSError as error:
                raise _failed(self._path, error) from error
            self._previous = hashlib.sha256(line).hexdigest()
            self._begin_next_file_if_full()
        if self._copy is not None:
            self._copy.send(line.decode().rstrip(), str(content["at"]))

    def close(self) -> None:
        """Make all lines durable, and close the file."""
        self.refusals.report_ended(math.inf)
        os.fsync(self._file)
        os.close(self._file)
        if self._copy is not None:
            self._copy.close()

    def _open(self) -> int:
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        sync_folder(self._path.parent)
        return file

    def _begin_next_file_if_full(self) -> None:
        """Begin the next file. If that fails, the current one grows: a line is never lost for it."""
        try:
            if os.fstat(self._file).st_size < MAXIMUM_BYTES:
                return
            os.fsync(self._file)
            set_full_file_aside(self._path.parent)
            full, self._file = self._file, self._open()
            os.close(full)
        except OSError as error:
            log.error("audit_not_rotated", reason=error.strerror)

    def _append(self, line: bytes) -> None:
        """Write a whole line. If a full disk truncates it, remove the rest, so that the next line starts cleanly."""
        end = os.fstat(self._file).st_size
        written = os.write(self._file, line)
        if written < len(line):
            os.ftruncate(self._file, end)
            raise OSError(28, os.strerror(28))


class Sender(Protocol):
    """The sender of instances: an `Origin` of `node.receive.ingest`."""

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
    @property
    def certificate(self) -> str: ...


class Transfers:
    """Sums up the instances of each association or import by study, for one line of the audit log.

    A long transfer has several lines. If the process dies, the lines of the last minute are missing; the index still
    has the sender of each instance.
    """

    def __init__(self, audit: Audit) -> None:
        self._audit = audit
        self._lock = threading.Lock()
        # When each began, and its studies: Patient ID, and instances by SOP class.
        self._open: dict[Sender, tuple[float, dict[str, tuple[str, Counter[str]]]]] = {}

    def brought(self, sender: Sender, attributes: InstanceAttributes) -> None:
        """Count a stored instance; never raises if the audit log cannot be written."""
        uid = attributes.study_instance_uid
        with self._lock:
            began_at, studies = self._open.setdefault(sender, (monotonic(), {}))
            if uid not in studies:
                studies[uid] = str(attributes.patient["patient_id"] or ""), Counter()
            studies[uid][1][attributes.sop_class_uid] += 1
            due = monotonic() - began_at > MAX_LINE_SECONDS or len(studies) >= MAX_LINE_STUDIES
        if due:
            self.ended(sender, "under way")

    def ended(self, sender: Sender, outcome: str) -> None:
        """Write the line of an association that ended with `outcome`, unless it stored nothing."""
        with self._lock:
            transfer = self._open.pop(sender, None)
        if transfer is None:
            return
        is_import, is_ours = sender.source == "import", sender.source == "get"
        studies = [
            {"study_instance_uid": uid, "patient_id": patient_id, "sop_classes": dict(classes)}
            for uid, (patient_id, classes) in transfer[1].items()
        ]
        who, role = sender.calling_ae_title or sender.source, SOURCE_MEDIA if is_import else SOURCE
        message = AuditMessage(
            AuditEvent.IMPORT if is_import else AuditEvent.INSTANCES_TRANSFERRED,
            AuditAction.CREATE,
            Result.SUCCESS if outcome in ("released", "under way", "ended") else Result.MINOR_FAILURE,
            [
                Participant(who, role, sender.address, not is_ours, sender.certificate),
                Participant(sender.called_ae_title or "voxelnode", DESTINATION, is_requestor=is_ours),
            ],
            studies,
            outcome,
        )
        self._audit.note(message)

    def close(self) -> None:
        """Write the lines of all open transfers."""
        for sender in list(self._open):
            self.ended(sender, "ended")


def _typed(kind: EventType | None) -> dict[str, Any]:
    return {} if kind is None else {"type": {"code": kind.value[0], "meaning": kind.value[1]}}


def _failed(path: Path, error: OSError) -> AuditFailed:
    return AuditFailed(f"{path} cannot be written ({error.strerror}): nothing is deleted or changed until it can")
