"""Actions on links, each with a line in the audit log before it: a link lets strangers see a patient."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

from node.audit.audit_log import APPLICATION, Action, Audit, AuditEvent, AuditMessage, Participant, Result
from node.errors import UsageError
from node.hookspecs import Action as RootAction
from node.index.nouns.shares import Share, ShareRepository
from node.receive.ingest import Ingest

MAX_DAYS = 366


def actions(ingest: Ingest, audit: Audit) -> Mapping[str, RootAction]:
    """Return the actions by name."""
    shares = ingest.index.repository(ShareRepository)

    def record(study: str, who: str, detail: str) -> None:
        whom = [Participant(who, APPLICATION, is_requestor=True)]
        event, objects = AuditEvent.SECURITY_ALERT, [{"study_instance_uid": study, "patient_id": ""}]
        audit.require(AuditMessage(event, Action.UPDATE, Result.SUCCESS, whom, objects, detail))

    def make(
        sha256: str, study: str, days: int, who: str, series: str = "", download: bool = False
    ) -> Mapping[str, Any]:
        if not 1 <= days <= MAX_DAYS:
            raise UsageError(f"a link is for 1 to {MAX_DAYS} days")
        with ingest.index.reading() as index:
            if index.studies.row(study) is None or (series and index.series.row(study, series) is None):
                raise UsageError("there is no such study or series")
        now = ingest.now()
        share = Share(0, study, series, download, who, now, now + dt.timedelta(days=days), 0, None)
        record(study, who, f"ordered: link for {days} days, {'with' if download else 'without'} download")
        return {"id": shares.make(sha256, share), "expires_at": share.expires_at.isoformat()}

    def revoke(number: int, who: str, *, any_account: bool = True) -> Mapping[str, Any]:
        share = shares.revoke(number, None if any_account else who)
        record(share.study, who, f"done: link {number} revoked")
        return {"removed": number}

    return {"make-share": make, "revoke-share": revoke}
