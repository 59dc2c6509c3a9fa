"""The sender of a series is asked how many instances it has, and if it has more, which: at most 30 seconds each time.

A sender that does not answer, and does not half a minute later, is left alone for ten minutes; one that offers no
C-FIND, for a day. No conversion waits for an answer; one that comes later changes the verdict.

A sender that is still acquiring a series counts what it has so far. One that may have its series converted early
(`[peers.NAME] confirm_by_find`) is therefore asked again and again, and believed once two counts in a row agree.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from time import monotonic

import structlog

from node.association.client.addresses import address_of
from node.association.client.association import NothingAccepted
from node.completeness import MAX_NAMED, Reported
from node.errors import PeerFailed, UsageError
from node.extensions.peers.find import find_instance_count, find_instances
from node.extensions.peers.questions import AHEAD, QuestionRepository, Waiting
from node.index.database.index import Index
from node.index.database.work_loop import IndexFollower, RequestLoop
from node.index.nouns.converted import SeriesKey
from node.index.work.ledger import REASON_LENGTH, Decision, Ended, Postponed, Work
from node.index.work.states import Inquiry
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
            count = self._count(name, key, lambda: stopping.is_set() or monotonic() > deadline)
            if name in self._early and (again := self._again(work, key, waiting, count)) is not None:
                return again
            reported = self._reported(name, key, waiting.received, count, deadline, stopping)
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

    def _count(self, name: str, key: SeriesKey, is_abandoned: Callable[[], bool]) -> int | None:
        peer, dicom = address_of(name, self._settings), self._settings.dicom
        return find_instance_count(peer, dicom.ae_title, key, RESPONSE_SECONDS, is_abandoned)

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

    def _reported(
        self, name: str, key: SeriesKey, received: int, count: int | None, deadline: float, stopping: threading.Event
    ) -> Reported:
        """Return what the sender says, with what is missing of its list if it has more, or gives no count."""
        if count is not None and count <= received:
            return Reported(received, count)
        peer, dicom = address_of(name, self._settings), self._settings.dicom
        try:
            listed = find_instances(
                peer, dicom.ae_title, key, RESPONSE_SECONDS, lambda: stopping.is_set() or monotonic() > deadline
            )
        except PeerFailed as error:
            log.warning("series_not_listed", series_instance_uid=key[1], error=type(error).__name__)
            return Reported(received, count)
        return reported_of(received, count, listed, self._questions.stored(key))


def reported_of(received: int, count: int | None, listed: Collection[str] | None, stored: Collection[str]) -> Reported:
    """Return what the sender says by its count, and by its list if it gave one, beside the instances that are here."""
    if listed is None:
        return Reported(received, count)
    missing = sorted(set(listed).difference(stored))
    count = count if count is not None else len(listed)
    if not missing and len(listed) < received:  # no list of the whole series
        return Reported(received, count)
    return Reported(received, count, len(missing), tuple(missing[:MAX_NAMED]))
