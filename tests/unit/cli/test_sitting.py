"""The temporary root of a sitting, and what a killed one has left."""

import os
import tempfile
from pathlib import Path

import pytest

from node.cli.run.serve import remove_left, temporary_root
from node.control.root import LOCK_FILE, locked_root


def test_a_folder_of_a_killed_process_is_removed_and_those_that_are_in_use_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    behind = tmp_path / "scans"
    behind.mkdir()
    (behind / "1.dcm").write_bytes(b"DICM")
    left, new, linked, own = (tmp_path / f"voxelnode-open-{name}" for name in ("left", "new", "linked", "source"))
    for folder in (left, new, own):
        folder.mkdir()
    for folder in (left, new):
        (folder / LOCK_FILE).touch()
    (left / "link").symlink_to(behind)
    linked.symlink_to(behind)
    with temporary_root("voxelnode-open-") as used, locked_root(used):
        for folder in (left, used, own):
            os.utime(folder, (0, 0))
        remove_left("voxelnode-open-")
        assert {path.name for path in tmp_path.iterdir()} == {path.name for path in (behind, new, linked, own, used)}
    assert {path.name for path in tmp_path.iterdir()} == {"scans", new.name, linked.name, own.name}
    assert [path.name for path in behind.iterdir()] == ["1.dcm"]
