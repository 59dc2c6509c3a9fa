"""Links by which people without an account see a study, or one of its series, for a time."""

from node.hookspecs import Command, Extension, Router


class _Shares(Extension):
    """Links by command and REST, and the page that they open."""

    name = "shares"
    commands = (
        Command(
            "share",
            "Maintain",
            f"{__name__}.command:app",
            (
                "voxelnode share add 1.2.840.1.2.3 --days 14 --download",
                "voxelnode share list",
                "voxelnode share revoke 7",
            ),
            before="account",
        ),
    )
    routers = (Router("rest", f"{__name__}.routes:router"), Router("pages", f"{__name__}.routes:pages_router"))
    actions = f"{__name__}.rows:actions"
    index_tables = f"{__name__}.rows:TABLES"
    templates = __name__


EXTENSION = _Shares()
