"""Protocols: how many instances their series have, and how many series of them a study has, learnt from the last ones.

A series that has fewer than nearly all series of its protocol, on the same scanner, is suspect. Rare protocols and
those whose series vary raise no suspicion, and a smaller number that came twice is a variant. So it is with series that
come together, such as two field maps, once their study is quiet: then others may still come, and clear them.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, Row, delete, func, select, update
from sqlalchemy.orm import join

from node.completeness import Usual, lacking_companions
from node.index.engine.sql import insert
from node.index.models import ImageRow, ProtocolRow, SeriesRow, StudyRow
from node.index.nouns.reopening import convert_for_verdict

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

_DIRECTION = re.compile(
    r"(?<![a-z])(ap|pa|lr|rl|hf|fh|up|down|fwd|rev|mag|magnitude|pha|phase)(?![a-z])", re.IGNORECASE
)
"""What distinguishes the names of two protocols of one pair."""

Remembered = tuple[str, int, str]
"""Of a series (or a study): a digest of its UID, its number of instances (or of series), and the day."""


def learn(connection: Connection, series_id: int, instances: int, now: dt.datetime) -> None:
    """Remember how many instances a series has that was just converted; it counts once, by its last number."""
    row = connection.execute(select(SeriesRow).where(SeriesRow.id == series_id)).one()
    key = _key_of(connection, row)
    if key is None:
        return
    _remember(connection, key, row.series_instance_uid, instances, now)


def usual_of(connection: Connection, row: Row[Any], received: int) -> Usual | None:
    """Return what the series of a protocol usually have, if that is more than a series of it has; else None."""
    key = _key_of(connection, row)
    if key is None:
        return None
    usual = _usual(connection, key, row.series_instance_uid, received)
    return None if usual is None else replace(usual, studies=_studies_of(connection, row, usual.instances))


def judge_companions(connection: Connection, study_id: int, now: dt.datetime) -> bool:
    """Remember how many series of each protocol a quiet study has; doubt those of which it has fewer than usual.

    Those that were doubted before, and of which the others have come since, are doubted no more. Return whether any
    series is converted again, so that its sidecars tell the same.
    """
    study = connection.execute(select(StudyRow.study_instance_uid).where(StudyRow.id == study_id)).scalar_one()
    together: dict[str, list[Row[Any]]] = defaultdict(list)
    of_study = SeriesRow.study_id == study_id, SeriesRow.protocol_name.is_not(None)
    for row in connection.execute(select(SeriesRow.__table__).where(*of_study)):
        name = " ".join(_DIRECTION.sub("", row.protocol_name.lower()).split())
        scanner = row.modality, row.manufacturer, row.manufacturer_model_name, row.station_name
        together[_digest(json.dumps(["study", *scanner, name]))].append(row)
    is_any = False
    for key, series in together.items():
        usual = _usual(connection, key, study, len(series))
        _remember(connection, key, study, len(series), now)
        lacking = None
        if usual is not None:
            lacking = [
                lacking_companions(usual, len(series)),
                f"{usual.instances - len(series)} series of this protocol",
            ]
        for row in series:
            if row.state != "converted" or (row.lacking is None) == (lacking is None):
                continue
            if lacking is None or row.verdict == "complete":
                connection.execute(update(SeriesRow).where(SeriesRow.id == row.id).values(lacking=lacking))
                convert_for_verdict(connection, row.id, now)
                is_any = True
    return is_any


def _usual(connection: Connection, key: str, uid: str, received: int) -> Usual | None:
    """Return what is usual besides the series or study with this UID, if it has fewer."""
    own = _digest(uid)
    others = [one for one in _remembered(connection, key) if one[0] != own]
    usual = usual_count([count for _, count, _ in others], received)
    if usual is None:
        return None
    days = sorted(day for _, count, day in others if count == usual)
    return Usual(usual, len(days), len(others), days[0], days[-1])


def _remember(connection: Connection, key: str, uid: str, count: int, now: dt.datetime) -> None:
    known, own = _remembered(connection, key), _digest(uid)
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
    """Return a digest of what series of one protocol share; None if nothing names the protocol.

    A digest, because people type names of patients into descriptions, and the memory outlives a deletion.
    """
    if row.protocol_name is None and row.series_description is None:
        return None
    first = select(ImageRow.sop_class_uid, ImageRow.rows, ImageRow.columns).where(ImageRow.series_id == row.id).limit(1)
    image = connection.execute(first).first()
    shared = [getattr(row, name) for name in _SAME]
    return _digest(json.dumps([*shared, *(image or ())]))


def _digest(text: str) -> str:
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
