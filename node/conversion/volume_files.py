"""Folders of revisions: each is published by one rename, and removed once it is superseded or no row names it."""

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
    """Return the folder of the files of a revision, relative to the root."""
    return Path("volumes", folder_name(study_instance_uid), folder_name(series_instance_uid), str(revision))


_UID = re.compile(r"[0-9]+(\.[0-9]+)*")


def folder_name(uid: str) -> str:
    """Return a folder name for a UID: the UID itself, or a digest if the UID is invalid (PS3.5 9.1)."""
    if len(uid) <= 64 and _UID.fullmatch(uid):
        return uid
    return "uid-" + hashlib.sha256(uid.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def publish(folder: Path, destination: Path, sync_folder: Callable[[Path], None]) -> None:
    """Move a finished folder to its destination by one durable rename; replace any folder left there by a crash.

    Files and folders are synced before the rename: after a power failure, the destination is absent or complete.
    """
    shutil.rmtree(destination, ignore_errors=True)
    destination.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for file in folder.iterdir():
        sync_file(file)
    for changed in (folder, *destination.parents[3::-1]):
        sync_folder(changed)
    os.rename(folder, destination)
    sync_folder(destination.parent)


def remove_revision(archive: Archive, conversion: SupersededConversion) -> None:
    """Remove the files of a revision that is no longer current, if there are any.

    Raises
    ------
    OSError
        The files cannot be removed.
    """
    folder = revision_folder(conversion.study_instance_uid, conversion.series_instance_uid, conversion.revision)
    with suppress(FileNotFoundError):
        shutil.rmtree(archive.root / folder)


def sweep(archive: Archive, index: Index) -> int:
    """Remove work folders, and volume folders that no row names; return their number. Runs before any conversion."""
    orphans = list((archive.root / "work").glob("*"))
    live = {archive.root / revision_folder(*revision) for revision in index.conversions.live_revisions()}
    orphans += [folder for folder in (archive.root / "volumes").glob("*/*/*") if folder not in live]
    for folder in orphans:
        shutil.rmtree(folder, ignore_errors=True)
    return len(orphans)
