"""What people say of studies and series: labels and comments."""

from node.api import Command, Extension, Router


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
    routers = (Router("rest", f"{__name__}.routes:router"), Router("pages", f"{__name__}.routes:pages_router"))
    actions = f"{__name__}.marks:actions"
    index_tables = f"{__name__}.marks:TABLES"
    templates = __name__


EXTENSION = _Labels()
