"""Small file systems, mounted for a test and filled by other programs than the node."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest


def mount_small(place: Path, options: str) -> bool:
    """Mount a file system at an empty folder; False where that is not allowed (it needs root)."""
    command = ["mount", "-t", "tmpfs", "-o", options, "none", place]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextmanager
def mounted(place: Path, options: str) -> Iterator[None]:
    """Mount a file system at an empty folder for as long; the test is skipped where that is not allowed."""
    if not mount_small(place, options):
        pytest.skip("mounting a file system needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def another_disk(folder: Path, stack: ExitStack) -> Path:
    """Make a folder on another disk than that of an existing folder; the test is skipped where there is none."""
    places = [Path("/dev/shm"), Path("/var/tmp"), Path.cwd()]
    elsewhere = [place for place in places if place.is_dir() and place.stat().st_dev != folder.stat().st_dev]
    if not elsewhere:
        pytest.skip("this machine has one disk only")
    return Path(stack.enter_context(TemporaryDirectory(dir=elsewhere[0])))


def link_to_another_disk(path: Path, stack: ExitStack) -> None:
    """Let a folder that is not there yet be a link to another disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(another_disk(path.parent, stack))


def fill(ballast: Path) -> None:
    """Write a file until the disk has no byte left."""
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass


def use_inodes(folder: Path) -> None:
    """Make files until the disk has no inode left."""
    folder.mkdir()
    with suppress(OSError):
        for number in range(1_000_000):
            (folder / str(number)).touch()
