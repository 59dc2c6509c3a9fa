"""What the extension runs in a node that receives: the worklist, performed procedure steps, and orders by HL7."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from pydicom.dataset import Dataset

from node.dicom.command import N_CREATE_RQ, N_SET_RQ
from node.dicom.uids import MODALITY_WORKLIST_FIND, PERFORMED_PROCEDURE_STEP
from node.dicom.worklist import read_worklist_query
from node.extensions.worklist.mllp import MllpListener
from node.extensions.worklist.modality_worklist import Worklist
from node.extensions.worklist.performed_steps import StepService, serve_n_create, serve_n_set
from node.extensions.worklist.settings import WorklistSettings
from node.hookspecs import Parts, Running


def running(node: Parts, settings: WorklistSettings) -> Running:
    """Return the services of the extension; see `node.hookspecs.Extension.run`."""
    index, now, ae_title = node.ingest.index, node.ingest.now, node.settings.dicom.ae_title
    worklist = Worklist(index.scheduled_steps, settings, now)
    steps = StepService(index.performed_steps, ae_title, node.audit, now)
    listeners = {}
    if settings.hl7_port is not None:
        listeners["hl7"] = MllpListener(settings, ae_title, index.scheduled_steps, node.audit, now)

    def find(identifier: Dataset, maximum: int, stop: Callable[[], bool]) -> tuple[bool, Iterator[Dataset]]:
        query = read_worklist_query(identifier)
        return not query.unsupported, worklist.find(query, maximum, stop)

    return Running(
        services=(worklist,),
        listeners=listeners,
        finds={MODALITY_WORKLIST_FIND: find},
        operations={
            (N_CREATE_RQ, PERFORMED_PROCEDURE_STEP): partial(serve_n_create, service=steps),
            (N_SET_RQ, PERFORMED_PROCEDURE_STEP): partial(serve_n_set, service=steps),
        },
    )
