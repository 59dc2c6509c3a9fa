"""What a person decides about files that were set aside, and about identity conflicts.

Nothing leaves quarantine by itself, except with its study. A file is released like a received instance: through
the journal, and only after its outcome is known the file in quarantine is removed. If the process dies in between, both
exist, and releasing it again removes the one that is not needed.

The version in a conflict that is accepted becomes current in the same way, and the version that was current goes to
quarantine, as a conflict that is decided. If the process dies in between, the conflict is still undecided, and
accepting it again finishes what is left.
"""

import datetime as dt
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from node.archive.base import LocalFile
from node.archive.filesystem import Archive
from node.archive.intact import MISSING, problem_with
from node.audit.audit_log import Audit, AuditAction, AuditEvent, AuditMessage
from node.dicom.attributes import InstanceAttributes
from node.dicom.walker import HeaderCut
from node.errors import NotUnderstood, OutOfResources, UsageError
from node.files.acknowledged import digests_of
from node.files.heads import cut_pixels_of
from node.index.database import Index
from node.index.look.views import ReadIndex
from node.index.rows.files import HeldFile
from node.index.rows.records import InstanceFile, Outcome, ReceivedPolicy, StoredFile
from node.receive.aside import FOLDER, OF_TWO_PATIENTS, QuarantinedFile, quarantined
from node.receive.ingest import Announced, Ingest, Origin
from node.receive.recovery import ADOPTED, adopt, stored_instance
from node.receive.stored_files import problem_of

PIECE_BYTES = 1 << 20
RELEASE_SECONDS = 60.0
"""Longest wait for the outcome of a released instance."""


_AGAIN = "have its sender send it again; `voxelnode quarantine purge` removes the file"


class NotInQuarantine(UsageError):
    """No file in quarantine has this name: `voxelnode quarantine list` shows all names."""


class NotReleased(UsageError):
    """A file cannot be released; the message gives the reason."""


@dataclass(frozen=True, slots=True)
class ExaminedFile:
    """A file in quarantine, compared with the current file of its SOP Instance UID.

    `problem`: why it cannot be released, or None. `current_sha256`: digest of the current instance with its UID; None
    if there is none.
    """

    file: QuarantinedFile
    path: Path
    problem: str | None
    sha256: str | None = None
    sop_instance_uid: str | None = None
    series_instance_uid: str | None = None
    study_instance_uid: str | None = None
    current_sha256: str | None = None


def uids_of(root: Path, file: QuarantinedFile) -> tuple[str, ...]:
    """Return the UIDs of study, series and instance of a file in quarantine, by its row, or by the file itself.

    Empty if it is gone, or is no DICOM file that can be read.
    """
    known = (file.study_instance_uid, file.series_instance_uid, file.sop_instance_uid)
    if not any(known):
        try:
            attributes, _ = _read(root, f"{FOLDER}/{file.name}")
        except (NotReleased, OSError):
            return ()
        known = (attributes.study_instance_uid, attributes.series_instance_uid, attributes.sop_instance_uid)
    return tuple(uid for uid in known if uid)


def quarantined_file(root: Path, index: ReadIndex, name: str) -> QuarantinedFile:
    """Return one file in quarantine."""
    for file in quarantined(root, index):
        if file.name == name:
            return file
    raise NotInQuarantine


def examined(root: Path, index: ReadIndex, name: str) -> ExaminedFile:
    """Read a file in quarantine, and compare it with the current instance.

    Raises OSError if it cannot be read now.
    """
    file = quarantined_file(root, index, name)
    path = root / FOLDER / name
    try:
        attributes, stored = _read(root, f"{FOLDER}/{name}")
    except NotReleased as error:
        return ExaminedFile(file, path, str(error))
    current = index.instances.current(attributes.sop_instance_uid)
    return ExaminedFile(
        file,
        path,
        None,
        stored.sha256,
        attributes.sop_instance_uid,
        attributes.series_instance_uid,
        attributes.study_instance_uid,
        current.sha256 if current is not None else None,
    )


def _read(root: Path, key: str) -> tuple[InstanceAttributes, StoredFile]:
    try:
        return stored_instance(root, key, dt.datetime.now(dt.UTC))
    except (NotUnderstood, HeaderCut, AttributeError, ValueError, EOFError) as error:
        raise NotReleased(
            f"{PurePath(key).name} is not a DICOM file that can be indexed ({type(error).__name__})"
        ) from error


def take_back(archive: Archive, index: Index, quiet_seconds: Callable[[str], float], now: dt.datetime) -> list[str]:
    """Index the files in quarantine that no row names and whose instance has no other file; return their names.

    For an index that was rebuilt: the only copy of an instance may have been set aside for the word of a row that is
    gone. If the process dies after a move, the next start finds the file in the archive.
    """
    taken = []
    for path in sorted((archive.root / FOLDER).glob("*.dcm")):
        if index.instances.named_keys([f"{FOLDER}/{path.name}"]):
            continue
        try:
            attributes, _ = _read(archive.root, f"{FOLDER}/{path.name}")
        except (NotReleased, OSError):
            continue
        if index.instances.current(attributes.sop_instance_uid) is None:
            key = archive.take_back(path.name)
            if adopt(archive, index, [key], quiet_seconds, now).get(key) != ADOPTED:  # that may be why it was set aside
                continue
            index.instances.record_removed_from_quarantine(
                f"{FOLDER}/{path.name}", "quarantine-released", "voxelnode", now
            )
            taken.append(path.name)
    return taken


