"""Repair the differences that `node.lifecycle.fsck` has found, under the lock of the root."""

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from node.archive.base import is_of_revision
from node.archive.filesystem import Archive
from node.archive.intact import problem_with
from node.conversion.volume_files import sweep_unknown
from node.errors import is_of_system, is_out_of_memory
from node.files.acknowledged import digests_of
from node.files.durable import make_folder
from node.files.reading import read_instance
from node.index.database import Index
from node.index.rows.models.levels import SPOOL
from node.index.rows.records import InstanceFile
from node.lifecycle.fsck import Finding, Kind
from node.receive.accounting import note_lost, repair_ledger
from node.receive.recovery import ADOPTED, adopt, not_named, return_from_quarantine, stored_instance, without_deleted


def repair_all(
    findings: list[Finding],
    fates: Mapping[str, str],
    archive: Archive,
    index: Index,
    quiet_seconds: Callable[[str], float],
    now: dt.datetime,
) -> list[Finding]:
    """Repair the findings of `examine`; return them in order, with the repairs.

    * A lost instance is noted. It stays a finding until it comes again or is written off.
    * Records of the journal that waited were applied when the root was opened.
    * A file without a row gets one, or goes to quarantine if it cannot be read.
    * A row without a file is marked: the next instance with its UID restores it.
    * An altered file goes to quarantine and its row is marked, unless the digest of the row is what is wrong.
    * An instance in quarantine that no row names is the missing file of its row, if its digest says so, or is noted.
    * A series whose volumes are missing or altered is converted again.
    * Folders and objects of volumes that no row names are removed.

    `findings`: of `examine`: files without a row come after rows without a file. `fates`: what became of files when the
    root was opened (`node.receive.recovery`).
    """
    damaged = [PurePath(finding.path).name for finding in findings if finding.kind == "ledger-damaged"]
    if damaged:
        repair_ledger(archive, index, damaged)
    repair = _Repair(archive, index, fates, quiet_seconds, now, _digests(archive.root, findings))
    steps = [(finding, repair.of(finding)) for finding in findings]
    repaired = [replace(finding, repair=_replaced(finding, index) or done) for finding, done in steps]
    note_lost(archive, index, now)
    lost = {one.sop_instance_uid for one in index.lost.all()}
    if any(finding.kind == "volume-unknown" for finding in findings):
        sweep_unknown(archive, index)
    # A version is found again by a digest that was corrected.
    return [finding for finding in repaired if finding.kind != "instance-lost" or finding.sop_instance_uid in lost]


def _replaced(finding: Finding, index: Index) -> str | None:
    """Return which file has taken the place of a missing one meanwhile, in words."""
    if finding.kind not in ("file-missing", "file-altered") or finding.sop_instance_uid is None:
        return None
    row = index.instances.current(finding.sop_instance_uid)
    return f"replaced by {row.key}" if row is not None and row.key != finding.path else None


_MENDED_TOGETHER: Mapping[Kind, str] = {
    "journal-waiting": "applied",
    "journal-damaged": "segment copied to quarantine",
    "ledger-damaged": "what the index has was added to the ledger",
    "instance-lost": "noted: `voxelnode lost list`",
    "volume-unknown": "removed",
    "volume-kept": "stays until the lost instances of its series are here or written off",
}
"""Outcomes of findings that are repaired before or after the others."""


def _digests(root: Path, findings: list[Finding]) -> Mapping[str, set[str]]:
    """Return the digests in the ledger of the instances whose files are in doubt, by UID."""
    kinds = ("file-altered", "file-missing", "loser-unknown")
    return digests_of(root, {one.sop_instance_uid for one in findings if one.kind in kinds and one.sop_instance_uid})


