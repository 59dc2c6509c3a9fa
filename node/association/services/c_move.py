"""C-MOVE as a service provider: identifier -> instances -> C-STORE to a configured peer (PS3.4 C.4.2)."""

from __future__ import annotations

from collections.abc import Iterator

from node.association.client.association import Address
from node.association.client.negotiation import NoAssociation
from node.association.client.send import Sent, send
from node.association.operation import Operation
from node.association.services.retrieve import Retrieve, RetrieveRefused, RetrieveService, select, serve_retrieve
from node.dicom.command import C_MOVE_RQ, Element
from node.dicom.keys import QueryModel
from node.dicom.status import DESTINATION_UNKNOWN
from node.dicom.uids import PATIENT_ROOT_MOVE, STUDY_ROOT_MOVE
from node.index.nouns.records import Refused

MODELS = {PATIENT_ROOT_MOVE: QueryModel.PATIENT_ROOT, STUDY_ROOT_MOVE: QueryModel.STUDY_ROOT}


MAX_SHOWN_TITLE = 16
"""Longest AE title (PS3.5 6.2); a longer one is no destination, and is cut where it is shown."""


def serve_c_move(operation: Operation, service: RetrieveService) -> None:
    """Serve one C-MOVE-RQ, on the association's own thread.

    Responses are those of PS3.4 C.4.2.1.5:

    * 0xFF00: after each sub-operation, with the counts
    * 0x0000: all instances were sent; 0xB000: some failed or had a warning; 0xA702: all failed
    * 0xFE00: the peer cancelled
    * 0xA701: more instances than can be counted
    * 0xA801: the destination is not configured
    * 0xA900, 0xC000: the identifier cannot be understood
    """

    def run() -> None:
        destination = _destination(operation, service)
        selected = select(operation, service, MODELS)
        retrieve = Retrieve(operation, service, C_MOVE_RQ, selected, destination.ae_title)
        retrieve.run(_sub_operations(retrieve, operation, service, destination))

    serve_retrieve(operation, C_MOVE_RQ, run)


def _destination(operation: Operation, service: RetrieveService) -> Address:
    """Return the address of the peer in *Move Destination* (0000,0600)."""
    title = operation.command.text(Element.MOVE_DESTINATION)
    address = service.destinations.get(title)
    if address is None:
        origin, told = operation.origin, title[:MAX_SHOWN_TITLE]
        service.on_refusal(
            Refused(
                "retrieve",
                "move destination",
                f"no peer with a host has the AE title {told or '(empty)'}",
                f'set host and port of the peer with ae_title = "{told}" in [peers]',
                peer=origin.address,
                calling_ae_title=origin.calling_ae_title,
                called_ae_title=origin.called_ae_title,
                offered=told,
            )
        )
        raise RetrieveRefused(DESTINATION_UNKNOWN, "move destination is not configured: set host in [peers]")
    return address


def _sub_operations(
    retrieve: Retrieve, operation: Operation, service: RetrieveService, destination: Address
) -> Iterator[Sent]:
    originator = operation.origin.calling_ae_title, operation.message_id
    try:
        yield from send(
            retrieve.outgoing,
            destination,
            service.ae_title,
            service.transcode,
            service.timeout,
            originator=originator,
            stop=retrieve.is_stopped,
            is_abandoned=operation.is_lost,
        )
    except NoAssociation as error:
        retrieve.fail(str(error))
