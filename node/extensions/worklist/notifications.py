"""Notifications to peers of what became of a performed procedure step (PS3.4 F.9).

A notification is a row, in the transaction of the change, before the modality is answered. It is sent on an association
of ours, of which the peer is the SCU. If the process dies, the next start sends what is owed; a peer may then hear of
the same change twice, and reads by N-GET how the step is.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Mapping

import structlog
from pynetdicom.dimse_primitives import N_EVENT_REPORT

from node.association.client.association import (
    Address,
    AssociationLost,
    NoAssociation,
    address_of,
    association,
    contexts_of,
)
from node.association.primitives import primitive_of
from node.dicom.encoding import EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN
from node.dicom.status import SUCCESS
from node.dicom.uids import PERFORMED_PROCEDURE_STEP_NOTIFICATION
from node.errors import UsageError
from node.index.nouns.records import Refused
from node.index.work.ledger import Decision, Ended, Postponed, Work, WorkRepository, after_failure
from node.settings.model import Settings

log = structlog.get_logger()

NO_SUCH_EVENT_TYPE = 0x0113
"""Status of a peer that does not know an event (PS3.7 C.5.9)."""

BEHIND_SECONDS = 30.0
"""Wait of a notification behind an older one about the same step."""


def notified_peers(settings: Settings, names: tuple[str, ...]) -> dict[str, Address]:
    """Return the addresses of the peers of [worklist] notify.

    Raises
    ------
    UsageError
        A name is not one of [peers], or the peer has no host, or its TLS files cannot be used.
    """
    for name in names:
        if name not in settings.peers:
            raise UsageError(f"[worklist] notify: there is no [peers.{name}]")
    return {name: address_of(name, settings) for name in names}


class Notifying:
    """Sends a notification: the step of the ledger.

    `on_refusal`: called for each notification that is given up.
    """

    max_attempts = 10
    """Attempts to send a notification before it is given up."""

    def __init__(
        self,
        work: WorkRepository,
        peers: Mapping[str, Address],
        settings: Settings,
        on_refusal: Callable[[Refused], None],
        now: Callable[[], dt.datetime],
    ) -> None:
        self._work, self._peers, self._on_refusal, self._now = work, peers, on_refusal, now
        self._ae_title, self._timeout = settings.dicom.ae_title, settings.dicom.response_seconds

    def perform(self, work: Work, stopping: threading.Event) -> Decision | None:
        """Send a notification; those about a step go in the order of its changes."""
        peer = self._peers.get(work.lane.name)
        if peer is None:
            return Ended("dropped", "the peer is no longer in [worklist] notify")
        if self._work.is_behind(work):
            return Postponed(self._now() + dt.timedelta(seconds=BEHIND_SECONDS), "waits behind an older one")
        contexts = contexts_of(
            [(PERFORMED_PROCEDURE_STEP_NOTIFICATION, [EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN])]
        )
        roles = {PERFORMED_PROCEDURE_STEP_NOTIFICATION: (False, True)}  # we request the association, and are its SCP
        try:
            with association(peer, self._ae_title, contexts, self._timeout, roles, stopping.is_set) as assoc:
                request: N_EVENT_REPORT = primitive_of(
                    N_EVENT_REPORT,
                    MessageID=assoc.next_message_id(),
                    AffectedSOPClassUID=PERFORMED_PROCEDURE_STEP_NOTIFICATION,
                    AffectedSOPInstanceUID=work.sop_instance_uid,
                    EventTypeID=work.payload.event,
                )
                status = assoc.request(request).command.status
        except (NoAssociation, AssociationLost) as error:
            return None if stopping.is_set() else self._failed(work, f"{peer}: {error}")
        if status == SUCCESS:
            return Ended("succeeded")
        is_final = status == NO_SUCH_EVENT_TYPE
        return self._failed(work, f"{peer} answered the notification with 0x{status or 0:04X}", is_final=is_final)

    def recorded(self, work: Work, decision: Decision) -> None:
        """Log what became of a notification; a person hears of one that was given up."""
        if isinstance(decision, Ended) and decision.outcome == "succeeded":
            log.info("performed_step_notified", peer=work.lane.name)
            return
        log.warning("performed_step_not_notified", peer=work.lane.name, reason=decision.reason)
        if isinstance(decision, Ended) and decision.outcome == "failed":
            self._on_refusal(
                Refused(
                    "notification",
                    "not delivered",
                    f"{decision.reason}; given up after {work.attempts} tries",
                    "set host and port of this peer in [peers] to where it takes notifications of performed steps",
                    peer=self._peers[work.lane.name].host,
                    called_ae_title=self._peers[work.lane.name].ae_title,
                    calling_ae_title=self._ae_title,
                )
            )

    def _failed(self, work: Work, reason: str, *, is_final: bool = False) -> Decision:
        return after_failure(work.attempts, self.max_attempts, reason, self._now(), is_final=is_final)
