"""Actions on links, each with a line in the audit log before and after it: a link lets strangers see a patient."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from node.association.added import OpenedRoot
from node.audit.audit_log import AuditAction, AuditEvent, AuditMessage, EventType
from node.errors import UsageError, counted, nearest
from node.extensions.shares.rows import ShareRepository
from node.hookspecs import Action as RootAction
from node.index.nouns.records import Share
from node.registry import deidentifications_of
from node.settings.model import Settings

MAX_DAYS = 366


def actions(root: OpenedRoot) -> Mapping[str, RootAction]:
    """Return the actions by name."""
    ingest, audit, settings = root.ingest, root.audit, root.settings
    shares = ingest.index.repository(ShareRepository)

    def changed(link: str, what: str, study: str, who: str, change: Callable[[], int]) -> int:
        """Make a change that returns the number of its link, with an audit line before and after it."""
        with ingest.index.reading() as index:
            objects = [{"study_instance_uid": study, "patient_id": index.studies.patient_id(study) or ""}]
        event, kind = AuditEvent.SECURITY_ALERT, EventType.OBJECT_SECURITY_CHANGED
        order = AuditMessage.by(who, event, AuditAction.UPDATE, f"{link}: {what}", objects, kind=kind)
        return audit.change(order, change, lambda number: replace(order, detail=f"link {number}: {what}"))

    def make(
        sha256: str,
        study: str,
        days: int,
        who: str,
        series: str = "",
        download: bool = False,
        deidentification: str | None = None,
    ) -> Mapping[str, Any]:
        if not 1 <= days <= MAX_DAYS:
            raise UsageError(f"a link is for 1 to {MAX_DAYS} days")
        with ingest.index.reading() as index:
            if index.studies.row(study) is None or (series and index.series.row(study, series) is None):
                raise UsageError("there is no such study or series")
        if deidentification is not None:
            _require_deidentification(settings, deidentification, may_download=download)
        now = ingest.now()
        until = now + dt.timedelta(days=days)
        share = Share(0, study, series, download, deidentification, who, now, until, 0, None)
        what = f"{_shown(share)} for {counted(days, 'day')}, {'with' if download else 'without'} download"
        what += f", de-identified by [deidentify.{deidentification}]" if deidentification is not None else ""
        number = changed("new link", what, study, who, lambda: shares.make(sha256, share))
        return {"id": number, "expires_at": share.expires_at.isoformat()}

    def revoke(number: int, who: str, *, any_account: bool = True) -> Mapping[str, Any]:
        made_by = None if any_account else who
        share = shares.by_number(number, made_by)
        what = f"{_shown(share)}, revoked"
        changed(f"link {number}", what, share.study, who, lambda: shares.revoke(number, made_by).id)
        return {"removed": number}

    return {"make-share": make, "revoke-share": revoke}


def _require_deidentification(settings: Settings, name: str, *, may_download: bool) -> None:
    known = deidentifications_of(settings)
    if name not in known:
        raise UsageError(f"there is no de-identification {name!r}{nearest(name, known) if known else ''}")
    if not may_download:
        raise UsageError("a link without identities shows no pictures: it needs the download of copies")


def _shown(share: Share) -> str:
    return f"series {share.series}" if share.series else "study"
