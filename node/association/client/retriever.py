"""Perform the retrievals that people request (`node.index.work.retrievals`), in the background.

Each peer has one retrieval at a time, on a thread of its own, so a peer that is slow or dead delays no other. If the
node stops, a retrieval under way stays in the index as running, and the next start repeats it, or another host.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from time import monotonic

import structlog

from node.association.addresses import address_of
from node.association.client.get import RetrieveTarget, SubOperationCounts, get
from node.audit.audit_log import DESTINATION, SOURCE, Action, Audit, AuditEvent, AuditMessage, Participant, Result
from node.dicom.status import NOT_CURRENT, STORED
from node.errors import UsageError, VoxelnodeError
from node.index.database.follower import IndexFollower
from node.index.database.index import Index
from node.index.records import Refused
from node.index.work.retrievals import Counts, Retrieval, RetrievalState
from node.receive.ingest import Ingest
from node.settings.model import Settings

log = structlog.get_logger()

LOOK_SECONDS = 0.5
"""Interval at which a retrieval under way looks whether it was cancelled, and records its progress."""

STOP_SECONDS = 5.0
"""Longest wait for the retrievals under way when the node stops. One that waits for a connection may take longer."""

RETRY_SECONDS = 5.0
"""Pause before a beginning or an outcome that could not be recorded is recorded again."""


class Retriever(IndexFollower):
    """Retrieves what waits, one retrieval per peer at a time.

    Parameters
    ----------
    on_refusal : callable (Refused)
        Called for each instance that the node refused.
    """

    def __init__(
        self,
        settings: Settings,
        index: Index,
        ingest: Ingest,
        audit: Audit,
        on_refusal: Callable[[Refused], None] = lambda refused: None,
    ) -> None:
        super().__init__("retrieve", index, lease="retrievals")
        self._settings, self._ingest, self._audit, self._on_refusal = settings, ingest, audit, on_refusal
        self._lock = threading.Lock()
        self._threads: dict[str, threading.Thread] = {}

    def _take_up(self) -> None:
        """Queue the retrievals that the last process left under way."""
        self._index.retrievals.resume(self._ingest.now())

    def step(self) -> None:
        """Begin the first retrieval of each peer that has none under way."""
        with self._lock:
            busy = set(self._threads)
        for retrieval in self._index.retrievals.waiting(busy):
            name = f"retrieve from {retrieval.peer}"
            thread = threading.Thread(target=self._perform, args=(retrieval,), name=name, daemon=True)
            with self._lock:
                thread.start()
                self._threads[retrieval.peer] = thread

    def stop(self, seconds: float | None = None) -> None:
        """Begin no further retrieval, and abort those under way."""
        super().stop(seconds)
        deadline = monotonic() + STOP_SECONDS
        with self._lock:
            threads = list(self._threads.values())
        for thread in threads:
            thread.join(max(0.0, deadline - monotonic()))

    def _perform(self, retrieval: Retrieval) -> None:
        pause = RETRY_SECONDS
        try:
            is_waiting = self._index.retrievals.begin(retrieval.id, self._ingest.now())
            pause = 0.0
            if not is_waiting:  # it was cancelled meanwhile
                return
            run = _Run(retrieval, self._settings, self._index, self._ingest, self._on_refusal, self._stopping)
            ended = run.perform()
            if ended is not None:
                self._note(retrieval, *ended)
        except Exception:  # a bug, or no room in the index, must not keep the peer busy until the node stops
            log.exception("retrieval_failed", peer=retrieval.peer)
        finally:
            with self._lock:
                del self._threads[retrieval.peer]
            self.wake(pause)

    def _note(self, retrieval: Retrieval, state: RetrievalState, stored: int) -> None:
        """Record the end of a retrieval in the audit log (PS3.15 A.5.3.7): who wanted what, and from where it came."""
        peer = self._settings.peers.get(retrieval.peer)
        participants = [
            Participant(retrieval.requested_by, "", is_requestor=True),
            Participant(peer.ae_title if peer else retrieval.peer, SOURCE, (peer.host or "") if peer else ""),
            Participant(self._settings.dicom.ae_title, DESTINATION),
        ]
        result = Result.SUCCESS if state == "succeeded" else Result.MINOR_FAILURE
        detail = f"retrieval {retrieval.retrieval_id} from {retrieval.peer}: {state}, {stored} instances came"
        objects = [{"study_instance_uid": retrieval.study_instance_uid}]
        self._audit.note(
            AuditMessage(AuditEvent.INSTANCES_TRANSFERRED, Action.CREATE, result, participants, objects, detail)
        )
        log.info("retrieval_ended", peer=retrieval.peer, state=state)


class _Run:
    """One retrieval on its thread: its counts, and the account that cancelled it."""

    def __init__(
        self,
        retrieval: Retrieval,
        settings: Settings,
        index: Index,
        ingest: Ingest,
        on_refusal: Callable[[Refused], None],
        stopping: threading.Event,
    ) -> None:
        self._retrieval, self._settings, self._index, self._ingest = retrieval, settings, index, ingest
        self._on_refusal, self._stopping = on_refusal, stopping
        self._counts = self._reported = Counts()
        self._refusal = ""
        """The reason of the first refusal by the node."""
        self._cancelled_by: str | None = None
        self._look_at = 0.0

    def perform(self) -> tuple[RetrievalState, int] | None:
        """Retrieve, and record the outcome; return it with the number of instances, or None if the node stops."""
        problem = ""
        try:
            self._retrieve()
        except VoxelnodeError as error:
            problem = str(error)
        except Exception:
            log.exception("retrieval_failed", peer=self._retrieval.peer)
            problem = "an unexpected error in the node: see its log"
        while not self._stopping.is_set():
            try:
                self._look()
                state, detail = outcome(self._counts, problem, self._refusal, self._cancelled_by)
                self._index.retrievals.end(self._retrieval.id, state, self._counts, detail, self._ingest.now())
            except VoxelnodeError:  # no room in the index, or it cannot be read
                self._stopping.wait(RETRY_SECONDS)
            else:
                return state, self._counts.stored
        return None

    def _retrieve(self) -> None:
        name, dicom = self._retrieval.peer, self._settings.dicom
        if "@" not in name and name not in self._settings.called_peers:
            raise UsageError(f"[peers] has no {name} with a host any more")
        target = RetrieveTarget(self._retrieval.study_instance_uid, self._retrieval.series_instance_uid or "")
        peer = address_of(name, self._settings)
        get(target, peer, dicom, self._ingest, self._progress, self._answered, self._refused, self._is_abandoned)

    def _answered(self, status: int) -> None:
        is_kept = status in (STORED.status, NOT_CURRENT.status)
        stored, refused = self._counts.stored + is_kept, self._counts.refused + (not is_kept)
        self._counts = replace(self._counts, stored=stored, refused=refused)

    def _refused(self, refused: Refused) -> None:
        self._refusal = self._refusal or refused.reason
        self._on_refusal(refused)

    def _progress(self, told: SubOperationCounts) -> None:
        """Take over what the peer says. For the peer, an instance that the node refused has failed as well."""
        announced = told.completed + told.failed + told.warning + told.remaining
        failed = max(told.failed - self._counts.refused, 0)
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
        self._cancelled_by = self._index.retrievals.cancelled_by(self._retrieval.id)
        if self._counts != self._reported:
            self._index.retrievals.report(self._retrieval.id, self._counts, self._ingest.now())
            self._reported = self._counts


def outcome(counts: Counts, problem: str, refusal: str, cancelled_by: str | None) -> tuple[RetrievalState, str]:
    """Return the state in which a retrieval ends, and a sentence for people.

    Parameters
    ----------
    problem : str
        What ended it before its time; empty if the peer said that it is done, which no cancellation changes.
    refusal : str
        Why the node refused the first of the refused instances.
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
    state: RetrievalState = "succeeded" if is_whole else "incomplete" if counts.stored else "failed"
    return "cancelled" if is_cancelled else state, "; ".join(parts)


def _instances(count: int) -> str:
    return "no instance" if count == 0 else "1 instance" if count == 1 else f"{count} instances"
