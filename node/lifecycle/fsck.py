"""Compare the journal, rows, files and volumes of a root, and repair the differences.

`examine` changes nothing and may run while a node serves; `repair_all` requires the lock of the root.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path, PurePath
from time import time
from typing import Literal

from node.archive.base import VOLUMES, is_of_revision
from node.archive.filesystem import MAX_FILES_PER_FOLDER, Archive
from node.archive.intact import MISSING, data_set_offset, problem_with
from node.archive.space import KEPT
from node.conversion.volume_files import LostSources, sweep_unknown
from node.errors import VoxelnodeError, counted, is_of_system, is_out_of_memory
from node.files.acknowledged import FOLDER, LedgerPosition, digests_of, problems, segments
from node.files.durable import make_folder
from node.files.reading import read_instance
from node.index.database.index import Index
from node.index.database.reading import ReadIndex, reading
from node.index.engine.about_keys import JOURNAL
from node.index.engine.place import check, place_of
from node.index.models.levels import SPOOL, STORE
from node.index.nouns.instance_files import folders_of
from node.index.nouns.records import InstanceFile, Received
from node.index.nouns.volumes import VolumeFile
from node.journal.journal import records, segment_files
from node.lifecycle.journal import JOURNAL_FOLDER, damaged_records, journal_report, waiting_keys
from node.receive.accounting import mark_of, note_lost, repair_ledger, unaccounted
from node.receive.aside import reasons_of
from node.receive.record import receipt
from node.receive.recovery import ADOPTED, adopt, not_named, return_from_quarantine, stored_instance, without_deleted

Kind = Literal[
    "index-damaged",
    "journal-damaged",  # records that were acknowledged cannot be read
    "journal-gap",  # a start could not read them, and nobody has accepted that
    "instance-lost",  # it was acknowledged, and is not here
    "ledger-damaged",  # the ledger of what was acknowledged
    "journal-waiting",  # records that are not in the index, and no process that applies them
    "file-missing",  # a row without its file
    "file-back",  # marked as missing, but present
    "file-altered",  # length or digest differs from what was received
    "file-unreadable",  # an error while reading, which says nothing about the bytes
    "file-unknown",  # a file without a row
    "loser-missing",  # the file that a conflict names does not exist
    "loser-altered",  # it exists, and its digest is not that of the conflict
    "loser-unknown",  # an instance in quarantine that no conflict names
    "copy-altered",  # the local copy of an object
    "object-missing",  # a row without its object
    "object-altered",
    "object-unknown",  # an object without a row
    "store-away",  # the object store does not answer: its objects were not compared
    "volume-missing",
    "volume-altered",
    "volume-unknown",  # a folder of volumes without a revision
    "volume-kept",  # the same, or an object, made of instances that are lost
    "volume-object",  # the object of a file of a revision is missing or altered
    # Only a backup and its proof find these.
    "root-damaged",
    "digest-differs",
    "series-damaged",
    "conversion-differs",
    "conversion-failed",
]

RECEIVING_SECONDS = 60.0
"""While a node serves, a younger file without a row is taken as still being received."""

MAX_MISSING_SHARE = 0.1
"""Of all instances; if more files are missing at once, the folder of the archive is probably not mounted."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference; `path` is relative to the root; `repair` is its outcome, if any."""

    kind: Kind
    path: str
    detail: str = ""
    sop_instance_uid: str | None = None
    series: tuple[str, str] | None = None  # Study Instance UID, Series Instance UID
    repair: str | None = None


def examine(
    root: Path,
    index: ReadIndex,
    *,
    digests: bool,
    serving: bool,
    url: str | None = None,
    objects: Callable[[set[str]], Iterator[Finding]] | None = None,
    host: str | None = None,
) -> Iterator[Finding]:
    """Yield every difference between the index and the files below `root`; of an index with another schema, only that.

    `index`: the index of that root. The root recorded in the index itself is ignored, so that a copy can be examined.
    `digests`: compare the SHA-256 of every file; otherwise only the length.
    `serving`: a node is serving the root: instances being received are not differences.
    `url`: ``[index] url``.
    `objects`: takes the keys of files of conflicts, and yields the differences between the index and the object store.
    `host`: the host whose root this is, if several with roots of their own share the store. What only others have is
        not compared: files that are still to be moved to the store, quarantine, and volumes.
    """
    place = place_of(root, url)
    name = place.name if isinstance(place, Path) else str(place)
    yield from (Finding("index-damaged", name, problem) for problem in check(place))
    if not index.has_this_schema():
        return
    yield from _journal(root, index, serving=serving)
    yield from _acknowledged(root, index)
    losers = index.instances.loser_keys()
    unknown = []
    for finding in _instances(root, index, losers, digests=digests, serving=serving, host=host):
        if finding.kind == "file-unknown":
            unknown.append(finding)
        else:
            yield finding
    yield from _still_unknown(root, url, unknown)
    yield from _losers(root, index, digests=digests, host=host)
    yield from _unknown_losers(root, url, losers | reasons_of(index).keys(), serving=serving)
    if objects is not None:
        yield from objects(losers)
    yield from _volumes(root, index, digests=digests, host=host)


