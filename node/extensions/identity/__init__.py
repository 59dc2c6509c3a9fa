"""Who is who: two patients that are one person are merged, and those who are not are kept apart; each can be undone."""

from __future__ import annotations

from node.api import Command, Extension, Router


class _Identity(Extension):
    """Decisions about patients, by command, REST and page."""

    name = "identity"
    commands = (
        Command(
            "patient",
            "Maintain",
            f"{__name__}.command:app",
            (
                "voxelnode patient list",
                "voxelnode patient merge '#7' '#3' --dry-run",
                "voxelnode patient separate '#7'",
            ),
            before="account",
        ),
    )
    routers = (Router("rest", f"{__name__}.rest:router"),)
    actions = f"{__name__}.actions:actions"


EXTENSION = _Identity()