class Quarantine:
    """Release and purge files of one root.

    `ingest`: of that root.
    """

    def __init__(self, ingest: Ingest, audit: Audit) -> None:
        self._archive, self._index, self._ingest, self._audit = ingest.archive, ingest.index, ingest, audit

    def release(self, name: str, who: str, *, replace: bool = False) -> dict[str, Any]:
        """Take an instance back into the archive.

        `replace`: if other bytes are current under its SOP Instance UID, let it take their place, in whichever series;
        they go to quarantine. Raises NotReleased if it is not a DICOM file, or another version is current.
        """
        if not self._index.instances.versions_at(f"{FOLDER}/{name}"):
            self._require(name)
        return self.take(f"{FOLDER}/{name}", who, replace=replace)

    def take(self, key: str, who: str, *, replace: bool) -> dict[str, Any]:
        """As `release`, of a file anywhere in the archive that is not current; it is removed where it was."""
        name = PurePath(key).name
        held = self._index.instances.versions_at(key)
        self._require_as_received(name, held)
        attributes, file = _read(self._archive.root, key)
        if not held:
            known = digests_of(self._archive.root, {attributes.sop_instance_uid}).get(attributes.sop_instance_uid)
            if known and file.sha256 not in known:
                raise NotReleased(f"{name} has the SHA-256 {file.sha256}, which was not acknowledged: {_AGAIN}")
        uid = attributes.sop_instance_uid
        subject = {
            **{"name": name, "study_instance_uid": attributes.study_instance_uid, "sop_instance_uid": uid},
            "patient_id": attributes.patient["patient_id"] or "",
        }
        current = self._index.instances.current(uid)
        is_whole = current is not None and self._is_whole(current)
        if current is not None and is_whole and current.sha256 != file.sha256 and not replace:
            raise NotReleased(
                f"another version of {uid} is current: compare the two, and use --replace to make this one current"
            )

        def made() -> None:
            if not is_whole or (current is not None and current.sha256 != file.sha256):
                outcome = self._taken(attributes, file, "accept" if replace else "never")
                if outcome not in (Outcome.STORED, Outcome.REPLACED):
                    raise NotReleased(f"{uid} is current in another series: use --replace to move it to this one")
            self._remove(key, "quarantine-released", who)

        self._audit.change(_order(AuditAction.UPDATE, who, subject, "make a version current"), made)
        return {"released": name, "sop_instance_uid": uid}

    def purge(self, name: str, who: str) -> dict[str, Any]:
        """Delete a file in quarantine permanently: its version is written off, unless it is current.

        Raises AuditFailed if nothing was deleted.
        """
        self._require(name)
        with self._index.reading() as view:
            file = quarantined_file(self._archive.root, view, name)
        subject = {
            "name": name,
            "study_instance_uid": file.study_instance_uid,
            "sop_instance_uid": file.sop_instance_uid,
        }
        order = _order(AuditAction.DELETE, who, subject, "purge from quarantine")

        def made() -> None:
            if file.sha256 is not None:
                current = self._index.instances.current(file.sop_instance_uid or "")
                if current is None or current.sha256 != file.sha256:
                    self._ingest.applier.checkpoint()  # its entry is in the ledger
                    self._archive.acknowledged.write_off(
                        "version", [file.sha256], self._archive.acknowledged.position.entries
                    )
            self._remove(f"{FOLDER}/{name}", "quarantine-purged", who)

        self._audit.change(order, made)
        return {"purged": name}

    def _require(self, name: str) -> None:
        if name not in os.listdir(self._archive.root / FOLDER):
            raise NotInQuarantine

    def _require_as_received(self, name: str, held: Sequence[HeldFile]) -> None:
        """Raise NotReleased if a file is not what its row says that it was, and record that it is owed."""
        problems = [problem_of(self._archive, one) for one in held if not self._index.sharing.is_away(one.holder)]
        if problems and None not in problems:
            detail, is_gone = f"the file {problems[0]}", problems[0] == MISSING
            self._index.instances.record_loser_damage(held[0].key, detail, self._ingest.now(), gone=is_gone)
            raise NotReleased(f"{name} {problems[0]}, and is not what was received: {_AGAIN}")

    def _is_whole(self, file: InstanceFile) -> bool:
        return problem_with(self._archive.local(file), file.data_set_offset, file.bytes, file.sha256) is None

    def _taken(self, attributes: InstanceAttributes, file: StoredFile, policy: ReceivedPolicy) -> Outcome:
        """Take the bytes in as a received instance."""
        announced = Announced(attributes.sop_class_uid, attributes.sop_instance_uid, file.transfer_syntax_uid)
        origin = Origin("recovered", calling_ae_title=file.calling_ae_title)
        incoming = self._ingest.begin(announced, origin, policy)
        outcome: Future[Outcome] = Future()
        try:
            with self._archive.path(file.key).open("rb", buffering=0) as source:
                source.seek(file.data_set_offset)
                while piece := source.read(PIECE_BYTES):
                    incoming.take_fragment(piece)
            incoming.finish(outcome)
        finally:
            incoming.abandon()
        self._ingest.applier.catch_up()
        try:
            return outcome.result(RELEASE_SECONDS)
        except TimeoutError:
            raise OutOfResources("the index is behind: the file stays in quarantine; release it again later") from None

    def _remove(self, key: str, kind: Any, who: str) -> None:
        self._archive.remove(key)
        self._archive.sync_folder(self._archive.path(key).parent)
        self._index.instances.record_removed_from_quarantine(key, kind, who, self._ingest.now())


def _order(action: AuditAction, who: str, subject: Mapping[str, Any], detail: str) -> AuditMessage:
    return AuditMessage.by(who, AuditEvent.INSTANCES_ACCESSED, action, detail, [subject])


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
                with self._index.reading() as index:
                    host = index.conflicts.host_of(row["id"])
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
