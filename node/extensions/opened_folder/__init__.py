"""``voxelnode open``: folders are looked at, named and exported where they are, without a configuration."""

from node.api import Command, Extension


class _OpenedFolder(Extension):
    """A node for one sitting, whose archive refers to the files of folders."""

    name = "opened_folder"
    commands = (
        Command(
            "open",
            "Run",
            f"{__name__}.command:open_",
            ("voxelnode open scans", "voxelnode open /media/cdrom"),
            before="init",
        ),
    )


EXTENSION = _OpenedFolder()
