"""The test of a hook: a message of the newest series, marked as a test."""

from collections.abc import Mapping
from typing import Any

from node.association.added import OpenedRoot
from node.audit.audit_log import AuditAction, AuditEvent, AuditMessage, EventType, Result
from node.errors import UsageError
from node.notify.channel import NotDelivered, delivered_test
from node.notify.message import message_of_first
from node.notify.notifier import export_line

TESTED_SERIES = 100
"""Newest series, of which a test takes the first that has what the event needs."""

TEST_SECONDS = 30.0
"""Longest attempt of a test of a hook that the pages have written: somebody waits for it."""


def test_hook(root: OpenedRoot, name: str, who: str) -> Mapping[str, Any]:
    """Deliver a test message, and tell what became of it."""
    settings = root.settings
    if settings.loaded_from.is_of_pages(f"hooks.{name}"):
        seconds = min(TEST_SECONDS, settings.hooks[name].timeout_seconds)
        quick = settings.hooks[name].model_copy(update={"timeout_seconds": seconds})
        settings = settings.model_copy(update={"hooks": {**settings.hooks, name: quick}})
    hook = settings.hooks[name]
    with root.ingest.index.reading() as index:
        newest = index.series.newest(TESTED_SERIES)
        message = message_of_first(index, hook, hook.on[0], settings.dicom.ae_title, newest)
    if message is None:
        raise UsageError(f"there is no series yet that has what a message of {hook.on[0]} needs")
    event, kind = AuditEvent.SECURITY_ALERT, EventType.SOFTWARE_CONFIGURATION
    detail = f"hook {name}: test message{f' to {hook.host}' if hook.host else ''}"
    root.audit.note(AuditMessage.by(who, event, AuditAction.EXECUTE, detail, kind=kind))
    reason = None
    try:
        with delivered_test(settings, name, message):  # its results are thrown away
            pass
    except NotDelivered as error:
        reason = str(error)
    result = Result.SUCCESS if reason is None else Result.MINOR_FAILURE
    line = export_line(name, hook, message, settings.dicom.ae_title, result)
    if line is not None:
        root.audit.note(line)
    return {"hook": name, "accepted": reason is None, "reason": reason, "event": message.event, "id": message.id}
