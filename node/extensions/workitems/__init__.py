"""UPS-RS: workitems of clients, and what the node does, over HTTP (PS3.18 11)."""

from __future__ import annotations

from collections.abc import Mapping

from node.hookspecs import Action, Command, Extension, OpenedRoot, Parts, Router, Running, Statement


class _Workitems(Extension):
    """The worklist service of DICOMweb."""

    name = "workitems"
    commands = (
        Command(
            "workitems",
            "Exchange",
            f"{__name__}.commands:app",
            ("voxelnode workitems list --state 'IN PROGRESS'", "voxelnode workitems end 2.25.17 --yes"),
        ),
    )
    routers = (
        Router("dicomweb", "node.extensions.dicomweb.capabilities:router"),
        Router(
            "dicomweb",
            f"{__name__}.workitems:router",
            "Worklist Service (UPS-RS)",
            f"{__name__}.workitems:TRANSACTIONS",
        ),
        Router("rest", f"{__name__}.rest:router"),
    )
    statement = Statement(
        {"Worklist Web Service": f"{__name__}.statement:WORKLIST_SERVICE"}, f"{__name__}.statement:tables_of"
    )

    def actions(self, root: OpenedRoot) -> Mapping[str, Action]:
        from node.extensions.workitems.removal import actions_of

        return actions_of(root)

    def run(self, node: Parts) -> Running:
        from node.extensions.workitems.created import WorkitemRepository
        from node.extensions.workitems.removal import Removal
        from node.extensions.worklist.settings import WorklistSettings

        keep_days = node.settings.table(WorklistSettings).keep_days
        return Running(
            services=(Removal(node.ingest.index.repository(WorkitemRepository), keep_days, node.ingest.now),)
        )


EXTENSION = _Workitems()
