"""The page of the newest changes: who changed what on this host, and when, from the audit log."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Response

from node.audit.audit_files import audit_files
from node.audit.audit_log import AuditAction, AuditEvent, EventType
from node.web.access import ADMINS, CurrentCall
from node.web.pages.rendering import page

router = APIRouter(include_in_schema=False, dependencies=ADMINS)

READ_BYTES = 4 << 20
"""How much of the end of the audit log is read; a line has about 800 bytes."""

SHOWN_CHANGES = 200

SHOWN_STUDIES = 3
"""Studies of a change that are named."""

ORDERED = "ordered: "
"""Of a change that is recorded before and after it was made."""

_CHANGES = frozenset({AuditAction.UPDATE.value, AuditAction.DELETE.value})
_ACTIVITY = AuditEvent.APPLICATION_ACTIVITY.value[0]
_CONFIGURATION = EventType.SOFTWARE_CONFIGURATION.value[0]


@router.get("/administration/changes")
def changes(call: CurrentCall) -> Response:
    """The newest changes, newest first."""
    lines = list(_lines(call.node.archive.root))
    rows = [_row(line) for line in lines if line is not None and _is_change(line)][: -SHOWN_CHANGES - 1 : -1]
    call.audit.queried("changes of the audit log", len(rows))
    uids = dict.fromkeys(uid for row in rows for uid in [*row["studies"]][:SHOWN_STUDIES])
    with call.node.index.reading() as index:
        known = {uid: index.studies.row(uid) for uid in uids}
    return page(call, "changes.html", part="changes", rows=rows, known=known, damaged=lines.count(None))


def _lines(root: Path) -> Iterator[Mapping[str, Any] | None]:
    """Yield the last lines of the audit log, oldest first; None for one that is damaged."""
    left = READ_BYTES
    ends: list[bytes] = []
    for path in reversed(audit_files(root)):
        with path.open("rb") as file:
            start = max(file.seek(0, 2) - left, 0)
            file.seek(start)
            content = file.read(left)
        ends.append(content.partition(b"\n")[2] if start else content)
        left -= len(content)
        if left <= 0:
            break
    for line in b"".join(reversed(ends)).splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            yield None


def _is_change(line: Mapping[str, Any]) -> bool:
    is_of_node = line["event"]["code"] == _ACTIVITY or line["event"].get("type", {}).get("code") == _CONFIGURATION
    return (line["action"] in _CHANGES or is_of_node) and not line.get("detail", "").startswith(ORDERED)


def _row(line: Mapping[str, Any]) -> dict[str, Any]:
    who = next((one for one in line["participants"] if one["requestor"]), {"user": "the node"})
    detail = line.get("detail") or ""
    return {
        "at": line["at"],
        "who": who["user"],
        "address": who.get("address") or "",
        "what": detail.removeprefix("done: ") or line["event"]["meaning"],
        "meaning": line["event"]["meaning"],
        "is_done": line["outcome"] == 0,
        "studies": {
            one["study_instance_uid"]: one.get("patient_id") or ""
            for one in line.get("objects", ())
            if "study_instance_uid" in one
        },
    }
