"""What a node owes to senders and operators: what it acknowledged, less what was deleted or harmed since."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.crash.checker import Checker, damage, digest_of, opened
from tests.crash.journal import Delivery, Journal, Sent

Version = tuple[str, str]
"""SOP Instance UID and SHA-256 of a data set."""

KEPT_IN = ("objects", "quarantine", "incoming")


@dataclass(slots=True)
class Trashed:
    """A deletion in the trash: of the instances `uids` of a series, and of what was `owed` of them.

    `persons`: Patient IDs of whose it was, and of all who were one person then. `before`: how the series was.
    `touched`: of the series, with this deletion.
    """

    series: str
    uids: set[str]
    owed: dict[Version, float]
    persons: set[str]
    before: Any
    touched: int


@dataclass(slots=True)
class Changes:
    """What operators did since the instances were acknowledged."""

    harmed: set[Version] = field(default_factory=set)
    flipped: dict[Version, tuple[str, int]] = field(default_factory=dict)  # its series and the revision of that moment
    unknown: set[str] = field(default_factory=set)  # flipped, and no index has told since what it was
    misled: set[str] = field(default_factory=set)  # instances whose row was given a wrong digest
    deleted: set[str] = field(default_factory=set)  # instances without a row
    gone: set[Version] = field(default_factory=set)  # without a file
    trash: dict[str, Trashed] = field(default_factory=dict)
    doubtful: set[str] = field(default_factory=set)  # an older index or a copy may have brought them back
    merged: dict[str, str] = field(default_factory=dict)  # Patient ID to that of the patient it was merged into


class Model(Journal):
    """What a node owes."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.changes = Changes()
        self.touched = Counter[str]()  # by series: how often something came, went, or came back
        self._snapshots: list[Snapshot] = []

    def sending(self, one: Sent) -> Delivery:
        self._touch({one.sop_instance_uid})
        self.changes.deleted.discard(one.sop_instance_uid)  # it may be kept although the answer is lost
        self.changes.gone.discard((one.sop_instance_uid, one.sha256))
        self.touched[one.series_instance_uid] += 1
        return super().sending(one)

    def answered(self, one: Sent, status: int, delivery: Delivery) -> None:
        super().answered(one, status, delivery)
        if status == 0x0000:
            self.changes.harmed.discard((one.sop_instance_uid, one.sha256))
            self.changes.flipped.pop((one.sop_instance_uid, one.sha256), None)
            self.changes.doubtful.discard(one.sop_instance_uid)

    def acknowledged(self, until: float = float("inf")) -> list[Version]:
        return [version for version in super().acknowledged(until) if version not in self.changes.harmed]

    def _deleted(self, uids: set[str]) -> dict[Version, float]:
        """Note that instances were deleted; return what is not owed any more."""
        self.touched.update({one.series_instance_uid for one in self.sent.values() if one.sop_instance_uid in uids})
        self.changes.deleted |= uids
        self._touch(uids)
        return {version: self.answered_at.pop(version) for version in [*self.answered_at] if version[0] in uids}

    def trash(self, deletion: str, uids: set[str], before: Any) -> None:
        """Note that instances of a series, which was so before, went to the trash."""
        one = next(sent for sent in self.sent.values() if sent.sop_instance_uid in uids)
        root, owed = self.patient_of(one.patient_id), self._deleted(uids)
        persons = {other for other in (root, *self.changes.merged) if self.patient_of(other) == root}
        series, touched = one.series_instance_uid, self.touched[one.series_instance_uid]
        self.changes.trash[deletion] = Trashed(series, {*uids}, owed, persons, before, touched)

    def undo(self, deletion: str) -> None:
        """Note that a deletion was undone: it is as if it had not been, unless something came meanwhile."""
        entry = self.changes.trash.pop(deletion)
        self.answered_at = entry.owed | self.answered_at
        self.changes.deleted -= entry.uids
        self.touched[entry.series] += 1

    def empty(self, deletion: str) -> None:
        """Note that a deletion cannot be undone any more."""
        entry = self.changes.trash.pop(deletion)
        others = {version for other in self.changes.trash.values() for version in other.owed}
        self._remove({version for version in entry.owed.keys() - others if version[0] in self.changes.deleted})

    def is_shared(self, uids: set[str]) -> bool:
        """Whether a deletion in the trash has others beside some of these: they cannot be erased alone."""
        return any(entry.uids & uids and entry.uids - uids for entry in self.changes.trash.values())

    def erase(self, uids: set[str], left: Collection[str]) -> None:
        """Note that instances were erased, also in the trash, and who a patient is of whom no instance is `left`."""
        changes, of = self.changes, {sent.sop_instance_uid: sent.patient_id for sent in self.sent.values()}
        persons = {self.patient_of(of[uid]) for uid in uids}
        self._deleted(uids)
        self._remove({version for version in self.sent if version[0] in uids})
        for deletion in [deletion for deletion, entry in changes.trash.items() if entry.uids & uids]:
            entry = changes.trash.pop(deletion)
            assert not [version for version in entry.owed if version[0] not in uids], "erased with others in the trash"
            persons |= entry.persons
        forgotten = persons - changes.merged.keys() - {self.patient_of(of[uid]) for uid in left if uid in of}
        changes.merged = {one: to for one, to in changes.merged.items() if self.patient_of(one) not in forgotten}

    def _remove(self, versions: set[Version]) -> None:
        self.changes.gone |= versions
        self.changes.harmed -= versions
        for version in versions:
            self.changes.flipped.pop(version, None)

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

    def forget_deletions(self) -> None:
        """Note that no index knows any more what was deleted: what is in the trash is back, the rest may be there."""
        for deletion in [*self.changes.trash]:
            self.undo(deletion)
        self.doubt_deletions()

    def go_back_to_index(self, then: Changes) -> None:
        """Note that an older index was put back: what was deleted since is back, and what was undone may be deleted."""
        changes = self.changes
        for deletion in changes.trash.keys() - then.trash.keys():
            self.undo(deletion)
        for deletion in then.trash.keys() - changes.trash.keys():
            entry = changes.trash[deletion] = deepcopy(then.trash[deletion])
            entry.owed = {one: self.answered_at.pop(one) for one in entry.owed if one in self.answered_at}
            changes.doubtful |= entry.uids
        changes.merged = dict(then.merged)
        self.doubt_deletions()

    def doubt_deletions(self) -> None:
        """Note that what was deleted may be back."""
        self.changes.doubtful |= self.changes.deleted
        self.changes.gone.clear()

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
        self.changes.gone = {version for version in self.changes.gone if version[0] not in to.touched}


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
        again = changes.deleted & rows.keys() - changes.doubtful
        yield from (f"deleted, and indexed again: {uid}" for uid in again)
        yield from (
            f"deleted, and still there: {version[0]} in {path.relative_to(root)}"
            for version in changes.gone
            for path, content in files.items()
            if version[0] not in changes.doubtful and content.endswith(model.sent[version].data)
        )
        named = {Path(row["path"]) for row in rows.values()}
        named |= {Path(row[0]) for row in index.execute("SELECT path FROM v_conflicts WHERE path IS NOT NULL")}
        named |= {root / row[0] for row in index.execute("SELECT key FROM trash WHERE key IS NOT NULL")}
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
    in_trash = {version for entry in model.changes.trash.values() for version in entry.owed}
    for version in in_trash - model.changes.harmed:
        if not any(content.endswith(model.sent[version].data) for content in files.values()):
            yield f"in the trash, and lost: {version[0]}"


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
            if str(Path(path).relative_to(root)) not in findings and digest_of(Path(path)) != sha256:
                yield f"fsck says nothing of {path}"