def require_mounted(root: Path, findings: list[Finding], instances: int) -> None:
    """Raise if too many of all `instances` lack their file for this to be damage; one file may always be missing.

    Files in quarantine are not missing: in an archive that is newer than its index, later versions have replaced it.
    """
    keys = [finding.path for finding in findings if finding.kind == "file-missing"]
    missing = sum(not (root / "quarantine" / PurePath(key).name).exists() for key in keys)
    if missing > max(1, instances * MAX_MISSING_SHARE):
        raise VoxelnodeError(
            f"{missing} of {instances} files are missing: is the archive mounted, and is the index that of this "
            "archive? Nothing was changed; to mark the files as missing, repeat the command with --force"
        )


def has_volumes(index: Index) -> bool:
    """Return whether rows name files of volumes; some may be in the trash."""
    with index.reading() as view:
        return bool(view.trash.volumes()) or next(view.volumes.files(), None) is not None


def lacks(archive: Archive, index: Index, name: str) -> str | None:
    """Return what a folder of a root has not although rows or records name it; None if it has nearly all.

    For a folder that was never marked (`node.archive.root`): its disk may not be mounted. The journal is still closed.
    """
    if name == "acknowledged":
        entries = LedgerPosition.of(index.about.get(mark_of(archive))).entries
        return (
            f"has no ledger, which had {entries} entries" if entries and not segments(archive.root / FOLDER) else None
        )
    if name in (JOURNAL_FOLDER, VOLUMES) and archive.suffix and _is_bare(archive.root):
        return None  # the disk of a host that is replaced is new as a whole; volumes are made again
    if name == JOURNAL_FOLDER:
        is_gone = index.about.get(f"{JOURNAL}{archive.suffix}") and not segment_files(archive.root / JOURNAL_FOLDER)
        return "has no journal, and the last process left one" if is_gone else None
    named = _named_in(name, archive, index)
    missing = sum(not any(os.path.lexists(archive.root / place) for place in places) for places in named)
    is_away = missing > len(named) * MAX_MISSING_SHARE
    return f"lacks {missing} of {counted(len(named), 'file')} that it should have" if is_away else None


def _is_bare(root: Path) -> bool:
    """Return whether no folder of a root has a file yet."""
    return not any(path.suffix for folder in KEPT for path in (root / folder).rglob("*.*"))


def _named_in(name: str, archive: Archive, index: Index) -> list[tuple[str, ...]]:
    """Return where each file may be that a folder should have."""
    host = index.sharing.holder
    with index.reading() as view:
        if name == "objects":
            rows = (row for row in view.instances.files() if not row.file_missing and row.place != STORE)
            return [(row.key, archive.quarantine_key(row.key)) for row in rows if row.holder in (None, host)]
        if name == "quarantine":
            return [(key,) for key in view.instances.loser_keys(host) - view.instances.to_be_set_aside()]
        if name == VOLUMES:
            here = (row for row in view.volumes.files() if not row.superseded and row.place != STORE)
            return [(row.path,) for row in here if _is_here(row, host)]
    large = (
        its for its in map(receipt, (one.facts for one in records(archive.root / JOURNAL_FOLDER))) if its is not None
    )
    return [
        (f"incoming/{PurePath(one.key).stem}.part", one.key, archive.quarantine_key(one.key))
        for one in large
        if one.sha256
    ]


