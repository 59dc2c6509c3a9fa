"""The verdict of a series: what its rows, those of its study and of its senders let expect of it, and its columns.

`node.completeness` weighs the facts. A closed series is judged again at any time, by what the rows say then.
"""

import datetime as dt
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

from sqlalchemy import Connection, Row, Select, func, select, update
from sqlalchemy.orm import join

from node.completeness import (
    Completeness,
    Expectation,
    Findings,
    Party,
    Reported,
    certainty,
    expectation,
    findings_of,
    verdict_of,
)
from node.dicom.counts import InstanceCounts
from node.index.rows.converted import SeriesKey
from node.index.rows.models.history import REPLACED, ConflictRow, ConversionRow, EventRow, LostInstanceRow
from node.index.rows.models.levels import MARKED_IMAGES, OPEN_STATES, ImageRow, SeriesRow, StudyRow
from node.index.rows.records import SET_ASIDE
from node.index.rows.sql import in_partial_index, looked_up_in
from node.index.rules.series.conversions import owe_sidecars
from node.index.rules.series.reopening import reopen
from node.index.rules.series.waits import await_nobody, performed_of
from node.index.rules.work.events import record_series_event
from node.quiet import is_later

COUNTS = tuple(getattr(ImageRow, name) for name in InstanceCounts.__slots__)
"""The columns of an instance that are its `InstanceCounts`."""


def expectation_of(
    connection: Connection, row: Row[Any], study_uid: str, counts: Sequence[InstanceCounts], now: dt.datetime
) -> Expectation:
    """Return what the rows of a series and of its study let expect of it now."""
    aside, versions = _count_aside(connection, row.id, study_uid, row.series_instance_uid)
    return expectation(
        counts,
        reported=row.reported and Reported(**{**row.reported, "named": tuple(row.reported["named"])}),
        aborted=aborted_by(connection, (study_uid, row.series_instance_uid), row.last_event),
        forced=row.due_at is not None and row.due_at > now,
        siblings=tuple(_siblings(connection, row)),
        split=_is_split(connection, row, counts),
        is_part=bool(parts_of(connection, row)),
        performed=performed_of(connection, row.id, study_uid, row.series_instance_uid),
        lost=count_lost(connection, (study_uid, row.series_instance_uid)),
        damaged=count_damaged(connection, row.id),
        aside=aside,
        versions=versions,
    )


def aborted_by(connection: Connection, key: SeriesKey, last_event: int, begun: str | None = None) -> Party:
    """Return who aborted an association that delivered instances of a series, after the last one.

    That counts until the sender comes back. `begun`: whether it was aborted before another one began.
    """
    event = next(reversed(standing_ends(connection, key, last_event)), None)
    return "" if event is None or (begun is not None and not is_later(begun, event.ended)) else cast(Party, event.why)


def standing_ends(connection: Connection, key: SeriesKey, last_event: int) -> list[Row[Any]]:
    """Return the events of the ends of associations that count against a series, the last one last.

    They came after its last instance: behind `last_event`. A return of the sender ends all of them. That it never
    releases one, as a person says, ends those that count against the sender.
    """
    events = select(EventRow.kind, EventRow.why, EventRow.ended).where(
        EventRow.kind.in_(("sender-aborted", "node-ended", "sender-returned", "sender-never-releases")),
        EventRow.series_instance_uid == key[1],
        EventRow.study_instance_uid == key[0],
        EventRow.id > last_event,
    )
    standing: list[Any] = []
    for event in connection.execute(events.order_by(EventRow.id)):
        if event.why:
            standing.append(event)
        elif event.kind == "sender-returned":
            standing.clear()
        else:
            standing = [one for one in standing if one.why != "sender"]
    return standing


def _count_aside(connection: Connection, series_id: int, study: str, series: str) -> tuple[int, int]:
    """Count what was set aside of a series: instances whose UIDs other series have, and versions of its own ones."""
    row = ConflictRow
    aside = select(row.sop_instance_uid).join(ImageRow, ImageRow.sop_instance_uid == row.sop_instance_uid)
    aside = aside.where(row.study_instance_uid == study, row.series_instance_uid == series)
    elsewhere = aside.where(row.kind.in_((*SET_ASIDE, REPLACED)), ImageRow.series_id != series_id).distinct()
    here = aside.where(row.kind.in_(SET_ASIDE), ImageRow.series_id == series_id, row.decision.is_(None))
    counts = [connection.scalar(select(func.count()).select_from(some.subquery())) or 0 for some in (elsewhere, here)]
    return counts[0], counts[1]


