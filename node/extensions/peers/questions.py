"""Questions to the senders of series: what each has of a series that is about to be converted.

A question is asked once for what is here, shortly before the series is quiet, or after that, if the series was claimed
before anybody could ask. A sender that may have it converted early is asked as soon as the series waits.
"""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, Select, func, or_, select, union
from sqlalchemy.orm import join

from node.index.engine.rows import IndexRepository, on_reader, on_writer
from node.index.models.levels import ImageRow, SeriesRow, StudyRow
from node.index.models.work import WorkRow
from node.index.nouns.converted import SeriesKey
from node.index.nouns.waits import is_awaiting, waits_of
from node.index.work.ledger import Lane, add, in_lane
from node.index.work.states import Inquiry, payload_of
from node.quiet import Waits

AHEAD = dt.timedelta(seconds=10)
"""How long before a series is quiet its sender is asked, or half of its wait if that is less."""

RECENT = dt.timedelta(hours=1)
"""A series that was claimed unasked is asked about if it was received since. A reconversion of old ones asks nobody."""

_IS_QUESTION = WorkRow.kind == "question"


class Question(NamedTuple):
    """A question that is to be asked: at which peer, and of which series."""

    peer: str
    series: SeriesKey


class Waiting(NamedTuple):
    """The series that a question is about: its stored instances, and when it is due (None: it does not wait)."""

    received: int
    due_at: dt.datetime | None


class QuestionRepository(IndexRepository):
    """The questions on the ledger of work, and the series that they are about."""

    @on_reader
    def unasked(
        self, connection: Connection, peers: Mapping[str, str], early: Collection[str], now: dt.datetime
    ) -> tuple[list[Question], dt.datetime | None]:
        """Return what is to be asked now, and when there may be more; None: after another commit.

        `peers`: the senders that may be asked, by calling AE title: their names in [peers].
        `early`: names of those that are asked as soon as a series waits.
        """
        is_waiting = SeriesRow.state == "receiving", SeriesRow.attempts == 0, is_awaiting()
        columns = SeriesRow.id, SeriesRow.series_instance_uid, SeriesRow.due_at, SeriesRow.reported
        rows = select(*columns, StudyRow.study_instance_uid).select_from(join(SeriesRow, StudyRow)).where(*is_waiting)
        near = rows if early else rows.where(SeriesRow.due_at <= now + AHEAD)
        later = select(func.min(SeriesRow.due_at)).where(*is_waiting, SeriesRow.due_at > now + AHEAD)
        moments = [due_at - AHEAD for due_at in connection.scalars(later) if due_at is not None]
        open_questions = select(WorkRow.study_instance_uid, WorkRow.series_instance_uid).where(
            _IS_QUESTION, WorkRow.outcome.is_(None)
        )
        asked = {(study, series) for study, series in connection.execute(open_questions)}
        questions = []
        found = connection.execute(near).all()
        waits = waits_of(connection, [row.id for row in found])
        for row in found:
            key = (row.study_instance_uid, row.series_instance_uid)
            title, heard_at = _last_sender(waits[row.id])
            peer = peers.get(title)
            if peer is None or key in asked:
                continue
            begins_at = now if peer in early else row.due_at - min(AHEAD, (row.due_at - heard_at) / 2)
            if begins_at > now:
                moments.append(begins_at)
            elif _is_unanswered(connection, row):
                questions.append(Question(peer, key))
        for row in connection.execute(_claimed_lately(now)).all():
            key = (row.study_instance_uid, row.series_instance_uid)
            peer = peers.get(_last_title(connection, row.id))
            if peer is not None and key not in asked and _is_unanswered(connection, row):
                questions.append(Question(peer, key))
        silent = {peer for peer in {question.peer for question in questions} if _is_silent(connection, peer, now)}
        return [question for question in questions if question.peer not in silent], min(moments, default=None)

    @on_writer
    def add(self, connection: Connection, questions: Sequence[Question], now: dt.datetime) -> None:
        """Have questions asked."""
        for peer, (study, series) in questions:
            uids = {"study_instance_uid": study, "series_instance_uid": series}
            add(
                connection, Lane("question", peer), secrets.token_hex(16), Inquiry(), now,
                requested_by="completeness", happened_at=now, **uids,
            )  # fmt: skip

    @on_reader
    def waiting(self, connection: Connection, key: SeriesKey) -> Waiting | None:
        """Return what is here of a series; None if it was deleted."""
        study, series = key
        row = connection.execute(
            select(SeriesRow.id, SeriesRow.state, SeriesRow.due_at)
            .select_from(join(SeriesRow, StudyRow))
            .where(StudyRow.study_instance_uid == study, SeriesRow.series_instance_uid == series)
        ).first()
        if row is None:
            return None
        return Waiting(_received(connection, row.id), row.due_at if row.state == "receiving" else None)

    @on_reader
    def is_silent(self, connection: Connection, peer: str, now: dt.datetime) -> bool:
        """Return whether a peer has not answered lately, and is left alone for some time."""
        return _is_silent(connection, peer, now)

    @on_reader
    def stored(self, connection: Connection, key: SeriesKey) -> set[str]:
        """Return the SOP Instance UIDs that are here of a series."""
        study, series = key
        images = select(ImageRow.sop_instance_uid).select_from(join(join(ImageRow, SeriesRow), StudyRow))
        own = StudyRow.study_instance_uid == study, SeriesRow.series_instance_uid == series
        return set(connection.scalars(images.where(*own)))


