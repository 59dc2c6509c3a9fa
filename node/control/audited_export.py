"""Lines of the audit log for commands that take patient data out of a root, or make something of originals.

The process that holds the root writes the log, because each line contains the digest of the one before it. Where there
is no audit log, or another account owns it, there is no line.
"""

import getpass
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager

import structlog

from node.audit.audit_files import FILE_NAME
from node.audit.audit_log import Audit, AuditAction, AuditEvent, AuditMessage, Result
from node.errors import VoxelnodeError
from node.registry import audit_copy_of
from node.settings.model import Settings

log = structlog.get_logger()


class ExportOutcome:
    """The result of a command as a sentence; empty if the command did not end."""

    def __init__(self) -> None:
        self.counts = ""


@contextmanager
def audited_export(settings: Settings, order: str) -> Iterator[ExportOutcome]:
    """Write a line before and after a command; the command goes on if they cannot be written, and the log says so.

    Where the first line could not be written, the second is not tried: each may wait for the process with the root.

    `order`: what the command does, how, and to where.
    """
    is_audited = _note(settings, f"{order}: begun", Result.SUCCESS)
    outcome = ExportOutcome()
    try:
        yield outcome
    finally:
        if is_audited and outcome.counts:
            _note(settings, f"{order}: done, {outcome.counts}", Result.SUCCESS)
        elif is_audited:
            _note(settings, f"{order}: broken off", Result.MINOR_FAILURE)


def _note(settings: Settings, detail: str, result: Result) -> bool:
    """Return whether there is a line."""
    if not os.access(settings.storage.root / FILE_NAME, os.W_OK):
        return False
    try:
        _write(settings, detail, result)
    except (VoxelnodeError, OSError) as error:
        log.warning("not_audited", kind="Export", reason=str(error))
        return False
    return True


def _write(settings: Settings, detail: str, result: Result) -> None:
    from node.control.root import hold_or_request, locked_root  # here: a second of imports

    root, who = settings.storage.root.absolute(), getpass.getuser()
    arguments = {"detail": detail, "result": result.value, "who": who}
    held = hold_or_request(root, lambda: locked_root(root, keeps=False), "note-export", arguments)
    if isinstance(held, dict):
        return
    with held, closing(Audit(root, settings.dicom.ae_title, copy=audit_copy_of(settings))) as audit:
        audit.note(AuditMessage.by(who, AuditEvent.EXPORT, AuditAction.READ, detail, result=result))
