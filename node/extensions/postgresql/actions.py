"""Actions on the hosts of an index: drain one, and forget one that will not come back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import structlog

from node.archive.base import Remote, StoreAway
from node.association.added import OpenedRoot
from node.audit.audit_log import AuditAction, AuditEvent, AuditMessage, EventType
from node.errors import UsageError
from node.extensions.postgresql.hosts import HostRepository
from node.hookspecs import Action as RootAction
from node.index.database.index import Index

log = structlog.get_logger()


def actions(root: OpenedRoot) -> Mapping[str, RootAction]:
    """Return the actions by name."""
    ingest, audit = root.ingest, root.audit
    index, remote = ingest.index, ingest.archive.remote
    hosts = index.repository(HostRepository)

    def drain(host: str, who: str) -> Mapping[str, Any]:
        if index.sharing.host is None:
            raise UsageError("the index is a file, and has no hosts: stop the node with SIGTERM")
        hosts.ask_to_drain(host, index.now())
        log.info("drain_asked", host=host, detail=f"by {who}")
        return {"asked": host}

    def forget(host: str, who: str) -> Mapping[str, Any]:
        hosts.require_gone(host, index.now())
        if remote is not None:
            _record_uploaded(index, remote, host)
        index.series.reopen(index.objects.current_only_at(host), index.now())
        index.objects.give_up(host)
        forgotten = asdict(hosts.forget(host, index.now()))
        event, kind = AuditEvent.SECURITY_ALERT, EventType.SOFTWARE_CONFIGURATION
        detail = f"host {host} of the index was forgotten"
        audit.note(AuditMessage.by(who, event, AuditAction.DELETE, detail, kind=kind))
        return {"forgotten": host, **forgotten}

    return {"drain-host": drain, "forget-host": forget}


def _record_uploaded(index: Index, remote: Remote, host: str) -> None:
    """Note what a host has put into the store and did not live to record."""
    files = index.objects.only_at(host)
    try:
        problems = list(remote.object_problems(files))
    except StoreAway as error:
        raise UsageError(f"{error.strerror}: {host} can be forgotten when the store tells what it has") from error
    stored = [file.key for file, problem in zip(files, problems, strict=True) if problem is None]
    if stored:
        index.objects.record_stored(stored, index.now())
