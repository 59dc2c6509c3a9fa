"""File systems whose locks do not work are refused."""

import errno
import fcntl
from pathlib import Path
from unittest.mock import Mock

import pytest

from node.archive.root import file_system, lock_problem, make_private, open_to_others
from node.control.repository import Repository
from node.control.root import LocksUnusable
from tests.ingest import settings_of


def mounted(tmp_path: Path, kind: str, options: str) -> Path:
    """A list of mounts as in /proc/self/mountinfo, with this folder on a file system of its own."""
    table = tmp_path / "mountinfo"
    point = str(tmp_path / "a root").replace(" ", "\\040")
    table.write_text(
        "22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n"
        f"23 22 0:21 / {point} rw,relatime shared:7 - {kind} server:/export {options}\n"
    )
    (tmp_path / "a root").mkdir(exist_ok=True)
    return table


def test_the_file_system_of_a_folder_is_the_innermost_mount(tmp_path: Path) -> None:
    table = mounted(tmp_path, "nfs4", "rw,vers=4.2,local_lock=none")
    assert file_system(tmp_path / "a root" / "below", table)[0] == "nfs4"
    assert file_system(tmp_path, table)[0] == "ext4"
    assert file_system(tmp_path, tmp_path / "nowhere") == ("", frozenset())


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("nfs", "rw,nolock,local_lock=all", "local_lock=all, nolock"),
        ("cifs", "rw,nobrl", "nobrl"),
        ("fuse.sshfs", "rw", "without locks"),
        ("nfs4", "rw,local_lock=none", None),
        ("ext4", "rw", None),
    ],
)
def test_a_network_file_system_whose_locks_reach_no_other_machine_is_refused(
    tmp_path: Path, kind: str, options: str, said: str | None
) -> None:
    problem = lock_problem(tmp_path / "a root", mounted(tmp_path, kind, options))
    assert (problem is None) if said is None else (problem is not None and kind in problem and said in problem)


@pytest.mark.parametrize("call", ["flock", "fcntl"])
def test_a_root_that_takes_no_lock_is_refused(tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, call, Mock(side_effect=OSError(errno.ENOLCK, "No locks available")))
    with pytest.raises(LocksUnusable, match=r"without locks \(No locks available\).*use a local disk"):
        Repository(settings_of(tmp_path))


@pytest.mark.parametrize("call", ["flock", "fcntl"])
def test_locks_that_everybody_gets_are_none(tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, call, lambda *arguments: 0)
    assert "exclude nobody" in str(lock_problem(tmp_path))


# Rights of others on a root are found and withdrawn, also beside a node that writes and removes.


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
