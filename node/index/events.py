"""Events. An event is written in the same transaction as the change that it records."""

from __future__ import annotations

import datetime as dt
from typing import Literal, TypedDict, Unpack

from sqlalchemy import Connection, insert

from node.index.models import EventRow

EventKind = Literal[
    "series-quiet",  # a conversion begins; `detail` gives the reason
    "series-converted",
    "series-refused",  # includes series without images
    "series-failed",
    "conversion-cancelled",  # a requested reconversion was cancelled; the volumes of before stay current
    "series-unchanged",  # reconversion requested, but input, converter and options match the current revision
    "series-reopened",  # an instance was added, deleted or replaced after the conversion, or reconversion requested
    "series-confirmed",  # the sender was asked for its number of instances, or a performed procedure step listed them
    "sender-aborted",  # an association that delivered instances did not end by release
    "volume-superseded",
    "study-quiet",
    "instance-replaced",
    "instance-conflict",
    "instance-set-aside",  # an instance cannot be indexed; its file is in quarantine
    "journal-damaged",  # acknowledged records cannot be read
    "file-missing",  # fsck found a row without its file
    "file-damaged",  # a file is not as it was received: the instance must be sent again
    "file-found",  # a missing file is back, or a damaged one is whole again
    "digest-mended",  # fsck or a rebuild believed a whole file against the digest of its row
    "file-restored",  # an instance came again, and took the place of its file, which was not whole
    "quarantine-released",  # a person took a file in quarantine back into the archive
    "quarantine-purged",
    "deleted",
    "patient-merged",
    "job-ended",  # a hook with results has done what it was asked to, failed, or was late
    "problem-acknowledged",  # a person has seen that a series is incomplete or has no volume, and leaves it so
    "problem-reopened",  # a person has withdrawn that
    "message-given-up",  # every attempt to deliver a message to a hook failed
]

FINAL: tuple[EventKind, ...] = (
    "series-converted",
    "series-refused",
    "series-failed",
    "series-unchanged",
    "conversion-cancelled",
)
"""The events that end a conversion, one for each conversion."""


class EventUids(TypedDict, total=False):
    """What an event is about."""

    study_instance_uid: str | None
    series_instance_uid: str | None
    sop_instance_uid: str | None


def record_event(
    connection: Connection,
    kind: EventKind,
    happened_at: dt.datetime,
    *,
    revision: int | None = None,
    detail: str | None = None,
    **uids: Unpack[EventUids],
) -> None:
    """Add an event to the transaction of `connection`; `detail` is a sentence without patient data."""
    values = {"kind": kind, "happened_at": happened_at, "revision": revision, "detail": detail, **uids}
    connection.execute(insert(EventRow).values(values))
