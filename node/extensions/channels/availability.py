"""A hook whose receiver is a DICOM peer: each message is an Instance Availability Notification (PS3.4 R)."""

from __future__ import annotations

import threading
import uuid

from node.association.client.association import address_of
from node.extensions.channels.notification import NotNotified, notification_of, notify_peer
from node.index.database.index import Index
from node.index.database.work_loop import Interrupted
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
                steps = index.performed_steps.page(None, MAX_STEPS, study_instance_uid=study)
            if not instances:
                raise NotDelivered("no instance of it is available", is_final=True)
            uids = [step["sop_instance_uid"] for step in steps]
            notification = notification_of(study, instances, uids, self._ae_title)
        uid = f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, message.id).int}"
        try:
            notify_peer(self._peer, self._ae_title, uid, notification, self._timeout, cancelled.is_set)
        except NotNotified as error:
            if cancelled.is_set():
                raise Interrupted from error
            raise NotDelivered(str(error)) from error
        return Delivered()

    def close(self) -> None:
        """Nothing is kept open between messages."""


def opened(settings: Settings, name: str, index: Index | None) -> AvailabilityChannel:
    """Return the notifications of a hook. See `node.hookspecs.OpenChannel`."""
    return AvailabilityChannel(settings, name, index)
