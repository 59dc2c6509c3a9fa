"""Which reads compare a digest again."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from time import time

import pytest

from node.receive import stored_files
from node.receive.stored_files import REST_SECONDS, RecentlyVerified

CONTENT = bytes(4096)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(CONTENT)
    return tmp_path / "file"


def in_place(path: Path) -> None:
    path.write_bytes(b"\x01" + CONTENT[1:])


def by_another(path: Path) -> None:
    in_place(path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


@pytest.mark.parametrize("change", [in_place, by_another])
def test_a_change_that_puts_the_times_of_a_file_back_is_seen(
    path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    monkeypatch.setattr(stored_files, "REST_SECONDS", 0.0)
    verified, stat = RecentlyVerified(), path.stat()
    assert verified.problem_with(path, 0, len(CONTENT), SHA256) is None
    assert verified.knows(stat, SHA256)
    assert not verified.knows(stat, "another")
    change(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert verified.problem_with(path, 0, len(CONTENT), SHA256) is not None
    path.unlink()
    assert verified.problem_with(path, 0, len(CONTENT), SHA256) == "is missing"


def test_a_file_is_compared_again_after_some_minutes_and_one_that_has_just_changed_at_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified, stat = RecentlyVerified(), path.stat()
    verified.note(stat, SHA256)
    assert not verified.knows(stat, SHA256)
    monkeypatch.setattr(stored_files, "time", lambda: time() + REST_SECONDS)
    verified.note(stat, SHA256)
    assert verified.knows(stat, SHA256)
    monkeypatch.setattr(stored_files, "VERIFIED_SECONDS", 0.0)
    assert not verified.knows(stat, SHA256)
