"""What an index owed before its schema had a ledger: messages and their subscribers, jobs, retrievals, commitments."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

Row = dict[str, Any]

_COMMITMENTS = {"owed": None, "reported": "succeeded", "given-up": "failed"}
_MESSAGES = {"waiting": None, "delivered": "succeeded", "given-up": "failed"}


class OldTables(Protocol):
    """The tables of an old index; see `node.index.engine.aside.OldIndex`."""

    def rows(self, table: str, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield the rows of a table with the columns `names`; none if the schema has no such table."""


def former_work(old: OldTables) -> Iterator[Row]:
    """Yield the rows of ``work`` that stand for what older tables have."""
    last = 0
    for last, row in _jobs(old):
        yield {"id": last, **row}
    for number, row in enumerate((*_messages(old), *_retrievals(old), *_commitments(old)), last + 1):
        yield {"id": number, **row}


def former_subscribers(old: OldTables) -> Iterator[Row]:
    """Yield the rows of ``subscribers`` that stand for those of hooks, among which were destinations of routes."""
    names = (
        "event_id", "image_id", "rewinds", "delivered", "delivered_at", "paused", "trouble", "trouble_since",
        "retry_at",
    )  # fmt: skip
    for row in old.rows("hooks", ("name", *names)):
        yield {**_lane(row["name"]), **{name: row[name] for name in names}}


def workitems_of_clients(old: OldTables, names: Sequence[str]) -> Iterator[Row]:
    """Yield the workitems that clients have created; the others are work of the node."""
    for row in old.rows("workitems", (*names, "work")):
        if row.pop("work") is None:
            yield row


def _lane(name: str) -> Row:
    """Return where the messages of a subscriber are; the name of a destination was ROUTE/DESTINATION."""
    route, slash, destination = name.partition("/")
    return {"kind": "route" if slash else "hook", "name": route, "destination": destination}


def _messages(old: OldTables) -> Iterator[Row]:
    names = (
        "hook", "message_id", "event", "study_instance_uid", "series_instance_uid", "sop_instance_uid", "revision",
        "detail", "happened_at", "state", "attempts", "due_at", "reason", "output", "last_at",
    )  # fmt: skip
    same = (
        "event", "study_instance_uid", "series_instance_uid", "sop_instance_uid", "revision", "attempts", "due_at",
        "reason",
    )  # fmt: skip
    for row in old.rows("deliveries", names):
        lane = _lane(row["hook"])
        outcome = _MESSAGES.get(row["state"], row["state"])
        changed_at = row["last_at"] or row["happened_at"]
        by = f"{lane['kind']} {lane['name']}" if lane["name"] else "a person"
        yield {
            **_common(lane["kind"], lane["name"], row["message_id"], row["happened_at"]),
            **{name: row[name] for name in same},
            "destination": lane["destination"],
            "tried_at": row["last_at"],
            "changed_at": changed_at,
            "ended_at": changed_at if outcome else None,
            "requested_by": by[:64],
            "state": "ended" if outcome else "waiting",
            "outcome": outcome,
            "payload": _document(row, ("detail", "output")),
        }


def _jobs(old: OldTables) -> Iterator[tuple[int, Row]]:
    """Yield jobs with their numbers, in their order: results refer to them."""
    names = (
        "id", "job_id", "hook", "message_id", "replayed", "event", "study_instance_uid", "series_instance_uid",
        "revision", "happened_at", "state", "percent", "detail", "location", "tokens", "created_at", "changed_at",
        "due_at", "ended_at",
    )  # fmt: skip
    for row in sorted(old.rows("jobs", names), key=lambda row: int(row["id"])):
        same = (
            "event", "study_instance_uid", "series_instance_uid", "revision", "percent", "changed_at", "due_at",
            "ended_at",
        )  # fmt: skip
        assignment = {"tokens": json.loads(row["tokens"]), "location": row["location"]}
        yield (
            row["id"],
            {
                **_common("job", row["hook"], row["job_id"], row["created_at"]),
                **{name: row[name] for name in same},
                **_ended(row["state"]),
                "happened_at": row["happened_at"],
                "requested_by": f"hook {row['hook']}"[:64],
                "cause": None if row["replayed"] else row["message_id"],
                "attempts": 0,
                "reason": row["detail"],
                "payload": json.dumps(assignment),
            },
        )


def _retrievals(old: OldTables) -> Iterator[Row]:
    names = (
        "retrieval_id", "peer", "study_instance_uid", "series_instance_uid", "state", "attempts", "announced", "stored",
        "refused", "failed", "detail", "requested_by", "cancelled_by", "created_at", "changed_at", "ended_at",
    )  # fmt: skip
    for row in old.rows("retrievals", names):
        yield {
            **_common("retrieval", row["peer"], row["retrieval_id"], row["created_at"]),
            **{name: row[name] for name in ("study_instance_uid", "series_instance_uid", "attempts", "requested_by")},
            **{name: row[name] for name in ("cancelled_by", "changed_at", "ended_at")},
            **_ended(row["state"]),
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


def _ended(state: str) -> Row:
    """Return state and outcome of a row that had one column for both."""
    is_open = state in ("waiting", "running")
    return {"state": state if is_open else "ended", "outcome": None if is_open else state}


def _common(kind: str, name: str, key: str, created_at: Any) -> Row:
    """Return the columns of work that began when it was requested; those of other kinds are empty."""
    nothing = dict.fromkeys(
        ("event", "cause", "study_instance_uid", "series_instance_uid", "sop_instance_uid", "revision", "due_at",
         "tried_at", "percent", "cancelled_by")
    )  # fmt: skip
    lane = {"kind": kind, "name": name, "destination": "", "key": key}
    return {**nothing, **lane, "happened_at": created_at, "created_at": created_at, "repeats": 0}


def _document(row: Mapping[str, Any], names: Sequence[str]) -> str:
    return json.dumps({name: row[name] for name in names})
