"""Recover from a process that crashed, at each start and before the node listens.

The journal was applied before (`node.receive.apply`), so that every acknowledged instance has its file and its row.
Part files that are left belong to no record of it, and are deleted. Files without a row are adopted, or quarantined if
they cannot be read; rows without a file are marked; the claims of the dead process are released. On a root without an
index, the same steps make a new index from files and journal alone. If the process dies here, the next start repeats
the steps.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePath

import structlog
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info

from node.archive.filesystem import Archive
from node.dicom.attributes import InstanceAttributes
from node.dicom.header import HeaderCut
from node.errors import NotUnderstood
from node.failpoints import reached
from node.index.database import Index
from node.index.records import Arrived, StoredFile
from node.receive.apply import MAX_BATCH, attributes_of, settle
from node.receive.kept import flaws_of

log = structlog.get_logger()

PREAMBLE_AND_GROUP_LENGTH = 144
"""Bytes before the second element of the File Meta Information, PS3.10 7.1."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """Numbers of what was recovered."""

    parts: int
    adopted: int
    quarantined: int
    missing: int
    claims: int


def recover(archive: Archive, index: Index, quiet_seconds: Callable[[str], float], now: dt.datetime) -> Recovered:
    """Make archive and index agree again, after `Applier.replay`; return what was done.

    Compares only folders that no earlier start has compared: older folders never grow, and `fsck` compares all of
    them.

    Parameters
    ----------
    quiet_seconds : callable (calling AE title) -> float
    """
    parts = archive.sweep_incoming()
    reached("parts-swept")
    settle_losers(archive, index)
    adopted = quarantined = missing = 0
    compared = index.about.get("swept_folder") or ""
    folders = [folder for folder in archive.folders() if folder >= compared]
    for folder in folders:
        strays = index.instances.unknown_keys(archive.keys(folder))
        unreadable = adopt(archive, index, strays, quiet_seconds, now)
        adopted, quarantined = adopted + len(strays) - unreadable, quarantined + unreadable
        missing += mark_missing(archive, index, folder, now)
    reached("files-compared")
    if folders:
        index.about.set("swept_folder", folders[-1])
    claims = index.series.release_all_claims(now)
    reached("claims-released")
    done = Recovered(parts, adopted, quarantined, missing, claims)
    log.info("recovered", **asdict(done))
    return done


def adopt(
    archive: Archive, index: Index, keys: Sequence[str], quiet_seconds: Callable[[str], float], now: dt.datetime
) -> int:
    """Index files of one folder that have no row; quarantine those that cannot be read, and return their number.

    The older of two files comes first. No file replaces another file of its SOP Instance UID, whatever the policy for
    arrivals is: it was not acknowledged.
    """
    unreadable = 0
    readable: list[Arrived] = []
    for key in sorted(keys, key=lambda key: archive.path(key).stat().st_mtime_ns):
        try:
            attributes, file = _stored(archive, key, now)
        except (NotUnderstood, HeaderCut, InvalidDicomError, AttributeError, ValueError, EOFError, OSError):
            archive.quarantine(key)
            unreadable += 1
        else:
            readable.append(Arrived(attributes, file, quiet_seconds(file.calling_ae_title)))
    for begin in range(0, len(readable), MAX_BATCH):
        batch = readable[begin : begin + MAX_BATCH]
        for kept in index.instances.add(batch, flaws=flaws_of(archive, index, batch)):
            settle(archive, kept)
            reached("file-adopted")
    return unreadable


def mark_missing(archive: Archive, index: Index, folder: str, now: dt.datetime) -> int:
    """Mark the rows whose file is missing, unmark those whose file is back; return how many were marked."""
    there = set(archive.keys(folder))
    rows = index.instances.files(f"objects/{folder}")
    back = [row.key for row in rows if row.file_missing and row.key in there]
    if back:
        index.instances.mark_files(back, missing=False, now=now)
    gone = [row.key for row in rows if not row.file_missing and row.key not in there]
    if gone:
        log.error("files_missing", folder=folder, count=len(gone))
        index.instances.mark_files(gone, missing=True, now=now)
    return len(gone)


def _stored(archive: Archive, key: str, now: dt.datetime) -> tuple[InstanceAttributes, StoredFile]:
    """Return the rows of a file from the file alone; the time of its last change counts as received."""
    path = archive.path(key)
    meta = read_file_meta_info(path)
    offset = PREAMBLE_AND_GROUP_LENGTH + meta.FileMetaInformationGroupLength
    written_at = dt.datetime.fromtimestamp(path.stat().st_mtime, dt.UTC)
    with path.open("rb") as content:
        content.seek(offset)
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    return attributes_of(path, offset, str(meta.TransferSyntaxUID)), StoredFile(
        key=key,
        quarantine_key=archive.quarantine_key(key),
        bytes=path.stat().st_size - offset,
        sha256=sha256,
        data_set_offset=offset,
        transfer_syntax_uid=str(meta.TransferSyntaxUID),
        source="recovered",
        calling_ae_title=str(meta.get("SourceApplicationEntityTitle", "")),
        called_ae_title="",
        peer="",
        received_at=min(written_at, now),  # the clock may have been set back since
    )


def settle_losers(archive: Archive, index: Index) -> int:
    """Move files that lost a conflict to quarantine, if a crash came before the move; return how many."""
    misplaced = [key for key in index.instances.loser_keys() if not archive.path(key).exists()]
    folders = archive.folders() if misplaced else []
    moved = 0
    for name in (PurePath(key).name for key in misplaced):
        for key in (f"objects/{folder}/{name}" for folder in folders):
            if archive.path(key).exists():
                archive.quarantine(key)
                moved += 1
    return moved
