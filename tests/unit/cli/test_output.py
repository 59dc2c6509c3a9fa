"""What commands print, and how they read their arguments."""

import json
import sys

import pytest

from node.cli.output import (
    MAX_NAMED_FILES,
    MAX_OF_A_KIND,
    MAX_OF_A_REASON,
    each_shown,
    first_of_each_kind,
    minute,
    named_files,
    print_finding,
    print_json,
)
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


# Tables of differences.


def test_a_missing_folder_is_not_a_line_for_each_of_its_files() -> None:
    missing = [{"kind": "file-missing", "path": str(number)} for number in range(709)]
    other = {"kind": "file-altered", "path": "x"}
    first, more = first_of_each_kind([*missing, other])
    assert first == [*missing[:MAX_OF_A_KIND], other]
    assert more == ["and 689 more file-missing; --tsv lists all"]
    assert first_of_each_kind([other]) == ([other], [])


# JSON that commands print: the same values, without a character that changes what a terminal shows.


HOSTILE = "\u202egnp.exe \u2066x\u2069 \x9b31m \x7f \u200b \u2028 \ufeff \U000e0001 \ud800 \x1b[2J\n"


def test_no_character_of_a_value_turns_or_hides_what_stands_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({HOSTILE: [HOSTILE, "Müller 山田 🧠"]})
    text = capsys.readouterr().out
    assert all(character.isprintable() for line in text.splitlines() for character in line)
    assert len(text.splitlines()) == 6
    assert "Müller 山田 🧠" in text
    assert json.loads(text) == {HOSTILE: [HOSTILE, "Müller 山田 🧠"]}


# Lists of skipped and refused files: the first ones, on one line each, and how many more there are.


@pytest.mark.parametrize(("more", "last"), [(0, []), (1, ["1 more file"]), (2, ["2 more files"])])
def test_many_files_are_cut_to_the_first_and_a_count(more: int, last: list[str]) -> None:
    files = [("a\x1b\nb", f"damaged at {number // 2}") for number in range(MAX_NAMED_FILES + more)]
    lines = list(named_files("skipped", files))
    assert lines[:MAX_NAMED_FILES] == [
        rf"skipped a\x1b\nb: damaged at {number // 2}" for number in range(MAX_NAMED_FILES)
    ]
    assert lines[MAX_NAMED_FILES:] == [f"skipped {count}; --json lists all" for count in last]


def test_a_few_files_with_one_reason_are_all_named() -> None:
    files = [(f"{number}.gz", "compressed with gzip") for number in range(5)]
    assert list(named_files("skipped", files)) == [f"skipped {name}: {reason}" for name, reason in files]


def test_many_files_with_one_reason_hide_no_other() -> None:
    files = [(f"{number}.gz", "compressed with gzip") for number in range(MAX_NAMED_FILES + 1)]
    first = ", ".join(name for name, _ in files[:MAX_OF_A_REASON])
    assert list(named_files("skipped", [*files, ("notes.txt", "not a DICOM file")])) == [
        f"skipped {len(files)} files: compressed with gzip: {first}, ...",
        "skipped notes.txt: not a DICOM file",
    ]


# Progress bars: one way for all commands, for people only.


def test_a_bar_is_on_a_terminal_only_and_items_pass_in_their_order(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(each_shown("sending", [3, 1, 2])) == [3, 1, 2]
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert list(each_shown("sending", [3, 1, 2])) == [3, 1, 2]
    out, shown = capsys.readouterr()
    assert out == ""
    assert "3/3" in shown


# Times of the index as commands print them.


@pytest.mark.parametrize("text", ["2026-11-22 21:26:38.424485", "2026-11-22T21:26:38+00:00"])
@pytest.mark.usefixtures("in_tokyo")
def test_a_time_of_the_index_is_shown_in_the_zone_of_this_machine(text: str) -> None:
    assert minute(text) == "2026-11-23 06:26 JST"