def repair_all(
    findings: list[Finding],
    fates: Mapping[str, str],
    archive: Archive,
    index: Index,
    quiet_seconds: Callable[[str], float],
    now: dt.datetime,
) -> list[Finding]:
    """Repair the findings of `examine`; return them in order, with the repairs.

    * a lost instance is noted; it stays a finding until it comes again or is written off; * records of the journal that
    waited were applied when the root was opened; * a file without a row gets one, or goes to quarantine if it cannot be
    read; * a row without a file is marked: the next instance with its UID restores it; * an altered file goes to
    quarantine and its row is marked, unless the digest of the row is what is wrong; * an instance in quarantine that no
    row names is the missing file of its row, if its digest says so, or is noted; * a series whose volumes are missing
    or altered is converted again; * folders and objects of volumes that no row names are removed.

    `findings`: of `examine`: files without a row come after rows without a file. `fates`: what became of files when the
    root was opened (`node.receive.recovery`).
    """
    damaged = [PurePath(finding.path).name for finding in findings if finding.kind == "ledger-damaged"]
    if damaged:
        repair_ledger(archive, index, damaged)
    received = _digests(archive.root, findings)
    steps = [(finding, _repaired(finding, fates, archive, index, quiet_seconds, now, received)) for finding in findings]
    repaired = [replace(finding, repair=_replaced(finding, index) or done) for finding, done in steps]
    note_lost(archive, index, now)
    lost = {one.sop_instance_uid for one in index.lost.of(None)} if index.lost.count() else set()
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


def _repaired(
    finding: Finding,
    fates: Mapping[str, str],
    archive: Archive,
    index: Index,
    quiet_seconds: Callable[[str], float],
    now: dt.datetime,
    received: Mapping[str, set[str]],
) -> str | None:
    match finding.kind:
        case "file-unknown":
            return fates.get(finding.path) or _repaired_stray(finding.path, archive, index, quiet_seconds, now)
        case "file-altered" | "file-missing":
            return fates.get(finding.path) or _repaired_file(finding, archive, index, now, received)
        case "file-back":
            index.instances.mark_files([finding.path], missing=False, now=now)
            return "unmarked"
        case "loser-missing" | "loser-altered":
            index.instances.record_loser_damage(finding.path, finding.detail, now, gone=finding.kind == "loser-missing")
            return "marked"
        case "loser-unknown":
            return _repaired_loser(finding, archive, index, now, received)
        case "copy-altered" | "object-missing" | "object-altered" | "object-unknown":
            return _repaired_object(finding, archive, index, quiet_seconds, now)
        case "volume-missing" | "volume-altered" | "volume-object":
            return _repaired_volume(finding, archive, index, now)
        case kind:
            return _MENDED_TOGETHER.get(kind)


def _repaired_volume(finding: Finding, archive: Archive, index: Index, now: dt.datetime) -> str:
    """Have a revision with a damaged file converted again; an object is written again if its local file is whole."""
    file = index.objects.revision_file(finding.path) if finding.kind == "volume-object" else None
    if file is not None:
        index.objects.record_spooled([file.key])
        if problem_with(archive.path(file.key), 0, file.bytes, file.sha256) is None:
            return "to be moved to the object store again"
    archive.remove(finding.path)
    if finding.series is None:
        return "removed, superseded"
    index.series.reopen([finding.series], now)
    return "to be converted again"


def _repaired_object(
    finding: Finding, archive: Archive, index: Index, quiet_seconds: Callable[[str], float], now: dt.datetime
) -> str | None:
    """Have an object written again from its local copy, or mark its row; adopt one without a row."""
    if finding.kind == "object-unknown" and is_of_revision(finding.path):
        index.objects.remove([finding.path], now)
        return "to be removed"
    if finding.kind == "object-unknown":
        adopted = archive.remote.adopt([finding.path], quiet_seconds, now) if archive.remote is not None else {}
        return adopted.get(finding.path, "gone meanwhile")
    if finding.kind == "copy-altered":
        archive.remove(finding.path)
        return "removed: it is fetched again when it is read"
    row = index.instances.of_key(finding.path)
    if row is None:
        return "gone meanwhile"
    path = archive.path(row.key)
    if path.exists() and problem_with(path, row.data_set_offset, row.bytes, row.sha256) is None:
        index.objects.record_spooled([row.key])
        return "to be moved to the object store again"
    damage = f"the object {finding.detail}: send the instance again" if finding.detail else None
    index.instances.mark_files([row.key], missing=True, now=now, damage=damage)
    return "marked"


def _repaired_stray(
    key: str, archive: Archive, index: Index, quiet_seconds: Callable[[str], float], now: dt.datetime
) -> str | None:
    if not archive.path(key).exists():
        return "gone meanwhile"
    strays = without_deleted(archive, index, index.instances.unknown_keys([key]))
    if not archive.path(key).exists():
        return "removed: it was deleted"
    return adopt(archive, index, strays, quiet_seconds, now).get(key) if strays else ADOPTED


