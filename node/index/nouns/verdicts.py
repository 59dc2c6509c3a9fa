"""The verdict of a series: its columns, judged again at any time by what the rows say then."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Connection, Row, Select, select, update
from sqlalchemy.orm import join

from node.completeness import Completeness, Expectation, Findings, certainty, findings_of, verdict_of
from node.dicom.counts import InstanceCounts
from node.index.engine.sql import looked_up_in
from node.index.models.history import ConversionRow
from node.index.models.levels import OPEN_STATES, ImageRow, SeriesRow, StudyRow
from node.index.nouns.conversions import owe_sidecars
from node.index.nouns.converted import SeriesKey
from node.index.nouns.events import record_series_event
from node.index.nouns.expectations import COUNTS, expectation_of, parts_of
from node.index.nouns.reopening import reopen
from node.index.nouns.waits import await_nobody, performed_of


def series_at(key: SeriesKey) -> Select[Any]:
    """Select the row of a series by both UIDs; a Series Instance UID may occur in two studies."""
    study_instance_uid, series_instance_uid = key
    names = "id", "state", "verdict_rule", "last_received_at", "due_at"
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


def verdict_now(connection: Connection, row: Row[Any], now: dt.datetime) -> Completeness | None:
    """Return the verdict of a closed series by what the rows say now, of it and beside it.

    None if its conversion is of a version that did not keep what it found.
    """
    findings = Findings(forced=row.verdict_rule == "forced")
    if row.state != "failed":
        current = ConversionRow.series_id == row.id, ConversionRow.superseded.is_(False)
        document = connection.scalar(select(ConversionRow.findings).where(*current))
        if document is None:
            return None
        findings = findings_of(document)
    counts = connection.execute(select(*COUNTS).where(ImageRow.series_id == row.id)).all()
    known = expectation_of(connection, row, row.study_instance_uid, [InstanceCounts(*count) for count in counts], now)
    return verdict_of(known, findings)


def judge(connection: Connection, series_id: int, now: dt.datetime) -> None:
    """Judge a closed series again; its files stay, and its sidecars are to tell the verdict.

    One that is open gets its verdict with the outcome of its conversion.
    """
    row = row_of(connection, series_id)
    if row.state in OPEN_STATES:
        return
    verdict = verdict_now(connection, row, now)
    if verdict is None:
        current = ConversionRow.series_id == series_id, ConversionRow.superseded.is_(False)
        connection.execute(update(ConversionRow).where(*current).values(input_sha256=None))
        detail = "what its conversion found is not known, and the series is to be judged again"
        reopen(connection, series_id, row.study_instance_uid, None, now, detail)
        return
    values = completeness_columns(verdict)
    before = {name: getattr(row, name) for name in values}
    if before == values:
        return
    update_series(connection, series_id, values)
    if row.state != "failed":  # the sidecars of an earlier revision keep its verdict
        owe_sidecars(connection, series_id)
    if row.verdict is not None and _reported(before) != _reported(values):
        key = row.study_instance_uid, row.series_instance_uid
        record_series_event(
            connection, "verdict-changed", key, now, verdict.reason, row.revision, verdict_before=before
        )


def judge_holding(connection: Connection, sop_instance_uids: Collection[str | None], now: dt.datetime) -> None:
    """Judge the closed series again that have instances whose versions were decided about, or whose files changed."""
    holding = select(ImageRow.series_id).where(looked_up_in(ImageRow.sop_instance_uid, sop_instance_uids)).distinct()
    for series_id in connection.scalars(holding).all():
        judge(connection, series_id, now)


def row_of(connection: Connection, series_id: int) -> Row[Any]:
    """Return the row of a series that is about to change, with the UID of its study."""
    columns: Select[Any] = select(*SeriesRow.__table__.columns, StudyRow.study_instance_uid)
    row = columns.select_from(join(SeriesRow, StudyRow)).where(SeriesRow.id == series_id)
    return connection.execute(row.with_for_update(key_share=True, of=SeriesRow)).one()


def _reported(verdict: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the parts of a verdict whose change sends a message."""
    return certainty(verdict["verdict"], verdict["verdict_rule"]), verdict["missing_instances"]


def doubt_parts(connection: Connection, series_id: int, now: dt.datetime) -> None:
    """Judge complete series again of whose acquisition a series just converted seems to be."""
    row = connection.execute(select(SeriesRow.__table__).where(SeriesRow.id == series_id)).one()
    of_list = SeriesRow.verdict_rule == "mpps"  # which outweighs the doubt
    complete = select(SeriesRow.id).where(SeriesRow.verdict == "complete", ~of_list, SeriesRow.state == "converted")
    for part in connection.scalars(complete.where(SeriesRow.id.in_(parts_of(connection, row)))).all():
        judge(connection, part, now)


def judge_doubted(connection: Connection, studies: Collection[int], now: dt.datetime) -> None:
    """Judge series again that are not complete: what spoke against them may be another series, which is gone now."""
    doubted = SeriesRow.verdict != "complete", SeriesRow.state == "converted", SeriesRow.protocol_name.is_not(None)
    of_studies = select(SeriesRow.id).where(SeriesRow.study_id.in_(studies), *doubted).order_by(SeriesRow.id)
    for series_id in connection.scalars(of_studies).all():
        judge(connection, series_id, now)


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
        verdict = verdict_of(Expectation(performed.listed - performed.missing, performed=performed))
        if row.state == "receiving" and (is_over or not performed.missing):
            await_nobody(connection, row.id)
            update_series(connection, row.id, {"due_at": now})
        elif row.state not in OPEN_STATES:
            judge(connection, row.id, now)
        key = row.study_instance_uid, series_instance_uid
        record_series_event(connection, "series-confirmed", key, now, verdict.reason)
