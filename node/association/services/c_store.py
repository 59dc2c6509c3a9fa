"""C-STORE as a service provider: request and data set -> `ingest` -> status (PS3.4 B.2.3, PS3.7 9.1.1).

The invariant: 0x0000 is answered only after the bytes are durable, and where [journal] acknowledge says so, the row is
committed and the object stored (`Reception.finish`).
"""

import datetime as dt
from collections.abc import Callable
from concurrent.futures import Future
from time import perf_counter
from typing import Protocol

import structlog

from node.association.association import AcceptedContext
from node.dicom.status import (
    CUT,
    FAILED,
    NOT_CURRENT,
    STORED,
    NotPermitted,
    ResponseStatus,
    SopClassNotSupported,
    answer_to,
    remedy_of,
)
from node.dicom.uids import is_storage_class
from node.errors import ClassMismatch, InstanceRefused, NotUnderstood
from node.index.rows.records import NOT_CURRENT_OUTCOMES, Outcome, Refused
from node.receive.ingest import Announced, Incoming, Ingest, Origin

logger = structlog.get_logger()


class StoreRequest(Protocol):
    """The fields of a decoded command set that C-STORE uses."""

    @property
    def sop_class_uid(self) -> str: ...
    @property
    def sop_instance_uid(self) -> str: ...
    @property
    def has_data_set(self) -> bool: ...


class StoreService:
    """Serves the C-STORE requests of one association.

    `ingest`: stores the instances; `origin`: the sender, and its association; `on_refusal`: called for each refused
    instance; `on_answer`: called with the status of each answer.
    """

    def __init__(
        self,
        ingest: Ingest,
        origin: Origin,
        on_refusal: Callable[[Refused], None] = lambda refused: None,
        on_answer: Callable[[int], None] = lambda status: None,
    ) -> None:
        self.ingest, self.origin, self.metrics = ingest, origin, ingest.metrics
        self.on_refusal, self.on_answer = on_refusal, on_answer
        self.is_cut = False
        """Whether the association ends in the middle of an instance, or while its peer goes on."""
        self._ending_at: dt.datetime | None = None
        self._has_ended = False
        sender = {"calling_ae_title": origin.calling_ae_title, "peer": origin.peer}
        self.log = logger.bind(association=origin.association, **sender)

    def ending(self) -> None:
        """Note that the node ends the association from now on; its peer may take a while to agree."""
        self._ending_at = self.ingest.now()

    def ended(self, outcome: str, *, is_agreed: bool = False) -> None:
        """Record how the association ended, before its release is answered; never raises. Only the first call counts.

        `is_agreed`: the peer has answered the release that the node asked for.
        """
        if self._has_ended:
            return
        self._has_ended = True
        try:
            if self.ingest.transfers is not None:
                self.ingest.transfers.ended(self.origin, outcome)
            self.ingest.association_ended(
                self.origin.association,
                outcome,
                is_agreed=is_agreed,
                is_cut=self.is_cut,
                releases=self.origin.releases,
                ending_at=self._ending_at,
            )
        except Exception as error:  # its series wait until `OPEN_SECONDS` have passed
            self.log.error("association_end_not_recorded", exc_info=error)


