"""Recover from a process that crashed, at each start and before the node listens.

The journal was applied before (`node.receive.apply`), so that every acknowledged instance has its file and its row.
Part files that are left belong to no record of it, and go to quarantine; unfinished ones are deleted. Rows without a
file are marked. Then files without a row are adopted, or quarantined if they cannot be read; the claims of the dead
process are released. On a root without an index, the same steps make a new index from files and journal alone. If the
process dies here, the next start repeats the steps.

The index may be older than the archive: a copy of it was restored. A file without a row may then be the only copy of an
instance whose row names a file that is gone. What is missing is therefore marked first, and the file of a row is read
before a file without a row counts as a repetition of it (`node.receive.stored_files`).
"""

import datetime as dt
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Any

import structlog

from node.archive.filesystem import Archive
from node.archive.intact import MISSING, problem_with
from node.dicom.attributes import InstanceAttributes
from node.dicom.encoding import META_BYTES, file_meta
from node.dicom.walker import HeaderCut
from node.errors import NotUnderstood
from node.files.durable import make_folder
from node.files.heads import attributes_of, head_of
from node.index.database import Index
from node.index.rows.about_keys import SWEPT_FOLDER
from node.index.rows.models.levels import STORE
from node.index.rows.records import Indexed, InstanceFile, Outcome, Received, StoredFile
from node.index.rules.intake.instances import NotIndexable
from node.receive.apply import MAX_BATCH, clear
from node.receive.stored_files import compared, report_damage
from node.runtime.failpoints import reached

log = structlog.get_logger()

ADOPTED = "adopted"
IN_PLACE = "adopted in place of a missing file"
OTHER_BYTES = "to quarantine: the instance has other bytes in the index"
SECOND_VERSION = "kept as a second version"
RETURNED = "moved back from quarantine"
COPIED = "copied from another file with the same bytes"


@dataclass(frozen=True, slots=True)
class Recovered:
    """Numbers of recovered files, and by key the fate of those that were not simply adopted."""

    parts: int
    adopted: int
    quarantined: int
    missing: int
    claims: int
    fates: Mapping[str, str]


def recover(
    archive: Archive,
    index: Index,
    quiet_seconds: Callable[[str], float],
    now: dt.datetime,
    marked: Mapping[str, set[str]] = MappingProxyType({}),
    *,
    everything: bool = False,
    lengths: bool = False,
    digests: bool = False,
) -> Recovered:
    """Make archive and index agree again, after `Applier.replay`; return the repairs.

    Compares the folders of this host that no earlier start has compared, because older folders never grow; all of them
    if one of these is gone. The rows name them, whatever is on the disk.

    `marked`: what `mark_all_missing` returned: these folders were compared as well. `everything`: compare all folders,
    with the lengths of the files. `lengths`: compare those in any case: the process before did not end by itself, and a
    disk may have kept names without bytes. `digests`: read the files.
    """

    def list_part(key: str) -> None:
        log.warning("part_set_aside", path=key)
        index.instances.set_aside("received, and in no record of the journal", key, None, now)

    parts = archive.sweep_incoming(list_part)
    reached("parts-swept")
    quarantine_losers(archive, index, now)
    unread: list[str] = []  # folders with files that cannot be read now: the next start compares them again
    note = f"{SWEPT_FOLDER}{archive.suffix}"
    compared, _, count = (index.about.get(note) or "").partition(" ")
    there = archive.folders()
    if everything or (archive.remote is None and sum(folder <= compared for folder in there) < int(count or 0)):
        compared = ""
    named = index.instances.folders(compared)
    folders = sorted({one for one in (*there, *named) if archive.is_own(one) and one >= compared})
    gone = dict(marked)
    for folder in folders:
        gone[folder] = gone.get(folder, set()) | mark_missing(archive, index, folder, now)
        if lengths or digests or everything:
            _report_damaged(archive, index, folder, now, digests=digests)
    adopted = quarantined = missing = 0
    fates: dict[str, str] = {}
    for folder in folders:
        strays = without_deleted(archive, index, index.instances.unknown_keys(archive.keys(folder)))
        of_folder = adopt(archive, index, strays, quiet_seconds, now)
        adopted += sum(fate in (ADOPTED, IN_PLACE) for fate in of_folder.values())
        quarantined += sum(fate.startswith("to quarantine") for fate in of_folder.values())
        if len(of_folder) < len(strays):
            unread.append(folder)
        fates |= {key: fate for key, fate in of_folder.items() if fate != ADOPTED}
    for folder, keys in gone.items():
        fates |= return_from_quarantine(archive, index, folder, now)
        rows = index.instances.files(f"objects/{folder}") if keys else []
        missing += sum(row.file_missing and row.key in keys for row in rows)
    reached("files-compared")
    if folders:
        compared = min([*unread, folders[-1]])
        index.about.set(note, f"{compared} {sum(folder <= compared for folder in archive.folders())}")
    claims = index.series.release_all_claims(now)
    reached("claims-released")
    log.info("recovered", parts=parts, adopted=adopted, quarantined=quarantined, missing=missing, claims=claims)
    return Recovered(parts, adopted, quarantined, missing, claims, fates)


