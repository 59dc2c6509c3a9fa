"""Media: what ``voxelnode import`` brings, also beside a running node, and what ``voxelnode export`` writes."""

from __future__ import annotations

from collections.abc import Mapping

from node.hookspecs import Action, Command, Extension, OpenedRoot, Router


class _Media(Extension):
    """What comes from a medium rather than from a sender, and what goes onto one."""

    name = "media"
    commands = (
        Command(
            "import",
            "Convert",
            f"{__name__}.command:import_",
            ("voxelnode import scans", "voxelnode import scan.zip --dry-run"),
            before="reconvert",
        ),
        Command(
            "export",
            "Exchange",
            f"{__name__}.export:export",
            ("voxelnode export --media cd --where 'modality == \"CT\"'",),
        ),
    )

    routers = (Router("rest", f"{__name__}.rest:router"), Router("pages", f"{__name__}.downloads:router"))

    def actions(self, root: OpenedRoot) -> Mapping[str, Action]:
        from node.extensions.media.handed_over import actions_of

        return actions_of(root)


EXTENSION = _Media()
