"""A hook whose receiver is a DICOM peer: each message is an Instance Availability Notification (PS3.4 R)."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterable, Sequence

from pydicom.dataset import Dataset
from pynetdicom.dimse_primitives import N_CREATE
from pynetdicom.status import STATUS_WARNING, code_to_category

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
from node.dicom.status import DUPLICATE_INSTANCE, SUCCESS
from node.dicom.uids import INSTANCE_AVAILABILITY_NOTIFICATION, PERFORMED_PROCEDURE_STEP
from node.extensions.worklist.performed_rows import ReadPerformedSteps
from node.index.database.index import Index
from node.index.database.work_loop import Interrupted
from node.index.search.selection import StoredInstance
from node.notify.channel import Delivered, NotDelivered
from node.notify.message import HookMessage
from node.settings.model import Settings

MAX_STEPS = 1000
"""Performed procedure steps of a study that a notification names."""


class AvailabilityChannel:
    """Notifies a peer of the instances of a study, or of a series, that has become quiet.

    `name`: the hook; its `peer` is a name in [peers]. `index`: None: only for test messages. Raises UsageError if the
    TLS files of the peer cannot be used.
    """

    def __init__(self, settings: Settings, name: str, index: Index | None) -> None:
        hook = settings.hooks[name]
        self._peer = address_of(str(hook.peer), settings)
        self._ae_title, self._timeout, self._index = settings.dicom.ae_title, hook.timeout_seconds, index

    def deliver(self, message: HookMessage, cancelled: threading.Event) -> Delivered:
        """Send the notification of a message; of a test message, only negotiate the association.

        Raises NotDelivered, Interrupted.
        """
        content, notification = message.content, None
        if not content["test"] and self._index is not None:
            study, series = content["study_instance_uid"], content["series_instance_uid"]
            with self._index.reading(wait=False) as index:
                instances = list(index.instances.stored(study, series))
                steps = index.repository(ReadPerformedSteps).page(None, MAX_STEPS, study_instance_uid=study)
            if not instances:
                raise NotDelivered("no instance of it is available", is_final=True)
            uids = [step["sop_instance_uid"] for step in steps]
            notification = notification_of(study, instances, uids, self._ae_title)
        uid = f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, message.id).int}"
        try:
            notify_peer(self._peer, self._ae_title, uid, notification, self._timeout, cancelled.is_set)
        except NotDelivered as error:
            if cancelled.is_set():
                raise Interrupted from error
            raise
        return Delivered()

    def close(self) -> None:
        """Nothing is kept open between messages."""


def opened(settings: Settings, name: str, index: Index | None) -> AvailabilityChannel:
    """Return the notifications of a hook. See `node.hookspecs.OpenChannel`."""
    return AvailabilityChannel(settings, name, index)


def notification_of(
    study_instance_uid: str, instances: Iterable[StoredInstance], steps: Sequence[str], ae_title: str
) -> Dataset:
    """Return the attributes of a notification (PS3.4 table R.3.2-1): every instance is ``ONLINE``.

    Parameters
    ----------
    instances : iterable of StoredInstance
        Instances of the study.
    steps : sequence of str
        SOP Instance UIDs of the performed procedure steps of the study.
    ae_title : str
        Our AE title, from which the instances can be retrieved.
    """
    series: dict[str, list[Dataset]] = {}
    for instance in instances:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = instance.sop_class_uid, instance.sop_instance_uid
        item.InstanceAvailability, item.RetrieveAETitle = "ONLINE", ae_title
        series.setdefault(instance.series_instance_uid, []).append(item)
    notification = Dataset()
    notification.ReferencedPerformedProcedureStepSequence = [_step(uid) for uid in steps]
    notification.StudyInstanceUID = study_instance_uid
    notification.ReferencedSeriesSequence = [_series(uid, items) for uid, items in series.items()]
    return notification


def _step(uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = PERFORMED_PROCEDURE_STEP, uid
    item.PerformedWorkitemCodeSequence = []
    return item


def _series(uid: str, instances: list[Dataset]) -> Dataset:
    item = Dataset()
    item.SeriesInstanceUID, item.ReferencedSOPSequence = uid, instances
    return item


def notify_peer(
    peer: Address,
    calling_ae_title: str,
    uid: str,
    notification: Dataset | None,
    timeout: float,
    is_abandoned: Callable[[], bool] = lambda: False,
) -> None:
    """Send a notification; return when the peer has it.

    Parameters
    ----------
    uid : str
        Its SOP Instance UID; the same for each attempt, so that a peer that has it answers 0x0111.
    notification : Dataset or None
        None: only negotiate the association.
    """
    contexts = contexts_of([(INSTANCE_AVAILABILITY_NOTIFICATION, [EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN])])
    try:
        with association(peer, calling_ae_title, contexts, timeout, is_abandoned=is_abandoned) as assoc:
            if notification is None:
                return
            request = primitive_of(
                N_CREATE,
                MessageID=assoc.next_message_id(),
                AffectedSOPClassUID=INSTANCE_AVAILABILITY_NOTIFICATION,
                AffectedSOPInstanceUID=uid,
            )
            status = assoc.request(request, notification).command.status
    except NoAssociation as error:
        raise NotDelivered(str(error)) from error
    except AssociationLost as error:
        raise NotDelivered(f"{peer}: {error}") from error
    if status not in (SUCCESS, DUPLICATE_INSTANCE) and (status is None or code_to_category(status) != STATUS_WARNING):
        raise NotDelivered(f"{peer} answered the notification with 0x{status or 0:04X}")
