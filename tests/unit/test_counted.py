"""Numbers with their nouns."""

from __future__ import annotations

import pytest

from node.counted import counted


@pytest.mark.parametrize(
    ("count", "nouns", "text"),
    [
        (0, ("file",), "0 files"),
        (1, ("file",), "1 file"),
        (2, ("file",), "2 files"),
        (1, ("study", "studies"), "1 study"),
        (2, ("study is", "studies are"), "2 studies are"),
    ],
)
def test_a_number_has_the_noun_that_it_needs(count: int, nouns: tuple[str, ...], text: str) -> None:
    assert counted(count, *nouns) == text
