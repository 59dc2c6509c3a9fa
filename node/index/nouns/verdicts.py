"""The verdict of a series: its columns, and what changes it after a conversion."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Select, func, select, update
from sqlalchemy.orm import join

from node.completeness import Completeness, Expectation, completeness_of
from node.index.models import OPEN_STATES, ImageRow, SeriesRow, StudyRow
from node.index.nouns.conflicts import count_aside
from node.index.nouns.converted import SeriesKey
from node.index.nouns.events import record_series_event
from node.index.nouns.growth import performed_of
from node.index.nouns.lost import count_lost
from node.index.nouns.reopening import convert_for_verdict


def series_at(key: SeriesKey) -> Select[Any]:
    """Select the row of a series by both UIDs; a Series Instance UID may occur in two studies."""
    study_instance_uid, series_instance_uid = key
    names = "id", "state", "verdict_rule", "last_received_at", "due_at", "waits"
    columns: list[Any] = [getattr(SeriesRow, name) for name in names]
    return (
        select(*columns)
        .select_from(join(SeriesRow, StudyRow))
        .where(StudyRow.study_instance_uid == study_instance_uid, SeriesRow.series_instance_uid == series_instance_uid)
    )


def held_at(key: SeriesKey) -> Select[Any]:
    """As `series_at`, of a series that is about to change: no other writer changes it meanwhile."""
    return series_at(key).with_for_update(key_share=True, of=SeriesRow)


def update_series(connection: Connection, series_id: int, values: dict[str, Any]) -> None:
    """Set columns of a series."""
    connection.execute(update(SeriesRow).where(SeriesRow.id == series_id).values(values))


def completeness_columns(completeness: Completeness | None) -> dict[str, Any]:
    """Return the columns that a verdict sets."""
    if completeness is None:
        return {}
    return {
        "verdict": completeness.state,
        "verdict_rule": completeness.rule,
        "verdict_reason": completeness.reason,
        "expected_instances": completeness.expected,
        "expected_source": completeness.expected_source,
        "missing_instances": completeness.missing,
        "missing_detail": completeness.missing_detail,
    }


def judge_again(
    connection: Connection, series_id: int, now: dt.datetime, judge: Callable[[Completeness], Completeness]
) -> None:
    """Let what was heard just now count for a closed series."""
    verdict = select(
        SeriesRow.verdict, SeriesRow.verdict_rule, SeriesRow.expected_instances, SeriesRow.expected_source,
        select(func.count()).where(ImageRow.series_id == SeriesRow.id).scalar_subquery(),
        SeriesRow.missing_instances, SeriesRow.verdict_reason, SeriesRow.missing_detail,
    ).where(SeriesRow.id == series_id, SeriesRow.verdict.is_not(None), SeriesRow.last_received_at <= now)  # fmt: skip
    for before in connection.execute(verdict):
        change_verdict(connection, series_id, judge(Completeness(*before)), now)


def change_verdict(connection: Connection, series_id: int, verdict: Completeness, now: dt.datetime) -> None:
    """Give a closed series another verdict; the sidecars of its volumes get it by another conversion."""
    columns = select(SeriesRow.verdict, SeriesRow.missing_instances).where(SeriesRow.id == series_id)
    before = connection.execute(columns).one()
    update_series(connection, series_id, completeness_columns(verdict))
    if tuple(before) != (verdict.state, verdict.missing):
        convert_for_verdict(connection, series_id, now)


def judge_by_list(connection: Connection, key: SeriesKey, now: dt.datetime, *, is_over: bool) -> None:
    """Let the list of a performed procedure step that has just ended count for a series, if there is one.

    An open series is due at once if every listed instance is stored, or if nothing more comes (`is_over`). A closed one
    gets another verdict. One under conversion gets it with its outcome.
    """
    study_instance_uid, series_instance_uid = key
    columns = select(SeriesRow.id, SeriesRow.state, StudyRow.study_instance_uid).select_from(join(SeriesRow, StudyRow))
    held = columns.where(SeriesRow.series_instance_uid == series_instance_uid)
    for row in connection.execute(held.with_for_update(key_share=True, of=SeriesRow)).all():
        performed = performed_of(connection, row.id, row.study_instance_uid, series_instance_uid)
        if performed is None or study_instance_uid not in ("", row.study_instance_uid):
            continue
        received = performed.listed - performed.missing + performed.unlisted
        key = row.study_instance_uid, series_instance_uid
        lost, (aside, versions) = count_lost(connection, key), count_aside(connection, row.id, *key)
        known = Expectation(received, performed=performed, lost=lost, aside=aside, versions=versions)
        verdict = completeness_of(known)
        if row.state == "receiving" and (is_over or not performed.missing):
            update_series(connection, row.id, {"due_at": now, "waits": None})
        elif row.state not in OPEN_STATES:
            change_verdict(connection, row.id, verdict, now)
        record_series_event(connection, "series-confirmed", key, now, verdict.reason)
