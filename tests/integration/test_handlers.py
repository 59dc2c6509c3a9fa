"""`node.handlers` in a program that makes mistakes: started again after a failure, and closed more than once."""

import subprocess
import sys
from pathlib import Path

import pytest

import node
from node.errors import UsageError

PROGRAM = """
import os, socket, sys
import node

taken = socket.create_server(("127.0.0.1", 0))
try:
    node.handlers(sys.argv[1], {"web.enabled": True, "web.port": taken.getsockname()[1]}, create=True)
except Exception as error:
    print(type(error).__name__)
with node.handlers(sys.argv[1], create=True) as handlers:
    handlers.close()
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(64)]  # the numbers that the node gave back
for descriptor in opened:
    os.fstat(descriptor)
with node.handlers(sys.argv[1]):
    print("again")
"""


@pytest.mark.long
def test_handlers_give_the_root_back_once_and_after_a_failed_start(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path / "root"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line in ("UsageError", "again")] == ["UsageError", "again"]


def test_a_root_is_given_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"leave out the key"):
        node.handlers(tmp_path / "root", {"storage.root": tmp_path / "other"}, create=True)
    assert not (tmp_path / "root").exists()


def test_a_folder_that_is_no_root_is_refused_unless_one_is_to_be_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"typo is not a root.*create=True"):
        node.handlers(tmp_path / "typo")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("inside", ["", "root"])
def test_a_file_is_no_root(tmp_path: Path, inside: str) -> None:
    (file := tmp_path / "note.txt").write_text("kept")
    with pytest.raises(node.VoxelnodeError, match=r"cannot be a root: \S*note\.txt is not a folder"):
        node.handlers(file / inside, create=True)
    assert file.read_text() == "kept"


def test_a_wrong_key_is_reported_as_it_was_given(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r'^series.quiet_second: unknown key, did you mean "quiet_seconds"\?$'):
        node.handlers(tmp_path / "root", {"series.quiet_second": 30}, create=True)
