"""Protocols: how many instances their series have, and how many series of them a study has, learnt from the last ones.

A series that has fewer than nearly all series of its protocol, on the same scanner, is suspect. Rare protocols and
those whose series vary raise no suspicion, and a smaller number that came twice is a variant. So it is with series that
come together, such as two field maps, once their study is quiet: then others may still come, and clear them.
"""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, Row, delete, func, select
from sqlalchemy.orm import join

from node.completeness import Usual
from node.index.engine.sql import insert
from node.index.models.levels import ImageRow, SeriesRow, StudyRow
from node.index.models.work import ProtocolRow

MAX_SERIES = 50
"""The last series of a protocol that are remembered."""

MIN_SERIES = 10
"""With fewer series, nothing is usual."""

SHARE = 0.9
"""Share of them that have the usual number of instances."""

VARIANT = 2
"""Number of other series with as few instances that make a variant of the protocol."""

KEPT = dt.timedelta(days=400)
"""A protocol without a new series is forgotten after this time."""

MAX_STUDIES = 2
"""Studies that the evidence names."""

_SAME = (
    *("modality", "manufacturer", "manufacturer_model_name", "station_name", "protocol_name", "series_description"),
    "body_part_examined",
)
"""The columns that two series of one protocol share, beside the SOP class and the matrix."""

Remembered = tuple[str, int, str]
"""Of a series (or a study): a digest of its UID, its number of instances (or of series), and the day."""


def learn(connection: Connection, series_id: int, instances: int, now: dt.datetime) -> None:
    """Remember how many instances a series has that was just converted; it counts once, by its last number."""
    row = connection.execute(select(SeriesRow).where(SeriesRow.id == series_id)).one()
    key = _key_of(connection, row)
    if key is None:
        return
    remember(connection, key, row.series_instance_uid, instances, now)


def usual_of(connection: Connection, row: Row[Any], received: int) -> Usual | None:
    """Return what the series of a protocol usually have, if that is more than a series of it has; else None."""
    key = _key_of(connection, row)
    if key is None:
        return None
    usual = usual_beside(connection, key, row.series_instance_uid, received)
    return None if usual is None else replace(usual, studies=_studies_of(connection, row, usual.instances))


def usual_beside(connection: Connection, key: str, uid: str, received: int) -> Usual | None:
    """Return what is usual besides the series or study with this UID, if it has fewer."""
    own = digest(uid)
    others = [one for one in _remembered(connection, key) if one[0] != own]
    usual = usual_count([count for _, count, _ in others], received)
    if usual is None:
        return None
    days = sorted(day for _, count, day in others if count == usual)
    return Usual(usual, len(days), len(others), days[0], days[-1])


def remember(connection: Connection, key: str, uid: str, count: int, now: dt.datetime) -> None:
    known, own = _remembered(connection, key), digest(uid)
    others = [one for one in known if one[0] != own]
    values = {"series": [*others, (own, count, now.date().isoformat())][-MAX_SERIES:], "learnt_at": now}
    if not known:
        connection.execute(delete(ProtocolRow).where(ProtocolRow.learnt_at < now - KEPT))
    added = insert(ProtocolRow).values(key=key, **values)
    connection.execute(added.on_conflict_do_update(index_elements=["key"], set_=values))


def usual_count(counts: Sequence[int], received: int) -> int | None:
    """Return the number of instances that nearly all of these series have, if it is more than were received."""
    times = Counter(counts)
    if len(counts) < MIN_SERIES or times[received] >= VARIANT:
        return None
    [(instances, most)] = times.most_common(1)
    return instances if received < instances and most >= SHARE * len(counts) else None


def _key_of(connection: Connection, row: Row[Any]) -> str | None:
    """Return a digest of what series of one protocol share; None if nothing names the protocol, or it has no images.

    A digest, because people type names of patients into descriptions, and the memory outlives a deletion.
    """
    if row.protocol_name is None and row.series_description is None:
        return None
    image = image_of(connection, row.id)
    return None if image is None else digest(json.dumps([*(getattr(row, name) for name in _SAME), *image]))


def image_of(connection: Connection, series_id: int) -> Row[str, int | None, int | None] | None:
    """Return SOP class and matrix of one image of a series; None for a series without, such as of reports."""
    one = select(ImageRow.sop_class_uid, ImageRow.rows, ImageRow.columns)
    one = one.where(ImageRow.series_id == series_id, ImageRow.rows.is_not(None)).limit(1)
    return connection.execute(one).first()


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:32]


def _remembered(connection: Connection, key: str) -> Sequence[Remembered]:
    series = connection.execute(select(ProtocolRow.series).where(ProtocolRow.key == key)).scalar() or []
    return [(digest, instances, day) for digest, instances, day in series]


def _studies_of(connection: Connection, row: Row[Any], instances: int) -> tuple[str, ...]:
    """Return the last studies that are here with a series of the protocol that has so many instances."""
    same = [getattr(SeriesRow, name).is_not_distinct_from(getattr(row, name)) for name in _SAME]
    received = select(func.count()).where(ImageRow.series_id == SeriesRow.id).scalar_subquery()
    studies = (
        select(StudyRow.study_instance_uid)
        .select_from(join(SeriesRow, StudyRow))
        .where(*same, SeriesRow.state == "converted", SeriesRow.id != row.id, received == instances)
        .order_by(SeriesRow.id.desc())
        .limit(MAX_STUDIES)
    )
    return tuple(connection.scalars(studies))