def _repaired_file(
    finding: Finding, archive: Archive, index: Index, now: dt.datetime, received: Mapping[str, set[str]]
) -> str | None:
    if not index.instances.named_keys([finding.path]):
        return "replaced by the instance that came again"  # its record was in the journal
    if _is_as_received(finding.path, archive, index):
        return "written again from the journal"
    if (row := index.instances.of_key(finding.path)) is not None and row.place == SPOOL and _is_in_store(archive, row):
        index.objects.record_stored([finding.path], now)
        return "the object store has it"
    if finding.kind == "file-missing":
        index.instances.mark_files([finding.path], missing=True, now=now)
        returned = return_from_quarantine(archive, index, PurePath(finding.path).parent.name, now)
        try:
            return returned.get(finding.path) or _given_back(row, archive, index, now, received) or "marked"
        except OSError:  # quarantine cannot be read now
            return "marked"
    if not archive.path(finding.path).exists():
        return "gone meanwhile"
    row = next((row for row in index.instances.files(finding.path.rpartition("/")[0]) if row.key == finding.path), None)
    try:
        sha256 = None if row is None else _believed(row, finding.path, archive, index, now, received)
    except OSError:  # it cannot be read now
        return None
    if sha256 is not None:
        index.instances.correct_digest(finding.path, sha256, now)
        return "kept: the digest of its row was corrected"
    aside = archive.quarantine_key(finding.path)
    index.instances.set_aside_damaged(finding.path, aside, finding.detail, now)
    archive.quarantine(finding.path)
    return "to quarantine, marked as missing"


def _repaired_loser(
    finding: Finding, archive: Archive, index: Index, now: dt.datetime, received: Mapping[str, set[str]]
) -> str | None:
    """Give a file in quarantine back to the row that misses it, or note it as one that lost."""
    found = next(not_named(archive.root, archive.quarantined() - {finding.path}, now), None)
    if found is None:
        return "gone meanwhile"
    if finding.path in index.instances.loser_keys():
        return "noted meanwhile"
    row = index.instances.current(found.attributes.sop_instance_uid)
    try:
        if row is not None and row.file_missing and archive.quarantine_key(row.key) == finding.path:
            given_back = _given_back(row, archive, index, now, received)
            if given_back is not None:
                return given_back
    except OSError:  # it cannot be read now
        return None
    index.instances.record_quarantined(found)
    return "noted as a version that is not current"


def _given_back(
    row: InstanceFile | None, archive: Archive, index: Index, now: dt.datetime, received: Mapping[str, set[str]]
) -> str | None:
    """Give a row the file that it misses, and that quarantine has, if that is believed against the digest of the row.

    Returns what was done, or None. Raises OSError if the file cannot be read now.
    """
    if row is None or not archive.path(aside := archive.quarantine_key(row.key)).exists():
        return None
    sha256 = _believed(row, aside, archive, index, now, received)
    if sha256 is None:
        return None
    make_folder(archive.path(row.key).parent)
    if is_noted := aside in index.instances.loser_keys():  # it stays: its own row names it
        archive.write(row.key, archive.path(aside).read_bytes())
        archive.sync([row.key])
    else:
        archive.move(aside, row.key)
    index.instances.correct_digest(row.key, sha256, now)
    return f"{'copied' if is_noted else 'moved'} back: the digest of its row was corrected"


def _is_in_store(archive: Archive, row: InstanceFile) -> bool:
    """Whether the object store has a file that is missing or damaged here; a damaged one is then replaced."""
    try:
        return archive.remote is not None and archive.remote.refreshed(row) is None
    except OSError:
        return False


def _believed(
    row: InstanceFile, key: str, archive: Archive, index: Index, now: dt.datetime, received: Mapping[str, set[str]]
) -> str | None:
    """Return the digest of a file that is believed although its row has another one; None if the file is damaged.

    The file is evidence as well: it must be an instance from its first byte to its last, with the UID and the length of
    its row. The ledger decides between the two digests (`received`: those of the ledger, by UID); if the ledger has
    both or neither, the sources of volumes do. What nothing speaks for is damaged.
    """
    try:
        attributes, file = stored_instance(archive.root, key, now)
        read_instance(archive.path(key))
    except Exception as error:  # pydicom raises anything on damaged files
        if is_of_system(error) or is_out_of_memory(error):
            raise
        return None
    if (attributes.sop_instance_uid, file.bytes) != (row.sop_instance_uid, row.bytes):
        return None
    digests = received.get(row.sop_instance_uid, set())
    if (row.sha256 in digests) == (file.sha256 in digests):
        digests = index.conversions.source_digests(row.sop_instance_uid)
    return file.sha256 if file.sha256 in digests and row.sha256 not in digests else None


