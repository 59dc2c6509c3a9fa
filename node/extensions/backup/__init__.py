"""Backups of a root: made, proved, and restored (docs/backup.md)."""

from node.hookspecs import Command, Extension


class _Backup(Extension):
    name = "backup"
    commands = (
        Command(
            "backup",
            "Maintain",
            f"{__name__}.command:backup",
            ("voxelnode backup /backup", "voxelnode backup --prove /backup"),
            before="journal",
        ),
        Command(
            "restore",
            "Maintain",
            f"{__name__}.command:restore",
            ("voxelnode restore /backup --root /restored",),
            before="journal",
        ),
    )


EXTENSION = _Backup()
