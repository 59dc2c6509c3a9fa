"""Nodes with one defence taken out, each by patching it from outside: the harness must find every one of them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from node.archive import filesystem
from node.archive.filesystem import Archive, PartFile
from node.control import repository
from node.conversion import volume_files
from node.index.instances import InstanceRepository
from node.index.records import Kept, Outcome
from node.index.series import SeriesRepository
from node.index.writer import IndexWriter, _Instance
from node.receive import ingest

real_sync_folder = filesystem.sync_folder


def _leave_out(folders: Callable[[Path, Path], bool]) -> None:
    """Let an archive pass over syncs of some of its folders."""
    real = Archive.sync_folder

    def sync_folder(self: Archive, folder: Path) -> None:
        if not folders(self.root, folder):
            real(self, folder)

    Archive.sync_folder = sync_folder  # type: ignore[method-assign]


def no_file_sync() -> None:
    """The bytes of an instance are not synced."""
    os.fdatasync = lambda descriptor: None  # type: ignore[assignment]


def no_folder_sync() -> None:
    """The name of an instance is not synced before its row is committed."""
    _leave_out(lambda root, folder: folder.parent == root / "objects")


def no_new_folder_sync() -> None:
    """The name of a new folder of the archive is not synced."""
    filesystem.sync_folder = lambda folder: None if folder.name == "objects" else real_sync_folder(folder)


def no_root_sync() -> None:
    """The names of the folders of a new root are not synced."""
    repository.make_folder = filesystem.make_folder = lambda folder: folder.mkdir(parents=True, exist_ok=True)


def no_commit_sync() -> None:
    """The database does not sync its log."""

    @event.listens_for(Engine, "begin")
    def on_begin(connection: Any) -> None:
        connection.exec_driver_sql("PRAGMA synchronous = OFF")


def no_quarantine_sync() -> None:
    """The place of bytes that lost is not synced."""
    _leave_out(lambda root, folder: folder == root / "quarantine")


def no_volume_sync() -> None:
    """The files of volumes are not synced."""
    volume_files.sync_file = lambda path: None


def no_volume_folder_sync() -> None:
    """The folders of volumes are not synced."""
    _leave_out(lambda root, folder: folder.is_relative_to(root / "work") or folder.is_relative_to(root / "volumes"))


def no_volumes_root_sync() -> None:
    """The name of the folder of all volumes is not synced."""
    _leave_out(lambda root, folder: folder == root)


def answer_before_commit() -> None:
    """Success is said once the file is durable, while its row still waits for the commit."""

    def add(self: IndexWriter, arrived: Any, folder: Path) -> Kept:
        from concurrent.futures import Future

        later = threading.Timer(0.05, self._put, [_Instance(arrived, folder, Future())])
        later.daemon = True
        later.start()
        return Kept(Outcome.STORED)

    IndexWriter.add = add  # type: ignore[method-assign]


def answer_before_keep() -> None:
    """Success is said while the file is still a part."""

    def keep(self: PartFile) -> tuple[str, Path]:
        key, folder = self._archive.place(self._name)
        later = threading.Timer(0.05, os.rename, [self._path, self._archive.path(key)])
        later.daemon = True
        later.start()
        return key, folder

    PartFile.keep = keep  # type: ignore[method-assign]


def resend_removes_both() -> None:
    """An instance that comes again takes the file of the first one with it."""
    real = ingest.settle

    def settle(archive: Archive, kept: Kept) -> None:
        real(archive, kept)
        if kept.remove is not None:
            newest = max((archive.root / "objects").glob("*/*.dcm"), key=lambda path: path.stat().st_mtime_ns)
            newest.unlink()

    ingest.settle = settle


def claims_stay() -> None:
    """Claims of a dead worker are not given back, neither at the start nor later."""
    SeriesRepository.release_all_claims = lambda self, now: 0  # type: ignore[method-assign]
    SeriesRepository.release_stalled_claims = lambda self, held, now: 0  # type: ignore[method-assign]


def parts_stay() -> None:
    """What was half received when the node died stays where it is."""
    Archive.sweep_incoming = lambda self: 0  # type: ignore[method-assign]


def strays_stay() -> None:
    """Files without a row are not looked for."""
    InstanceRepository.unknown_keys = lambda self, keys: []  # type: ignore[method-assign]


MUTANTS: dict[str, Callable[[], None]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        no_file_sync,
        no_folder_sync,
        no_new_folder_sync,
        no_root_sync,
        no_commit_sync,
        no_quarantine_sync,
        no_volume_sync,
        no_volume_folder_sync,
        no_volumes_root_sync,
        answer_before_commit,
        answer_before_keep,
        resend_removes_both,
        claims_stay,
        parts_stay,
        strays_stay,
    )
}

VARIABLE = "VOXELNODE_MUTANT"
"""Names the mutant for the converter's child, which imports this module as its main one."""

if __name__ == "__mp_main__":
    MUTANTS[os.environ[VARIABLE]]()
