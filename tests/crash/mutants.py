"""Nodes with one defence taken out, each by patching it from outside: the harness must find every one of them."""

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, event

from node.archive import filesystem, intake
from node.archive.filesystem import Archive
from node.control import repository
from node.conversion import volume_files
from node.files.acknowledged import Acknowledged
from node.index.rows.about_keys import AppliedPosition
from node.index.rows.records import Indexed
from node.index.rows.repositories import set_applied
from node.index.rules.intake.instances import InstanceRepository
from node.index.rules.series.claims import SeriesRepository
from node.journal import journal, segment
from node.journal.journal import Journal
from node.receive import apply
from node.receive.accounting import Checkpoint, Replayed
from node.receive.apply import Applier
from tests.crash.operators_mutants import OPERATORS_MUTANTS, mutants_of

real_sync_folder = filesystem.sync_folder


def _leave_out(folders: Callable[[Path, Path], bool]) -> None:
    """Let an archive pass over syncs of some of its folders; it names them by descriptors."""
    real = Archive.sync_folder

    def sync_folder(self: Archive, folder: Path) -> None:
        if not folders(self.root, folder.resolve()):
            real(self, folder)

    Archive.sync_folder = sync_folder  # type: ignore[method-assign]


def _leave_out_of_archive(folders: Callable[[Path], bool]) -> None:
    """Let the archive pass over syncs of some folders for instances."""
    filesystem.sync_folder = lambda folder: None if folders(folder.resolve()) else real_sync_folder(folder)


def no_journal_sync() -> None:
    """The records of the journal are not synced."""
    segment.sync_data = lambda file: None


def no_part_sync() -> None:
    """The bytes of a large instance are not synced."""
    intake.sync_data = lambda file: None


def no_part_folder_sync() -> None:
    """The name of a part file is not synced before its record."""
    _leave_out_of_archive(lambda folder: folder.name == "incoming")


def no_file_sync() -> None:
    """A checkpoint syncs folders, but no files."""
    filesystem.sync_file = lambda path: None


def no_folder_sync() -> None:
    """A checkpoint syncs files, but not their names."""
    _leave_out_of_archive(lambda folder: folder.parent.name == "objects")


def no_new_folder_sync() -> None:
    """The name of a new folder of the archive is not synced."""
    _leave_out_of_archive(lambda folder: folder.name == "objects")


def no_root_sync() -> None:
    """The names of the folders of a new root are not synced."""

    def make_folder(folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)

    repository.make_folder = filesystem.make_folder = journal.make_folder = make_folder


def no_new_segment_sync() -> None:
    """The name of a new segment is not synced, neither by itself nor with the mark."""
    journal.sync_folder = lambda folder: None
    journal.write_durably = lambda path, content: path.write_bytes(content)


def no_commit_sync() -> None:
    """The database does not sync its log."""

    @event.listens_for(Engine, "begin")
    def on_begin(connection: Any) -> None:
        connection.exec_driver_sql("PRAGMA synchronous = OFF")


def no_archive_sync() -> None:
    """A checkpoint syncs nothing of the archive."""
    Archive.sync = lambda self, keys: None  # type: ignore[method-assign]


def no_sync_of_other_disks() -> None:
    """A checkpoint syncs the disk of the root, although instances may be on another one."""
    real = filesystem.sync_file_system
    filesystem.sync_file_system = lambda folder: real(folder.parent.parent)


def mark_before_sync() -> None:
    """A checkpoint moves the mark of the journal first."""
    real = Applier.checkpoint

    def checkpoint(self: Applier) -> None:
        if self._applied > self._journal.freed:
            freed, self._journal.freed = self._journal.freed, self._applied
            self._journal.free(self._applied)
            self._journal.freed = freed
        real(self)

    Applier.checkpoint = checkpoint  # type: ignore[method-assign]


def reuse_before_checkpoint() -> None:
    """Segments are written over as soon as their records are applied."""
    Applier.checkpoint = lambda self: self._journal._release(self._applied)  # type: ignore[method-assign]