def _digests(root: Path, findings: list[Finding]) -> Mapping[str, set[str]]:
    """Return the digests in the ledger of the instances whose files are in doubt, by UID."""
    kinds = ("file-altered", "file-missing", "loser-unknown")
    return digests_of(root, {one.sop_instance_uid for one in findings if one.kind in kinds and one.sop_instance_uid})


def _is_as_received(key: str, archive: Archive, index: Index) -> bool:
    """Whether the recovery that opening the root began with has restored a file."""
    rows = [row for row in index.instances.files(key.rpartition("/")[0]) if row.key == key]
    path = archive.path(key)
    return path.is_file() and all(not problem_with(path, row.data_set_offset, row.bytes, row.sha256) for row in rows)


def _acknowledged(root: Path, index: ReadIndex) -> Iterator[Finding]:
    for path, problem in problems(root):
        yield Finding("ledger-damaged", f"{FOLDER}/{path.name}", problem)
    for found in unaccounted(root, index.lost.absent):
        for one in found:
            detail = f"received from {one.calling_ae_title or one.source} at {one.received_at[:19]}: send it again"
            series = one.study_instance_uid, one.series_instance_uid
            yield Finding("instance-lost", FOLDER, detail, one.sop_instance_uid, series)


def _journal(root: Path, index: ReadIndex, *, serving: bool) -> Iterator[Finding]:
    report = journal_report(root, index.applied)
    for damage in report.damage:
        yield Finding("journal-damaged", f"{JOURNAL_FOLDER}/{damage.segment.name}", damaged_records(damage))
    for gap in index.lost.gaps():
        yield Finding("journal-gap", JOURNAL_FOLDER, str(gap["detail"]))
    if report.waiting and not serving:
        detail = f"{report.waiting} acknowledged instances are not in the index; the next start adds them"
        yield Finding("journal-waiting", JOURNAL_FOLDER, detail)


def _still_unknown(root: Path, url: str | None, findings: list[Finding]) -> Iterator[Finding]:
    """Yield the findings of files that have no row by now either, and that no record of the journal will give one."""
    if not findings:
        return
    waiting = waiting_keys(root)
    with reading(root, url) as index:
        for begin in range(0, len(findings), MAX_FILES_PER_FOLDER):
            batch = findings[begin : begin + MAX_FILES_PER_FOLDER]
            unknown = set(index.instances.unknown_keys([finding.path for finding in batch])) - waiting
            yield from (finding for finding in batch if finding.path in unknown)


def _instances(
    root: Path, index: ReadIndex, losers: set[str], *, digests: bool, serving: bool, host: str | None
) -> Iterator[Finding]:
    compared = set()
    for folder, rows in groupby(index.instances.files(), key=lambda row: row.key.rpartition("/")[0]):
        compared.add(folder)
        there = _listed(root, folder)
        for row in rows:
            if row.holder in (None, host):
                yield from _instance(root, row, row.key in there, digests=digests)
            there.discard(row.key)
        yield from _unknown(root, there - losers, serving=serving)
    for path in sorted((root / "objects").glob("*/")):
        folder = str(path.relative_to(root))
        if folder not in compared:
            yield from _unknown(root, _listed(root, folder) - losers, serving=serving)


def _instance(root: Path, row: InstanceFile, is_there: bool, *, digests: bool) -> Iterator[Finding]:
    uid = row.sop_instance_uid
    if not is_there and row.place != STORE:
        if not row.file_missing:
            yield Finding("file-missing", row.key, sop_instance_uid=uid)
        elif _is_in_quarantine(root, row):
            yield Finding("file-missing", row.key, "quarantine has it", sop_instance_uid=uid)
    if not is_there:
        return
    sha256 = row.sha256 if digests or row.file_missing else None  # marked may mean damaged
    try:
        problem = problem_with(root / row.key, row.data_set_offset, row.bytes, sha256)
    except OSError as error:
        yield Finding("file-unreadable", row.key, str(error.strerror), sop_instance_uid=uid)
        return
    if problem is not None and row.place == STORE:
        yield Finding("copy-altered", row.key, problem, sop_instance_uid=uid)
    elif problem is not None:
        yield Finding("file-altered", row.key, problem, sop_instance_uid=uid)
    elif row.file_missing:
        yield Finding("file-back", row.key, sop_instance_uid=uid)


