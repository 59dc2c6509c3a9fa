"""The worker of one hook: reads the events after its cursors, delivers them in order, records the outcomes.

Each hook has its own worker thread, so a slow or dead receiver delays no other hook. A message that fails waits in a
row, and later messages of its study wait behind it; other studies continue. If the process dies between a delivery and
the record of it, the next start delivers the message again with the same id.
"""

from __future__ import annotations

import datetime as dt
import random
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from time import monotonic
from urllib.parse import urlsplit

import structlog

from node.audit.audit_log import DESTINATION, SOURCE, Action, Audit, AuditEvent, AuditMessage, Participant, Result
from node.failpoints import reached
from node.index.database import Index
from node.index.deliveries import Attempt, HookWork, PendingEvent
from node.index.follower import IndexFollower
from node.index.read import ReadIndex
from node.metrics import Metrics
from node.notify.channel import Channel, Interrupted, NotDelivered
from node.notify.message import HookMessage, NothingLeft, compose
from node.retries import MAX_WAIT_SECONDS, wait_seconds
from node.selector import compile_selector
from node.settings.model import HookSettings

log = structlog.get_logger()

MAX_SLEEP_SECONDS = 60.0
"""Longest sleep while messages wait for another attempt, since the clock may be stepped."""

SETTLE_SECONDS = 1.0
"""Longest delay before an outcome is recorded. After a crash, the messages of this period are delivered twice."""

MAX_MESSAGES_PER_SECOND = 50
"""Limit per hook, so that a long backlog does not flood the receiver."""

REASON_LENGTH = 500
UNSEEN_EVENTS = 1000
"""Number of unwanted events after which the cursor is recorded."""


