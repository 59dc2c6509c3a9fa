"""C-GET as a service provider: identifier -> instances -> C-STORE on the same association (PS3.4 C.4.3)."""

from __future__ import annotations

from collections.abc import Iterator

from node.association.acceptor import PeerGone
from node.association.client.send import (
    NotSendable,
    Outgoing,
    Sent,
    bytes_for_peer,
    sent_with_status,
    store_request,
)
from node.association.operation import Operation
from node.association.services.retrieve import Retrieve, RetrieveService, select, serve_retrieve
from node.dicom.command import C_GET_RQ
from node.dicom.keys import QueryModel
from node.dicom.uids import PATIENT_ROOT_GET, STUDY_ROOT_GET

MODELS = {PATIENT_ROOT_GET: QueryModel.PATIENT_ROOT, STUDY_ROOT_GET: QueryModel.STUDY_ROOT}


def serve_c_get(operation: Operation, service: RetrieveService) -> None:
    """Serve one C-GET-RQ, on the association's own thread. Statuses are those of `serve_c_move`, without 0xA801.

    Instances go out in the presentation contexts in which the peer is an SCP (PS3.7 D.3.3.4).
    """

    def run() -> None:
        selected = select(operation, service, MODELS)
        retrieve = Retrieve(operation, service, C_GET_RQ, selected, operation.origin.calling_ae_title)
        retrieve.run(_sub_operations(retrieve, operation, service))

    serve_retrieve(operation, C_GET_RQ, run)


def _sub_operations(retrieve: Retrieve, operation: Operation, service: RetrieveService) -> Iterator[Sent]:
    for instance in retrieve.outgoing:
        if retrieve.is_stopped():
            return
        yield _sent(operation, service, instance)


def _sent(operation: Operation, service: RetrieveService, instance: Outgoing) -> Sent:
    accepted = operation.accepted_for(instance.sop_class_uid)
    try:
        with bytes_for_peer(instance, accepted, service.transcode) as (context_id, source):
            request = store_request(instance, operation.next_message_id())
            answer = operation.store(context_id, request, source, service.timeout)
    except NotSendable as error:
        return Sent.not_sent(instance, error)
    if answer is None:
        operation.association.give_up(f"no answer to C-STORE within {service.timeout:g} s")
        raise PeerGone
    return sent_with_status(instance, answer.status, answer.comment)
