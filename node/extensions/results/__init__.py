"""Results: what a hook makes of a series, as DICOM instances that are received like any other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from node.extras import lacking
from node.hookspecs import Command, Extension, Router, Statement

if TYPE_CHECKING:
    from node.settings.model import Settings


class _Results(Extension):
    """What hooks give back becomes DICOM, and their jobs."""

    name = "results"
    commands = (
        Command(
            "hooks jobs",
            "Exchange",
            f"{__name__}.command:app",
            (
                "voxelnode hooks jobs --state failed",
                "voxelnode hooks jobs show 0123456789abcdef0123456789abcdef",
            ),
        ),
    )
    routers = (Router("rest", f"{__name__}.rest:router"),)
    results = f"{__name__}.intake:RESULTS"
    statement = Statement(
        {
            "Created Instances": f"{__name__}.statement:CREATED",
            "Attributes of Created Instances": f"{__name__}.statement:OBJECTS",
            "Created Structured Reports": f"{__name__}.statement:REPORTS",
            "Codes in Created Instances": f"{__name__}.statement:CODES",
        },
        f"{__name__}.statement:tables_of",
    )

    def mistakes(self, settings: Settings) -> Iterator[str]:
        for name, hook in settings.hooks.items():
            if hook.results:
                yield from lacking(f"hooks.{name}: results", "results")


EXTENSION = _Results()
