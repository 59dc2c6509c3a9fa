"""Report results of storage commitment on associations of our own, until the peers accept them (PS3.4 J)."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import structlog

from node.association.client.association import AssociationLost, association
from node.association.client.negotiation import NoAssociation, contexts_of
from node.association.services.commitment import (
    CommitmentResult,
    CommitmentService,
    record_reported,
    report_of,
    report_request,
    verify,
)
from node.dicom.status import SUCCESS
from node.dicom.uids import EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN, STORAGE_COMMITMENT
from node.errors import VoxelnodeError
from node.index.database.follower import IndexFollower
from node.index.records import Refused
from node.index.work.commitments import OwedCommitment
from node.retries import wait_seconds

logger = structlog.get_logger()

MAX_SLEEP_SECONDS = 60.0
"""While results are owed: the clock may be set."""

MAX_ATTEMPTS = 10
"""Attempts to report a result before it is given up."""


class NotReported(VoxelnodeError):
    """A result could not be reported to the peer; the message says why."""


class Committer(IndexFollower):
    """Report the results that are due, one after the other, on a thread of its own.

    Parameters
    ----------
    service : CommitmentService
    on_refusal : callable (Refused)
        Called for each result that is given up.
    """

    def __init__(
        self,
        service: CommitmentService,
        on_refusal: Callable[[Refused], None] = lambda refused: None,
    ) -> None:
        super().__init__("commitments", service.index, lease="commitments")
        self._service, self._on_refusal = service, on_refusal

    def step(self) -> float | None:
        """Report the result that has been due longest; return the seconds until the next one is due."""
        commitments, now = self._service.index.commitments, self._service.now()
        commitment = commitments.due(now)
        if commitment is not None:
            self._settle(commitment)
            return 0.0
        due_at = commitments.next_due_at()
        return min((due_at - now).total_seconds(), MAX_SLEEP_SECONDS) if due_at is not None else None

    def _settle(self, commitment: OwedCommitment) -> None:
        result = verify(self._service, commitment, self._stopping.is_set)
        if result is None:
            return
        try:
            self._report(commitment, result)
        except NotReported as error:
            self._retry(commitment, str(error))
        else:
            record_reported(self._service, commitment, result, "on an association of its own")

    def _report(self, commitment: OwedCommitment, result: CommitmentResult) -> None:
        service = self._service
        peer = service.peers.get(commitment.calling_ae_title)
        if peer is None:
            raise NotReported(f"{commitment.calling_ae_title} has no host in [peers]")
        contexts = contexts_of([(STORAGE_COMMITMENT, [EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN])])
        roles = {STORAGE_COMMITMENT: (False, True)}  # we request the association, and are its SCP
        try:
            with association(peer, service.ae_title, contexts, service.timeout, roles) as assoc:
                request = report_request(assoc.next_message_id(), result)
                report = report_of(service, commitment, result)
                answer = assoc.request(next(iter(assoc.accepted)), request, report).command
        except NoAssociation as error:
            raise NotReported(str(error)) from error
        except AssociationLost as error:
            raise NotReported(f"{peer}: {error}") from error
        if answer.status != SUCCESS:
            raise NotReported(f"{peer} answered the report with 0x{answer.status or 0:04X}")

    def _retry(self, commitment: OwedCommitment, why: str) -> None:
        service, attempts = self._service, commitment.attempts + 1
        logger.warning("commitment_not_reported", calling_ae_title=commitment.calling_ae_title, reason=why)
        outcome = "postponed" if attempts < MAX_ATTEMPTS else "given-up"
        service.metrics.commitment_reports.labels(outcome=outcome).inc()
        if attempts < MAX_ATTEMPTS:
            wait = dt.timedelta(seconds=wait_seconds(attempts))
            service.index.commitments.postponed(commitment, why, service.now() + wait)
            return
        service.index.commitments.given_up(commitment, why, service.now())
        self._on_refusal(
            Refused(
                "commitment",
                "not reported",
                f"{why}; given up after {attempts} tries",
                "set host and port of this peer in [peers] to where it takes results, and have it ask again",
                peer=commitment.peer,
                calling_ae_title=commitment.calling_ae_title,
                called_ae_title=service.ae_title,
            )
        )
