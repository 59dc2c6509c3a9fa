"""Rights of others on a root are found and withdrawn, also beside a node that writes and removes."""

from pathlib import Path

from node.archive.root import make_private, open_to_others


def test_what_is_removed_while_rights_are_looked_at_is_passed_over(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).touch()
        (tmp_path / name).chmod(0o644)  # whatever the umask
    tmp_path.chmod(0o700)
    found = open_to_others(tmp_path)
    first = next(found)
    for path in tmp_path.iterdir():
        if path != first:
            path.unlink()
    assert list(found) == []


def test_rights_of_others_are_withdrawn_and_those_of_the_owner_stay(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "file").touch()
    for path, mode in ((tmp_path / "open", 0o755), (tmp_path / "open" / "file", 0o664)):
        path.chmod(mode)
    (tmp_path / "open" / "link").symlink_to("gone")
    make_private(tmp_path)
    assert list(open_to_others(tmp_path)) == []
    assert (tmp_path / "open").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "open" / "file").stat().st_mode & 0o777 == 0o600
