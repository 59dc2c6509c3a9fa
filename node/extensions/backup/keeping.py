"""Which files of a backup stay, because those of the root are damaged: a bad file never takes the place of a good one.

What a file of an instance or a volume should be, the index says by its digest; a segment of the ledger says it by
itself. Other files have no digest: the backup has them as the root has them.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from node.archive.base import VOLUMES
from node.archive.intact import data_set_offset, problem_with
from node.files.acknowledged import FOLDER as LEDGER
from node.files.acknowledged import read_segment
from node.index.database.reading import ReadIndex, reading
from node.index.nouns.conversions import VolumeFile
from node.index.nouns.instance_files import HeldFile

DIGESTED = frozenset({"objects", "quarantine", VOLUMES, LEDGER})
"""The folders of a root whose files are compared before they replace those of a backup, or are removed from it."""

_MANY = 500
"""Keys in one query."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A file that the root lacks, or has otherwise than it should be, and that the backup keeps.

    `path`: relative to the root, and to the backup. `problem`: of the file of the root, in words.
    `is_instance`: it is the current version of an instance, which an import takes back. `is_whole`: the file of the
        backup is as it should be; else it stays only because there is no other.
    """

    path: str
    problem: str
    is_instance: bool
    is_whole: bool


def kept_copies(root: Path, backup: Path, copied: Path, replaced: Collection[str], gone: Collection[str]) -> list[Kept]:
    """Return the files of a backup that are to stay as they are.

    `copied`: where the copies of the files `replaced` are, which the backup has otherwise. `gone`: files that the
    backup has, and the root had not, before this is called. Rows go before their files: a row that is there now wants
    its file.
    """
    found = [*_kept_segments(backup, copied, replaced, gone)]
    wanted = _wanted(root, {*replaced, *gone})
    for path in sorted(wanted.keys() & gone):
        file = wanted[path]
        if not os.path.lexists(root / path) and not (isinstance(file, VolumeFile) and file.superseded):
            found.append(_kept(file, "is missing", _problem(backup / path, file)))
    for path in sorted(wanted.keys() & replaced):
        problem = _problem(copied / path, wanted[path])
        if problem is not None and _problem(backup / path, wanted[path]) is None:
            found.append(_kept(wanted[path], problem, None))
    return found


def _kept(file: HeldFile | VolumeFile, problem: str, problem_of_copy: str | None) -> Kept:
    return Kept(
        file.key, problem, isinstance(file, HeldFile) and file.data_set_offset is not None, problem_of_copy is None
    )


def _wanted(root: Path, paths: Collection[str]) -> Mapping[str, HeldFile | VolumeFile]:
    """Return which of these files rows want by now, with their digests."""
    wanted: dict[str, HeldFile | VolumeFile] = {}
    volumes = {path for path in paths if path.startswith(f"{VOLUMES}/")}
    keys = sorted(path for path in paths if not path.startswith((f"{VOLUMES}/", f"{LEDGER}/")))
    with reading(root) as index:
        for begin in range(0, len(keys), _MANY):
            for held in index.instances.wanted_files(keys[begin : begin + _MANY]):
                wanted.setdefault(held.key, held)
        wanted |= _wanted_volumes(index, volumes)
    return wanted


def _wanted_volumes(index: ReadIndex, paths: Collection[str]) -> dict[str, VolumeFile]:
    files = index.volumes.files() if paths else ()  # by their paths, no index of the table finds them
    return {file.path: file for file in files if file.path in paths and file.sha256}


def _problem(path: Path, file: HeldFile | VolumeFile) -> str | None:
    """Return how a file differs from what a row says, or None."""
    try:
        offset = file.data_set_offset
        offset = (data_set_offset(path) or 0) if offset is None else offset
        return problem_with(path, offset, file.bytes, file.sha256 or None)
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _kept_segments(backup: Path, copied: Path, replaced: Collection[str], gone: Collection[str]) -> Iterator[Kept]:
    """Yield the segments of the ledger that were sealed, and are damaged or missing in the root since."""
    for path in sorted({*replaced, *gone}):
        if not path.startswith(f"{LEDGER}/"):
            continue
        problem = "is missing" if path in gone else _problem_of_segment(copied / path)
        if problem is not None and _problem_of_segment(backup / path) is None:
            yield Kept(path, problem, is_instance=False, is_whole=True)


def _problem_of_segment(path: Path) -> str | None:
    segment = read_segment(path, lambda kind, body: None)
    return segment.problem if segment.is_sealed else "has no seal"
