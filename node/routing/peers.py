"""A peer as a destination: C-STORE on one association that stays open while there is something to send."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack

from node.archive.intact import MISSING
from node.association.client.addresses import Address
from node.association.client.association import (
    MAXIMUM_CONTEXTS,
    AssociationLost,
    EchoFailed,
    NoAssociation,
    NothingAccepted,
    RequestedAssociation,
    association,
    contexts_of,
    verify,
)
from node.association.client.commitment import CommitmentRefused, request_commitment
from node.association.client.send import (
    NoCopy,
    NotAsStored,
    NotReadable,
    NotSendable,
    Outgoing,
    SendOutcome,
    Transcode,
    bytes_for_peer,
    proposals,
    sent_with_status,
    store_request,
)
from node.dicom.command import HIGH_PRIORITY, LOW_PRIORITY, MEDIUM_PRIORITY
from node.index.rules.work.routes import DueInstance, OwedInstance
from node.routing.destination import Confirmation, Delivered, NotConfirmable, NotTaken, Prepared, Unreachable

PRIORITIES = {"high": HIGH_PRIORITY, "medium": MEDIUM_PRIORITY, "low": LOW_PRIORITY}

OUT_OF_RESOURCES = range(0xA700, 0xA800)
"""Statuses of PS3.4 B.2.3 that say nothing of the instance."""

TEMPORARY = frozenset({0x0110, 0x0124, 0x0213})
"""Processing failure, not authorized, resource limitation (PS3.7 C.5): what a peer answers whose database or disk has
failed, or who does not know us yet. Later attempts may succeed. Any other failure concerns the instance."""


class PeerDestination:
    """Sends to a peer.

    `ae_title`: our AE title. `transcode`: decompresses what the peer does not accept as it is. `timeout` (seconds):
    longest wait for the connection, its acceptance and each response. `priority`: a key of `PRIORITIES`.
    """

    def __init__(self, peer: Address, ae_title: str, transcode: Transcode, timeout: float, priority: str) -> None:
        self._peer, self._ae_title, self._transcode, self._timeout = peer, ae_title, transcode, timeout
        self._priority = PRIORITIES[priority]
        self._kinds: dict[tuple[str, str], Outgoing] = {}  # an instance of each that was sent, the newest last
        self._proposed: frozenset[tuple[str, str]] = frozenset()
        self._opened = ExitStack()
        self._association: RequestedAssociation | None = None
        self._is_used = False  # it has taken something: it may have been idle since

    def deliver(self, instances: Iterable[Prepared], is_abandoned: Callable[[], bool]) -> Iterator[Delivered]:
        """Send instances, each after the answer to the one before. See `Destination.deliver`."""
        for prepared in instances:
            yield Delivered(prepared, self._problem(prepared.outgoing, is_abandoned))

    def confirm(
        self, owed: Sequence[OwedInstance], transaction_uid: str, is_abandoned: Callable[[], bool]
    ) -> Confirmation | None:
        """Request storage commitment. See `Destination.confirm`."""
        references = [(one.sop_class_uid, one.sop_instance_uid) for one in owed]
        try:
            report = request_commitment(
                self._peer, self._ae_title, transaction_uid, references, self._timeout, is_abandoned
            )
        except CommitmentRefused as error:
            raise NotConfirmable(str(error)) from error
        except NoAssociation as error:
            raise Unreachable(str(error)) from error
        return Confirmation(report.committed, report.failed) if report is not None else None

    def is_origin(self, due: DueInstance) -> bool:
        """Return whether the peer has sent the instance, by its AE title."""
        return (due.calling_ae_title or "").strip() == self._peer.ae_title.strip()

    def rest(self) -> None:
        """Release the association."""
        self._association = None
        self._opened.close()

    def _hang_up(self) -> None:
        """Abort the association, on which the peer does not answer any more."""
        if self._association is not None:
            self._association.abort()
        self.rest()

    def _problem(self, instance: Outgoing, is_abandoned: Callable[[], bool]) -> NotTaken | None:
        for was_used in (self._is_used and self._association is not None, False):
            try:
                return self._send(instance, is_abandoned)
            except AssociationLost as error:
                self._hang_up()
                lost = error
            if not was_used or is_abandoned():  # else the peer may have ended an association that was idle
                break
        if not is_abandoned():
            self._require_answer()
        return NotTaken(f"{self._peer}: {lost}")

    def _require_answer(self) -> None:
        """Tell a peer that hangs or is down from an instance at which it ends the association.

        Raises Unreachable if it does not answer C-ECHO.
        """
        try:
            verify(self._peer, self._ae_title, self._timeout)
        except NothingAccepted:
            pass  # it works, but does not offer verification
        except (NoAssociation, EchoFailed) as error:
            raise Unreachable(str(error)) from error

    def _send(self, instance: Outgoing, is_abandoned: Callable[[], bool]) -> NotTaken | None:
        try:
            assoc = self._open(instance, is_abandoned)
        except NothingAccepted:
            return NotTaken(f"the peer does not accept {instance.sop_class_uid}: {_ACCEPT}", is_final=True)
        except NoAssociation as error:
            raise Unreachable(str(error)) from error
        try:
            accepted = assoc.accepted_for(instance.sop_class_uid)
            with bytes_for_peer(instance, accepted, self._transcode) as (context_id, source):
                message_id = assoc.next_message_id()
                assoc.send_instance(context_id, store_request(instance, message_id, priority=self._priority), source)
                answer = assoc.answer_to(message_id)
        except NotAsStored as error:  # a missing file may have made room for another version meanwhile
            return NotTaken(str(error), is_final=error.problem != MISSING)
        except NotReadable as error:
            return NotTaken(str(error))
        except NoCopy as error:
            raise Unreachable(f"copies cannot be made here now: {error}") from error
        except NotSendable as error:
            return NotTaken(f"{error}: {_ACCEPT}", is_final=True)
        self._is_used = True
        sent = sent_with_status(instance, answer.status, answer.comment)
        if sent.fate is not SendOutcome.FAILED:
            return None
        is_temporary = answer.status is None or answer.status in OUT_OF_RESOURCES or answer.status in TEMPORARY
        return NotTaken(f"{self._peer.ae_title} {sent.reason}: {_REFUSED}", is_final=not is_temporary)

    def _open(self, instance: Outgoing, is_abandoned: Callable[[], bool]) -> RequestedAssociation:
        """Return an association for which the kind of the instance was proposed."""
        kind = instance.sop_class_uid, instance.transfer_syntax_uid
        if self._association is not None and kind in self._proposed:
            return self._association
        self.rest()
        self._kinds.pop(kind, None)
        self._kinds[kind] = instance
        while len(proposals(self._kinds.values())) > MAXIMUM_CONTEXTS:
            del self._kinds[next(iter(self._kinds))]
        contexts = contexts_of(proposals(self._kinds.values()))
        opening = association(self._peer, self._ae_title, contexts, self._timeout, is_abandoned=is_abandoned)
        self._association = self._opened.enter_context(opening)
        self._proposed, self._is_used = frozenset(self._kinds), False
        return self._association


_ACCEPT = "let the peer accept it, or leave it out by `where` of the route"
_REFUSED = "its log says why; `voxelnode routes retry` tries again"