def old_name_goes_first() -> None:
    """That a part file was moved is synced where it was before it is synced where it is."""
    Archive.sync_parts = lambda self: filesystem.sync_folder(self._incoming)  # type: ignore[method-assign]


def answer_before_append() -> None:
    """Success is said while the record still waits to be written."""
    real = Journal.append

    def append(self: Journal, facts: bytes, *payload: bytes, known: object = None) -> int:
        later = threading.Timer(0.05, real, [self, facts, *payload], {"known": known})
        later.daemon = True
        later.start()
        return self.last + 1

    Journal.append = append  # type: ignore[method-assign]


def no_replay() -> None:
    """A start reads the journal, and applies nothing of it."""

    def replay(self: Applier) -> Replayed:
        for _ in self._journal.replay():
            pass
        self._applied, self._cursor = self._journal.last, self._journal.start
        return Replayed()

    Applier.replay = replay  # type: ignore[method-assign]


def no_comparison() -> None:
    """A start does not compare the files of the records that were applied."""
    Checkpoint._restore = lambda self, records: 0  # type: ignore[method-assign]


def applied_before_rows() -> None:
    """That records are applied is committed before their rows."""
    real = InstanceRepository.add

    def add(self: Any, batch: Any, applied: AppliedPosition | None = None, *more: Any, **options: Any) -> list[Indexed]:
        def write(connection: Connection) -> None:
            if applied is not None:
                set_applied(connection, applied)

        self._writer.run(write)
        return real(self, batch, applied, *more, **options)

    InstanceRepository.add = add  # type: ignore[method-assign]


def no_volume_sync() -> None:
    """The files of volumes are not synced."""
    volume_files.sync_file = lambda path: None


def no_volume_folder_sync() -> None:
    """The folders of volumes are not synced."""
    _leave_out(lambda root, folder: folder.is_relative_to(root / "work") or folder.is_relative_to(root / "volumes"))


def resend_removes_both() -> None:
    """An instance that comes again takes the file of the first one with it."""
    real = apply.clear

    def clear(archive: Archive, kept: Indexed) -> None:
        real(archive, kept)
        if kept.remove is not None:
            newest = max((archive.root / "objects").glob("*/*.dcm"), key=lambda path: path.stat().st_mtime_ns)
            newest.unlink()

    apply.clear = clear


def claims_stay() -> None:
    """Claims of a dead worker are not given back, neither at the start nor later."""
    SeriesRepository.release_all_claims = lambda self, now: 0  # type: ignore[method-assign]
    SeriesRepository.release_stalled_claims = lambda self, held, now: 0  # type: ignore[method-assign]


def published_stay() -> None:
    """What a dead worker published and did not record stays."""
    volume_files.write_durably = lambda path, content: None


def parts_stay() -> None:
    """What was half received when the node died stays where it is."""
    Archive.sweep_incoming = lambda self, note: 0  # type: ignore[method-assign]


def strays_stay() -> None:
    """Files without a row are not looked for."""
    InstanceRepository.unknown_keys = lambda self, keys: []  # type: ignore[method-assign]


def ledger_is_not_written() -> None:
    """A checkpoint frees the journal of what no ledger names."""
    Checkpoint._list = lambda self, unlisted: None  # type: ignore[method-assign]


def ledger_is_one_checkpoint_late() -> None:
    """A checkpoint frees the journal, and the ledger gets what was applied with the next one."""
    real, late = Checkpoint._list, []

    def list_late(self: Checkpoint, unlisted: Sequence[Acknowledged]) -> None:
        real(self, late)
        late[:] = unlisted

    Checkpoint._list = list_late  # type: ignore[method-assign]


MUTANTS = OPERATORS_MUTANTS | mutants_of(vars())

VARIABLE = "VOXELNODE_MUTANT"
"""Names the mutant for the converter's child, which imports this module as its main one."""

if __name__ == "__mp_main__":
    MUTANTS[os.environ[VARIABLE]]()
