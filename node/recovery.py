"""What a start of the node puts right after a process that did not end well, before it listens.

Nothing here was acknowledged, or everything acknowledged is found again: part files are deleted, files without a row
are adopted (or quarantined when they cannot be read), claims of a dead worker are given back.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from dataclasses import dataclass

import structlog
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info

from node.archive.filesystem import Archive
from node.dicom.attributes import instance_attributes
from node.dicom.header import HeaderCut
from node.errors import NotUnderstood
from node.index.database import Index
from node.index.records import StoredFile
from node.ingest import settle

log = structlog.get_logger()

PREAMBLE_AND_GROUP_LENGTH = 144
"""Bytes before the second element of the File Meta Information, PS3.10 7.1."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """What was put right: counts."""

    parts: int
    adopted: int
    quarantined: int
    claims: int


def recover(archive: Archive, index: Index, quiet_seconds: float, now: dt.datetime) -> Recovered:
    """Bring archive and index together again; returns what was done.

    Only folders that the last start has not yet compared are looked at: older ones never change.
    """
    parts = archive.sweep_incoming()
    adopted = quarantined = 0
    swept = index.about("swept_folder") or ""
    folders = [folder for folder in archive.folders() if folder >= swept]
    for folder in folders:
        for key in index.unknown_keys(archive.keys(folder)):
            if _adopt(archive, index, key, quiet_seconds, now):
                adopted += 1
            else:
                archive.quarantine(key)
                quarantined += 1
    if folders:
        index.remember("swept_folder", folders[-1])
    done = Recovered(parts, adopted, quarantined, index.release_all_claims(now))
    log.info("recovered", parts=parts, adopted=adopted, quarantined=quarantined, claims=done.claims)
    return done


def _adopt(archive: Archive, index: Index, key: str, quiet_seconds: float, now: dt.datetime) -> bool:
    """Index a file that has no row; False when it cannot be read."""
    path = archive.path(key)
    content = memoryview(path.read_bytes())
    try:
        meta = read_file_meta_info(path)
        offset = PREAMBLE_AND_GROUP_LENGTH + meta.FileMetaInformationGroupLength
        attributes = instance_attributes(content[offset:], meta.TransferSyntaxUID)
    except (NotUnderstood, HeaderCut, InvalidDicomError, AttributeError, ValueError, EOFError, OSError):
        return False
    file = StoredFile(
        key=key,
        quarantine_key=archive.quarantine_key(key),
        bytes=len(content) - offset,
        sha256=hashlib.sha256(content[offset:]).hexdigest(),
        data_set_offset=offset,
        transfer_syntax_uid=str(meta.TransferSyntaxUID),
        door="recovered",
        calling_ae_title=str(meta.get("SourceApplicationEntityTitle", "")),
        called_ae_title="",
        peer="",
        received_at=now,
    )
    outcome = index.add_instance(attributes, file, quiet_seconds, path.parent)
    settle(archive, key, outcome)
    return True
