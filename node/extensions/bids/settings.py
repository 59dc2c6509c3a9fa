"""[destinations.NAME] of the kind bids."""

from collections.abc import Iterator
from os.path import realpath
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from node.settings.core import DestinationSettings, Route
from node.settings.model import Settings

_OF_COPIES = (
    "priority", "transfer_syntax", "set", "replace", "remove", "confirm", "delete_confirmed",
    "deidentify",
)  # fmt: skip
"""Keys of a route that are about copies of instances."""


class DatasetSettings(DestinationSettings):
    """[destinations.NAME]: a BIDS data set that grows with complete series."""

    takes_instances: ClassVar[bool] = False

    kind: Literal["bids"] = "bids"
    bids: Path = Field(description="Folder of the data set; it must exist.")
    rules: Path | None = Field(None, description="Rules of the data set (docs/bids.md); unset: the default rules.")
    key: Path | None = Field(None, description="File with the key of its pseudonyms; unset: bids.key in the root.")

    @property
    def folder_of(self) -> Path:
        """The folder of the data set."""
        return self.bids


def mistakes_of_datasets(settings: Settings) -> Iterator[str]:
    """Yield why routes cannot keep their data sets up to date."""
    datasets = {name: one for name, one in settings.destinations.items() if isinstance(one, DatasetSettings)}
    owners: dict[Path, str] = {}
    for name, route in settings.routes.items():
        of_route = [to for to in route.to if to in datasets]
        if not of_route:
            continue
        for mistake in _mistakes_of_route(route):
            yield f"routes.{name}: to: {of_route[0]}: {mistake}"
        if "nifti" not in settings.convert.formats:
            yield f"routes.{name}: to: {of_route[0]}: [convert] formats must contain nifti"
        place = Path(realpath(datasets[of_route[0]].bids))
        if (other := owners.setdefault(place, name)) != name:
            yield f"routes.{name}: to: {place} is the data set of routes.{other}: widen where of one route"


def _mistakes_of_route(route: Route) -> Iterator[str]:
    if len(route.to) > 1:
        yield "a BIDS data set is the only destination of its route"
    if route.when in ("instance-stored", "series-quiet"):
        yield f'there is no volume at {route.when}: use when = "study-quiet", "series-complete" or "volume-written"'
    if given := [key for key in _OF_COPIES if key in route.model_fields_set]:
        yield f"{', '.join(given)}: instances are not sent, and the rules of the data set say what it has"
