"""Media: folders, files, zip files and DICOMDIRs that ``voxelnode import`` brings, also beside a running node."""

from __future__ import annotations

from collections.abc import Mapping

from node.hookspecs import Action, Command, Extension, OpenedRoot


class _Media(Extension):
    """What comes from a medium rather than from a sender."""

    name = "media"
    commands = (
        Command(
            "import",
            "Convert",
            f"{__name__}.command:import_",
            ("voxelnode import scans", "voxelnode import scan.zip --dry-run"),
            before="reconvert",
        ),
    )

    def actions(self, root: OpenedRoot) -> Mapping[str, Action]:
        from node.extensions.media.handed_over import actions_of

        return actions_of(root)


EXTENSION = _Media()
