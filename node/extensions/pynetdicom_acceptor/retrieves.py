"""C-MOVE and C-GET behind an acceptor of pynetdicom: which instances it sends, whole in memory, and what it counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydicom import dcmread

from node.association.client.association import MAXIMUM_CONTEXTS, contexts_of
from node.association.client.send import NotSendable, SendOutcome, Sent, intact, outgoing_of, proposals
from node.association.operation import Operation
from node.association.services.retrieve import (
    GET_MODELS,
    MOVE_MODELS,
    Retrieve,
    RetrieveService,
    destination_of,
    select,
)
from node.children.forwarding import CopyChange, transformed
from node.dicom.coercion import NotCoerced
from node.dicom.status import CANCELLED, PENDING


def get_responses(operation: Operation, service: RetrieveService) -> Iterator[Any]:
    """Yield what a handler of pynetdicom yields (`evt.EVT_C_GET`): the number of instances, and each with its status.

    Raises RequestRefused: first of all.
    """
    selected = select(operation, service, GET_MODELS)
    yield from _instances(operation, Retrieve(operation, service, selected, operation.origin.calling_ae_title))


def move_responses(operation: Operation, service: RetrieveService) -> Iterator[Any]:
    """Yield the same for C-MOVE (`evt.EVT_C_MOVE`), and before it the destination. Raises RequestRefused first."""
    peer = destination_of(operation, service)
    selected = select(operation, service, MOVE_MODELS)
    kinds = proposals(outgoing_of(selected.instances, service.archive.root))[:MAXIMUM_CONTEXTS]
    tls = (peer.tls, peer.host) if peer.tls is not None else None
    yield peer.host, peer.port, {"ae_title": peer.ae_title, "contexts": contexts_of(kinds), "tls_args": tls}
    yield from _instances(operation, Retrieve(operation, service, selected, peer.ae_title))


def _instances(operation: Operation, retrieve: Retrieve) -> Iterator[Any]:
    yield len(retrieve.outgoing)
    with retrieve.handed_on() as count:
        for instance in retrieve.outgoing:
            if operation.is_cancelled():
                yield CANCELLED, None
                return
            try:
                data_set = transformed(dcmread(intact(instance)), CopyChange(identity=instance.identity))
            except (NotSendable, NotCoerced) as error:
                operation.log.warning("instance_not_sent", reason=str(error))
                count(Sent.not_sent(instance, error if isinstance(error, NotSendable) else NotSendable(str(error))))
                yield PENDING, str(error)  # no data set: pynetdicom counts it as failed
            else:
                count(Sent(instance, SendOutcome.COMPLETED))
                yield PENDING, data_set
