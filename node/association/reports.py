"""Reports of an accepted association: lines of the log, refusals, metrics, and its end in the journal."""

from __future__ import annotations

import datetime as dt
import ssl
from typing import Any, Literal

import structlog

from node.association.admission import Admission
from node.association.request import MalformedRequest
from node.association.services.c_store import StoreService
from node.budget import Claim
from node.errors import VoxelnodeError
from node.index.nouns.records import Refused
from node.metrics import Metrics
from node.tls import failure_reason

logger = structlog.get_logger()


class Reports:
    """The reports of one association. `store_service`: once it is admitted."""

    def __init__(self, admission: Admission, metrics: Metrics, connection: Claim) -> None:
        self._admission, self._metrics, self._connection = admission, metrics, connection
        self.store_service: StoreService | None = None

    @property
    def log(self) -> Any:
        """The log, with the names of the peer if it is admitted."""
        return self.store_service.log if self.store_service is not None else logger

    def failed(self, error: Exception) -> None:
        """Report an error of the node."""
        self.log.error("association_failed", address=self._connection.address, exc_info=error)

    def failed_connection(self, error: OSError) -> None:
        """Report a connection that failed before a request, such as by TLS."""
        reason = failure_reason(error)
        self._log_of_address("connection_failed", reason)
        if isinstance(error, ssl.SSLError):
            remedy = "the sender must use TLS 1.2 or later, and a certificate of [dicom] tls_client_ca if that is set"
            self._refused("connection", "TLS", f"TLS failed: {reason}", remedy)

    def not_understood(self, violation: VoxelnodeError, other_protocol: tuple[str, str] | None) -> None:
        """Report what came in place of a request; `other_protocol`: its name and the remedy, if it is known."""
        reason = str(violation)
        remedy = "check the client: it sends another protocol or invalid DICOM; port scanners do this too"
        if other_protocol is not None:
            reason, remedy = f"this is {other_protocol[0]}, not DICOM: {violation}", other_protocol[1]
        titles = {}
        if isinstance(violation, MalformedRequest):
            titles = {"calling_ae_title": violation.calling_ae_title, "called_ae_title": violation.called_ae_title}
        self._log_of_address("request_not_understood", reason, **titles)
        self._refused("connection", "request", reason, remedy, **titles)

    def violated(self, violation: VoxelnodeError) -> None:
        """Report a violation of the protocol on an association."""
        self._log_of_address("protocol_violated", str(violation))
        remedy = "report this to the vendor of the sender: it violates the protocol"
        self._refused("association", "protocol", str(violation), remedy)

    def ended(self, outcome: str, *, is_agreed: bool) -> None:
        """Report the end of an association, if one was admitted; see `StoreService.ended`."""
        if self.store_service is None:
            return
        self.store_service.ended(outcome, is_agreed=is_agreed)
        self._metrics.associations.labels(outcome=outcome).inc()
        title, now = self.store_service.origin.calling_ae_title, dt.datetime.now(dt.UTC)
        self._metrics.last_words.heard(title, self._connection.address, f"association {outcome}", now)
        self.log.info("association_ended", state=outcome)

    def _log_of_address(self, event: str, reason: str, **titles: str) -> None:
        """Log what anybody can cause, unless the address has done so often in this minute."""
        if self._admission.lines.is_due(event, self._connection.address):
            self.log.warning(event, address=self._connection.address, reason=reason, **titles)

    def _refused(
        self, what: Literal["connection", "association"], rule: str, reason: str, remedy: str, **titles: str
    ) -> None:
        if self.store_service is not None:
            origin = self.store_service.origin
            titles = {"calling_ae_title": origin.calling_ae_title, "called_ae_title": origin.called_ae_title}
        self._admission.on_refusal(Refused(what, rule, reason, remedy, peer=self._connection.address, **titles))
