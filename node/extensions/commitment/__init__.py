"""Storage commitment: peers hear which of their instances the node keeps, and report on those that it has sent."""

from __future__ import annotations

from functools import partial

from node.hookspecs import Extension, Parts, Router, Running, Service, Statement

STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"


class _Commitment(Extension):
    """The Storage Commitment Push Model."""

    name = "commitment"
    services = (Service(STORAGE_COMMITMENT, "commit"),)
    routers = (
        Router("dicomweb", "node.extensions.dicomweb.capabilities:router"),
        Router("dicomweb", f"{__name__}.web:router", "Storage Commitment Service", f"{__name__}.web:TRANSACTIONS"),
    )
    statement = Statement(
        {
            "Storage Commitment Service": f"{__name__}.statement:COMMITMENT",
            "Storage Commitment Web Service": f"{__name__}.statement:WEB_COMMITMENT",
        },
        f"{__name__}.statement:tables_of",
    )

    def run(self, node: Parts) -> Running:
        from node.association.client.association import PeerAddresses
        from node.dicom.command import N_ACTION_RQ, N_EVENT_REPORT_RQ
        from node.extensions.commitment.commitment import (
            CommitmentService,
            Reporting,
            serve_n_action,
            serve_n_event_report,
        )
        from node.index.database.work_loop import RequestLoop

        index, now, dicom = node.ingest.index, node.ingest.now, node.settings.dicom
        service = CommitmentService(
            index,
            node.ingest.archive,
            dicom.ae_title,
            PeerAddresses(node.settings),
            dicom.response_seconds,
            node.metrics,
            node.settings.acknowledge == "object",
            now,
        )
        reporting = Reporting(service, node.on_refusal)
        return Running(
            services=(RequestLoop("commitments", index, {"commitment": reporting}, now),),
            operations={
                (N_ACTION_RQ, STORAGE_COMMITMENT): partial(serve_n_action, service=service),
                (N_EVENT_REPORT_RQ, STORAGE_COMMITMENT): partial(serve_n_event_report, routes=index.routes, now=now),
            },
        )


EXTENSION = _Commitment()
