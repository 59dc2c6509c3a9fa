"""Events: each is written in the transaction of the change that it records, so that neither is without the other."""

from __future__ import annotations

import datetime as dt
from typing import Literal, TypedDict, Unpack

from sqlalchemy import Connection, insert

from node.index.models import EventRow

EventKind = Literal[
    "series-quiet",  # a conversion is due and begins; `detail` says why now
    "series-converted",
    "series-refused",  # also where nothing in it is an image
    "series-failed",
    "series-unchanged",  # asked for again, but input, converter and options are those of the current revision
    "series-reopened",  # an instance came, went or changed after the conversion, or another conversion was asked for
    "series-confirmed",  # its sender was asked how many instances there are
    "sender-aborted",  # an association that brought instances of it did not end by release
    "volume-superseded",
    "study-quiet",
    "instance-replaced",
    "instance-conflict",
    "file-missing",  # a comparison found the row without its file
    "file-found",  # and now the file is there again
    "deleted",
    "patient-merged",
    "message-given-up",  # a hook did not take a message in any of its attempts
]


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
