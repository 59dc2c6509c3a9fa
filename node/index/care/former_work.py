"""What an index owed whose schema has no ledger of work: requests for commitment, and retrievals."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

Row = dict[str, Any]

_COMMITMENTS = {"owed": None, "reported": "succeeded", "given-up": "failed"}


class OldTables(Protocol):
    """The tables of an old index; see `node.index.care.salvage.OldIndex`."""

    def rows(self, table: str, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield the rows of a table with the columns `names`; none if the schema has no such table."""


def former_work(old: OldTables) -> Iterator[Row]:
    """Yield the rows of ``work`` that stand for what older tables have."""
    for number, row in enumerate((*_retrievals(old), *_commitments(old)), 1):
        yield {"id": number, **row}


def _retrievals(old: OldTables) -> Iterator[Row]:
    names = (
        "retrieval_id", "peer", "study_instance_uid", "series_instance_uid", "state", "attempts", "announced", "stored",
        "refused", "failed", "detail", "requested_by", "cancelled_by", "created_at", "changed_at", "ended_at",
    )  # fmt: skip
    for row in old.rows("retrievals", names):
        state = row["state"] if row["state"] in ("waiting", "running") else "ended"
        yield {
            **_common("retrieval", row["peer"], row["retrieval_id"], row["created_at"]),
            **{name: row[name] for name in ("study_instance_uid", "series_instance_uid", "attempts", "requested_by")},
            **{name: row[name] for name in ("cancelled_by", "changed_at", "ended_at")},
            "state": state,
            "outcome": row["state"] if state == "ended" else None,
            "reason": row["detail"],
            "payload": _document(row, ("announced", "stored", "refused", "failed")),
        }


def _commitments(old: OldTables) -> Iterator[Row]:
    names = (
        "transaction_uid", "calling_ae_title", "peer", "instances", "references", "state", "attempts", "failed",
        "detail", "requested_at", "due_at", "ended_at",
    )  # fmt: skip
    for row in old.rows("commitments", names):
        outcome = _COMMITMENTS[row["state"]]
        request = {**row, "references": json.loads(row["references"])}
        yield {
            **_common("commitment", row["calling_ae_title"], row["transaction_uid"], row["requested_at"]),
            **{name: row[name] for name in ("attempts", "due_at", "ended_at")},
            "requested_by": row["calling_ae_title"],
            "changed_at": row["ended_at"] or row["requested_at"],
            "state": "ended" if outcome else "waiting",
            "outcome": outcome,
            "reason": row["detail"],
            "payload": _document(request, ("peer", "instances", "references", "failed")),
        }


def _common(kind: str, name: str, key: str, created_at: Any) -> Row:
    """Return the columns of work that began when it was requested; those of other kinds are empty."""
    nothing = dict.fromkeys(
        ("event", "study_instance_uid", "series_instance_uid", "sop_instance_uid", "revision", "due_at", "tried_at",
         "percent", "cancelled_by")
    )  # fmt: skip
    lane = {"kind": kind, "name": name, "destination": "", "key": key}
    return {**nothing, **lane, "happened_at": created_at, "created_at": created_at, "repeats": 0}


def _document(row: Mapping[str, Any], names: Sequence[str]) -> str:
    return json.dumps({name: row[name] for name in names})
