"""Scheduled and performed procedure steps: worklist entries from every source, and what modalities report of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from node.association.added import FoundAnswers, OpenedRoot, Parts, Running
from node.hookspecs import Command, Extension, MenuEntry, Router, Service, Statement, Table

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from node.extensions.worklist.settings import WorklistSettings
    from node.settings.model import Settings

MODALITY_WORKLIST_FIND = "1.2.840.10008.5.1.4.31"
PERFORMED_PROCEDURE_STEP = "1.2.840.10008.3.1.2.3.3"
PERFORMED_PROCEDURE_STEP_RETRIEVE = "1.2.840.10008.3.1.2.3.4"


class _Worklist(Extension):
    """The modality worklist, MPPS, and orders by HL7."""

    name = "worklist"
    commands = (Command("worklist", "Exchange", f"{__name__}.commands:app", ("voxelnode worklist list",)),)
    tables = (Table("worklist", f"{__name__}.settings:WorklistSettings"),)
    routers = (Router("rest", f"{__name__}.rest:router"), Router("pages", f"{__name__}.rest:pages"))
    menu = (
        MenuEntry("/worklist", "Worklist", before="/problems", key="w", is_used=f"{__name__}.rest:is_worklist_used"),
    )
    services = (
        Service(MODALITY_WORKLIST_FIND, "worklist"),
        Service(PERFORMED_PROCEDURE_STEP, "mpps"),
        Service(PERFORMED_PROCEDURE_STEP_RETRIEVE, "mpps"),
    )
    statement = Statement(
        {
            "Basic Worklist Management Service": f"{__name__}.queries:BASIC_WORKLIST",
            "Modality Performed Procedure Step Service": f"{__name__}.queries:PERFORMED_STEPS",
        },
        f"{__name__}.queries:tables_of",
    )
    index_tables = f"{__name__}.orders:TABLES"
    templates = __name__

    def checks(self, settings: Settings) -> Iterator[Callable[[], Any]]:
        worklist = _settings(settings)
        if worklist.hl7_port is not None:
            from node.extensions.worklist.mllp import hl7_tls_context

            yield partial(hl7_tls_context, worklist)

    def warnings(self, settings: Settings) -> Iterator[str]:
        folder = _settings(settings).folder
        if folder is not None and not folder.is_dir():
            yield f"[worklist] folder = {str(folder)!r} is not there: until it is, files add no entries"
        elif folder is not None:
            from node.extensions.worklist.modality_worklist import refused_files

            yield from refused_files(folder)

    def run(self, node: Parts) -> Running:
        from node.dicom.command import N_CREATE_RQ, N_GET_RQ, N_SET_RQ
        from node.extensions.worklist.mllp import MllpListener
        from node.extensions.worklist.modality_worklist import Worklist
        from node.extensions.worklist.performed_steps import (
            PerformedStepRepository,
            StepService,
            serve_n_create,
            serve_n_get,
            serve_n_set,
        )
        from node.extensions.worklist.queries import read_worklist_query
        from node.extensions.worklist.scheduled_rows import ScheduledStepRepository

        settings = _settings(node.settings)
        index, now, ae_title = node.ingest.index, node.ingest.now, node.settings.dicom.ae_title
        scheduled, performed = index.repository(ScheduledStepRepository), index.repository(PerformedStepRepository)
        worklist = Worklist(scheduled, performed, settings, now)
        steps = StepService(performed, node.audit, now)
        listeners = {}
        if settings.hl7_port is not None:
            patients = None
            if node.audit is not None and "identity" not in node.settings.extensions.disabled:
                patients = OpenedRoot(node.settings, node.ingest, node.audit)
            listeners["hl7"] = MllpListener(
                settings, ae_title, scheduled, node.metrics, node.audit, now, patients, node.on_refusal
            )

        def find(identifier: Dataset, maximum: int, stop: Callable[[], bool]) -> FoundAnswers:
            query = read_worklist_query(identifier)
            return FoundAnswers(not query.unsupported, worklist.find(query, maximum, stop))

        return Running(
            services=(worklist,),
            listeners=listeners,
            finds={MODALITY_WORKLIST_FIND: find},
            operations={
                (N_CREATE_RQ, PERFORMED_PROCEDURE_STEP): partial(serve_n_create, service=steps),
                (N_SET_RQ, PERFORMED_PROCEDURE_STEP): partial(serve_n_set, service=steps),
                (N_GET_RQ, PERFORMED_PROCEDURE_STEP_RETRIEVE): partial(serve_n_get, service=steps),
            },
        )


def _settings(settings: Settings) -> WorklistSettings:
    from node.extensions.worklist.settings import WorklistSettings

    return settings.table(WorklistSettings)


EXTENSION = _Worklist()
