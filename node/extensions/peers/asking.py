"""The sender of a series is asked how many instances it has, and if it has more, which: at most 30 seconds each time.

A sender that does not answer, and does not half a minute later, is left alone for ten minutes; one that offers no
C-FIND, for a day. No conversion waits for an answer; one that comes later changes the verdict.

A sender that is still acquiring a series counts what it has so far. One that may have its series converted early
(`[peers.NAME] confirm_by_find`) is therefore asked again and again, and believed once two counts in a row agree.
"""

import datetime as dt
import secrets
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from time import monotonic
from typing import Any, NamedTuple

import structlog
from sqlalchemy import Connection, Row, Select, func, or_, select, union
from sqlalchemy.orm import join

from node.association.client.addresses import Address, address_of
from node.association.client.association import NothingAccepted
from node.completeness import MAX_NAMED, Reported
from node.errors import PeerFailed, UsageError
from node.extensions.peers.find import find_instance_count, find_instances
from node.index.database import Index
from node.index.rows.converted import SeriesKey
from node.index.rows.models.levels import ImageRow, SeriesRow, StudyRow
from node.index.rows.models.work import WorkRow
from node.index.rows.records import Lane
from node.index.rows.repositories import IndexRepository, on_reader, on_writer, reads
from node.index.rows.states import Inquiry, payload_of
from node.index.rules.series.verdicts import series_at
from node.index.rules.series.waits import is_awaiting, waits_of
from node.index.rules.work.ledger import REASON_LENGTH, Decision, Ended, Postponed, Work, add, in_lane
from node.index.work_loop import IndexFollower, RequestLoop
from node.quiet import Waits
from node.runtime.background import BackgroundService, wait_seconds
from node.settings.model import Settings

log = structlog.get_logger()

AGAIN = dt.timedelta(seconds=3)
"""Interval between two questions about a series that may be converted early."""

MAX_SECONDS = 30.0
"""Longest time of a question."""

RESPONSE_SECONDS = 10.0
"""Longest wait for the connection, its acceptance and each response."""

SILENT_SECONDS = 600.0
NOT_OFFERED_SECONDS = 86400.0

FOLLOW_SECONDS = 1.0
"""Longest delay from a commit to the next look at the series that wait."""


def questions(settings: Settings, index: Index, now: Callable[[], dt.datetime]) -> Iterator[BackgroundService]:
    """Yield the services that ask the senders of series; none if no peer may be asked."""
    peers = {name: peer for name, peer in settings.peers.items() if peer.is_asked}
    if peers:
        names = {peer.ae_title: name for name, peer in peers.items()}
        early = {name for name, peer in peers.items() if peer.confirm_by_find}
        yield Questioner(index, names, early, now)
        yield RequestLoop("questions", index, {"question": Asking(index, settings, early, now)}, now)


class Questioner(IndexFollower):
    """Puts questions on the ledger when series are about to be quiet.

    `peers`: the senders that may be asked, by calling AE title: their names in [peers].
    `early`: names of those whose series are converted as soon as all instances were received.
    """

    def __init__(
        self, index: Index, peers: Mapping[str, str], early: Collection[str], now: Callable[[], dt.datetime]
    ) -> None:
        super().__init__("questioner", index, FOLLOW_SECONDS, "questions")
        self._questions = index.repository(QuestionRepository)
        self._peers, self._early, self._now = peers, early, now

    def step(self) -> float | None:
        """Add the questions that are due; return the seconds until the next, None if no series waits."""
        moment = self._now()
        questions, next_at = self._questions.unasked(self._peers, self._early, moment)
        if questions:
            self._questions.add(questions, moment)
        return None if next_at is None else max((next_at - moment).total_seconds(), FOLLOW_SECONDS)


class Waiting(NamedTuple):
    """The series that a question is about: its stored instances, and when it is due (None: it does not wait)."""

    received: int
    due_at: dt.datetime | None


class _Query(NamedTuple):
    """The arguments of `find_instance_count` and `find_instances`."""

    peer: Address
    calling_ae_title: str
    series: SeriesKey
    timeout: float
    is_abandoned: Callable[[], bool]