class HookWorker(IndexFollower):
    """Deliver messages to one hook.

    Parameters
    ----------
    name : str
    hook : node.settings.model.HookSettings
    channel : Channel
    ae_title : str
        AE title of this node, by which a receiver distinguishes nodes.
    now : callable () -> aware datetime
    """

    def __init__(
        self,
        name: str,
        hook: HookSettings,
        channel: Channel,
        index: Index,
        metrics: Metrics,
        audit: Audit,
        ae_title: str,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        super().__init__(f"hook {name}", index)
        self._hook_name, self._hook, self._channel = name, hook, channel
        self._metrics, self._audit, self._ae_title, self._now = metrics, audit, ae_title, now
        self._titles = frozenset(title.strip() for title in hook.calling_ae_titles)
        self._selector = compile_selector(hook.where) if hook.where is not None else None
        self._seen_event = 0
        self._next_at = 0.0
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Cancel the attempt under way; the next start repeats it."""
        self._cancelled.set()

    def step(self) -> float | None:
        """Deliver the due messages; return the seconds until the next one is due, or None if none waits."""
        if self.work():
            return 0.0
        due_at = self._index.deliveries.next_due_at(self._hook_name)
        return min((due_at - self._now()).total_seconds(), MAX_SLEEP_SECONDS) if due_at is not None else None

    def _close(self) -> None:
        super()._close()
        self._channel.close()

    def work(self) -> bool:
        """Deliver the due messages; return whether there were any, or may be more."""
        work = self._index.deliveries.work(self._hook_name, self._hook.on, self._seen_event, self._now())
        outcomes = _Outcomes(work)
        with suppress(Interrupted):
            for pending in work.again:
                if pending.study_instance_uid not in outcomes.failed:
                    self._take(pending, outcomes, is_new=False)
            for pending in work.new:
                self._take(pending, outcomes, is_new=True)
            outcomes.cursors = work.end
        self._settle(outcomes)
        return bool(work.again or work.new) or work.end != work.begin

    def _take(self, pending: PendingEvent, outcomes: _Outcomes, *, is_new: bool) -> None:
        """Deliver one message, or queue it behind an earlier message of its study."""
        study = pending.study_instance_uid
        if is_new and (study in outcomes.failed or study in outcomes.held):
            attempt = Attempt(pending, "waiting", 0, self._now())
        else:
            attempt = self._attempt(pending)
        if attempt.state == "waiting":
            outcomes.failed.add(study)
        if not (is_new and attempt.state == "dropped"):  # unwanted events get no row
            outcomes.attempts.append(attempt)
        outcomes.cursors = replace(
            outcomes.cursors,
            event_id=pending.event_id or outcomes.cursors.event_id,
            image_id=pending.image_id or outcomes.cursors.image_id,
        )
        if monotonic() >= outcomes.settle_at:
            self._settle(outcomes)

    def _attempt(self, pending: PendingEvent) -> Attempt:
        try:
            with self._index.reading(wait=False) as index:  # the event is committed
                message = compose(index, pending, self._ae_title, include_patient=self._hook.include_patient)
                is_wanted = self._is_wanted(message) and self._is_selected(index, pending)
        except NothingLeft:
            return Attempt(pending, "dropped", pending.attempts, reason="the object was deleted")
        if not is_wanted:
            return Attempt(pending, "dropped", pending.attempts, reason="filtered out by the configuration of the hook")
        self._keep_pace()
        attempts = pending.attempts + 1
        reached("message-composed")
        try:
            output = self._channel.deliver(message, self._cancelled)
        except Interrupted:
            raise
        except Exception as error:  # a bug must not block all other messages
            if not isinstance(error, NotDelivered):
                log.exception("hook_failed", hook=self._hook_name)
                error = NotDelivered(f"{type(error).__name__} while delivering")
            self._audit_export(message, Result.MINOR_FAILURE)
            return self._failed(pending, attempts, error)
        reached("message-delivered")
        self._audit_export(message, Result.SUCCESS)
        self._metrics.hook_messages.labels(self._hook_name, "delivered").inc()
        return Attempt(pending, "delivered", attempts, output=output)

    def _audit_export(self, message: HookMessage, result: Result) -> None:
        """Record in the audit log that a receiver was, or may have been, sent patient data (PS3.15 A.5.3.5)."""
        patient = message.content.get("patient")
        if patient is None:
            return
        host = urlsplit(self._hook.url).hostname if self._hook.url is not None else None
        participants = [
            Participant(self._ae_title, SOURCE, is_requestor=True),
            Participant(f"hook {self._hook_name}", DESTINATION, host or ""),
        ]
        objects = [
            {"study_instance_uid": message.content["study_instance_uid"], "patient_id": patient["patient_id"] or ""}
        ]
        self._audit.note(AuditMessage(AuditEvent.EXPORT, Action.READ, result, participants, objects, message.event))

    def _is_wanted(self, message: HookMessage) -> bool:
        if self._titles and self._titles.isdisjoint(title.strip() for title in message.content["calling_ae_titles"]):
            return False
        # A report or a presentation state yields no volume; that is not a failure.
        return not (message.event == "series-failed" and message.content["state"] == "not-an-image")

    def _is_selected(self, index: ReadIndex, pending: PendingEvent) -> bool:
        """Return whether the series of an event fits `where`, or any series of the study of an event of a study."""
        if self._selector is None:
            return True
        fields, study, series = self._selector.fields, pending.study_instance_uid, pending.series_instance_uid
        if series is None:
            return any(map(self._selector.matches, index.facts.of_study(fields, study)))
        facts = index.facts.of_series(fields, study, series, pending.revision)
        return facts is not None and self._selector.matches(facts)

    def _keep_pace(self) -> None:
        wait = self._next_at - monotonic()
        if self._stopping.wait(max(0.0, wait)):
            raise Interrupted
        self._next_at = monotonic() + 1 / MAX_MESSAGES_PER_SECOND

    def _failed(self, pending: PendingEvent, attempts: int, error: NotDelivered) -> Attempt:
        is_final = error.is_final or attempts >= self._hook.attempts
        reason = str(error)[:REASON_LENGTH]
        self._metrics.hook_messages.labels(self._hook_name, "given-up" if is_final else "failed").inc()
        log.warning(
            "message_given_up" if is_final else "message_not_delivered", hook=self._hook_name, kind=pending.event,
            attempt=attempts, reason=reason, study_instance_uid=pending.study_instance_uid,
            series_instance_uid=pending.series_instance_uid,
        )  # fmt: skip
        if is_final:
            return Attempt(pending, "given-up", attempts, reason=reason, output=error.output)
        seconds = jittered_wait_seconds(attempts, error.retry_after)
        due_at = self._now() + dt.timedelta(seconds=seconds)
        return Attempt(pending, "waiting", attempts, due_at, reason, error.output)

    def _settle(self, outcomes: _Outcomes) -> None:
        """Record outcomes and cursors. Cursors past unwanted events alone are recorded every `UNSEEN_EVENTS` events."""
        attempts, cursors, stored = outcomes.attempts, outcomes.cursors, outcomes.stored
        if attempts or cursors.image_id != stored.image_id or cursors.event_id - stored.event_id >= UNSEEN_EVENTS:
            self._index.deliveries.settle(self._hook_name, attempts, cursors, self._now())
            outcomes.attempts, outcomes.stored = [], cursors
        outcomes.settle_at = monotonic() + SETTLE_SECONDS
        self._seen_event = cursors.event_id


class _Outcomes:
    """The outcomes of one step that are not yet recorded."""

    def __init__(self, work: HookWork) -> None:
        self.stored, self.cursors = work.stored, work.begin
        self.attempts: list[Attempt] = []
        self.held = work.held
        self.failed: set[str] = set()  # studies with a message that failed in this step
        self.settle_at = monotonic() + SETTLE_SECONDS


def jittered_wait_seconds(attempts: int, retry_after: float | None) -> float:
    """Return the seconds to wait after `attempts` failures, randomized so that retries are spread out.

    Parameters
    ----------
    retry_after : float or None
        Wait requested by the receiver; the result is not shorter, up to `MAX_WAIT_SECONDS`.
    """
    longest = wait_seconds(attempts)
    wait = random.uniform(longest / 2, longest)
    return max(wait, min(retry_after or 0.0, MAX_WAIT_SECONDS))