class Reception:
    """One C-STORE operation, from its request to its answer, which may be a refusal.

    A refusal does not end the operation: the peer sends the last fragment before it reads the answer. The bytes until
    then are dropped.
    """

    def __init__(self, service: StoreService, request: StoreRequest, context: AcceptedContext) -> None:
        self._service, self._request, self._context = service, request, context
        self._incoming: Incoming | None = None
        self._answer: ResponseStatus | None = None
        self._bytes = 0
        self._began_at = perf_counter()
        try:
            self._check()
            self._incoming = service.ingest.begin(
                Announced(request.sop_class_uid, request.sop_instance_uid, context.transfer_syntax_uid), service.origin
            )
        except Exception as error:
            self._refuse(error)

    def write(self, fragment: bytes | memoryview) -> None:
        """Write the next bytes of the data set; never raises."""
        self._bytes += len(fragment)
        if self._answer is not None or self._incoming is None:
            return
        try:
            self._incoming.take_fragment(fragment)
        except Exception as error:
            self._refuse(error)

    def finish(self) -> ResponseStatus:
        """Make the instance durable, and return the answer; never raises."""
        metrics, received_at = self._service.metrics, perf_counter()
        metrics.receive_seconds.observe(received_at - self._began_at)
        metrics.received_bytes.inc(self._bytes)
        if self._answer is None and self._incoming is not None:
            try:
                self._answer = self._stored(self._incoming)
                metrics.keep_seconds.observe(perf_counter() - received_at)
            except Exception as error:
                self._refuse(error)
        answer = self._answer or FAILED
        metrics.c_store_answers.labels(f"0x{answer.status:04X}").inc()
        self._service.on_answer(answer.status)
        return answer

    def _stored(self, incoming: Incoming) -> ResponseStatus:
        """Make the instance durable, wait for what else its acknowledgement promises, and return the answer."""
        ingest = self._service.ingest
        is_reported = ingest.is_conflict_reported(self._request.sop_instance_uid)
        outcome: Future[Outcome] | None = None if ingest.acknowledgement is None and not is_reported else Future()
        success = CUT if incoming.lacks_pixels() else STORED
        incoming.finish(outcome)
        if outcome is None:
            return success
        if ingest.acknowledgement is None:
            return self._reported(outcome, success)
        is_other = ingest.acknowledgement.wait(outcome) in NOT_CURRENT_OUTCOMES
        return NOT_CURRENT if is_other and is_reported else success

    def _reported(self, outcome: Future[Outcome], success: ResponseStatus) -> ResponseStatus:
        """Return the answer for an instance that is durable, once it is indexed, or will not be soon."""
        self._service.ingest.applier.catch_up()
        is_other = outcome.done() and (outcome.exception() is not None or outcome.result() in NOT_CURRENT_OUTCOMES)
        return NOT_CURRENT if is_other else success

    def abandon(self) -> None:
        """Drop the instance: its sender is gone."""
        self._service.metrics.received_bytes.inc(self._bytes)
        self._service.is_cut = True
        self._service.log.warning("instance_interrupted", bytes=self._bytes, sop_class_uid=self._request.sop_class_uid)
        self._drop()

    def _check(self) -> None:
        """Compare the request with the presentation context; `ingest` compares the data set."""
        if not self._request.has_data_set:
            raise NotUnderstood("C-STORE without a data set")
        if not is_storage_class(self._context.abstract_syntax):
            raise SopClassNotSupported("the presentation context is not for a storage SOP class")
        if not self._context.as_scp:
            raise NotPermitted("the sender is not the SCU of this presentation context")
        if self._request.sop_class_uid != self._context.abstract_syntax:
            raise ClassMismatch("Affected SOP Class UID differs from the presentation context")

    def _refuse(self, error: Exception) -> None:
        log = self._service.log.bind(
            sop_class_uid=self._context.abstract_syntax, transfer_syntax_uid=self._context.transfer_syntax_uid
        )
        if isinstance(error, InstanceRefused):
            self._answer = answer_to(error)
            log.warning("c_store_refused", status=f"0x{self._answer.status:04X}", reason=str(error))
        else:
            self._answer = FAILED
            log.error("c_store_failed", status=f"0x{FAILED.status:04X}", exc_info=error)
        self._service.on_refusal(self._refused(self._answer, error))
        self._drop()

    def _refused(self, answer: ResponseStatus, error: Exception) -> Refused:
        origin = self._service.origin
        return Refused(
            "instance",
            f"status 0x{answer.status:04X}",
            str(error) if isinstance(error, InstanceRefused) else answer.comment,
            remedy_of(answer.status),
            peer=origin.address,
            calling_ae_title=origin.calling_ae_title,
            called_ae_title=origin.called_ae_title,
            offered=f"{self._context.abstract_syntax}: {self._context.transfer_syntax_uid}",
        )

    def _drop(self) -> None:
        incoming, self._incoming = self._incoming, None
        if incoming is None:
            return
        try:
            incoming.abandon()
        except Exception as error:  # the answer stands; the next start removes the part file
            self._service.log.error("part_file_left", exc_info=error)
