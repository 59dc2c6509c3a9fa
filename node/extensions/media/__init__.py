"""Media: what ``voxelnode import`` brings, also beside a running node, and what ``voxelnode export`` writes."""

from __future__ import annotations

from node.hookspecs import Command, Extension, Router


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
    actions = f"{__name__}.handed_over:actions_of"


EXTENSION = _Media()
