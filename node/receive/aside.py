"""The files in quarantine, each with the reason, without SQLAlchemy."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from node.archive.root import MARKER

if TYPE_CHECKING:
    from node.index.database.look import Look
    from node.index.database.reading import ReadIndex

FOLDER = "quarantine"


@dataclass(frozen=True, slots=True)
class QuarantinedFile:
    """A file in quarantine; `reason` is the kind of its conflict, or the event that set it aside.

    The UIDs are those of its row; they are None if no row names the file.
    """

    name: str
    bytes: int
    modified_at: dt.datetime
    reason: str
    detail: str
    study_instance_uid: str | None = None
    series_instance_uid: str | None = None
    sop_instance_uid: str | None = None
    sha256: str | None = None


def quarantined(root: Path, index: Look | ReadIndex) -> list[QuarantinedFile]:
    """Return the files in quarantine, by name."""
    reasons, in_trash = reasons_of(index), index.trash.quarantine_keys()
    files = []
    with os.scandir(root / FOLDER) as entries:
        for entry in entries:
            if entry.name == MARKER or f"{FOLDER}/{entry.name}" in in_trash:
                continue
            with suppress(FileNotFoundError):  # removed meanwhile
                stat = entry.stat()
                row = reasons.get(f"{FOLDER}/{entry.name}", _NOT_NAMED)
                modified_at = dt.datetime.fromtimestamp(stat.st_mtime, dt.UTC)
                files.append(QuarantinedFile(entry.name, stat.st_size, modified_at, **row))
    return sorted(files, key=lambda file: file.name)


_NOT_NAMED: Mapping[str, Any] = {
    "reason": "file-unknown",
    "detail": "found without a row, and no DICOM file that can be indexed",
}


def reasons_of(index: Look | ReadIndex) -> dict[str, dict[str, Any]]:
    """Return why each file is in quarantine, by key."""
    reasons = {
        str(event["detail"]).rpartition(": ")[2]: {"reason": event["kind"], "detail": event["detail"]}
        for event in index.events.set_aside()
    }
    return reasons | {row.pop("key"): row for row in index.conflicts.in_quarantine()}
