"""What is told of an exception that quotes what it read."""

from __future__ import annotations

import pytest

from node.errors import MAX_TEXT, text_without

DATA = b"\x10\x00\x10\x00PN\x08\x00Doe^Jane 0008 \x08\x00\x16\x00UI"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("Attempted to set non-group 2 elements: [(0008, 0000)]"),) * 2,
        (ValueError("invalid literal for int() with base 10: 'xyz'"), "invalid literal for int() with base 10: ..."),
        (ValueError("value Doe^Jane of (0010,0010)"), "value ...^... of (0010,0010)"),
        (ValueError("value DOE^J\u00f6 of (0010,0010)"), "value ...^... of (0010,0010)"),
        (EOFError(), ""),
    ],
)
def test_the_text_of_an_error_repeats_nothing_that_was_read(error: Exception, told: object) -> None:
    assert text_without(error, DATA) == str(told)


def test_a_long_text_is_cut() -> None:
    assert len(text_without(ValueError("no " * 1000), DATA)) == MAX_TEXT
