"""What a node owes to senders and operators: what it acknowledged, less what was deleted or harmed since."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.checker import Checker, damage, opened
from tests.crash.journal import Delivery, Journal, Sent

Version = tuple[str, str]
"""SOP Instance UID and SHA-256 of a data set."""

KEPT_IN = ("objects", "quarantine", "incoming")


@dataclass(slots=True)
class Changes:
    """What operators did since the instances were acknowledged."""

    harmed: set[Version] = field(default_factory=set)
    flipped: dict[Version, tuple[str, int]] = field(default_factory=dict)  # its series and the revision of that moment
    unknown: set[str] = field(default_factory=set)  # flipped, and no index has told since what it was
    misled: set[str] = field(default_factory=set)  # instances whose row was given a wrong digest
    deleted: set[str] = field(default_factory=set)
    doubtful: set[str] = field(default_factory=set)  # an older index or a copy may have brought them back
    merged: dict[str, str] = field(default_factory=dict)  # Patient ID to that of the patient it was merged into


class Model(Journal):
    """What a node owes."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.changes = Changes()
        self._snapshots: list[Snapshot] = []

    def sending(self, one: Sent) -> Delivery:
        self._touch({one.sop_instance_uid})
        self.changes.deleted.discard(one.sop_instance_uid)  # it may be kept although the answer is lost
        return super().sending(one)

    def answered(self, one: Sent, status: int, delivery: Delivery) -> None:
        super().answered(one, status, delivery)
        if status == 0x0000:
            self.changes.harmed.discard((one.sop_instance_uid, one.sha256))
            self.changes.flipped.pop((one.sop_instance_uid, one.sha256), None)
            self.changes.doubtful.discard(one.sop_instance_uid)

    def acknowledged(self, until: float = float("inf")) -> list[Version]:
        return [version for version in super().acknowledged(until) if version not in self.changes.harmed]

    def delete(self, uids: set[str]) -> None:
        """Note that instances were deleted."""
        changes = self.changes
        for version in [version for version in self.answered_at if version[0] in uids]:
            del self.answered_at[version]
        for version in [version for version in changes.harmed if version[0] in uids]:
            changes.harmed.discard(version)
            changes.flipped.pop(version, None)
        changes.deleted.update(uids)
        self._touch(uids)

    def _touch(self, uids: set[str]) -> None:
        for snapshot in self._snapshots:
            snapshot.touched.update(uids)

    def forget_digests(self) -> None:
        """Note that no index knows any more what the flipped files were: they will be taken for what was received."""
        self.changes.unknown |= {uid for uid, _ in self.changes.flipped}

    def patient_of(self, patient_id: str) -> str:
        """The Patient ID under which the studies of a patient are to be found."""
        while patient_id in self.changes.merged:
            patient_id = self.changes.merged[patient_id]
        return patient_id

    def forget_merges(self, uids: Collection[str]) -> None:
        """Forget the merges into patients of whom no instance is left; `uids` are those that the index has."""
        patients = {sent.sop_instance_uid: self.patient_of(sent.patient_id) for sent in self.sent.values()}
        left = {patients[uid] for uid in uids if uid in patients}
        merged = self.changes.merged
        self.changes.merged = {one: into for one, into in merged.items() if self.patient_of(one) in left}

    def snapshot(self) -> Snapshot:
        """What is owed now; a copy of the root that is begun now has all of it."""
        self._snapshots.append(Snapshot(dict(self.answered_at), deepcopy(self.changes)))
        return self._snapshots[-1]

    def go_back(self, to: Snapshot) -> None:
        """Owe what was owed then: a copy of the root was put back. What came or went since may be there or not."""
        self.answered_at = dict(to.answered_at)
        self.changes = deepcopy(to.changes)
        self.forget_digests()
        self.changes.flipped = {}
        self.changes.doubtful |= to.touched
        self.changes.deleted -= to.touched


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a node owed at one moment, and the instances that were sent or deleted since."""

    answered_at: Mapping[Version, float]
    changes: Changes
    touched: set[str] = field(default_factory=set)


def problems(root: Path, model: Model, *, is_full: bool, has_volumes: bool) -> Iterator[str]:
    """Yield in what a root differs from what its node owes.

    `is_full`: acknowledged instances may wait for room in the journal.
    `has_volumes`: the volumes are those of the index; an older index names others.
    """
    changes = model.changes
    with closing(opened(root)) as index:
        rows = {row["sop_instance_uid"]: row for row in index.execute("SELECT * FROM v_images")}
        files = {path: path.read_bytes() for folder in KEPT_IN for path in root.glob(f"{folder}/**/*.dcm")}
        if not is_full:
            yield from _lost(model, rows, files)
        yield from _altered(model, rows, files)
        for uid in changes.deleted - changes.doubtful:
            if uid in rows:
                yield f"deleted, and indexed again: {uid}"
            data = [sent.data for (sent_uid, _), sent in model.sent.items() if sent_uid == uid]
            yield from (
                f"deleted, and still there: {uid} in {path.relative_to(root)}"
                for path, content in files.items()
                if any(content.endswith(one) for one in data)
            )
        named = {Path(row["path"]) for row in rows.values()}
        named |= {Path(row[0]) for row in index.execute("SELECT path FROM v_conflicts WHERE path IS NOT NULL")}
        yield from (
            f"no row: {path}"
            for path in files
            if path.is_relative_to(root / "objects") and path not in named and not is_full
        )
        yield from damage(index)
        yield from _wrong_patients(model, index, rows)
        forgotten = index.execute("SELECT * FROM v_series WHERE state = 'receiving' AND due_at IS NULL")
        yield from (f"nothing is owed to series {row['series_instance_uid']}" for row in forgotten)
        yield from _made_of_deleted(model, index)
        yield from _converted_although_flipped(model, index, rows, files)
        if has_volumes:
            yield from Checker(root).volumes(index)


def _lost(model: Model, rows: Mapping[str, sqlite3.Row], files: Mapping[Path, bytes]) -> Iterator[str]:
    for version in model.acknowledged():
        if version[0] in rows and any(content.endswith(model.sent[version].data) for content in files.values()):
            continue
        yield f"acknowledged and lost: {version[0]} ({'other bytes' if version[0] in rows else 'no row'})"


def _altered(model: Model, rows: Mapping[str, sqlite3.Row], files: Mapping[Path, bytes]) -> Iterator[str]:
    """Yield rows whose file is not there, or is not one that was sent, although nobody has harmed it."""
    changes = model.changes
    owed = {uid for uid, _ in model.acknowledged()}
    exempt = {uid for uid, _ in changes.harmed} | (changes.doubtful - owed) | changes.unknown
    for uid, row in rows.items():
        content = files.get(Path(row["path"]), b"")
        sent = [model.sent.get((uid, row["sha256"]))]
        if (uid in changes.misled and sent == [None]) or uid in changes.doubtful:  # any version may be current
            sent = [one for (sent_uid, _), one in model.sent.items() if sent_uid == uid]
        if uid not in exempt and not any(one is not None and content.endswith(one.data) for one in sent):
            yield f"{uid}: the file is not what was sent, or not what its row says"


def _wrong_patients(model: Model, index: sqlite3.Connection, rows: Mapping[str, sqlite3.Row]) -> Iterator[str]:
    shown = dict(index.execute("SELECT study_instance_uid, patient_id FROM v_studies").fetchall())
    patients = {sent.sop_instance_uid: sent.patient_id for sent in model.sent.values()}
    for study, expected in {
        (row["study_instance_uid"], model.patient_of(patients[uid])) for uid, row in rows.items() if uid in patients
    }:
        if shown[study] != expected:
            yield f"study {study} is of patient {shown[study]} instead of {expected}"


def _made_of_deleted(model: Model, index: sqlite3.Connection) -> Iterator[str]:
    """Yield instances that were deleted, and of which volumes were made that still exist."""
    query = """
        SELECT DISTINCT x.sop_instance_uid FROM v_sources x JOIN v_volumes v
        ON v.series_instance_uid = x.series_instance_uid AND v.revision = x.revision WHERE v.files_removed_at IS NULL
    """
    used = {row[0] for row in index.execute(query)}
    yield from (f"deleted, and in a volume: {uid}" for uid in used & (model.changes.deleted - model.changes.doubtful))


def _converted_although_flipped(
    model: Model, index: sqlite3.Connection, rows: Mapping[str, sqlite3.Row], files: Mapping[Path, bytes]
) -> Iterator[str]:
    """Yield volumes that were made of an instance after a bit of its file was flipped."""
    for (uid, sha256), (series, revision) in model.changes.flipped.items():
        if uid not in rows or files.get(Path(rows[uid]["path"]), b"").endswith(model.sent[uid, sha256].data):
            continue  # the start has written the file again from the journal
        query = (
            "SELECT max(revision) FROM v_sources WHERE series_instance_uid = ? AND sop_instance_uid = ? AND sha256 = ?"
        )
        [newest] = index.execute(query, (series, uid, sha256)).fetchone()
        if newest is not None and newest > revision:
            yield f"{uid}: revision {newest} was made of a file with a flipped bit"


def unmentioned(root: Path, findings: Collection[str]) -> Iterator[str]:
    """Yield files that are not as the index has them, and are neither marked nor among the findings of `fsck`."""
    query = """
        SELECT path, sha256 FROM v_images WHERE NOT file_missing UNION ALL
        SELECT path, sha256 FROM v_conflicts WHERE path IS NOT NULL AND sha256 IS NOT NULL
    """
    with closing(opened(root)) as index:
        for path, sha256 in index.execute(query).fetchall():
            if str(Path(path).relative_to(root)) not in findings and not _is_whole(Path(path), sha256):
                yield f"fsck says nothing of {path}"


def _is_whole(path: Path, sha256: str) -> bool:
    """Whether a file ends with a data set of this digest; the data set begins behind the File Meta Information."""
    if not path.is_file():
        return False
    content = path.read_bytes()
    begin = 144 + int.from_bytes(content[140:144], "little")  # PS3.10 7.1
    return hashlib.sha256(content[begin:]).hexdigest() == sha256
