"""Media with a DICOMDIR: what ``voxelnode export`` writes, and ZIP files of the same for downloads."""

from node.hookspecs import Command, Extension, Router, Statement


class _Media(Extension):
    """What goes onto a medium."""

    name = "media"
    commands = (
        Command(
            "export",
            "Exchange",
            f"{__name__}.export:export",
            ("voxelnode export --media cd --where 'modality == \"CT\"'",),
        ),
    )

    routers = (Router("rest", f"{__name__}.downloads:router"), Router("pages", f"{__name__}.downloads:pages_router"))
    statement = Statement(
        words={
            "creates_media": "Yes",
            "written_media": "\n`voxelnode export --media` creates File-sets ([media.md](media.md)).",
        }
    )


EXTENSION = _Media()