def _is_in_quarantine(root: Path, row: InstanceFile) -> bool:
    """Return whether the file of a row is whole in quarantine, under its own name."""
    try:
        aside = root / "quarantine" / PurePath(row.key).name
        return problem_with(aside, row.data_set_offset, row.bytes, row.sha256) is None
    except OSError:  # it cannot be read now
        return False


def _losers(root: Path, index: ReadIndex, *, digests: bool, host: str | None) -> Iterator[Finding]:
    """Compare the files of conflicts, which are versions of instances like any other."""
    known = {loser.key: loser.sha256 for loser in index.instances.losers()}
    for key in sorted(index.instances.loser_keys(host) - index.instances.to_be_set_aside()):
        try:
            if not (root / key).is_file():
                yield Finding("loser-missing", key, "the file is missing")
            elif digests and key in known:
                offset = data_set_offset(root / key) or 0
                if problem := problem_with(root / key, offset, None, known[key]):
                    yield Finding("loser-altered", key, problem)
        except OSError as error:
            yield Finding("file-unreadable", key, str(error.strerror))


def _unknown_losers(root: Path, url: str | None, named: set[str], *, serving: bool) -> Iterator[Finding]:
    """Find files that quarantine had when an older copy of the index was made, and files that came there since."""
    unknown = [one for one in not_named(root, named, dt.datetime.now(dt.UTC)) if not (serving and _is_young(one))]
    if not unknown:
        return
    with reading(root, url) as index:  # by now
        named = index.instances.loser_keys() | reasons_of(index).keys()
    for one in unknown:
        if one.file.key not in named:
            yield Finding("loser-unknown", one.file.key, sop_instance_uid=one.attributes.sop_instance_uid)


def _is_young(found: Received) -> bool:
    return (dt.datetime.now(dt.UTC) - found.file.received_at).total_seconds() <= RECEIVING_SECONDS


def _unknown(root: Path, keys: set[str], *, serving: bool) -> Iterator[Finding]:
    for key in sorted(keys):
        try:
            age = time() - (root / key).stat().st_mtime
        except FileNotFoundError:  # indexed or removed meanwhile
            continue
        if not serving or age > RECEIVING_SECONDS:
            yield Finding("file-unknown", key)


def _volumes(root: Path, index: ReadIndex, *, digests: bool, host: str | None) -> Iterator[Finding]:
    named = index.trash.volumes()
    for row in index.volumes.files():
        path = root / row.path
        named |= folders_of([row.path])
        if not row.sha256:  # a sidecar that is being written again
            continue
        detail = revision_of(row)
        try:
            problem = problem_with(path, 0, row.bytes, row.sha256 if digests else None)
        except OSError as error:
            yield Finding("file-unreadable", row.path, f"{detail}: {error.strerror}")
            continue
        is_gone = problem == MISSING and (row.superseded or row.place == STORE or not _is_here(row, host))
        if problem is None or is_gone:  # a repair removes damaged files of superseded revisions
            continue
        if row.place == STORE:
            yield Finding("copy-altered", row.path, f"{detail}: {problem}")
        elif problem == MISSING:
            yield Finding("volume-missing", row.path, detail, series=to_convert_again(row))
        else:
            yield Finding("volume-altered", row.path, f"{detail}: {problem}", series=to_convert_again(row))
    lost = LostSources(index.lost.by_series())
    for path in sorted((root / VOLUMES).glob("*/*/*/")):
        folder = str(path.relative_to(root))
        if folder not in named:
            yield Finding("volume-kept" if lost.are_in(root, folder) else "volume-unknown", folder)


def revision_of(row: VolumeFile) -> str:
    """Return which revision a file is of, in words."""
    return f"revision {row.revision}{', superseded' if row.superseded else ''}"


def _is_here(row: VolumeFile, host: str | None) -> bool:
    """Return whether a file that no store has is on this disk, as far as its row says."""
    return host is None or (row.place is not None and row.holder in (None, host))


def to_convert_again(row: VolumeFile) -> tuple[str, str] | None:
    """Return the series that is to be converted again if a file is damaged; None if the file is superseded."""
    return None if row.superseded else (row.study_instance_uid, row.series_instance_uid)


def _listed(root: Path, folder: str) -> set[str]:
    try:
        return {f"{folder}/{entry.name}" for entry in os.scandir(root / folder)}
    except FileNotFoundError:
        return set()
