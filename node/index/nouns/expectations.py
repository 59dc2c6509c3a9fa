"""What the rows of a series, of its study and of its senders let expect of it: the facts of its verdict before pixels.

`node.completeness` weighs them.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Row, Select, func, select

from node.completeness import (
    Completeness,
    Expectation,
    InstanceCounts,
    Reported,
    aborted_verdict,
    completeness_of,
    expectation,
    with_reported,
)
from node.index.models import ImageRow, SeriesRow
from node.index.nouns.association_ends import aborted_by
from node.index.nouns.conflicts import count_aside
from node.index.nouns.growth import performed_of
from node.index.nouns.lost import count_lost
from node.index.nouns.protocols import usual_of
from node.index.nouns.records import ClaimedSeries
from node.index.nouns.reopening import convert_for_verdict


def expectation_of(
    connection: Connection, row: Row[Any], study_uid: str, counts: Sequence[InstanceCounts], now: dt.datetime
) -> Expectation:
    """Return what the rows of a series and of its study let expect of it, as it is claimed now."""
    aside, versions = count_aside(connection, row.id, study_uid, row.series_instance_uid)
    return expectation(
        counts,
        reported=reported_of(row.reported),
        aborted=aborted_by(connection, (study_uid, row.series_instance_uid), row.last_received_at),
        forced=row.due_at is not None and row.due_at > now,
        siblings=tuple(_siblings(connection, row)),
        split=_is_split(connection, row, counts),
        is_part=bool(parts_of(connection, row)),
        performed=performed_of(connection, row.id, study_uid, row.series_instance_uid),
        lost=count_lost(connection, (study_uid, row.series_instance_uid)),
        aside=aside,
        versions=versions,
        usual=usual_of(connection, row, len(counts)),
        lacking=None if row.lacking is None else (row.lacking[0], row.lacking[1]),
    )


def reported_of(document: Mapping[str, Any] | None) -> Reported | None:
    """Return what a row has of the word of the sender."""
    return None if document is None else Reported(**{**document, "named": tuple(document["named"])})


def last_verdict(
    connection: Connection, series: ClaimedSeries, completeness: Completeness | None
) -> Completeness | None:
    """Return the verdict of a conversion, with what was heard meanwhile.

    That is the list of a performed procedure step, which decides, or the abort of an association and the answer of the
    sender.
    """
    key = series.study_instance_uid, series.series_instance_uid
    performed = performed_of(connection, series.id, *key)
    if completeness is not None and performed is None:
        heard = connection.execute(
            select(SeriesRow.last_received_at, SeriesRow.reported).where(SeriesRow.id == series.id)
        ).one()
        if party := aborted_by(connection, key, heard.last_received_at):
            completeness = aborted_verdict(completeness, party)
        reported = reported_of(heard.reported)
        if reported is not None and reported != series.expectation.reported:
            completeness = with_reported(completeness, reported)
        return completeness
    if completeness is None or performed is None or performed == series.expectation.performed:
        return completeness
    return completeness_of(replace(series.expectation, performed=performed))


def _siblings(connection: Connection, row: Row[Any]) -> list[int]:
    """Return the numbers of instances of the converted series that should have as many: same protocol, same matrix."""
    own = connection.execute(_first_image(row.id)).first()
    query = _of_same_protocol(row).where(
        SeriesRow.state == "converted", SeriesRow.series_description == row.series_description
    )
    alike = [
        series
        for series in connection.execute(query).scalars().all()
        if connection.execute(_first_image(series)).first() == own
    ]
    counts = (select(func.count()).where(ImageRow.series_id == series) for series in alike)
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
    own = connection.execute(_first_image(row.id)).first()
    alike = _of_same_protocol(row).where(
        SeriesRow.series_description.is_not_distinct_from(row.series_description),
        SeriesRow.frame_of_reference_uid == row.frame_of_reference_uid,
        SeriesRow.series_number.is_not(None),
    )
    numbered: dict[int, list[int]] = defaultdict(list)
    for series, number in connection.execute(alike.add_columns(SeriesRow.series_number)).all():
        if connection.execute(_first_image(series)).first() == own:
            numbered[number].append(series)
    if numbered[row.series_number]:
        return numbered[row.series_number]
    run = [series for number in _run_of(row.series_number, numbered) for series in numbered[number]]
    acquisitions = [_acquisitions(connection, series) for series in (row.id, *run)]
    shared = sum(map(len, acquisitions)) > len(set().union(*acquisitions))
    return [] if shared or None in set().union(*acquisitions) else run


def _run_of(number: int, numbers: Mapping[int, Any]) -> list[int]:
    """Return the numbers that follow a number, or lead to it, without a gap."""
    found = []
    for step in (-1, 1):
        other = number + step
        while numbers.get(other):
            found.append(other)
            other += step
    return found


def _acquisitions(connection: Connection, series_id: int) -> set[int | None]:
    return set(
        connection.scalars(select(ImageRow.acquisition_number).where(ImageRow.series_id == series_id).distinct())
    )


def doubt_parts(connection: Connection, series_id: int, now: dt.datetime) -> None:
    """Have complete series converted again of whose acquisition a series just converted seems to be."""
    row = connection.execute(select(SeriesRow.__table__).where(SeriesRow.id == series_id)).one()
    of_list = SeriesRow.verdict_rule == "mpps"  # which outweighs the doubt
    complete = select(SeriesRow.id).where(SeriesRow.verdict == "complete", ~of_list)
    for part in connection.scalars(complete.where(SeriesRow.id.in_(parts_of(connection, row)))).all():
        convert_for_verdict(connection, part, now)


def _first_image(series_id: int) -> Select[int | None, int | None]:
    """Select the matrix of one image of a series."""
    return select(ImageRow.rows, ImageRow.columns).where(ImageRow.series_id == series_id).limit(1)


def _of_same_protocol(row: Row[Any]) -> Select[int]:
    """Select the ids of the other series of the study with this modality and protocol; none without a protocol."""
    return select(SeriesRow.id).where(
        SeriesRow.study_id == row.study_id,
        SeriesRow.id != row.id,
        SeriesRow.modality == row.modality,
        SeriesRow.protocol_name == row.protocol_name,
        SeriesRow.protocol_name.is_not(None),
    )
