"""Actions shared by REST and the pages: reconvert, delete, release, purge, accept, keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from node.audit.audit_log import Action, AuditEvent
from node.index.records import Level
from node.index.terms import Terms
from node.web.access import Caller, RequestAudit
from node.web.audit_trail import of_study
from node.web.services import Services


def reconvert(
    node: Services,
    audit: RequestAudit,
    study_instance_uid: str,
    patient_id: str,
    series_instance_uids: Sequence[str],
    terms: Terms | None = None,
) -> Mapping[str, Any]:
    """Request and record the reconversion of series of a study; the result has their number as ``owed``."""
    series = [(study_instance_uid, series_instance_uid) for series_instance_uid in series_instance_uids]
    done = node.actions["reconvert"](series=series, terms=terms)
    objects = [of_study(study_instance_uid, patient_id)]
    audit.changed(AuditEvent.INSTANCES_ACCESSED, Action.EXECUTE, objects, f"{done['owed']} series converted again")
    return done


def release(node: Services, account: Caller, name: str, *, replace: bool) -> Mapping[str, Any]:
    """Take a file in quarantine back into the archive; `node.receive.quarantine` writes the audit log."""
    return node.actions["release-quarantined"](name=name, who=account.name, replace=replace)


def accept(node: Services, account: Caller, conflict: int, *, alike: bool) -> Mapping[str, Any]:
    """Make the version in a conflict current; `node.receive.quarantine` writes the audit log."""
    return node.actions["accept-conflict"](conflict=conflict, who=account.name, alike=alike)


def keep(node: Services, account: Caller, conflict: int, *, alike: bool) -> Mapping[str, Any]:
    """Keep what is current; `node.receive.conflicts` writes the audit log."""
    return node.actions["keep-conflict"](conflict=conflict, who=account.name, alike=alike)


def purge(node: Services, account: Caller, name: str) -> Mapping[str, Any]:
    """Delete a file in quarantine permanently; `node.receive.quarantine` writes the audit log."""
    return node.actions["purge-quarantined"](name=name, who=account.name)


def delete(
    node: Services,
    account: Caller,
    level: Level,
    uid: str,
    study_instance_uid: str | None,
    terms: Terms | None = None,
) -> None:
    """Delete an object permanently; `node.lifecycle.deletion` writes the audit log before and after."""
    node.actions["delete"](
        level=level, uid=uid, study_instance_uid=study_instance_uid, who=account.name, reason="by HTTP", terms=terms
    )