@dataclass(frozen=True, slots=True)
class _Repair:
    """What repairs need. `received`: the digests of the ledger, by UID."""

    archive: Archive
    index: Index
    fates: Mapping[str, str]
    quiet_seconds: Callable[[str], float]
    now: dt.datetime
    received: Mapping[str, set[str]]

    def of(self, finding: Finding) -> str | None:
        """Repair a finding; return what was done, or None."""
        match finding.kind:
            case "file-unknown":
                return self.fates.get(finding.path) or self._repaired_stray(finding.path)
            case "file-altered" | "file-missing":
                return self.fates.get(finding.path) or self._repaired_file(finding)
            case "file-back":
                self.index.instances.mark_files([finding.path], missing=False, now=self.now)
                return "unmarked"
            case "loser-missing" | "loser-altered":
                gone = finding.kind == "loser-missing"
                self.index.instances.record_loser_damage(finding.path, finding.detail, self.now, gone=gone)
                return "marked"
            case "loser-unknown":
                return self._repaired_loser(finding)
            case "copy-altered" | "object-missing" | "object-altered" | "object-unknown":
                return self._repaired_object(finding)
            case "volume-missing" | "volume-altered" | "volume-object":
                return self._repaired_volume(finding)
            case kind:
                return _MENDED_TOGETHER.get(kind)

    def _repaired_volume(self, finding: Finding) -> str:
        """Have a revision with a damaged file converted again; an object is written again from a whole local file."""
        file = self.index.objects.revision_file(finding.path) if finding.kind == "volume-object" else None
        if file is not None:
            self.index.objects.record_spooled([file.key])
            if problem_with(self.archive.path(file.key), 0, file.bytes, file.sha256) is None:
                return "to be moved to the object store again"
        self.archive.remove(finding.path)
        if finding.series is None:
            return "removed, superseded"
        self.index.series.reopen([finding.series], self.now)
        return "to be converted again"

    def _repaired_object(self, finding: Finding) -> str | None:
        """Have an object written again from its local copy, or mark its row; adopt one without a row."""
        if finding.kind == "object-unknown" and is_of_revision(finding.path):
            self.index.objects.remove([finding.path], self.now)
            return "to be removed"
        if finding.kind == "object-unknown":
            remote = self.archive.remote
            adopted = {} if remote is None else remote.adopt([finding.path], self.quiet_seconds, self.now)
            return adopted.get(finding.path, "gone meanwhile")
        if finding.kind == "copy-altered":
            self.archive.remove(finding.path)
            return "removed: it is fetched again when it is read"
        row = self.index.instances.of_key(finding.path)
        if row is None:
            return "gone meanwhile"
        path = self.archive.path(row.key)
        if path.exists() and problem_with(path, row.data_set_offset, row.bytes, row.sha256) is None:
            self.index.objects.record_spooled([row.key])
            return "to be moved to the object store again"
        damage = f"the object {finding.detail}: send the instance again" if finding.detail else None
        self.index.instances.mark_files([row.key], missing=True, now=self.now, damage=damage)
        return "marked"

    def _repaired_stray(self, key: str) -> str | None:
        if not self.archive.path(key).exists():
            return "gone meanwhile"
        strays = without_deleted(self.archive, self.index, self.index.instances.unknown_keys([key]))
        if not self.archive.path(key).exists():
            return "removed: it was deleted"
        return adopt(self.archive, self.index, strays, self.quiet_seconds, self.now).get(key) if strays else ADOPTED

    def _repaired_file(self, finding: Finding) -> str | None:
        if not self.index.instances.named_keys([finding.path]):
            return "replaced by the instance that came again"  # its record was in the journal
        if self._is_as_received(finding.path):
            return "written again from the journal"
        row = self.index.instances.of_key(finding.path)
        if row is not None and row.place == SPOOL and self._is_in_store(row):
            self.index.objects.record_stored([finding.path], self.now)
            return "the object store has it"
        if finding.kind == "file-missing":
            self.index.instances.mark_files([finding.path], missing=True, now=self.now)
            returned = return_from_quarantine(self.archive, self.index, PurePath(finding.path).parent.name, self.now)
            try:
                return returned.get(finding.path) or self._given_back(row) or "marked"
            except OSError:  # quarantine cannot be read now
                return "marked"
        if not self.archive.path(finding.path).exists():
            return "gone meanwhile"
        try:
            sha256 = None if row is None else self._believed(row, finding.path)
        except OSError:  # it cannot be read now
            return None
        if sha256 is not None:
            self.index.instances.correct_digest(finding.path, sha256, self.now)
            return "kept: the digest of its row was corrected"
        aside = self.archive.quarantine_key(finding.path)
        self.index.instances.set_aside_damaged(finding.path, aside, finding.detail, self.now)
        self.archive.quarantine(finding.path)
        return "to quarantine, marked as missing"

    def _repaired_loser(self, finding: Finding) -> str | None:
        """Give a file in quarantine back to the row that misses it, or note it as one that lost."""
        found = next(not_named(self.archive.root, self.archive.quarantined() - {finding.path}, self.now), None)
        if found is None:
            return "gone meanwhile"
        if finding.path in self.index.instances.loser_keys():
            return "noted meanwhile"
        row = self.index.instances.current(found.attributes.sop_instance_uid)
        try:
            if row is not None and row.file_missing and self.archive.quarantine_key(row.key) == finding.path:
                given_back = self._given_back(row)
                if given_back is not None:
                    return given_back
        except OSError:  # it cannot be read now
            return None
        self.index.instances.record_quarantined(found)
        return "noted as a version that is not current"

    def _given_back(self, row: InstanceFile | None) -> str | None:
        """Give a row the file that it misses, and that quarantine has, if that is believed against its digest.

        Returns what was done, or None. Raises OSError if the file cannot be read now.
        """
        if row is None or not self.archive.path(aside := self.archive.quarantine_key(row.key)).exists():
            return None
        sha256 = self._believed(row, aside)
        if sha256 is None:
            return None
        make_folder(self.archive.path(row.key).parent)
        if is_noted := aside in self.index.instances.loser_keys():  # it stays: its own row names it
            self.archive.write(row.key, self.archive.path(aside).read_bytes())
            self.archive.sync([row.key])
        else:
            self.archive.move(aside, row.key)
        self.index.instances.correct_digest(row.key, sha256, self.now)
        return f"{'copied' if is_noted else 'moved'} back: the digest of its row was corrected"

    def _is_in_store(self, row: InstanceFile) -> bool:
        """Whether the object store has a file that is missing or damaged here; a damaged one is then replaced."""
        try:
            return self.archive.remote is not None and self.archive.remote.refreshed(row) is None
        except OSError:
            return False

    def _believed(self, row: InstanceFile, key: str) -> str | None:
        """Return the digest of a file that is believed although its row has another one; None if the file is damaged.

        The file is evidence as well: it must be an instance from its first byte to its last, with the UID and the
        length of its row. The ledger decides between the two digests; if it has both or neither, the sources of volumes
        do. What nothing speaks for is damaged.
        """
        try:
            attributes, file = stored_instance(self.archive.root, key, self.now)
            read_instance(self.archive.path(key))
        except Exception as error:  # pydicom raises anything on damaged files
            if is_of_system(error) or is_out_of_memory(error):
                raise
            return None
        if (attributes.sop_instance_uid, file.bytes) != (row.sop_instance_uid, row.bytes):
            return None
        digests = self.received.get(row.sop_instance_uid, set())
        if (row.sha256 in digests) == (file.sha256 in digests):
            digests = self.index.conversions.source_digests(row.sop_instance_uid)
        return file.sha256 if file.sha256 in digests and row.sha256 not in digests else None

    def _is_as_received(self, key: str) -> bool:
        """Whether the recovery that opening the root began with has restored a file."""
        path, row = self.archive.path(key), self.index.instances.of_key(key)
        is_whole = row is None or not problem_with(path, row.data_set_offset, row.bytes, row.sha256)
        return path.is_file() and is_whole