def count_lost(connection: Connection, series: SeriesKey) -> int:
    """Count the lost instances of a series."""
    of_series = LostInstanceRow.study_instance_uid == series[0], LostInstanceRow.series_instance_uid == series[1]
    return int(connection.execute(select(func.count(LostInstanceRow.id)).where(*of_series)).scalar_one())


def count_damaged(connection: Connection, series_id: int) -> int:
    """Count the instances of a series whose files are known to be missing or damaged."""
    marked = in_partial_index(ImageRow.series_id, MARKED_IMAGES), ImageRow.file_missing
    count = select(func.count(ImageRow.id)).where(ImageRow.series_id == series_id, *marked)
    return int(connection.execute(count).scalar_one())


def _siblings(connection: Connection, row: Row[Any]) -> list[int]:
    """Return the numbers of instances of the converted series that should have as many: same protocol, same matrix."""
    query = _of_same_protocol(row).where(
        SeriesRow.state == "converted", SeriesRow.series_description == row.series_description
    )
    alike = _of_same_matrix(connection, row, query)
    counts = (select(func.count()).where(ImageRow.series_id == series.id) for series in alike)
    return [connection.execute(count).scalar_one() for count in counts]


def _is_split(connection: Connection, row: Row[Any], counts: Sequence[InstanceCounts]) -> bool:
    """Return whether another series of the protocol announces as many times: some senders make a series of each."""
    times = max((count.number_of_temporal_positions or 0 for count in counts), default=0)
    if times < 2:
        return False
    announced = (
        connection.execute(
            select(ImageRow.number_of_temporal_positions).where(ImageRow.series_id == series).limit(1)
        ).scalar()
        for series in connection.execute(_of_same_protocol(row)).scalars().all()
    )
    return times in announced


def parts_of(connection: Connection, row: Row[Any]) -> list[int]:
    """Return the series that seem to be of one acquisition with an MR series: some senders make one of each volume.

    They have its Series Number, or numbers that follow each other, and Acquisition Numbers that no two of them share.
    """
    if row.modality != "MR" or row.series_number is None or row.frame_of_reference_uid is None:
        return []
    alike = _of_same_protocol(row).where(
        SeriesRow.series_description.is_not_distinct_from(row.series_description),
        SeriesRow.frame_of_reference_uid == row.frame_of_reference_uid,
        SeriesRow.series_number.is_not(None),
    )
    numbered: dict[int, list[int]] = defaultdict(list)
    for series in _of_same_matrix(connection, row, alike.add_columns(SeriesRow.series_number)):
        numbered[series.series_number].append(series.id)
    if numbered[row.series_number]:
        return numbered[row.series_number]
    run = [series for number in _run_of(row.series_number, numbered) for series in numbered[number]]
    numbers = select(ImageRow.series_id, ImageRow.acquisition_number).distinct()
    acquisitions = [number for _, number in connection.execute(numbers.where(ImageRow.series_id.in_((row.id, *run))))]
    return [] if len(acquisitions) > len(set(acquisitions)) or None in acquisitions else run


def _run_of(number: int, numbers: Mapping[int, Any]) -> list[int]:
    """Return the numbers that follow a number, or lead to it, without a gap."""
    found = []
    for step in (-1, 1):
        other = number + step
        while numbers.get(other):
            found.append(other)
            other += step
    return found


def _of_same_matrix(connection: Connection, row: Row[Any], others: Select[Any]) -> list[Row[Any]]:
    """Return those of other series whose images have the matrix of a series; none for a series without images."""
    own = _image_of(connection, row.id)
    found = connection.execute(others).all() if own is not None else ()
    return [series for series in found if _image_of(connection, series.id) == own]


def _image_of(connection: Connection, series_id: int) -> Row[str, int | None, int | None] | None:
    """Return SOP class and matrix of one image of a series; None for a series without, such as of reports."""
    one = select(ImageRow.sop_class_uid, ImageRow.rows, ImageRow.columns)
    one = one.where(ImageRow.series_id == series_id, ImageRow.rows.is_not(None)).limit(1)
    return connection.execute(one).first()


def _of_same_protocol(row: Row[Any]) -> Select[int]:
    """Select the ids of the other series of the study with this modality and protocol; none without a protocol."""
    return select(SeriesRow.id).where(
        SeriesRow.study_id == row.study_id,
        SeriesRow.id != row.id,
        SeriesRow.modality == row.modality,
        SeriesRow.protocol_name == row.protocol_name,
        SeriesRow.protocol_name.is_not(None),
    )


def series_at(key: SeriesKey) -> Select[Any]:
    """Select the row of a series by both UIDs; a Series Instance UID may occur in two studies."""
    study_instance_uid, series_instance_uid = key
    names = "id", "state", "verdict_rule", "last_received_at", "last_event", "due_at"
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
        "missing_at_sender": completeness.missing_at_sender,
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