def _last_sender(waits: Waits) -> tuple[str, dt.datetime]:
    """Return the sender that was heard last, and when that was."""
    heard = ((its.received_at or its.aborted_at, title) for title, its in waits.items())
    moment, title = max((at, title) for at, title in heard if at is not None)
    return title, moment


def _claimed_lately(now: dt.datetime) -> Select[Any]:
    """Select series that wait no more: under conversion, or converted and of studies that are not yet quiet."""
    converting = select(SeriesRow.id).where(SeriesRow.state == "converting")
    studies = select(StudyRow.id).where(StudyRow.closed_at.is_not(None))
    closed = select(SeriesRow.id).where(SeriesRow.study_id.in_(studies))
    series = select(SeriesRow.id, SeriesRow.series_instance_uid, SeriesRow.reported, StudyRow.study_instance_uid)
    return series.select_from(join(SeriesRow, StudyRow)).where(
        SeriesRow.id.in_(union(converting, closed)),
        SeriesRow.state != "receiving",
        SeriesRow.last_received_at > now - RECENT,
    )


def _last_title(connection: Connection, series_id: int) -> str:
    """Return the calling AE title of the instance of a series that was indexed last."""
    titles = select(ImageRow.calling_ae_title).where(ImageRow.series_id == series_id).order_by(ImageRow.id.desc())
    return connection.execute(titles.limit(1)).scalar() or ""


def _is_unanswered(connection: Connection, series: Row[Any]) -> bool:
    """Return whether nothing was reported about the instances that are here now."""
    return series.reported is None or series.reported["received"] != _received(connection, series.id)


def _received(connection: Connection, series_id: int) -> int:
    return int(connection.execute(select(func.count()).where(ImageRow.series_id == series_id)).scalar_one())


def _is_silent(connection: Connection, peer: str, now: dt.datetime) -> bool:
    """Return whether the last question to a peer failed, and its time of silence is not over."""
    ended = select(WorkRow.outcome, WorkRow.ended_at, WorkRow.payload).where(
        in_lane(Lane("question", peer)), or_(WorkRow.outcome == "failed", WorkRow.outcome == "succeeded")
    )
    last = connection.execute(ended.order_by(WorkRow.ended_at.desc(), WorkRow.id.desc()).limit(1)).first()
    if last is None or last.outcome != "failed" or last.ended_at is None:
        return False
    inquiry: Any = payload_of("question", last.payload)
    return bool(now < last.ended_at + dt.timedelta(seconds=inquiry.silent_seconds))
