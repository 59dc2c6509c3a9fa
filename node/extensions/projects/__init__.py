"""Projects: accounts that see some series and no others."""

from node.association.added import Parts, Running
from node.hookspecs import Command, Extension, Router


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
                "voxelnode projects member trial anna --role read",
                "voxelnode projects add trial 1.2.840.1.2.3",
            ),
            before="account",
        ),
    )
    routers = (Router("rest", f"{__name__}.rest:router"),)
    actions = f"{__name__}.rules:actions"

    def run(self, node: Parts) -> Running:
        from node.extensions.projects.rules import ProjectRules

        return Running((ProjectRules(node.ingest.index),))


EXTENSION = _Projects()
