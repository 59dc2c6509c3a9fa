"""Tables of differences."""

from node.cli.output import MAX_OF_A_KIND, first_of_each_kind


def test_a_missing_folder_is_not_a_line_for_each_of_its_files() -> None:
    missing = [{"kind": "file-missing", "path": str(number)} for number in range(709)]
    other = {"kind": "file-altered", "path": "x"}
    first, more = first_of_each_kind([*missing, other])
    assert first == [*missing[:MAX_OF_A_KIND], other]
    assert more == ["and 689 more file-missing; --tsv lists all"]
    assert first_of_each_kind([other]) == ([other], [])
