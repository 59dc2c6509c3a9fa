"""Results: what a hook makes of a series, as DICOM instances that are received like any other."""

from __future__ import annotations

from node.hookspecs import Command, Extension, Router


class _Results(Extension):
    """What hooks give back becomes DICOM, and their jobs."""

    name = "results"
    commands = (
        Command(
            "jobs",
            "Exchange",
            f"{__name__}.command:app",
            ("voxelnode jobs", "voxelnode jobs --state failed", "voxelnode jobs show 0123456789abcdef0123456789abcdef"),
        ),
    )
    routers = (Router("rest", f"{__name__}.rest:router"),)
    results = f"{__name__}.intake:RESULTS"


EXTENSION = _Results()
