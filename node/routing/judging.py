"""Which series a route is for: those of its event that fit its selector."""

from __future__ import annotations

from node.index.database.reading import ReadIndex
from node.index.nouns.converted import SeriesKey
from node.selector import Selector
from node.settings.routes import RouteEvent


def is_selected(
    index: ReadIndex, when: RouteEvent, selector: Selector | None, series: SeriesKey, revision: int | None
) -> bool:
    """Return whether a series, as it is now, is what a route is for.

    `revision`: that of a message about a conversion; None: whichever is current.
    """
    if when in ("series-complete", "volume-written"):
        row = index.series.row(*series)
        if row is None or (revision is not None and row["revision"] != revision):
            return False  # a newer revision has an event of its own
        if when == "series-complete" and row["verdict"] != "complete":
            return False
        if when == "volume-written" and row["state"] != "converted":
            return False
    if selector is None:
        return True
    facts = index.facts.of_series(selector.fields, *series, revision)
    return facts is not None and selector.matches(facts)
