"""OHIF, a viewer for DICOM in the browser: installed on request, and served beside the pages."""

from node.api import Command, Extension, Router


class _Ohif(Extension):
    """The viewer, its installation, and links to it."""

    name = "ohif"
    commands = (Command("viewers", "Maintain", f"{__name__}.package:app", ("voxelnode viewers install ohif",)),)
    routers = (Router("pages", f"{__name__}.pages:router"),)


EXTENSION = _Ohif()
