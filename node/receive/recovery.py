"""Recover from a process that crashed, at each start and before the node listens.

Every acknowledged instance is found again. Part files were not acknowledged and are deleted. Files without a row are
adopted, or quarantined if they cannot be read; rows without a file are marked; the claims of the dead process are
released. On a root without an index, the same steps make a new index from the files alone. If the process dies here,
the next start repeats the steps.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import mmap
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import structlog
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info

from node.archive.filesystem import Archive
from node.dicom.attributes import InstanceAttributes, instance_attributes
from node.dicom.header import HeaderCut
from node.errors import NotUnderstood
from node.failpoints import reached
from node.index.database import Index
from node.index.records import Kept, StoredFile
from node.receive.ingest import settle, settle_losers

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
    """Make archive and index agree again; return what was done.

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
    done = Recovered(parts, adopted, quarantined, missing, index.series.release_all_claims(now))
    reached("claims-released")
    log.info("recovered", parts=parts, adopted=adopted, quarantined=quarantined, missing=missing, claims=done.claims)
    return done


def adopt(
    archive: Archive, index: Index, keys: Sequence[str], quiet_seconds: Callable[[str], float], now: dt.datetime
) -> int:
    """Index files of one folder that have no row; quarantine those that cannot be read, and return their number.

    The older of two files comes first. No file replaces another file of its SOP Instance UID, whatever the policy for
    arrivals is: it was not acknowledged.
    """
    pending: list[Future[Kept]] = []
    unreadable = 0
    for key in sorted(keys, key=lambda key: archive.path(key).stat().st_mtime_ns):
        try:
            attributes, file = _stored(archive, key, now)
        except (NotUnderstood, HeaderCut, InvalidDicomError, AttributeError, ValueError, EOFError, OSError):
            archive.quarantine(key)
            unreadable += 1
        else:
            quiet = quiet_seconds(file.calling_ae_title)
            pending.append(index.instances.submit(attributes, file, quiet, archive.path(key).parent))
    for indexed in pending:
        settle(archive, indexed.result())
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
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        memoryview(content) as view,
        view[offset:] as data_set,
    ):
        return instance_attributes(data_set, meta.TransferSyntaxUID), StoredFile(
            key=key,
            quarantine_key=archive.quarantine_key(key),
            bytes=len(data_set),
            sha256=hashlib.sha256(data_set).hexdigest(),
            data_set_offset=offset,
            transfer_syntax_uid=str(meta.TransferSyntaxUID),
            source="recovered",
            calling_ae_title=str(meta.get("SourceApplicationEntityTitle", "")),
            called_ae_title="",
            peer="",
            received_at=min(written_at, now),  # the clock may have been set back since
        )
