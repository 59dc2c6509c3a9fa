"""Storage commitment: peers hear which of their instances the node keeps, and report on those that it has sent."""

from __future__ import annotations

from functools import partial

from node.hookspecs import Extension, Parts, Running, Service, Statement

STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"

COMMITMENT = """\
The node is an SCP of the Storage Commitment Push Model SOP Class.

- Each referenced instance is reported as committed only after its stored file was compared with the size and the digest
  recorded at reception. A commitment ends only by deletion, on command or by `[retention]`.
- The N-EVENT-REPORT is sent on the same association while it is open, otherwise on a new association to the host and
  port of the peer under `[peers]`. A report that cannot be delivered is retained across restarts and attempted up to
  ten times.
"""


class _Commitment(Extension):
    """The Storage Commitment Push Model."""

    name = "commitment"
    services = (Service(STORAGE_COMMITMENT, "commit"),)
    statement = Statement({"Storage Commitment Service": f"{__name__}:COMMITMENT"})

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
