"""What is told of an exception that quotes what it read."""

import pytest

from node.errors import MAX_TEXT, broken_rule, text_without, with_last_line

DATA = b"\x10\x00\x10\x00PN\x08\x00Doe^Jane 0008 \x08\x00\x16\x00UI"


@pytest.mark.parametrize(
    ("error", "reported"),
    [
        (ValueError("Attempted to set non-group 2 elements: [(0008, 0000)]"),) * 2,
        (ValueError("invalid literal for int() with base 10: 'xyz'"), "invalid literal for int() with base 10: ..."),
        (ValueError("value Doe^Jane of (0010,0010)"), "value ...^... of (0010,0010)"),
        (ValueError("value DOE^J\u00f6 of (0010,0010)"), "value ...^... of (0010,0010)"),
        (EOFError(), ""),
    ],
)
def test_the_text_of_an_error_repeats_nothing_that_was_read(error: Exception, reported: object) -> None:
    assert text_without(error, DATA) == str(reported)


def test_a_long_text_is_cut() -> None:
    assert len(text_without(ValueError("no " * 1000), DATA)) == MAX_TEXT


@pytest.mark.parametrize(
    ("kind", "message", "reported"),
    [
        ("value_error", "Value error, at character 10: = is not an operator", "at character 10: = is not an operator"),
        ("string_too_long", "String should have at most 16 characters", "must have at most 16 characters"),
        ("less_than_equal", "Input should be less than or equal to 1000", "must be at most 1000"),
        ("extra_forbidden", "Extra inputs are not permitted", "is unknown"),
        ("missing", "Field required", "must be given"),
    ],
)
def test_a_rule_that_a_form_or_request_breaks_is_told_in_plain_words(kind: str, message: str, reported: str) -> None:
    assert broken_rule(kind, message) == reported


@pytest.mark.parametrize("output", ["Traceback:\n  line 1\nModuleNotFoundError: x\n\n", "ModuleNotFoundError: x"])
def test_the_reason_of_a_failed_program_is_apart_from_its_last_words(output: str) -> None:
    assert with_last_line("exit status 1", output) == "exit status 1; it printed: ModuleNotFoundError: x"
    assert with_last_line("exit status 1", None) == "exit status 1"
