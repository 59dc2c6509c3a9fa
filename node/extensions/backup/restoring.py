"""Restore a backup: into a new root, or into the scratch root of a proof."""

import os
import shutil
import sqlite3
import stat
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path

from node.archive.intact import problem_with
from node.archive.root import mark_anew
from node.archive.space import free_bytes_of
from node.control.care import check_repository
from node.control.repository import Repository
from node.control.root import RootInUse
from node.errors import UsageError, VoxelnodeError, is_of_system, is_out_of_memory, sized
from node.extensions.backup.making import (
    COPIED,
    COPYING,
    INCOMING,
    LEFT_OUT,
    PROVING,
    RESTORING,
    has_backup,
    identity_of,
    settle,
    strange_in,
)
from node.files.acknowledged import FOLDER as LEDGER
from node.files.acknowledged import read_segment, segments
from node.files.durable import locked, make_folder, sync_file_system
from node.index.rows.place import FILE_NAME, IndexUnusable, schema_by, upgrade
from node.journal.inspection import inspect, records, segment_files
from node.lifecycle.fsck import Finding
from node.receive.aside import FOLDER as ASIDE
from node.receive.record import JOURNAL_FOLDER, Receipt, receipt
from node.receive.recovery import stored_instance
from node.runtime.failpoints import reached
from node.settings.model import Settings

TAKEN = "00000000"
"""Folder of `objects` for files that a damaged root had in quarantine."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What was compared and repaired; instances without a file; and what may be missing besides, in words."""

    findings: list[Finding]
    missing: int
    gaps: list[str]


def restore(settings: Settings, backup: Path, damaged: Path | None = None, *, force: bool = False) -> Restored:
    """Make the root of a backup, and repair it.

    `damaged`: the root that the backup was made of, or its ledger: what was acknowledged since the backup is taken from
    its journal, or noted as lost.

    Raises VoxelnodeError: there is no backup, the root is not empty, or has no room. Raises OSError.
    """
    with ExitStack() as held:
        last = _found(damaged, backup) if damaged is not None else None
        if last is not None:
            lock = locked(last, os.O_RDONLY | os.O_DIRECTORY)
            if lock is None:
                raise RootInUse(f"{last} is in use by another voxelnode process: stop it first")
            held.callback(os.close, lock)
        work = _copied(settings, backup, last and last / LEDGER)
        reached("restore-copied")
        storage = settings.storage.model_copy(update={"root": work})
        restored = _repaired(settings.model_copy(update={"storage": storage}), last, force=force)
    reached("restore-repaired")
    _publish(work)
    return restored


def _repaired(settings: Settings, last: Path | None, *, force: bool) -> Restored:
    """Repair a copy of a backup, and give it what was acknowledged `last`, or note that this may be missing."""
    root = settings.storage.root
    findings = check_repository(settings, digests=True, repair=True, force=force)
    unknown = None
    if last is None:
        unknown = "restored without the damaged root: what was acknowledged after the backup may be missing"
    elif segment_files(last / JOURNAL_FOLDER):
        # Not before: records that only the journal of the backup has are applied by now.
        _take_journal(last, root)
    else:
        unknown = f"{last} has no journal: what was acknowledged last, and is not in its ledger, may be missing"
    if last is not None:
        since = check_repository(settings, digests=False, repair=True, force=force)
        if _take_objects(settings, last):
            since = [one for one in since if one.kind != "instance-lost"]
            since += check_repository(settings, digests=False, repair=True, force=force)
        news = ("journal-waiting", "journal-damaged", "file-unknown", "instance-lost")
        findings = [one for one in findings if one.kind != "instance-lost"]
        findings += [one for one in since if one.kind in news]
    with Repository(settings) as repository:
        if unknown is not None:
            repository.index.lost.note_gap(unknown, repository.index.now())
        with repository.index.reading() as index:
            return Restored(findings, index.instances.count_damaged(), repository.index.lost.gaps())


def _publish(work: Path) -> None:
    """Move what was restored into its root. The index comes last: no node starts on a part of it."""
    root = work.parent
    sync_file_system(work)
    for name in sorted(os.listdir(work), key=lambda name: name == FILE_NAME):
        reached("restore-moving")
        os.rename(work / name, root / name)
    reached("restore-moved")
    work.rmdir()
    sync_file_system(root)


def _found(damaged: Path, backup: Path) -> Path:
    """Return the damaged root that a person named, by itself or by its ledger."""
    root = damaged.parent if damaged.name == LEDGER else damaged
    if not segments(root / LEDGER) and not segment_files(root / JOURNAL_FOLDER):
        raise UsageError(f"{damaged} has neither a ledger nor a journal: name the damaged root")
    known = {identity for place in (backup, root) if (identity := identity_of(place))}
    if len(known) > 1:
        raise UsageError(f"{root} is not the root of which {backup} is the backup: its ledger has another name")
    return root


def _take_journal(damaged: Path, root: Path) -> None:
    """Put the journal of a damaged root in the place of that of the backup, with the files that its records name."""
    journal = root / JOURNAL_FOLDER
    shutil.rmtree(journal, ignore_errors=True)
    shutil.copytree(damaged / JOURNAL_FOLDER, journal)
    for record in records(journal):
        its = receipt(record.facts)
        if its is not None and its.sha256 and not (root / its.key).exists():
            _take_file(damaged, root, its)
    mark_anew(root)
    sync_file_system(root)


