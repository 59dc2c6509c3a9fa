"""One hook: reads what happened behind its cursors, tells it in order, records what came of it.

Each hook has a worker with a thread of its own, so that one that is slow or gone holds up no other. What fails waits
in the ledger, and with it whatever else happened in its study; other studies go on.
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

from node.audit import DESTINATION, SOURCE, Action, Audit, AuditEvent, Participant, Result
from node.failpoints import reached
from node.index.database import Index
from node.index.deliveries import Attempt, HookWork, PendingEvent
from node.index.follower import IndexFollower
from node.metrics import Metrics
from node.notify.channel import Channel, Interrupted, NotDelivered
from node.notify.message import HookMessage, NothingLeft, compose
from node.retries import MAX_WAIT_SECONDS, wait_seconds
from node.settings.model import HookSettings

log = structlog.get_logger()

MAX_SLEEP_SECONDS = 60.0
"""While messages wait to be tried again: the clock may be set."""

SETTLE_SECONDS = 1.0
"""How long what came of attempts may be known to this process only: so much is told twice after a crash, at most."""

MAX_MESSAGES_PER_SECOND = 50
"""Of one hook, so that a long backlog does not flood its receiver."""

REASON_LENGTH = 500
UNSEEN_EVENTS = 1000
"""After so many events that this hook does not want, its cursor is moved past them."""


class HookWorker(IndexFollower):
    """Delivers to one hook.

    Parameters
    ----------
    name : str
    hook : node.settings.model.HookSettings
    channel : Channel
    ae_title : str
        Ours, so that whoever is told by several nodes can tell them apart.
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
        self._seen_event = 0
        self._next_at = 0.0
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """End the attempt under way; the next start makes it again."""
        self._cancelled.set()

    def step(self) -> float | None:
        """Deliver what is due; return the seconds until more is due."""
        if self.work():
            return 0.0
        due_at = self._index.deliveries.next_due_at(self._hook_name)
        return min((due_at - self._now()).total_seconds(), MAX_SLEEP_SECONDS) if due_at is not None else None

    def _close(self) -> None:
        super()._close()
        self._channel.close()

    def work(self) -> bool:
        """Deliver what is due now; return whether there was anything, or may be more."""
        work = self._index.deliveries.work(self._hook_name, self._hook.on, self._seen_event, self._now())
        round_ = _Round(work)
        with suppress(Interrupted):
            for pending in work.again:
                if pending.study_instance_uid not in round_.failed:
                    self._take(pending, round_, is_new=False)
            for pending in work.new:
                self._take(pending, round_, is_new=True)
            round_.place = work.end
        self._settle(round_)
        return bool(work.again or work.new) or work.end != work.begin

    def _take(self, pending: PendingEvent, round_: _Round, *, is_new: bool) -> None:
        """Tell one thing, or let it wait behind what waits of its study."""
        study = pending.study_instance_uid
        if is_new and (study in round_.failed or study in round_.held):
            attempted = Attempt(pending, "waiting", 0, self._now())
        else:
            attempted = self._attempt(pending)
        if attempted.state == "waiting":
            round_.failed.add(study)
        if not (is_new and attempted.state == "dropped"):  # what nobody wants to know costs no row
            round_.attempted.append(attempted)
        round_.place = replace(
            round_.place,
            event_id=pending.event_id or round_.place.event_id,
            image_id=pending.image_id or round_.place.image_id,
        )
        if monotonic() >= round_.settle_at:
            self._settle(round_)

    def _attempt(self, pending: PendingEvent) -> Attempt:
        try:
            with self._index.reading() as index:
                message = compose(index, pending, self._ae_title, include_patient=self._hook.include_patient)
        except NothingLeft:
            return Attempt(pending, "dropped", pending.attempts, reason="it has been deleted since")
        if not self._is_wanted(message):
            return Attempt(pending, "dropped", pending.attempts, reason="this hook does not want it")
        self._keep_pace()
        attempts = pending.attempts + 1
        reached("message-composed")
        try:
            output = self._channel.deliver(message, self._cancelled)
        except Interrupted:
            raise
        except Exception as error:  # an error of ours too is one of this message, and must not hold up all others
            if not isinstance(error, NotDelivered):
                log.exception("hook_failed", hook=self._hook_name)
                error = NotDelivered(f"{type(error).__name__} while telling")
            self._tell_export(message, Result.MINOR_FAILURE)
            return self._failed(pending, attempts, error)
        reached("message-delivered")
        self._tell_export(message, Result.SUCCESS)
        self._metrics.hook_messages.labels(self._hook_name, "delivered").inc()
        return Attempt(pending, "delivered", attempts, output=output)

    def _tell_export(self, message: HookMessage, result: Result) -> None:
        """Tell the audit log that a patient was named to somebody (PS3.15 A.5.3.5), also where that may have failed."""
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
        self._audit.note(AuditEvent.EXPORT, Action.READ, result, participants, objects, message.event)

    def _is_wanted(self, message: HookMessage) -> bool:
        if self._titles and self._titles.isdisjoint(title.strip() for title in message.content["calling_ae_titles"]):
            return False
        # A report or a presentation state gives no volume, and that is no failure.
        return not (message.event == "series-failed" and message.content["state"] == "not-an-image")

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

    def _settle(self, round_: _Round) -> None:
        """Record what came of attempts; cursors that only passed over what nobody wants are recorded now and then."""
        attempted, place, stored = round_.attempted, round_.place, round_.stored
        if attempted or place.image_id != stored.image_id or place.event_id - stored.event_id >= UNSEEN_EVENTS:
            self._index.deliveries.settle(self._hook_name, attempted, place, self._now())
            round_.attempted, round_.stored = [], place
        round_.settle_at = monotonic() + SETTLE_SECONDS
        self._seen_event = place.event_id


class _Round:
    """What came of one reading of the ledger, as far as it is not recorded yet."""

    def __init__(self, work: HookWork) -> None:
        self.stored, self.place = work.stored, work.begin
        self.attempted: list[Attempt] = []
        self.held = work.held
        self.failed: set[str] = set()  # studies of which something failed in this round
        self.settle_at = monotonic() + SETTLE_SECONDS


def jittered_wait_seconds(attempts: int, retry_after: float | None) -> float:
    """Return how long to wait after `attempts` failures: a random time, so that waiting messages do not come at once.

    Parameters
    ----------
    retry_after : float or None
        Seconds that the receiver asks for; a longer wait stays.
    """
    longest = wait_seconds(attempts)
    wait = random.uniform(longest / 2, longest)
    return max(wait, min(retry_after or 0.0, MAX_WAIT_SECONDS))