def adopt(
    archive: Archive,
    index: Index,
    keys: Sequence[str],
    quiet_seconds: Callable[[str], float],
    now: dt.datetime,
    facts: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> dict[str, str]:
    """Index files that have no row; quarantine those that are no DICOM.

    The older of two files comes first. No file replaces another file of its SOP Instance UID that can be read, whatever
    the policy for received instances is: it was not acknowledged.

    `facts`: how instances came, as far as more than their file tells it, by key.

    Returns what became of each file, in words. A file that cannot be read now is not in it, and stays where it is.
    """
    fates: dict[str, str] = {}
    readable: list[Received] = []
    for key in sorted(keys):
        try:
            attributes, file = stored_instance(archive.root, key, now)
        except (NotUnderstood, HeaderCut, AttributeError, ValueError, EOFError):
            archive.quarantine(key)
            fates[key] = "to quarantine: it is not a DICOM file that can be read"
        except OSError as error:  # it says nothing about the bytes: the file stays
            log.error("file_unreadable", path=key, reason=error.strerror)
        else:
            file = replace(file, place=archive.place_of_new, **facts.get(key, {}))
            head = partial(head_of, archive.path(key), file.data_set_offset, file.transfer_syntax_uid)
            readable.append(Received(attributes, file, quiet_seconds(file.calling_ae_title), head=head))
    readable.sort(key=lambda one: one.file.received_at)
    for begin in range(0, len(readable), MAX_BATCH):
        fates |= _indexed(archive, index, readable[begin : begin + MAX_BATCH])
    return fates


def without_deleted(archive: Archive, index: Index, keys: Sequence[str]) -> list[str]:
    """Remove those of `keys` that another host has deleted while this one was away; return the others."""
    deleted = index.deletions.deleted_by_others(keys)
    for key in deleted:
        archive.remove(key)
    return [key for key in keys if key not in deleted]


def _indexed(archive: Archive, index: Index, batch: Sequence[Received]) -> dict[str, str]:
    """Index files; quarantine those whose rows cannot be written."""
    try:
        indexed = index.instances.add(batch, compare=partial(compared, archive, index, batch))
    except NotIndexable as error:
        if len(batch) > 1:
            return {key: fate for one in batch for key, fate in _indexed(archive, index, [one]).items()}
        archive.quarantine(batch[0].file.key)
        return {batch[0].file.key: f"to quarantine: {error}"}
    fates = {}
    for stray, done in zip(batch, indexed, strict=True):
        clear(archive, done)
        fates[stray.file.key] = _fate(done)
        reached("file-adopted")
    return fates


def _fate(indexed: Indexed) -> str:
    """Return the fate of a file without a row, in words."""
    if indexed.remove is not None:
        return f"removed: {indexed.repeats} has the same bytes"
    if indexed.quarantine is not None and indexed.outcome is not Outcome.STORED:
        return OTHER_BYTES
    if indexed.restored is not None:
        return IN_PLACE
    return ADOPTED if indexed.outcome is Outcome.STORED else SECOND_VERSION


def mark_missing(archive: Archive, index: Index, folder: str, now: dt.datetime) -> set[str]:
    """Mark the rows whose file is missing, unmark those whose file is back; return the keys that were marked."""
    there = set(archive.keys(folder))
    rows = index.instances.files(f"objects/{folder}")
    back = [row.key for row in rows if row.file_missing and row.key in there and _is_whole(archive, row, row.key)]
    if back:
        index.instances.mark_files(back, missing=False, now=now)
    gone = [
        row.key
        for row in rows
        if not (row.file_missing or row.key in there or row.place == STORE or index.sharing.is_away(row.holder))
    ]
    if gone:
        log.error("files_missing", folder=folder, count=len(gone))
        index.instances.mark_files(gone, missing=True, now=now)
    return set(gone)


def _report_damaged(archive: Archive, index: Index, folder: str, now: dt.datetime, *, digests: bool) -> None:
    """Mark the rows whose files here have another length than what was received, or another digest."""
    for row in index.instances.files(f"objects/{folder}"):
        if row.file_missing:
            continue
        sha256 = row.sha256 if digests else None
        try:
            problem = problem_with(archive.path(row.key), row.data_set_offset, row.bytes, sha256)
        except OSError as error:  # it says nothing about the bytes
            log.error("file_unreadable", path=row.key, reason=error.strerror)
            continue
        if problem not in (None, MISSING):
            report_damage(archive, index, row.key, problem, now)


def mark_all_missing(archive: Archive, index: Index, now: dt.datetime) -> dict[str, set[str]]:
    """Do `mark_missing` in every folder that exists or that a row names, and return the marked keys of each.

    For an index that is older than the archive, before the journal is applied.
    """
    folders = sorted({*archive.folders(), *filter(archive.is_own, index.instances.folders())})
    return {folder: mark_missing(archive, index, folder, now) for folder in folders}


def return_from_quarantine(archive: Archive, index: Index, folder: str, now: dt.datetime) -> dict[str, str]:
    """Give files back that rows miss in a folder and that quarantine has whole; return their fates by key.

    In a copy that was made while an instance was replaced, quarantine may have the file that the copied row names, or,
    if the file was removed because its bytes were there already, another one with the same bytes.
    """
    fates = {}
    for row in index.instances.files(f"objects/{folder}"):
        if not row.file_missing:
            continue
        aside = archive.quarantine_key(row.key)
        is_named = bool(index.instances.named_keys([aside]))
        candidates = [held.key for held in index.instances.held([row.sop_instance_uid]) if held.sha256 == row.sha256]
        for key in [*([] if is_named else [aside]), *candidates]:
            if not _is_whole(archive, row, key):
                continue
            make_folder(archive.path(row.key).parent)
            is_moved = key == aside and not is_named
            if is_moved:
                archive.move(key, row.key)
            else:  # it stays: its own row names it
                archive.write(row.key, archive.path(key).read_bytes())
                archive.sync([row.key])
            index.instances.mark_files([row.key], missing=False, now=now)
            fates[row.key] = RETURNED if is_moved else COPIED
            break
    return fates


def _is_gone(path: Path) -> bool:
    try:
        return problem_with(path, 0, None, None) == MISSING
    except OSError:  # it cannot be read now
        return False


def _is_whole(archive: Archive, row: InstanceFile, key: str) -> bool:
    try:
        return problem_with(archive.path(key), row.data_set_offset, row.bytes, row.sha256) is None
    except OSError:
        return False


def record_quarantined(archive: Archive, index: Index, now: dt.datetime) -> None:
    """Record the instances in quarantine that no row names, so that a deletion finds them.

    For a new index, or an older one: which of them lost against which other file is not known.
    """
    for found in not_named(archive.root, index.instances.loser_keys(), now):
        index.instances.record_quarantined(found)


def not_named(root: Path, named: set[str], now: dt.datetime) -> Iterator[Received]:
    """Yield the instances in quarantine whose keys are not among `named`; the instance of any other file is unknown."""
    for path in sorted((root / "quarantine").glob("*.dcm")):
        if (key := f"quarantine/{path.name}") in named:
            continue
        try:
            attributes, file = stored_instance(root, key, now)
        except (NotUnderstood, HeaderCut, AttributeError, ValueError, EOFError, OSError) as error:
            log.warning("quarantined_file_not_read", path=key, error=type(error).__name__)
            continue
        yield Received(attributes, file, 0.0)


def stored_instance(root: Path, key: str, now: dt.datetime) -> tuple[InstanceAttributes, StoredFile]:
    """Return the rows of a file from the file alone; the time of its last change counts as received."""
    path = root / key
    with path.open("rb") as file:
        meta, offset = file_meta(file.read(META_BYTES))
        if not meta.get(0x0010):
            raise NotUnderstood("the file does not name its transfer syntax (0002,0010)")
        file.seek(offset)
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    written_at = dt.datetime.fromtimestamp(path.stat().st_mtime, dt.UTC)
    return attributes_of(path, offset, meta[0x0010]), StoredFile(
        key=key,
        quarantine_key=f"quarantine/{path.name}",
        bytes=path.stat().st_size - offset,
        sha256=sha256,
        data_set_offset=offset,
        transfer_syntax_uid=meta[0x0010],
        source="recovered",
        calling_ae_title=meta.get(0x0016, "").strip(),
        called_ae_title="",
        peer="",
        received_at=min(written_at, now),  # the clock may have been set back since
    )


def quarantine_losers(archive: Archive, index: Index, now: dt.datetime) -> None:
    """Move files that lost a conflict to quarantine, if a crash came before the move; one that is nowhere is lost."""
    misplaced = [key for key in index.instances.loser_keys(here=True) if _is_gone(archive.path(key))]
    folders = archive.folders() if misplaced else []
    for loser in misplaced:
        keys = (f"objects/{folder}/{PurePath(loser).name}" for folder in folders)
        found = [key for key in keys if archive.path(key).exists()]
        for key in found:
            archive.quarantine(key)
        if not found:
            index.instances.record_loser_damage(loser, "the file is missing", now, gone=True)
