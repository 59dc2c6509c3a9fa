"""Who is who: patients that are one person are merged, those who are not are kept apart, and a wrong identity is
corrected; each can be undone."""

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
                "voxelnode patient correct C-7 --id C-1 --study 1.2.3.4",
                "voxelnode patient separate '#7'",
            ),
            before="account",
        ),
    )
    routers = (Router("rest", f"{__name__}.rest:router"),)
    actions = f"{__name__}.actions:actions"


EXTENSION = _Identity()
