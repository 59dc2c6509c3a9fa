"""Whether a file is as it was received."""

from pathlib import Path

import pytest

from node.archive.intact import problem_with


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"head" + b"data", None),
        (b"head" + b"dat", "has 3 bytes instead of 4"),
        (b"head", "has 0 bytes instead of 4"),
        (b"he", "has 0 bytes instead of 4"),
        (b"", "has 0 bytes instead of 4"),
    ],
)
def test_a_file_that_is_too_short_has_the_bytes_that_are_left_of_its_data_set(
    tmp_path: Path, content: bytes, problem: str | None
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert problem_with(path, 4, 4, None) == problem
