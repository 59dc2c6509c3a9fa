"""C-MOVE and C-GET: stored instances for peers that ask for them (PS3.4 C)."""

from __future__ import annotations

from functools import partial

from node.hookspecs import Extension, Parts, Running, Service

MOVES = ("1.2.840.10008.5.1.4.1.2.1.2", "1.2.840.10008.5.1.4.1.2.2.2")
GETS = ("1.2.840.10008.5.1.4.1.2.1.3", "1.2.840.10008.5.1.4.1.2.2.3")
"""Query/Retrieve Information Models, Patient Root and Study Root."""


class _Retrieve(Extension):
    """Retrieval by DIMSE."""

    name = "retrieve"
    services = tuple(Service(uid, "retrieve") for uid in (*MOVES, *GETS))

    def run(self, node: Parts) -> Running:
        import threading

        from node.association.client.association import PeerAddresses
        from node.association.client.send import Transcoder
        from node.dicom.command import C_GET_RQ, C_MOVE_RQ
        from node.extensions.retrieve.retrieve import (
            MAXIMUM_RETRIEVES,
            RetrieveService,
            get_responses,
            move_responses,
            serve_c_get,
            serve_c_move,
        )

        archive, dicom = node.ingest.archive, node.settings.dicom
        service = RetrieveService(
            node.ingest.index,
            archive,
            Transcoder(node.decoder, archive.incoming),
            dicom.ae_title,
            PeerAddresses(node.settings),
            threading.BoundedSemaphore(MAXIMUM_RETRIEVES),
            dicom.response_seconds,
            node.metrics,
            node.audit,
            node.on_refusal,
        )
        move, get = partial(serve_c_move, service=service), partial(serve_c_get, service=service)
        moved, got = partial(move_responses, service=service), partial(get_responses, service=service)
        return Running(
            operations={(C_MOVE_RQ, uid): move for uid in MOVES} | {(C_GET_RQ, uid): get for uid in GETS},
            responses={(C_MOVE_RQ, uid): moved for uid in MOVES} | {(C_GET_RQ, uid): got for uid in GETS},
        )


EXTENSION = _Retrieve()
