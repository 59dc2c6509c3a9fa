"""Results of storage commitment, reported on associations of our own until the peers accept them (PS3.4 J)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import structlog

from node.association.client.association import AssociationLost, association
from node.association.client.negotiation import NoAssociation, contexts_of
from node.association.services.commitment import (
    CommitmentResult,
    CommitmentService,
    note_reported,
    report_of,
    report_request,
    reported,
    verify,
)
from node.dicom.encoding import EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN
from node.dicom.status import SUCCESS
from node.dicom.uids import STORAGE_COMMITMENT
from node.errors import VoxelnodeError
from node.index.nouns.records import Refused
from node.index.work.ledger import Decision, Ended, Work, after_failure

logger = structlog.get_logger()


class NotReported(VoxelnodeError):
    """A result could not be reported to the peer; the message says why."""


class Reporting:
    """Does the work of a request for storage commitment: verifies, and reports the result.

    Parameters
    ----------
    service : CommitmentService
    on_refusal : callable (Refused)
        Called for each result that is given up.
    """

    max_attempts = 10
    """Attempts to report a result before it is given up."""

    def __init__(
        self,
        service: CommitmentService,
        on_refusal: Callable[[Refused], None] = lambda refused: None,
    ) -> None:
        self._service, self._on_refusal = service, on_refusal

    def perform(self, work: Work, stopping: threading.Event) -> Decision | None:
        """Report the result of a request; return what becomes of it, or None if the node stops."""
        result = verify(self._service, work, stopping.is_set)
        if result is None:
            return None
        try:
            self._report(work, result)
        except NotReported as error:
            return self._failed(work, str(error))
        return reported(work, result)

    def recorded(self, work: Work, decision: Decision) -> None:
        """Count and log what became of a result; a person hears of one that was given up."""
        service, outcome = self._service, "postponed"
        if isinstance(decision, Ended):
            if decision.outcome == "succeeded":
                note_reported(service, work, decision, "on an association of its own")
                return
            outcome = "given-up"
        service.metrics.commitment_reports.labels(outcome=outcome).inc()
        logger.warning("commitment_not_reported", calling_ae_title=work.lane.name, reason=decision.reason)
        if isinstance(decision, Ended):
            self._on_refusal(
                Refused(
                    "commitment",
                    "not reported",
                    f"{decision.reason}; given up after {work.attempts} tries",
                    "set host and port of this peer in [peers] to where it takes results, and have it ask again",
                    peer=work.payload.peer,
                    calling_ae_title=work.lane.name,
                    called_ae_title=service.ae_title,
                )
            )

    def _report(self, work: Work, result: CommitmentResult) -> None:
        service = self._service
        peer = service.peers.get(work.lane.name)
        if peer is None:
            raise NotReported(f"{work.lane.name} has no host in [peers]")
        contexts = contexts_of([(STORAGE_COMMITMENT, [EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN])])
        roles = {STORAGE_COMMITMENT: (False, True)}  # we request the association, and are its SCP
        try:
            with association(peer, service.ae_title, contexts, service.timeout, roles) as assoc:
                request = report_request(assoc.next_message_id(), result)
                report = report_of(service, work, result)
                answer = assoc.request(next(iter(assoc.accepted)), request, report).command
        except NoAssociation as error:
            raise NotReported(str(error)) from error
        except AssociationLost as error:
            raise NotReported(f"{peer}: {error}") from error
        if answer.status != SUCCESS:
            raise NotReported(f"{peer} answered the report with 0x{answer.status or 0:04X}")

    def _failed(self, work: Work, reason: str) -> Decision:
        decision = after_failure(work.attempts, self.max_attempts, reason, self._service.now())
        is_given_up = isinstance(decision, Ended)
        return replace(decision, payload=replace(work.payload, references=())) if is_given_up else decision
