"""Compare the journal, rows, files and volumes of a root, and repair the differences.

`examine` changes nothing and may run while a node serves; `repair_all` requires the lock of the root.
"""

import datetime as dt
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path, PurePath
from time import time
from typing import Literal

from node.archive.base import VOLUMES
from node.archive.filesystem import MAX_FILES_PER_FOLDER, Archive
from node.archive.intact import MISSING, data_set_offset, problem_with
from node.archive.space import KEPT
from node.conversion.volume_files import LostSources
from node.errors import VoxelnodeError, counted
from node.files.acknowledged import FOLDER, LedgerPosition, problems, segments
from node.index.database import Index
from node.index.look.views import ReadIndex
from node.index.reading import reading
from node.index.rows.about_keys import JOURNAL
from node.index.rows.files import VolumeFile, folders_of
from node.index.rows.models.levels import STORE
from node.index.rows.place import check, place_of, schema_of
from node.index.rows.records import InstanceFile
from node.index.rules.custody.lost import absent
from node.journal.inspection import records, segment_files
from node.receive.accounting import mark_of, unaccounted
from node.receive.aside import reasons_of
from node.receive.record import JOURNAL_FOLDER, damaged_records, journal_report, receipt, waiting_keys
from node.receive.recovery import not_named

Kind = Literal[
    "index-damaged",
    "journal-damaged",  # records that were acknowledged cannot be read
    "journal-gap",  # a start could not read them, and nobody has accepted that
    "instance-lost",  # it was acknowledged, and is not here
    "not-ready",  # no start takes the root, or the running node is not ready
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
    if schema_of(index.connection).trouble is not None:
        return
    yield from _journal(root, index, serving=serving)
    yield from _acknowledged(root, index)
    losers = index.files.loser_keys()
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
        return bool(view.trash.volumes()) or next(view.files.of_volumes(), None) is not None


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
            rows = (row for row in view.files.of_instances() if not row.file_missing and row.place != STORE)
            return [(row.key, archive.quarantine_key(row.key)) for row in rows if row.holder in (None, host)]
        if name == "quarantine":
            return [(key,) for key in view.files.loser_keys(host) - view.files.to_be_set_aside()]
        if name == VOLUMES:
            return [(row.key,) for row in view.files.of_volumes() if not row.superseded and is_here(row, host)]
    large = (
        its for its in map(receipt, (one.facts for one in records(archive.root / JOURNAL_FOLDER))) if its is not None
    )
    return [
        (f"incoming/{PurePath(one.key).stem}.part", one.key, archive.quarantine_key(one.key))
        for one in large
        if one.sha256
    ]


def _acknowledged(root: Path, index: ReadIndex) -> Iterator[Finding]:
    for path, problem in problems(root):
        yield Finding("ledger-damaged", f"{FOLDER}/{path.name}", problem)
    versions = {one[:4]: one for found in unaccounted(root, partial(absent, index.connection)) for one in found}
    for one in versions.values():  # the ledger may have several entries of each
        detail = f"received from {one.calling_ae_title or one.source} at {one.received_at[:19]}: send it again"
        series = one.study_instance_uid, one.series_instance_uid
        yield Finding("instance-lost", FOLDER, detail, one.sop_instance_uid, series)


def _journal(root: Path, index: ReadIndex, *, serving: bool) -> Iterator[Finding]:
    report = journal_report(root, index.applied)
    for damage in report.damage:
        yield Finding("journal-damaged", f"{JOURNAL_FOLDER}/{damage.segment.name}", damaged_records(damage))
    if report.applied > report.last and not serving:
        detail = f"it ends with record {report.last}, and the index has record {report.applied}"
        yield Finding("journal-damaged", JOURNAL_FOLDER, f"{detail}: instances that were acknowledged may be missing")
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
            unknown = set(index.files.unknown_keys([finding.path for finding in batch])) - waiting
            yield from (finding for finding in batch if finding.path in unknown)


def _instances(
    root: Path, index: ReadIndex, losers: set[str], *, digests: bool, serving: bool, host: str | None
) -> Iterator[Finding]:
    compared = set()
    for folder, rows in groupby(index.files.of_instances(), key=lambda row: row.key.rpartition("/")[0]):
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
    known = {loser.key: loser.sha256 for loser in index.files.losers()}
    for key in sorted(index.files.loser_keys(host) - index.files.to_be_set_aside()):
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
    now = dt.datetime.now(dt.UTC)
    young = now - dt.timedelta(seconds=RECEIVING_SECONDS)
    unknown = [one for one in not_named(root, named, now) if not (serving and one.file.received_at >= young)]
    if not unknown:
        return
    with reading(root, url) as index:  # by now
        named = index.files.loser_keys() | reasons_of(index).keys()
    for one in unknown:
        if one.file.key not in named:
            yield Finding("loser-unknown", one.file.key, sop_instance_uid=one.attributes.sop_instance_uid)


def _unknown(root: Path, keys: set[str], *, serving: bool) -> Iterator[Finding]:
    for key in sorted(keys):
        try:
            age = time() - (root / key).stat().st_mtime
        except FileNotFoundError:  # indexed or removed meanwhile
            continue
        if not serving or age > RECEIVING_SECONDS:
            yield Finding("file-unknown", key)


def altered_volumes(archive: Archive, index: Index, now: dt.datetime, since: int) -> int:
    """Have the series converted again whose volumes are missing here, or have another length; return how many.

    `since`: compare those of conversions after this one, by its id.
    """
    with index.reading(wait=False) as view:
        found = list(_of_volumes(archive.root, view, set(), digests=False, host=index.sharing.holder, since=since))
    return index.series.reopen({finding.series for finding in found if finding.series is not None}, now)


def _volumes(root: Path, index: ReadIndex, *, digests: bool, host: str | None) -> Iterator[Finding]:
    named = index.trash.volumes()
    yield from _of_volumes(root, index, named, digests=digests, host=host)
    lost = LostSources(index.lost.by_series())
    for path in sorted((root / VOLUMES).glob("*/*/*/")):
        folder = str(path.relative_to(root))
        if folder not in named:
            yield Finding("volume-kept" if lost.are_in(root, folder) else "volume-unknown", folder)


def _of_volumes(
    root: Path, index: ReadIndex, named: set[str], *, digests: bool, host: str | None, since: int = 0
) -> Iterator[Finding]:
    """Compare the files that rows of volumes name, and add their folders to `named`."""
    for row in index.files.of_volumes(since=since):
        path = root / row.key
        named |= folders_of([row.key])
        if not row.sha256:  # a sidecar that is being written again
            continue
        detail = revision_of(row)
        try:
            problem = problem_with(path, 0, row.bytes, row.sha256 if digests else None)
        except OSError as error:
            yield Finding("file-unreadable", row.key, f"{detail}: {error.strerror}")
            continue
        is_gone = problem == MISSING and (row.superseded or not is_here(row, host))
        if problem is None or is_gone:  # a repair removes damaged files of superseded revisions
            continue
        if row.place == STORE:
            yield Finding("copy-altered", row.key, f"{detail}: {problem}")
        elif problem == MISSING:
            yield Finding("volume-missing", row.key, detail, series=to_convert_again(row))
        else:
            yield Finding("volume-altered", row.key, f"{detail}: {problem}", series=to_convert_again(row))


def revision_of(row: VolumeFile) -> str:
    """Return which revision a file is of, in words."""
    return f"revision {row.revision}{', superseded' if row.superseded else ''}"


def is_here(row: VolumeFile, host: str | None) -> bool:
    """Return whether a file that no store has is on this disk, as far as its row says."""
    return row.place != STORE and (host is None or (row.place is not None and row.holder in (None, host)))


def to_convert_again(row: VolumeFile) -> tuple[str, str] | None:
    """Return the series that is to be converted again if a file is damaged; None if the file is superseded."""
    return None if row.superseded else (row.study_instance_uid, row.series_instance_uid)


def _listed(root: Path, folder: str) -> set[str]:
    try:
        return {f"{folder}/{entry.name}" for entry in os.scandir(root / folder)}
    except FileNotFoundError:
        return set()
