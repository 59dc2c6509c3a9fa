"""All hooks of a node, and the worker of each: it composes the message of each event, and its channel delivers it."""

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from time import monotonic

import structlog

from node.archive.base import ArchivedFile
from node.audit.audit_log import DESTINATION, SOURCE, Audit, AuditAction, AuditEvent, AuditMessage, Participant, Result
from node.errors import OutOfResources, ResultRefused, ResultsBusy, with_last_line
from node.index.database import Index
from node.index.look.finder import QueryRefused
from node.index.look.views import ReadIndex
from node.index.rows.records import Lane
from node.index.rules.work.ledger import REASON_LENGTH, Ended, Postponed, after_failure
from node.index.rules.work.messages import UNWANTED, Attempt, Job, JobEnded, PendingEvent
from node.index.work_loop import Interrupted, MessageLoop, MessageLoops
from node.notify.channel import Channel, DeliveredMessage, NotDelivered, end_leftovers, hook_channel
from node.notify.message import HookMessage, NothingLeft, compose, files_of, with_job
from node.receive.results import KeptResults, Results
from node.runtime.failpoints import reached
from node.runtime.metrics import Metrics
from node.selector import compile_selector
from node.settings.core import HookSettings
from node.settings.model import Settings

log = structlog.get_logger()

MAX_MESSAGES_PER_SECOND = 50
"""Limit per hook, so that a long backlog does not flood the receiver."""


MAX_TURN_SECONDS = 3600.0
"""Longest wait of a job for the results of other jobs, before other messages of its hook have their turn."""

SHORTAGE_SECONDS = 10.0
"""Pause before results are stored again for which this node had no room, or whose series its index did not have."""


Held = Callable[[Sequence[ArchivedFile]], AbstractContextManager[None]]


