"""Proofs of backups (docs/backup.md)."""

from __future__ import annotations

from node.hookspecs import Command, Extension


class _Backup(Extension):
    name = "backup"
    commands = (
        Command(
            "backup", "Maintain", f"{__name__}.command:backup", ("voxelnode backup --prove /backup",), before="journal"
        ),
    )


EXTENSION = _Backup()
