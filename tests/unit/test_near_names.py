"""Which names a word may be misspelt for."""

import pytest

from node.errors import meant, near


@pytest.mark.parametrize(
    ("word", "choices", "close"),
    [
        ("prot", ["host", "port", "root"], ["port"]),
        ("Modalty", ["Modality", "Model"], ["Modality"]),
        ("quiet_second", ["quiet_seconds", "quiet"], ["quiet_seconds"]),
        ("lung.nii", ["lung.nii.gz", "liver.nii.gz"], ["lung.nii.gz"]),
        ("compleet", ["complete", "incomplete"], ["complete"]),
        ("log", ["config", "no", "logs"], ["logs"]),
        ("hosts", ["lost", "hooks"], []),
        ("peers", ["viewers"], []),
        ("--x", ["--a", "--y"], []),
        ("x" * 100_000, ["x" * 100_000], []),
        ("", ["a"], []),
    ],
)
def test_only_what_is_near_is_meant(word: str, choices: list[str], close: list[str]) -> None:
    assert near(word, choices) == close


def test_without_a_near_choice_nothing_is_guessed() -> None:
    assert meant("log", ["config"]) == ""
