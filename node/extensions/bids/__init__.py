"""BIDS data sets of the volumes of a node (https://bids-specification.readthedocs.io, 1.11).

`rules` says what a volume is, `plan` gives every volume its name and its sidecar, `dataset` makes a folder agree with
the plan, and `export` does all of it for the index of a root.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from node.hookspecs import Command, Extension, Kind, Router

if TYPE_CHECKING:
    from node.settings.model import Settings


class _Bids(Extension):
    """BIDS data sets, by a command and as destinations of routes."""

    name = "bids"
    commands = (
        Command(
            "bids",
            "Convert",
            f"{__name__}.command:bids",
            (
                "voxelnode bids dataset --dry-run",
                "voxelnode bids dataset --draft-rules rules.toml",
                "voxelnode bids dataset --rules rules.toml --where 'modality == \"MR\"'",
            ),
        ),
    )
    destinations = (Kind("bids", f"{__name__}.settings:DatasetSettings", f"{__name__}.routes:DATASETS"),)
    routers = (Router("pages", f"{__name__}.grid:router"),)
    templates = __name__

    def mistakes(self, settings: Settings) -> Iterator[str]:
        if any(destination.kind == "bids" for destination in settings.destinations.values()):
            from node.extensions.bids.settings import mistakes_of_datasets

            yield from mistakes_of_datasets(settings)


EXTENSION = _Bids()
