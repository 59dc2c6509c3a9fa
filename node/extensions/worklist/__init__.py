"""Scheduled and performed procedure steps: worklist entries from every source, and what modalities report of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from node.hookspecs import Command, Extension, MenuEntry, Parts, Router, Running, Service, Statement, Table

if TYPE_CHECKING:
    from node.extensions.worklist.settings import WorklistSettings
    from node.settings.model import Settings

MODALITY_WORKLIST_FIND = "1.2.840.10008.5.1.4.31"
PERFORMED_PROCEDURE_STEP = "1.2.840.10008.3.1.2.3.3"


class _Worklist(Extension):
    """The modality worklist, MPPS, and orders by HL7."""

    name = "worklist"
    commands = (
        Command(
            "worklist",
            "Exchange",
            f"{__name__}.commands:app",
            ("voxelnode worklist list", "voxelnode worklist check"),
        ),
    )
    tables = (Table("worklist", f"{__name__}.settings:WorklistSettings"),)
    routers = (Router("rest", f"{__name__}.rest:router"), Router("pages", f"{__name__}.pages:router"))
    menu = (MenuEntry("/worklist", "Worklist", before="/problems", key="w"),)
    services = (
        Service(MODALITY_WORKLIST_FIND, "Basic Worklist Management", "worklist"),
        Service(PERFORMED_PROCEDURE_STEP, "Modality Performed Procedure Step", "mpps"),
    )
    statement = Statement(
        {
            "Basic Worklist Management Service": f"{__name__}.statement:BASIC_WORKLIST",
            "Modality Performed Procedure Step Service": f"{__name__}.statement:PERFORMED_STEPS",
        }
    )
    templates = __name__

    def checks(self, settings: Settings) -> Iterator[Callable[[], Any]]:
        worklist = _settings(settings)
        if worklist.hl7_port is not None:
            from node.extensions.worklist.mllp import hl7_tls_context

            yield partial(hl7_tls_context, worklist)

    def ports(self, settings: Settings) -> Iterator[tuple[str, str, int]]:
        worklist = _settings(settings)
        if worklist.hl7_port is not None:
            yield "[worklist] hl7_port", worklist.hl7_host, worklist.hl7_port

    def run(self, node: Parts) -> Running:
        from node.extensions.worklist.running import running

        return running(node, _settings(node.settings))


def _settings(settings: Settings) -> WorklistSettings:
    from node.extensions.worklist.settings import WorklistSettings

    return settings.table(WorklistSettings)


EXTENSION = _Worklist()
