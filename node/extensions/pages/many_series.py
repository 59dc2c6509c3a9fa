"""The series of a study with many of them: a list that is filtered, a page at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, Field

from node.dicom.attributes import MAX_TEXT_BYTES
from node.extensions.pages.status_chips import series_chip

MANY = 40
"""A study with more series has a list rather than cards."""

PAGE_SERIES = 100
MAX_SERIES = 10_000


class SeriesSearch(BaseModel):
    """The fields of the filter, sent in a request body to keep descriptions out of the logs of proxies.

    `state` is the label of a chip; `shown` is the number of rows that the browser has, or asks for.
    """

    words: Annotated[str, Field(max_length=MAX_TEXT_BYTES)] = ""
    modality: Annotated[str, Field(max_length=MAX_TEXT_BYTES)] = ""
    state: Annotated[str, Field(max_length=32)] = ""
    shown: Annotated[int, Field(ge=1, le=MAX_SERIES)] = PAGE_SERIES


def listed(cards: Sequence[Mapping[str, Any]], search: SeriesSearch) -> dict[str, Any]:
    """Return the values of the list: the series that fit, as many as are shown, and what there is to choose."""
    words = search.words.casefold().split()
    found = [
        card
        for card in cards
        if search.modality in ("", card["modality"])
        and search.state in ("", series_chip(card).label)
        and all(word in _text(card) for word in words)
    ]
    return {
        "rows": found[: search.shown],
        "found": len(found),
        "more": min(PAGE_SERIES, len(found) - search.shown),
        "next": search.shown + PAGE_SERIES,
        "search": search,
        "all_modalities": sorted({card["modality"] for card in cards if card["modality"]}),
        "all_states": sorted({series_chip(card).label for card in cards}),
    }


def _text(card: Mapping[str, Any]) -> str:
    """Return what the words of a filter are looked for in."""
    names = ("series_number", "series_description", "protocol_name", "body_part_examined", "series_instance_uid")
    return " ".join(str(card[name]) for name in names if card.get(name) is not None).casefold()
