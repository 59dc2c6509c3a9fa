"""Projects: accounts that see some series and no others, or copies of them without identities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from node.hookspecs import Action, Command, Extension, OpenedRoot, Parts, Router, Running

if TYPE_CHECKING:
    from node.background import BackgroundService


class _Projects(Extension):
    """Projects by command and REST, and the service that applies their rules."""

    name = "projects"
    commands = (
        Command(
            "projects",
            "Maintain",
            f"{__name__}.command:app",
            (
                "voxelnode projects set trial --rule 'patient_id == \"TRIAL-*\"'",
                "voxelnode projects set open-data --deidentified --retain modified-dates --clean pixels",
                "voxelnode projects member trial anna --role read",
                "voxelnode projects add trial 1.2.840.1.2.3",
            ),
            before="account",
        ),
    )
    routers = (Router("rest", f"{__name__}.rest:router"),)

    def actions(self, root: OpenedRoot) -> Mapping[str, Action]:
        from node.extensions.projects.actions import actions

        return actions(root.ingest, root.audit, makes_copies="deidentify" not in root.settings.extensions.disabled)

    def run(self, node: Parts) -> Running:
        from node.extensions.projects.rules import Rules

        return Running((Rules(node.ingest.index), *_copying(node)))


def _copying(node: Parts) -> Iterator[BackgroundService]:
    """Yield what makes the copies for de-identified projects."""
    if "deidentify" in node.settings.extensions.disabled or node.audit is None:
        return
    from node.extensions.projects.copying import CopyStep, OwedCopies
    from node.index.database.work_loop import RequestLoop

    index, now = node.ingest.index, node.ingest.now
    yield OwedCopies(index, now)
    yield RequestLoop("copies", index, {"copy": CopyStep(node.ingest, node.decoder, node.audit)}, now)


EXTENSION = _Projects()