def _take_file(damaged: Path, root: Path, its: Receipt) -> None:
    """Copy the file of a large instance, if it is whole: it was in `incoming` until its record was applied."""
    part = f"{INCOMING}/{Path(its.key).stem}.part"
    for path, target in ((part, part), (its.key, its.key), (f"{ASIDE}/{Path(its.key).name}", part)):
        if problem_with(damaged / path, its.data_set_offset, its.data_set_bytes, its.sha256) is None:
            make_folder((root / target).parent)
            shutil.copy2(damaged / path, root / target)
            return


def _take_objects(settings: Settings, damaged: Path) -> bool:
    """Copy those files of a damaged root that are instances which are lost otherwise; return whether there are any.

    Its index cannot be read: each file that the backup does not have is compared with the digests of the ledger. One
    that is in quarantine there becomes a file of the archive; if another version is current, the repair sets it aside.
    """
    root, taken = settings.storage.root, False
    with Repository(settings) as repository:
        lost = repository.index.lost.all()
        versions, now = {(one.sop_instance_uid, one.sha256) for one in lost}, repository.index.now()
    aside = f"{ASIDE}/*.dcm"
    for path in [*sorted(damaged.glob("objects/*/*")), *sorted(damaged.glob(aside))] if versions else ():
        key = str(path.relative_to(damaged))
        if (root / key).exists():
            continue
        try:
            attributes, file = stored_instance(damaged, key, now)
        except Exception as error:  # pydicom raises anything on damaged files
            if is_of_system(error) or is_out_of_memory(error):
                raise
            continue
        if (attributes.sop_instance_uid, file.sha256) in versions:
            target = root / (key if path.match("objects/*/*") else f"objects/{TAKEN}/{path.name}")
            make_folder(target.parent)
            shutil.copy2(path, target)
            taken = True
    sync_file_system(root)
    return taken


def _copied(settings: Settings, backup: Path, ledger: Path | None) -> Path:
    """Copy a backup into a folder of the root, which is new or empty; return that folder.

    `ledger`: in place of that of the backup.
    """
    root = settings.storage.root.absolute()
    if settings.index.url is not None or settings.storage.url is not None:
        raise UsageError(
            "a root with [index] url or [storage] url is not only in its folders: restore database and bucket, "
            "copy the folders, and run `voxelnode fsck --hash --repair` (docs/backup.md)"
        )
    if not has_backup(backup):
        raise UsageError(f"{backup} has no {FILE_NAME}: it is not the backup of a root, or not mounted")
    if root.resolve().is_relative_to(backup.resolve()):
        raise UsageError(f"{root} is inside the backup: name another folder with --root")
    _require_known(backup)
    if strange := strange_in(root):
        raise UsageError(f"{root} is not empty ({strange}): name a new folder with --root, or remove what is in it")
    make_folder(root)
    root.chmod(stat.S_IRWXU)
    work = root / RESTORING
    if work.exists():  # of a restore that was killed
        shutil.rmtree(work)
    require_room(backup, root, 0, "free some, or name a folder on another disk with --root")
    copy_backup(backup, work)
    if ledger is not None and segments(ledger):
        shutil.rmtree(work / LEDGER, ignore_errors=True)
        shutil.copytree(ledger, work / LEDGER)
        _cut_torn(work / LEDGER, ledger.parent / JOURNAL_FOLDER)
        mark_anew(work)
    return work


def _require_known(backup: Path) -> None:
    """Refuse a schema to which no upgrade of this version leads, before anything is copied."""
    index = next(path for path in (backup / COPIED / FILE_NAME, backup / FILE_NAME) if path.is_file())
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"{index.absolute().as_uri()}?immutable=1", uri=True)) as old:
        schema = schema_by(revision for (revision,) in old.execute("SELECT version_num FROM alembic_version"))
        if schema.is_final:
            raise IndexUnusable(f"{index}: {schema.trouble}")


def _cut_torn(ledger: Path, journal: Path) -> None:
    """Cut off the end of a ledger that a crash tore: its entries are in the journal."""
    state = inspect(journal)
    tail = read_segment(segments(ledger)[-1], lambda kind, body: None)
    if state.last > state.freed and not tail.is_sealed:
        os.truncate(tail.path, tail.whole)


def copy_backup(backup: Path, target: Path) -> None:
    """Copy a backup to a new folder, settle it there, and upgrade its index; the backup is only read."""

    def left_out(folder: str, names: list[str]) -> list[str]:
        is_top = Path(folder) == backup
        return [name for name in names if not _is_restored(Path(folder, name), is_top)]

    shutil.copytree(backup, target, symlinks=True, ignore=left_out)
    target.chmod(stat.S_IRWXU)  # as a root, whatever the mode of the backup
    settle(target)
    upgrade(target / FILE_NAME)
    mark_anew(target)


def _is_restored(path: Path, is_top: bool) -> bool:
    mode = os.lstat(path).st_mode
    if is_top and (path.name in LEFT_OUT or path.name.startswith((COPYING, PROVING))):
        return False
    # A link at the top may lead into the root itself.
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode) or (stat.S_ISLNK(mode) and not is_top)


def require_room(backup: Path, folder: Path, spare_bytes: int, remedy: str) -> None:
    """Raise VoxelnodeError if the disk of a folder has no room for a backup and this much beyond its size."""
    needed = spare_bytes + sum(
        found.st_size
        for inner, _, names in os.walk(backup)
        for name in names
        if stat.S_ISREG((found := os.lstat(f"{inner}/{name}")).st_mode)
    )
    if (free := free_bytes_of(folder)) < needed:
        raise VoxelnodeError(f"{folder} has {sized(free)} free, and {backup} needs {sized(needed)}: {remedy}")
