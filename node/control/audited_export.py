"""Lines of the audit log for commands that take patient data out of a root, or make something of originals.

The process that holds the root writes the log, because each line contains the digest of the one before it. Where there
is no audit log, or another account owns it, there is no line.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic, sleep

import structlog

from node.audit.audit_files import FILE_NAME
from node.audit.audit_log import Audit, Result
from node.errors import VoxelnodeError
from node.settings.model import Settings

log = structlog.get_logger()


class Outcome:
    """What a command has done, in words; empty: it did not end."""

    def __init__(self) -> None:
        self.counts = ""


@contextmanager
def audited_export(settings: Settings, order: str) -> Iterator[Outcome]:
    """Write a line before and after a command; the command goes on if they cannot be written, and the log says so.

    Parameters
    ----------
    order : str
        What the command does, how, and to where.
    """
    _note(settings, f"{order}: begun", Result.SUCCESS)
    outcome = Outcome()
    try:
        yield outcome
    finally:
        if outcome.counts:
            _note(settings, f"{order}: done, {outcome.counts}", Result.SUCCESS)
        else:
            _note(settings, f"{order}: broken off", Result.MINOR_FAILURE)


def _note(settings: Settings, detail: str, result: Result) -> None:
    if not os.access(settings.storage.root / FILE_NAME, os.W_OK):
        return
    try:
        _write(settings, detail, result)
    except (VoxelnodeError, OSError) as error:
        log.warning("not_audited", kind="Export", reason=str(error))


def _write(settings: Settings, detail: str, result: Result) -> None:
    from node.control.control_socket import REQUEST_SECONDS, NoControlSocket, request_action
    from node.control.repository import RETRY_SECONDS, RootInUse, export_message, locked_root  # a second of imports

    root, who = settings.storage.root.absolute(), getpass.getuser()
    deadline = monotonic() + REQUEST_SECONDS
    while True:
        try:
            with locked_root(root):
                audit = Audit(root, settings.dicom.ae_title, settings.audit)
                try:
                    audit.note(export_message(detail, result, who))
                finally:
                    audit.close()
            return
        except RootInUse:
            try:
                request_action(root, "note-export", {"detail": detail, "result": result.value, "who": who})
                return
            except NoControlSocket:
                if monotonic() > deadline:
                    raise
            sleep(RETRY_SECONDS)
