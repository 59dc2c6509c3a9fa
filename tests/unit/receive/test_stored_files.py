"""Which reads compare a digest again."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from node.receive import stored_files
from node.receive.stored_files import LONG_BYTES, RecentlyVerified


@pytest.mark.parametrize(("length", "seen"), [(LONG_BYTES, True), (LONG_BYTES + 1, False)])
def test_a_long_file_that_looks_unchanged_is_compared_again_after_some_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int, seen: bool
) -> None:
    path, content = tmp_path / "file", bytes(length)
    path.write_bytes(content)
    sha256, verified = hashlib.sha256(content).hexdigest(), RecentlyVerified()
    assert verified.problem_with(path, 0, length, sha256) is None
    stat = path.stat()
    path.write_bytes(b"\x01" + content[1:])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (verified.problem_with(path, 0, length, sha256) is not None) is seen
    monkeypatch.setattr(stored_files, "VERIFIED_SECONDS", 0.0)
    assert verified.problem_with(path, 0, length, sha256) is not None


def test_a_long_file_that_was_written_again_is_compared_at_once(tmp_path: Path) -> None:
    length = LONG_BYTES + 1
    path, content = tmp_path / "file", bytes(length)
    path.write_bytes(content)
    sha256, verified = hashlib.sha256(content).hexdigest(), RecentlyVerified()
    assert verified.problem_with(path, 0, length, sha256) is None
    path.write_bytes(b"\x01" + content[1:])
    os.utime(path, (0, 0))
    assert verified.problem_with(path, 0, length, sha256) is not None
    path.unlink()
    assert verified.problem_with(path, 0, length, sha256) == "is missing"
