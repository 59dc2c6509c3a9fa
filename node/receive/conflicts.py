"""Decisions about identity conflicts: another version of an instance becomes current, or the current one stays.

A version that is accepted is taken in through the journal, as in `node.receive.quarantine`; the version that was
current goes to quarantine, as a conflict that is decided. If the process dies in between, the conflict is still
undecided, and accepting it again finishes what is left.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.archive.base import LocalFile
from node.audit.audit_log import Audit, AuditAction, AuditEvent, AuditMessage
from node.dicom.attributes import InstanceAttributes
from node.dicom.header import HeaderCut
from node.errors import NotUnderstood, UsageError
from node.files.heads import cut_pixels_of
from node.index.database.reading import ReadIndex
from node.receive.ingest import Ingest
from node.receive.quarantine import Quarantine
from node.receive.recovery import stored_instance
from node.receive.strangers import OF_TWO_PATIENTS

VERSIONS = frozenset({"instance-bytes", "instance-versions", "instance-replaced", "instance-quarantined"})
"""Kinds of conflicts with a version of an instance that is not current."""


class NoSuchConflict(UsageError):
    """No conflict has this number: `voxelnode conflicts --all` lists all of them."""


class NotDecidable(UsageError):
    """The conflict cannot be decided in this way; the message gives the reason and the remedy."""


@dataclass(frozen=True, slots=True)
class Difference:
    """An attribute of patient, study, series or instance in which two versions differ."""

    attribute: str
    current: Any
    other: Any


@dataclass(frozen=True, slots=True)
class Version:
    """Of whom one version of an instance is, by its file, and who sent it.

    Without a readable file, all that is of the patient is None. `source` is known of the current version only.
    """

    patient_name: str | None
    patient_id: str | None
    patient_birth_date: str | None
    patient_sex: str | None
    calling_ae_title: str | None
    source: str | None
    received_at: dt.datetime | str


@dataclass(frozen=True, slots=True)
class Compared:
    """A conflict, and the differences between the version in it and the current one.

    If a study has two patients, `current` is the patient of the study, and `other` the one of the instances in it.

    `problem` says why the two cannot be compared; None if they were. Attributes of one kind that are all equal are not
    listed: versions may differ in what the index does not know, such as pixels. `current` is None if no version is
    current, and `other` if the conflict is not between two versions of an instance. `files` are those of the current
    version and of the other one, if the two were compared.
    """

    conflict: dict[str, Any]
    problem: str | None
    differences: list[Difference]
    current: Version | None = None
    other: Version | None = None
    files: tuple[Path, Path] | None = None


def compared(root: Path, index: ReadIndex, conflict: int, local: LocalFile) -> Compared:
    """Compare the two versions of a conflict.

    `local`: of the archive below `root`.
    """
    row = _row(index, conflict)
    key, holder = row.pop("key"), index.conflicts.host_of(conflict)
    row["path"] = None if key is None else str(root / key)
    current = None if row["sop_instance_uid"] is None else index.instances.current(row["sop_instance_uid"])
    mine = None if current is None else _attributes(lambda: local(current))
    theirs = None if key is None else _attributes(lambda: root / key)
    sent = index.conflicts.sender_of_current(row["sop_instance_uid"])
    ours = None if sent is None else _version(None if mine is None else mine.patient, **sent)
    other = None
    if row["kind"] in VERSIONS:
        other = _version(None if theirs is None else theirs.patient, row["calling_ae_title"], None, row["found_at"])
    if row["kind"] == OF_TWO_PATIENTS and (of_study := index.studies.row(row["study_instance_uid"])) is not None:
        first = index.conflicts.first_sender(row["study_instance_uid"])
        other, ours = ours, None if first is None else _version(of_study, **first)
    differences: list[Difference] = []
    files = None
    if other is not None and row["kind"] == OF_TWO_PATIENTS:
        problem = "nothing was set aside: the instances of both patients are current in this study"
    elif key is None:
        problem = "the conflict has no file of another version"
    elif current is None:
        problem = "no version of the instance is current"
    elif holder is not None and not (root / key).exists():
        problem = f"the file of the other version is in the quarantine of {holder}: compare there"
    elif mine is None or theirs is None:
        problem = f"the file of the {'current' if mine is None else 'other'} version cannot be read"
    else:
        files = local(current), root / key
        problem, differences = None, [*_differences(mine, theirs), *_lengths(*files)]
    return Compared(row, problem, differences, ours, other, files)


def _differences(mine: InstanceAttributes, theirs: InstanceAttributes) -> list[Difference]:
    found = []
    for level in ("patient", "study", "series", "image"):
        before, after = getattr(mine, level), getattr(theirs, level)
        found += [Difference(name, before[name], after[name]) for name in before if before[name] != after[name]]
    return found


def _lengths(mine: Path, theirs: Path) -> list[Difference]:
    """Return that one version lacks pixels, or both do."""
    before, after = (str(cut_pixels_of(path) or "whole") for path in (mine, theirs))
    return [Difference("pixels", before, after)] if before != after else []


def _version(
    patient: Mapping[str, Any] | None, calling_ae_title: str | None, source: str | None, received_at: Any
) -> Version:
    patient = patient or {}
    born = patient.get("patient_birth_date")
    return Version(
        patient.get("patient_name"), patient.get("patient_id"), born and str(born),
        patient.get("patient_sex"), calling_ae_title, source, received_at,
    )  # fmt: skip


def _row(index: ReadIndex, conflict: int) -> dict[str, Any]:
    row = index.conflicts.one(conflict)
    if row is None:
        raise NoSuchConflict
    return row


def _attributes(file: Callable[[], Path]) -> InstanceAttributes | None:
    with suppress(OSError, NotUnderstood, HeaderCut, AttributeError, ValueError, EOFError):
        path = file()
        return stored_instance(path.parent, path.name, dt.datetime.now(dt.UTC))[0]
    return None


class Conflicts:
    """Decide conflicts of one root.

    `ingest`: of that root. `quarantine`: of the same root.
    """

    def __init__(self, ingest: Ingest, audit: Audit, quarantine: Quarantine) -> None:
        self._index, self._ingest, self._audit, self._quarantine = ingest.index, ingest, audit, quarantine

    def accept(self, conflict: int, who: str, *, alike: bool = False) -> dict[str, Any]:
        """Make the version in a conflict current, in whichever series; the current one goes to quarantine.

        Patient, study and series get the attributes of the version, and a series that it leaves is converted again.

        `alike`: also those in all undecided conflicts of the same kind, study and sender.

        Raises NotDecidable: the conflict has no version to accept. With `alike`, those before it are decided.
        Raises NotReleased: the file is not a DICOM file that can be indexed.
        """
        decided = []
        for row in self._rows(conflict, alike):
            if row["kind"] not in VERSIONS:
                raise NotDecidable(
                    f"conflict {row['id']} ({row['kind']}) has no other version of an instance: use `patient merge` "
                    f"or `delete`, or correct the sender; then `conflicts keep {row['id']}`"
                )
            current = self._index.instances.current(row["sop_instance_uid"])
            if current is not None and current.sha256 == row["sha256"] and not self._has_file(row["key"]):
                self._index.conflicts.decide([row["id"]], "accepted", who, self._ingest.now())
                decided.append(row["id"])
                continue
            if not self._has_file(row["key"]):
                host = self._index.conflicts.host_of(row["id"])
                if row["key"] is not None and self._index.sharing.is_away(host):
                    raise NotDecidable(f"the file of conflict {row['id']} is in the quarantine of {host}: decide there")
                if row["key"] is not None:
                    now = self._ingest.now()
                    self._index.instances.record_loser_damage(row["key"], "the file is missing", now, gone=True)
                raise NotDecidable(
                    f"the file of conflict {row['id']} is not there any more: have the sender send that version again"
                )
            self._quarantine.take(row["key"], who, replace=True)
            decided.append(row["id"])
        return {"accepted": decided}

    def keep(self, conflict: int, who: str, *, alike: bool = False) -> dict[str, Any]:
        """Keep what is current; the other version, if there is one, stays in quarantine until it is purged."""
        rows = self._rows(conflict, alike)
        decided = [int(row["id"]) for row in rows]
        now = self._ingest.now()
        with self._index.reading() as index:
            studies = {uid: index.studies.row(uid) or {} for uid in {row["study_instance_uid"] for row in rows}}
        subjects = [
            {
                **{"study_instance_uid": row["study_instance_uid"], "sop_instance_uid": row["sop_instance_uid"]},
                "patient_id": studies[row["study_instance_uid"]].get("patient_id") or "",
            }
            for row in rows
        ]
        self._index.conflicts.decide(decided, "kept", who, now)
        detail = "conflict decided: the current version stays"
        self._audit.note(AuditMessage.by(who, AuditEvent.INSTANCES_ACCESSED, AuditAction.UPDATE, detail, subjects))
        return {"kept": decided}

    def _has_file(self, key: str | None) -> bool:
        return key is not None and self._ingest.archive.path(key).exists()

    def _rows(self, conflict: int, alike: bool) -> list[dict[str, Any]]:
        with self._index.reading() as index:
            named = _row(index, conflict)
            others = index.conflicts.alike(conflict) if alike else []
        return [named, *(other for other in others if other["id"] != conflict)]
