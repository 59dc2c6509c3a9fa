"""Which reads compare a digest again."""

import hashlib
import os
from pathlib import Path

import pytest

from node.receive import stored_files
from node.receive.stored_files import LONG_BYTES, RecentlyVerified


@pytest.mark.parametrize(
    ("length", "looks_unchanged", "seen"),
    [(LONG_BYTES, True, True), (LONG_BYTES + 1, True, False), (LONG_BYTES + 1, False, True)],
)
def test_a_long_file_that_looks_unchanged_is_compared_again_after_some_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int, looks_unchanged: bool, seen: bool
) -> None:
    path, content = tmp_path / "file", bytes(length)
    path.write_bytes(content)
    sha256, verified = hashlib.sha256(content).hexdigest(), RecentlyVerified()
    assert verified.problem_with(path, 0, length, sha256) is None
    stat = path.stat()
    path.write_bytes(b"\x01" + content[1:])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns if looks_unchanged else 0))
    assert (verified.problem_with(path, 0, length, sha256) is not None) is seen
    monkeypatch.setattr(stored_files, "VERIFIED_SECONDS", 0.0)
    assert verified.problem_with(path, 0, length, sha256) is not None
    path.unlink()
    assert verified.problem_with(path, 0, length, sha256) == "is missing"