class HookWorker(MessageLoop):
    """Deliver messages to one hook.

    `ae_title`: AE title of this node, by which a receiver distinguishes nodes. `results`: takes the results of a hook
    with `results`. `public_url`: address of the node's pages in messages; may be empty. `held`: keeps the files of a
    message at their paths while a receiver on this machine has it; raises an OSError.
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
        results: Results,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
        public_url: str = "",
        held: Held = lambda files: nullcontext(),
    ) -> None:
        super().__init__(f"hook {name}", Lane("hook", name), hook.on, index, now)
        self._hook_name, self._hook, self._channel = name, hook, channel
        self._metrics, self._audit, self._ae_title = metrics, audit, ae_title
        self._results, self._public_url, self._held = results, public_url, held
        self._job_time = dt.timedelta(seconds=hook.job_seconds)
        self._titles = frozenset(title.strip() for title in hook.calling_ae_titles or ())
        self._selector = compile_selector(hook.where) if hook.where is not None else None
        for outcome in ("delivered", "failed", "given-up"):
            metrics.hook_messages.labels(name, outcome)  # from 0, or the first of all is no increase
        self._next_at = 0.0
        self._ends_delivery = self._cancelled

    def cancel(self) -> None:
        """Cancel the attempt under way; the next start repeats it."""
        super().cancel()
        self._ends_delivery.set()

    def _close(self) -> None:
        super()._close()
        self._channel.close()

    def step(self) -> float | None:
        """Deliver what is due, unless a person has paused the hook; the end of a pause wakes it."""
        if not self._is_paused:
            return super().step()
        self._index.work.end_cancelled(self.lane, self._now())
        return None

    @property
    def _is_paused(self) -> bool:
        return self._index.routes.state(self.lane).is_paused

    def _attempt(self, pending: PendingEvent) -> Attempt:
        composed = self._composed(pending)
        if isinstance(composed, Attempt):
            return composed
        self._keep_pace()
        reached("message-composed")
        return self._attempt_wanted(pending, *composed)

    def _unwanted(self, pending: PendingEvent) -> Attempt | None:
        composed = self._composed(pending)
        return composed if isinstance(composed, Attempt) else None

    def _composed(self, pending: PendingEvent) -> Attempt | tuple[HookMessage, Sequence[ArchivedFile]]:
        """Return the message of an event and its files, or the end of one that the hook does not want."""
        try:
            with self._index.reading(wait=False) as index:  # the event is committed
                message = compose(index, pending, self._ae_title, include_patient=self._hook.include_patient)
                is_wanted = self._is_wanted(message) and self._is_selected(index, pending)
                files = files_of(index, message) if is_wanted and self._hook.is_here else []
                is_own = is_wanted and self._hook.results and self._is_own(index, pending)
        except NothingLeft:
            return _dropped(pending, "the object was deleted")
        if not is_wanted:
            return _dropped(pending, UNWANTED[0])
        return _dropped(pending, "the hook made it") if is_own else (message, files)

    def _attempt_wanted(self, pending: PendingEvent, message: HookMessage, files: Sequence[ArchivedFile]) -> Attempt:
        """Deliver a message, unless an earlier attempt did and its results are kept, and store its results."""
        attempts = pending.attempts + 1
        job: Job | None = None
        token, kept = "", None
        try:
            if self._hook.results:
                job, token = self._index.jobs.begin(self._hook_name, pending, self._now(), self._job_time)
                if not job.is_open:  # a receiver that was not heard in time has done its work
                    return _done_before(pending, job)
                kept = self._results.kept(job.job_id)
            if kept is None:
                kept = self._delivered(message, job, token, files)
            if job is not None and kept is not None:
                self._take_results(job, kept)
        except Interrupted:
            raise
        except (OutOfResources, QueryRefused, ResultsBusy) as error:  # of this node: no fault of the receiver
            return self._waits(pending, str(error), job)
        except Exception as error:  # a bug must not block all other messages
            if not isinstance(error, NotDelivered):
                log.exception("hook_failed", hook=self._hook_name)
                error = NotDelivered(f"{type(error).__name__} while delivering")
            return self._failed(pending, attempts, error, job)
        self._metrics.hook_messages.labels(self._hook_name, "delivered").inc()
        return Attempt(pending, Ended("succeeded"), attempts, kept.output if kept is not None else None)

    def _delivered(
        self, message: HookMessage, job: Job | None, token: str, files: Sequence[ArchivedFile]
    ) -> KeptResults | None:
        """Deliver a message; return what the receiver left, or None if it reports later."""
        if job is not None:
            message = self._for_job(message, job, token)
        try:
            with self._at_hand(files):
                delivered = self._deliver(message, job)
        except Interrupted:
            raise
        except Exception:
            self._audit_export(message, Result.MINOR_FAILURE)
            raise
        self._audit_export(message, Result.SUCCESS)
        reached("message-delivered")
        if job is None or not delivered.is_pending:
            return KeptResults(delivered.results, delivered.output)
        now = self._now()
        self._index.jobs.accepted(job.id, delivered.location, now + self._job_time, now)
        return None

    @contextmanager
    def _at_hand(self, files: Sequence[ArchivedFile]) -> Iterator[None]:
        """Keep the files of a message at their paths.

        Raises NotDelivered if they cannot be fetched now.
        """
        with ExitStack() as held:
            try:
                held.enter_context(self._held(files))
            except OSError as error:
                raise NotDelivered(f"a file of the message cannot be fetched: {error.strerror}") from error
            yield

    def _deliver(self, message: HookMessage, job: Job | None) -> DeliveredMessage:
        """Deliver a message; end the command, plugin or request if its job is cancelled meanwhile."""
        if job is None:
            return self._channel.deliver(message, self._cancelled)
        with self._results.under_way(job.job_id) as self._ends_delivery:
            if self._cancelled.is_set():  # before `cancel` saw the new event
                raise Interrupted
            if self._hook.is_here:
                self._index.jobs.begin_here(job.id, self._now())
            try:
                delivered = self._channel.deliver(message, self._ends_delivery)
                if not delivered.is_pending:
                    self._keep(job, KeptResults(delivered.results, delivered.output))
                return delivered
            except Interrupted:
                if self._cancelled.is_set():
                    raise
        raise NotDelivered(self._index.jobs.with_id(job.job_id).detail or "cancelled", is_final=True)

    def _keep(self, job: Job, kept: KeptResults) -> None:
        """Keep what a receiver left, once there is room for it; until then, this process alone knows that it ended."""
        while True:
            try:
                return self._results.keep(job.job_id, kept)
            except OutOfResources:
                if self._ends_delivery.wait(SHORTAGE_SECONDS):
                    raise Interrupted from None

    def _is_own(self, index: ReadIndex, pending: PendingEvent) -> bool:
        """Return whether the hook itself made what an event is about: it would never come to an end."""
        study, series = pending.study_instance_uid, pending.series_instance_uid
        if series is not None:
            return index.jobs.descends(self._hook_name, study, series)
        return index.jobs.is_own_news(self._hook_name, study, pending.happened_at)

    def _for_job(self, message: HookMessage, job: Job, token: str) -> HookMessage:
        """Return a message with its job: an address and a token, and a folder for receivers on this machine."""
        is_here = self._hook.is_here
        if is_here:
            end_leftovers(self._results.folder(job.job_id))
        folder = str(self._results.empty_folder(job.job_id)) if is_here else None
        return with_job(message, job.job_id, f"{self._public_url}/api/v1/jobs/{job.job_id}", token, folder)

    def _take_results(self, job: Job, kept: KeptResults) -> None:
        """Store what a hook left."""
        try:
            self._results.finish(job.job_id, kept.content, wait_seconds=MAX_TURN_SECONDS)
        except JobEnded:  # it reported its outcome itself, or a person cancelled the job
            return
        except ResultRefused as error:  # it names files, which may name the patient
            with suppress(JobEnded):
                self._results.end(job.job_id, "failed", str(error))
            reason = "a result was refused: `voxelnode hooks jobs` has the reason"
            raise NotDelivered(reason, is_final=True, output=kept.output) from error

    def _audit_export(self, message: HookMessage, result: Result) -> None:
        line = export_line(self._hook_name, self._hook, message, self._ae_title, result)
        if line is not None:
            self._audit.note(line)

    def _is_wanted(self, message: HookMessage) -> bool:
        if self._titles and self._titles.isdisjoint(title.strip() for title in message.content["calling_ae_titles"]):
            return False
        # A report or a presentation state yields no volume; that is not a failure.
        return not (message.event == "series-failed" and message.content["state"] == "not-an-image")

    def _is_selected(self, index: ReadIndex, pending: PendingEvent) -> bool:
        """Return whether the series of an event fits `where`, or any series of the study of an event of a study."""
        if self._selector is None:
            return True
        study, series = pending.study_instance_uid, pending.series_instance_uid
        fields = self._selector.fields
        if series is None:
            return any(map(self._selector.matches, index.facts.of_study(fields, study)))
        facts = index.facts.of_series(fields, study, series, pending.revision)
        return facts is not None and self._selector.matches(facts)

    def _keep_pace(self) -> None:
        wait = self._next_at - monotonic()
        if self._stopping.wait(max(0.0, wait)) or self._is_paused:
            raise Interrupted
        self._next_at = monotonic() + 1 / MAX_MESSAGES_PER_SECOND

    def _waits(self, pending: PendingEvent, reason: str, job: Job | None) -> Attempt:
        """Let a message wait until this node has room, or its index has caught up; a wait is no attempt."""
        if self._cancelled.is_set():
            raise Interrupted
        log.warning("message_waits", hook=self._hook_name, kind=pending.event, reason=reason)
        if job is not None and self._hook.is_here:
            self._index.jobs.wait_here(job.id, reason, self._now())
        due_at = self._now() + dt.timedelta(seconds=SHORTAGE_SECONDS)
        return Attempt(pending, Postponed(due_at, reason[:REASON_LENGTH]), pending.attempts)

    def _failed(self, pending: PendingEvent, attempts: int, error: NotDelivered, job: Job | None) -> Attempt:
        reason, limit = str(error)[:REASON_LENGTH], self._hook.attempts
        decision = after_failure(
            attempts, limit, reason, self._now(), is_final=error.is_final, retry_after=error.retry_after
        )
        is_final = isinstance(decision, Ended)
        self._metrics.hook_messages.labels(self._hook_name, "given-up" if is_final else "failed").inc()
        log.warning(
            "message_given_up" if is_final else "message_not_delivered", hook=self._hook_name, kind=pending.event,
            attempt=attempts, reason=reason, study_instance_uid=pending.study_instance_uid,
            series_instance_uid=pending.series_instance_uid,
        )  # fmt: skip
        detail = with_last_line(reason, error.output)[:REASON_LENGTH]
        if job is not None and is_final:
            with suppress(JobEnded):
                self._results.end(job.job_id, "failed", detail)
        elif job is not None and self._hook.is_here:
            self._index.jobs.wait_here(job.id, detail, self._now())
        return Attempt(pending, decision, attempts, error.output)


class Notifier(MessageLoops[HookSettings, HookWorker]):
    """Deliver events to every hook, continuing where the last process stopped.

    `is_needed`: False on a host that only others deliver for.
    """

    kind = "hook"

    def __init__(
        self,
        settings: Settings,
        index: Index,
        metrics: Metrics,
        audit: Audit,
        results: Results,
        held: Held = lambda files: nullcontext(),
        *,
        is_needed: bool = True,
    ) -> None:
        self._metrics, self._audit, self._results, self._held = metrics, audit, results, held
        self._is_needed = is_needed
        super().__init__(settings, index)

    def _plans(self) -> dict[Lane, HookSettings]:
        hooks = self._settings.hooks if self._is_needed else {}
        return {Lane("hook", name): hook for name, hook in hooks.items()}

    def _built(self, plans: Mapping[Lane, HookSettings]) -> list[HookWorker]:
        return [self._worker(lane.name, hook) for lane, hook in plans.items()]

    def _worker(self, name: str, hook: HookSettings) -> HookWorker:
        channel = hook_channel(self._settings, name)
        index, ae_title, url = self._index, self._settings.dicom.ae_title, self._settings.web.public_url
        parts = index, self._metrics, self._audit, ae_title, self._results
        return HookWorker(name, hook, channel, *parts, index.now, url, self._held)


def export_line(
    name: str, hook: HookSettings, message: HookMessage, ae_title: str, result: Result
) -> AuditMessage | None:
    """Return the line of the audit log that a receiver was, or may have been, sent patient data (PS3.15 A.5.3.5).

    None: the message names no patient.
    """
    patient = message.content.get("patient")
    if patient is None:
        return None
    participants = [
        Participant(ae_title, SOURCE, is_requestor=True),
        Participant(f"hook {name}", DESTINATION, hook.host),
    ]
    objects = [{"study_instance_uid": message.content["study_instance_uid"], "patient_id": patient["patient_id"] or ""}]
    return AuditMessage(AuditEvent.EXPORT, AuditAction.READ, result, participants, objects, message.event)


def _dropped(pending: PendingEvent, reason: str) -> Attempt:
    return Attempt(pending, Ended("dropped", reason), pending.attempts)


def _done_before(pending: PendingEvent, job: Job) -> Attempt:
    """Return the outcome of a message whose job has ended."""
    if job.state == "cancelled":
        return _dropped(pending, f"its job was {job.detail or 'cancelled'}")
    return Attempt(pending, Ended("succeeded"), pending.attempts)