class Asking:
    """Asks a question: the step of the ledger."""

    max_attempts = 3
    """Starts of the node after which a question is not repeated."""

    def __init__(
        self, index: Index, settings: Settings, early: Collection[str], now: Callable[[], dt.datetime]
    ) -> None:
        self._index, self._settings, self._early, self._now = index, settings, early, now
        self._questions = index.repository(QuestionRepository)

    def perform(self, work: Work, stopping: threading.Event) -> Decision | None:
        """Ask, and record what the sender says; return None if the node stops."""
        name, key = work.lane.name, (work.study_instance_uid or "", work.series_instance_uid or "")
        waiting = self._questions.waiting(key)
        if waiting is None:
            return Ended("dropped", "the series was deleted")
        if self._questions.is_silent(name, self._now()):
            return Ended("dropped", "the sender has not answered lately")
        deadline = monotonic() + MAX_SECONDS
        try:
            peer, dicom = address_of(name, self._settings), self._settings.dicom
            query = _Query(
                peer, dicom.ae_title, key, RESPONSE_SECONDS, lambda: stopping.is_set() or monotonic() > deadline
            )
            count = find_instance_count(*query)
            if name in self._early and (again := self._again(work, key, waiting, count)) is not None:
                return again
            reported = self._reported(query, waiting.received, count)
        except (PeerFailed, UsageError) as error:
            if stopping.is_set():
                return None
            log.warning("sender_not_asked", peer=name, error=type(error).__name__)
            problem = Reported(waiting.received, problem="does not answer C-FIND")
            self._index.series.record_reported(key, problem, self._now())
            return self._unanswered(work, error)
        self._index.series.record_reported(key, reported, self._now())
        return Ended("succeeded", f"the sender has {count}, {waiting.received} are here", Inquiry(count))

    def _unanswered(self, work: Work, error: PeerFailed | UsageError) -> Decision:
        """Return what becomes of a question without an answer: a peer that is busy once is not taken for silent."""
        reason, offers_none = str(error)[:REASON_LENGTH], isinstance(error, NothingAccepted)
        if not offers_none and not work.payload.has_failed:
            later = self._now() + dt.timedelta(seconds=wait_seconds(1))
            return Postponed(later, reason, replace(work.payload, has_failed=True))
        return Ended("failed", reason, Inquiry(silent_seconds=NOT_OFFERED_SECONDS if offers_none else SILENT_SECONDS))

    def recorded(self, work: Work, decision: Decision) -> None:
        """Tell nobody: what the sender says is in the verdict."""

    def _again(self, work: Work, key: SeriesKey, waiting: Waiting, count: int | None) -> Decision | None:
        """Return what becomes of a question about a series that may be converted early; None: this was the last time.

        If all that the sender has is here, by two counts, the series is due at once.
        """
        now, before = self._now(), work.payload.instances
        if waiting.due_at is None or waiting.due_at <= now:
            return None
        if count is None or count != before or waiting.received < count:
            is_last = waiting.due_at - now <= min(AHEAD, AGAIN)
            return None if is_last else Postponed(now + AGAIN, payload=Inquiry(count))
        self._index.series.record_reported(key, Reported(waiting.received, count), now, ends_wait=True)
        log.info("series_confirmed", series_instance_uid=key[1], instances=count)
        return Ended("succeeded", f"the sender has {count}, {waiting.received} are here", Inquiry(count))

    def _reported(self, query: _Query, received: int, count: int | None) -> Reported:
        """Return what the sender says, with what is missing of its list if it has more, or gives no count."""
        if count is not None and count <= received:
            return Reported(received, count)
        try:
            listed = find_instances(*query)
        except PeerFailed as error:
            log.warning("series_not_listed", series_instance_uid=query.series[1], error=type(error).__name__)
            return Reported(received, count)
        return reported_of(received, count, listed, self._questions.stored(query.series))


def reported_of(received: int, count: int | None, listed: Collection[str] | None, stored: Collection[str]) -> Reported:
    """Return what the sender says by its count, and by its list if it gave one, beside the instances that are here."""
    if listed is None:
        return Reported(received, count)
    missing = sorted(set(listed).difference(stored))
    count = count if count is not None else len(listed)
    if not missing and len(listed) < received:  # no list of the whole series
        return Reported(received, count)
    return Reported(received, count, len(missing), tuple(missing[:MAX_NAMED]))


AHEAD = dt.timedelta(seconds=10)
"""How long before a series is quiet its sender is asked, or half of its wait if that is less."""

RECENT = dt.timedelta(hours=1)
"""A series that was claimed unasked is asked about if it was received since. A reconversion of old ones asks nobody."""


class Question(NamedTuple):
    """A question that is to be asked: at which peer, and of which series."""

    peer: str
    series: SeriesKey


def _is_silent(connection: Connection, peer: str, now: dt.datetime) -> bool:
    """Return whether the last question to a peer failed, and its time of silence is not over."""
    ended = select(WorkRow.outcome, WorkRow.ended_at, WorkRow.payload).where(
        in_lane(Lane("question", peer)), or_(WorkRow.outcome == "failed", WorkRow.outcome == "succeeded")
    )
    last = connection.execute(ended.order_by(WorkRow.last_event.desc(), WorkRow.id.desc()).limit(1)).first()
    if last is None or last.outcome != "failed" or last.ended_at is None:
        return False
    inquiry: Any = payload_of("question", last.payload)
    return bool(now < last.ended_at + dt.timedelta(seconds=inquiry.silent_seconds))


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
            WorkRow.kind == "question", WorkRow.outcome.is_(None)
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
        row = connection.execute(series_at(key)).first()
        if row is None:
            return None
        return Waiting(_received(connection, row.id), row.due_at if row.state == "receiving" else None)

    is_silent = reads(_is_silent)

    @on_reader
    def stored(self, connection: Connection, key: SeriesKey) -> set[str]:
        """Return the SOP Instance UIDs that are here of a series."""
        own = series_at(key).with_only_columns(SeriesRow.id)
        return set(connection.scalars(select(ImageRow.sop_instance_uid).where(ImageRow.series_id.in_(own))))


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
