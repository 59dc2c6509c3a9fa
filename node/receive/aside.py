"""What was set aside, for commands that load no SQLAlchemy: the files in quarantine, and the patients in conflicts.

Each file has its reason. The index has one patient of each study: who else came under its UID, in the study of somebody
else or set aside, is in the files alone, so their headers are read.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from node.archive.root import MARKER
from node.dicom.encoding import META_BYTES, file_meta
from node.dicom.walker import HeaderCut
from node.errors import NotUnderstood

if TYPE_CHECKING:
    from node.archive.base import LocalFile
    from node.index.look.views import ReadIndex

FOLDER = "quarantine"

Row = Mapping[str, Any]


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


def quarantined(root: Path, index: ReadIndex) -> list[QuarantinedFile]:
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


def reasons_of(index: ReadIndex) -> dict[str, dict[str, Any]]:
    """Return why each file is in quarantine, by key."""
    reasons = {event["key"]: {"reason": event["kind"], "detail": event["detail"]} for event in index.events.set_aside()}
    return reasons | {row.pop("key"): row for row in index.conflicts.in_quarantine()}


OF_TWO_PATIENTS = "study-of-two-patients"
"""Kind of the conflict of instances that are in the study of another patient."""


def with_strangers(rows: Iterable[Row], index: ReadIndex, local: LocalFile) -> list[dict[str, Any]]:
    """Return rows of conflicts with ``other_patient_id`` and ``other_patient_name``.

    Both are None unless a study has two patients, and the file of the later patient can be read.
    """
    named = []
    for row in rows:
        other = stranger(row, index, local) if row["kind"] == OF_TWO_PATIENTS else None
        known = other or {"patient_id": None, "patient_name": None}
        named.append({**row, "other_patient_id": known["patient_id"], "other_patient_name": known["patient_name"]})
    return named


def strangers_in(study: str, index: ReadIndex, local: LocalFile) -> dict[str, dict[str, Any]]:
    """Return the undecided conflicts of a study of two patients by Series Instance UID, with the other patient."""
    rows = [row for row in index.conflicts.about(study) if row["kind"] == OF_TWO_PATIENTS]
    return {row["series_instance_uid"]: row for row in with_strangers(rows, index, local)}


def came_as(row: Row) -> str:
    """Return as whom the instances of a row of `with_strangers` came; empty if that is not known."""
    other = {name: row[f"other_{name}"] for name in ("patient_id", "patient_name")}
    return f"came as {named(other)}" if any(other.values()) else ""


def stranger(row: Row, index: ReadIndex, local: LocalFile) -> Row | None:
    """Return patient and Accession Number in the file of a conflict: of the version in it, or of the instance itself.

    None if the file cannot be read, or if its study is of this patient by now.
    """
    with suppress(OSError, NotUnderstood, HeaderCut, ValueError, EOFError):
        if row["path"] is not None:
            return _named_in(Path(row["path"]))
        study, series, uid = (row[f"{level}_instance_uid"] for level in ("study", "series", "sop"))
        current = index.instances.current(uid) or index.instances.first_file(study, series)
        of_study = index.studies.row(study)
        if current is not None and of_study is not None:
            found = _named_in(local(current))
            return found if found["patient_id"] != of_study["patient_id"] else None
    return None


def _named_in(path: Path) -> Row:
    from node.files.heads import attributes_of

    with path.open("rb") as file:
        meta, offset = file_meta(file.read(META_BYTES))
    attributes = attributes_of(path, offset, meta.get(0x0010, ""))
    return {**attributes.patient, "accession_number": attributes.study["accession_number"]}


def named(patient: Row) -> str:
    """Return the name of a patient as people write it, with the Patient ID."""
    name = " ".join((patient["patient_name"] or "").split("=")[0].replace("^", " ").split())
    return f"{name} ({patient['patient_id'] or 'no Patient ID'})" if name else patient["patient_id"] or "nobody"
