"""Where the files of a revision lie: made in one step, removed when no row names them or they are superseded."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from node.durable import sync_file
from node.index.records import SupersededConversion

if TYPE_CHECKING:
    from node.archive.filesystem import Archive
    from node.index.database import Index


def revision_folder(study_instance_uid: str, series_instance_uid: str, revision: int) -> Path:
    """Where the files of a revision lie, counted from the root."""
    return Path("volumes", folder_name(study_instance_uid), folder_name(series_instance_uid), str(revision))


_UID = re.compile(r"[0-9]+(\.[0-9]+)*")


def folder_name(uid: str) -> str:
    """A folder name for a UID; one that is no UID of PS3.5 9.1 came over the network and becomes a digest."""
    if len(uid) <= 64 and _UID.fullmatch(uid):
        return uid
    return "uid-" + hashlib.sha256(uid.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def publish(folder: Path, place: Path, sync_folder: Callable[[Path], None]) -> None:
    """Move a finished folder to its place in one step, durably; what a crash left there without rows goes first."""
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for file in folder.iterdir():
        sync_file(file)
    for made in (folder, *place.parents[3::-1]):
        sync_folder(made)
    os.rename(folder, place)
    sync_folder(place.parent)


def remove_revision(archive: Archive, conversion: SupersededConversion) -> None:
    """Remove the files of a revision that is no longer current; that they are gone already is no error.

    Raises
    ------
    OSError
        They cannot be removed.
    """
    folder = revision_folder(conversion.study_instance_uid, conversion.series_instance_uid, conversion.revision)
    with suppress(FileNotFoundError):
        shutil.rmtree(archive.root / folder)


def sweep(archive: Archive, index: Index) -> int:
    """Remove work folders, and volume folders that no row names; returns how many. Runs before any conversion."""
    swept = list((archive.root / "work").glob("*"))
    live = {archive.root / revision_folder(*revision) for revision in index.conversions.live_revisions()}
    swept += [folder for folder in (archive.root / "volumes").glob("*/*/*") if folder not in live]
    for folder in swept:
        shutil.rmtree(folder, ignore_errors=True)
    return len(swept)
