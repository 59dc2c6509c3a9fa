"""A disk that can be made to fail, and to forget what was never synced (see disk.c)."""

import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from node.archive.root import MARKER

SOURCE = Path(__file__).with_name("disk.c")
_RECORD = struct.Struct("=5Q")

Inode = tuple[int, int]
"""Number and time of birth: numbers are used again."""


def built(folder: Path) -> Path:
    """The library for LD_PRELOAD; the test is skipped where it cannot be built."""
    return compiled(SOURCE, folder)


def compiled(source: Path, folder: Path) -> Path:
    """A library for LD_PRELOAD; the test is skipped where it cannot be built."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip(f"no C compiler: {source.name} cannot be built")
    library = folder / f"{source.stem}.so"
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, source, "-ldl", "-lpthread"], check=True)
    return library


@dataclass(frozen=True, slots=True)
class Disk:
    """What a process must have in its environment to run on it."""

    library: Path
    root: Path  # what lies below it is on this disk
    log: Path
    control: Path

    @property
    def environment(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(self.library),
            "DISK_ROOT": str(self.root),
            "DISK_LOG": str(self.log),
            "DISK_CONTROL": str(self.control),
        }

    def fail(self, calls: str, error: int, part: str) -> None:
        """Make calls (of w, s, r, o, m, i: see disk.c) on paths that hold `part` fail from now on."""
        temporary = self.control.with_suffix(".new")
        temporary.symlink_to(f"{calls} {error} {part}")
        os.rename(temporary, self.control)

    def heal(self) -> None:
        """Let nothing fail any more."""
        self.control.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Sync:
    """One sync that succeeded: from then on this is what a power cut leaves of a file or a folder."""

    inode: Inode
    is_folder: bool
    began: float  # seconds, CLOCK_MONOTONIC
    payload: bytes

    def names(self) -> Iterator[tuple[Inode, bool, str]]:
        """(inode, whether it is a folder, name) of each entry of a folder."""
        for line in self.payload.decode().splitlines():
            number, birth, kind, name = line.split(" ", 3)
            yield (int(number), int(birth)), kind == "d", name


def syncs(log: Path) -> list[Sync]:
    """What was recorded, in its order; a last record that a kill cut short never was."""
    data, at, found = log.read_bytes(), 0, []
    while at + _RECORD.size <= len(data):
        kind, number, birth, began, length = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        if at + length > len(data):
            break
        found.append(Sync((number, birth), kind == ord("D"), began / 1e9, data[at : at + length]))
        at += length
    return found


def leave(done: list[Sync], top: Path, place: Path) -> None:
    """Write to `place` what a power cut after these syncs leaves of the folder `top`.

    The worst that a file system may do: nothing is kept but what a sync of the very file or folder has asked for.
    """
    durable = {sync.inode: sync for sync in done}
    _leave(_inode(top), durable, place)


def keep_marks(root: Path) -> None:
    """Let the marker of a root name the inodes of its folders: a power cut copies nothing."""
    marker = root / MARKER
    notes = [line.split(" ") for line in marker.read_text().splitlines()] if marker.exists() else []
    for note in notes[1:]:
        if (own := root / note[0] / MARKER).exists():
            note[1] = str(own.stat().st_ino)
    if notes:
        marker.write_text("".join(" ".join(note) + "\n" for note in notes))


def _leave(inode: Inode, durable: dict[Inode, Sync], place: Path) -> None:
    place.mkdir(exist_ok=True)
    folder = durable.get(inode)
    for entry, is_folder, name in folder.names() if folder is not None else ():
        if is_folder:
            _leave(entry, durable, place / name)
        else:
            (place / name).write_bytes(durable[entry].payload if entry in durable else b"")


def _inode(path: Path) -> Inode:
    """As disk.c tells it; Python's stat knows no time of birth."""
    reported = subprocess.run(["stat", "--format=%i %.9W", path], check=True, capture_output=True, text=True)
    number, birth = reported.stdout.split()
    seconds, _, fraction = birth.partition(".")
    return int(number), int(seconds) * 1_000_000_000 + int(fraction or 0)
