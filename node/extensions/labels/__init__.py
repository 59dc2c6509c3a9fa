"""What people say of studies and series: labels and comments."""

from __future__ import annotations

from collections.abc import Mapping

from node.hookspecs import Action, Command, Extension, OpenedRoot, Router


class _Labels(Extension):
    """Labels and comments by command, REST and page."""

    name = "labels"
    commands = (
        Command(
            "label",
            "Maintain",
            f"{__name__}.command:app",
            (
                "voxelnode label list",
                "voxelnode label add 'phase 2' 1.2.840.1.2.3",
                "voxelnode label remove checked 1.2.840.1.2.3 --series 1.2.840.1.2.3.4",
            ),
            before="account",
        ),
    )
    routers = (Router("rest", f"{__name__}.rest:router"), Router("pages", f"{__name__}.pages:router"))
    templates = __name__

    def actions(self, root: OpenedRoot) -> Mapping[str, Action]:
        from node.extensions.labels.actions import actions

        return actions(root.ingest, root.audit)


EXTENSION = _Labels()
