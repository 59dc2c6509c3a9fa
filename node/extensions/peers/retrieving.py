"""Retrievals that people request: the step that `node.index.work_loop` does for each.

Instances that came before come again, and change nothing: a retrieval that ran when the node ended is repeated.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from time import monotonic

import structlog

from node.association.client.addresses import address_of
from node.audit.audit_log import DESTINATION, SOURCE, Audit, AuditAction, AuditEvent, AuditMessage, Participant, Result
from node.dicom.status import NOT_CURRENT, STORED
from node.errors import UsageError, VoxelnodeError, counted
from node.extensions.peers.find import RetrieveTarget, SubOperationCounts, get
from node.index.database import Index
from node.index.rows.records import Refused
from node.index.rows.states import Counts, Outcome
from node.index.rules.work.ledger import Decision, Ended, Work
from node.receive.ingest import Ingest
from node.settings.model import Settings

log = structlog.get_logger()

LOOK_SECONDS = 0.5
"""Interval at which a retrieval under way looks whether it was cancelled, and records its progress."""


class Retrieving:
    """Does the work of a retrieval.

    `on_refusal`: called for each instance that the node refused.
    """

    max_attempts = 3
    """Starts of the node after which a retrieval is not repeated."""

    def __init__(
        self,
        settings: Settings,
        index: Index,
        ingest: Ingest,
        audit: Audit | None,
        on_refusal: Callable[[Refused], None] = lambda refused: None,
    ) -> None:
        self.settings, self.index, self.ingest, self._audit = settings, index, ingest, audit
        self.on_refusal = on_refusal

    def perform(self, work: Work, stopping: threading.Event) -> Decision | None:
        """Retrieve a study or a series; return the outcome, or None if the node stops."""
        return _Run(self, work, stopping).perform()

    def recorded(self, work: Work, decision: Decision) -> None:
        """Record the end of a retrieval in the audit log (PS3.15 A.5.3.7): who wanted what, and from where it came."""
        if self._audit is None or not (isinstance(decision, Ended) and isinstance(decision.payload, Counts)):
            return
        name, outcome = work.lane.name, decision.outcome
        peer = self.settings.peers.get(name)
        participants = [
            Participant(work.requested_by, "", is_requestor=True),
            Participant(peer.ae_title if peer else name, SOURCE, (peer.host or "") if peer else ""),
            Participant(self.settings.dicom.ae_title, DESTINATION),
        ]
        result = Result.SUCCESS if outcome == "succeeded" else Result.MINOR_FAILURE
        detail = f"retrieval {work.key} from {name}: {outcome}, {_instances(decision.payload.stored)} came"
        objects = [{"study_instance_uid": work.study_instance_uid}]
        self._audit.note(
            AuditMessage(AuditEvent.INSTANCES_TRANSFERRED, AuditAction.CREATE, result, participants, objects, detail)
        )
        log.info("retrieval_ended", peer=name, state=outcome)


class _Run:
    """One retrieval on its thread: its counts, and the account that cancelled it."""

    def __init__(self, node: Retrieving, work: Work, stopping: threading.Event) -> None:
        self._node, self._work, self._stopping = node, work, stopping
        self._counts = self._reported = Counts()
        self._refusal = ""
        """The reason of the first refusal by the node."""
        self._cancelled_by: str | None = None
        self._look_at = 0.0

    def perform(self) -> Decision | None:
        """Retrieve; return the outcome, or None if the node stops."""
        problem = ""
        try:
            self._retrieve()
        except VoxelnodeError as error:
            problem = str(error)
        except Exception:
            log.exception("retrieval_failed", peer=self._work.lane.name)
            problem = "an unexpected error in the node: see its log"
        if self._stopping.is_set():
            return None
        with suppress(VoxelnodeError):  # the index cannot be read: then nobody is known to have cancelled it
            self._look()
        state, detail = outcome(self._counts, problem, self._refusal, self._cancelled_by)
        return Ended(state, detail, self._counts)

    def _retrieve(self) -> None:
        name, settings = self._work.lane.name, self._node.settings
        if "@" not in name and name not in settings.called_peers:
            raise UsageError(f"[peers] has no {name} with a host any more")
        target = RetrieveTarget(self._work.study_instance_uid or "", self._work.series_instance_uid or "")
        peer, ingest = address_of(name, settings), self._node.ingest
        get(target, peer, settings.dicom, ingest, self._progress, self._answered, self._refused, self._is_abandoned)

    def _answered(self, status: int) -> None:
        is_stored = status in (STORED.status, NOT_CURRENT.status)
        stored, refused = self._counts.stored + is_stored, self._counts.refused + (not is_stored)
        self._counts = replace(self._counts, stored=stored, refused=refused)

    def _refused(self, refused: Refused) -> None:
        self._refusal = self._refusal or refused.reason
        self._node.on_refusal(refused)

    def _progress(self, progress: SubOperationCounts) -> None:
        """Take over what the peer says. For the peer, an instance that the node refused has failed as well."""
        announced = progress.completed + progress.failed + progress.warning + progress.remaining
        failed = max(progress.failed - self._counts.refused, 0)
        self._counts = replace(self._counts, announced=max(announced, self._counts.announced or 0), failed=failed)

    def _is_abandoned(self) -> bool:
        if monotonic() >= self._look_at:
            with suppress(VoxelnodeError):  # no room in the index, or it cannot be read: later
                self._look()
            self._look_at = monotonic() + LOOK_SECONDS
        return self._cancelled_by is not None or self._stopping.is_set()

    def _look(self) -> None:
        """Look whether somebody cancelled the retrieval, and record its progress."""
        if self._stopping.is_set():
            return
        work = self._node.index.work
        self._cancelled_by = work.cancelled_by(self._work.id)
        if self._counts != self._reported:
            work.report(self._work.id, self._percent(), self._counts, self._node.ingest.now())
            self._reported = self._counts

    def _percent(self) -> int | None:
        counts = self._counts
        done = counts.stored + counts.refused + counts.failed
        return min(100 * done // counts.announced, 100) if counts.announced else None


def outcome(counts: Counts, problem: str, refusal: str, cancelled_by: str | None) -> tuple[Outcome, str]:
    """Return the state in which a retrieval ends, and a sentence for people.

    `problem`: what ended it before its time; empty if the peer said that it is done, which no cancellation changes;
    `refusal`: why the node refused the first of the refused instances.
    """
    is_cancelled = cancelled_by is not None and bool(problem)
    missing = (counts.announced or 0) - counts.stored - counts.refused - counts.failed
    parts = [f"cancelled by {cancelled_by}"] if is_cancelled else [problem] if problem else []
    if counts.stored or is_cancelled or not problem:
        parts.append(f"{_instances(counts.stored)} came")
    if counts.refused:
        parts.append(f"{counts.refused} refused by this node ({refusal})")
    if counts.failed:
        parts.append(f"{counts.failed} failed at the peer")
    if missing > 0:
        parts.append(f"{missing} more announced by the peer")
    is_whole = counts.stored and not (problem or counts.refused or counts.failed or missing > 0)
    state: Outcome = "succeeded" if is_whole else "incomplete" if counts.stored else "failed"
    return "cancelled" if is_cancelled else state, "; ".join(parts)


def _instances(count: int) -> str:
    return counted(count, "instance") if count else "no instance"
