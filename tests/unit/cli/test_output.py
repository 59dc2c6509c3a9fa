"""What commands print, and how they read their arguments."""

import pytest

from node.cli.output import print_finding
from node.cli.run.config import table_of


def test_a_finding_wraps_beside_its_head_and_paths_stay_whole(capsys: pytest.CaptureFixture[str]) -> None:
    path = "/" + "a" * 90
    print_finding("ok  disk", "word " * 30 + path, "", "-> remedy")
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) > 80] == [" " * 10 + path]
    assert lines[0].startswith("ok  disk  word")
    assert lines[-1] == " " * 10 + "-> remedy"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("echo,store", ["echo", "store"]),
        ("echo, store", ["echo", "store"]),
        ("store", ["store"]),
        ('["echo", "store"]', ["echo", "store"]),
        ('"a,b"', ["a,b"]),
    ],
)
def test_several_values_of_a_key_need_only_commas(text: str, value: list[str]) -> None:
    assert table_of("peers", [f"may={text}", "ae_title=CT,1"]) == {"may": value, "ae_title": "CT,1"}
