"""Folders of revisions: each is published by one rename, and removed once it is superseded or no row names it.

A folder belongs to one claim, whose first letters are in its name. No other conversion ever writes into it, also if the
series is deleted, sent and converted again while an earlier conversion still runs. Whatever removes a folder therefore
removes nobody else's files.

A changed verdict converts nothing, but `completeness` of sidecars is written again. The commit that changes it notes in
the row of the conversion that its sidecars are owed; then, of each sidecar:

    rows without a digest, as old and new bytes are both right -> new file -> rename over the old one
                                                               -> rows with the new digest, nothing owed

If the process dies in between, the sidecars are still owed, and all steps are repeated. Only an object store has rows
of sidecars: their objects are removed first, and the new files are moved there as those of a new revision.
"""

from __future__ import annotations

import datetime as dt
import errno
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from glob import glob
from math import inf
from pathlib import Path, PurePath
from time import monotonic
from typing import TYPE_CHECKING, Any

import structlog

from node.archive.base import VOLUMES
from node.archive.root import mark_folders
from node.conversion.naming import folder_name
from node.files.durable import sync_file, write_durably
from node.index.rows.records import OWED_SIDECARS, RevisionFile
from node.runtime.failpoints import reached

if TYPE_CHECKING:
    from node.archive.base import LocalFile
    from node.archive.filesystem import Archive
    from node.completeness import Completeness
    from node.index.database import Index
    from node.index.look.views import ReadIndex
    from node.index.rows.records import ClaimedSeries, OwedSidecars

LocalPath = Callable[[str], Path]
"""Gives the local path of a file of a revision by its path relative to the root, after fetching it."""

CLAIM_LETTERS = 8
"""Of a claim in the name of its folder."""

NOTE = "publishing-"
"""What the names of notes in the work folder begin with; then comes the claim."""

_parents = threading.Lock()
"""Held while parents of a folder are made for it, or removed because they are empty."""


def revision_folder(claimed: ClaimedSeries) -> Path:
    """Return the folder of the files that the conversion of a claimed series makes, relative to the root."""
    name = f"{claimed.revision}-{claimed.claim[:CLAIM_LETTERS]}"
    return Path(series_folder(claimed.study_instance_uid, claimed.series_instance_uid), name)


def series_folder(study_instance_uid: str, series_instance_uid: str) -> str:
    """Return the folder of all revisions of a series, relative to the root; it begins the keys of their objects."""
    return f"{VOLUMES}/{folder_name(study_instance_uid)}/{folder_name(series_instance_uid)}"


def stem_of(name: str) -> str:
    """Return the name of a file of a volume without what its format adds; its sidecar is STEM.json."""
    return name.removesuffix(".gz").rpartition(".")[0].removesuffix("_analyze")


def sidecar_beside(path: str, local: LocalPath) -> dict[str, Any]:
    """Return the fields of the sidecar of a file of a volume; none if it cannot be read now."""
    file = PurePath(path)
    try:
        fields: dict[str, Any] = json.loads(local(str(file.with_name(f"{stem_of(file.name)}.json"))).read_bytes())
    except (OSError, ValueError):  # such as: another process is replacing it
        return {}
    return fields


def stored_files(folder: Path, key: str, known: Mapping[str, str]) -> list[RevisionFile]:
    """Return all files in a folder of a revision, as an object store is to have them.

    `key`: the folder of the revision, relative to the root.
    `known`: digests of some of the files, by their keys; the other files are read.

    Raises OSError.
    """
    files = []
    for path in sorted(folder.iterdir()):
        name = f"{key}/{path.name}"
        if (sha256 := known.get(name)) is None:
            with path.open("rb", buffering=0) as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        files.append(RevisionFile(name, path.stat().st_size, sha256))
    return files


def revision_files(root: Path, index: ReadIndex, folder: str) -> list[RevisionFile]:
    """Return the files of a revision by its folder relative to the root, sorted by name; empty if there are none."""
    if noted := index.files.files_in(folder):
        return noted
    with suppress(FileNotFoundError):
        return [
            RevisionFile(f"{folder}/{path.name}", path.stat().st_size)
            for path in sorted((root / folder).iterdir())
            if path.is_file()
        ]
    return []


def by_path(root: Path, index: ReadIndex, local: LocalFile) -> LocalPath:
    """Return the function that maps paths of revision files to local files; it raises OSError as `local` does.

    Without an object store, the file may be missing.
    """

    def path_of(path: str) -> Path:
        file = index.files.file_at(path)
        return root / path if file is None else local(file)

    return path_of


def publish(folder: Path, claimed: ClaimedSeries, archive: Archive) -> None:
    """Move a finished folder to the `revision_folder` of a conversion by one durable rename; never replace other files.

    Files and folders are synced before the rename: after a power failure, the destination is absent or complete. A note
    in the work folder names the destination until rows do. If the process dies before, `sweep` finds the folder by it,
    and removes it: a start looks only at the folders that the last process was publishing.

    Raises OutOfResources: the folder of volumes is away.
    """
    archive.intake.require_here()
    destination = revision_folder(claimed)
    sync_all(folder, archive.sync_folder)
    note = json.dumps([claimed.id, str(destination)]).encode()
    write_durably(archive.work / f"{NOTE}{claimed.claim}", note)
    move_folder(folder, archive.root / destination, archive)
    archive.intake.require_here()  # it may lie below a mount


def settle(claim: str, archive: Archive, index: Index) -> None:
    """Remove the folder that a claim has published, unless rows name it, and then its note.

    What fails is done by the next start.
    """
    note = archive.work / f"{NOTE}{claim}"
    with suppress(OSError):  # without a note, nothing was published
        try:
            series, folder = json.loads(note.read_bytes())
        except ValueError:  # the process died while it wrote the note: nothing was published
            pass
        else:
            if not index.conversions.is_recorded(series, folder):
                remove_folder(archive.root / folder, archive.sync_folder)
        note.unlink()


def sweep(archive: Archive, index: Index) -> None:
    """Remove what conversions of the last process left: work folders, and published folders that no row names.

    Runs before any conversion of this host.
    """
    for path in archive.work.glob("*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name.startswith(NOTE):
            settle(path.name.removeprefix(NOTE), archive, index)


def move_folder(folder: Path, destination: Path, archive: Archive) -> None:
    """Move a folder, whose files are synced, to that of a revision by one durable rename.

    Where volumes are on another disk, it is copied beside its destination first; `remove_folder` removes that part too.
    """
    with _parents:
        # It is known from its first volume on, as old as the instances: the next start need not compare it
        mark_folders(archive.root, is_new=lambda name: name != VOLUMES, like="objects")
        destination.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for changed in destination.parents[3::-1]:
            archive.sync_folder(changed)
        try:
            os.rename(folder, destination)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            part = _part(destination)
            shutil.rmtree(part, ignore_errors=True)  # of an attempt that failed
            shutil.copytree(folder, part)
            sync_all(part, archive.sync_folder)
            os.rename(part, destination)
        archive.sync_folder(destination.parent)


def sync_all(folder: Path, sync_folder: Callable[[Path], None]) -> None:
    """Sync the files in a folder, and the folder."""
    for file in folder.iterdir():
        sync_file(file)
    sync_folder(folder)


def _part(destination: Path) -> Path:
    return destination.with_name(f"part-{destination.name}")


def remove_folder(folder: Path, sync_folder: Callable[[Path], None] = lambda folder: None) -> None:
    """Remove a folder of files, if it exists, and the folders of its series and study if they are empty then.

    `sync_folder`: makes the removal durable.

    Raises OSError: the files cannot be removed.
    """
    for path in (_part(folder), folder):
        with suppress(FileNotFoundError):
            shutil.rmtree(path)
    with _parents:
        with suppress(OSError):  # such as: other revisions are in it
            folder.parent.rmdir()
            folder.parent.parent.rmdir()
        sync_folder(next(parent for parent in folder.parents if parent.is_dir()))


class LostSources:
    """The folders and objects of volumes that no row names and that were made of lost instances.

    An index that was lost with everything in it leaves them. No volume of the instances that are left is better: they
    stay until the lost instances are here again or are written off.

    `lost`: the lost instances of each series, by its Study and Series Instance UIDs.
    """

    def __init__(self, lost: Mapping[tuple[str, str], set[str]]) -> None:
        self._lost = {series_folder(*key): uids for key, uids in lost.items()}

    def are_in(self, root: Path, folder: str) -> bool:
        """Return whether the sidecars in a folder of a revision, relative to the root, name lost instances.

        So do sidecars that cannot be read, as far as anybody knows.
        """
        uids = self._lost.get(folder.rpartition("/")[0])
        if uids is None:
            return False
        try:
            texts = [path.read_text("utf-8", "replace") for path in Path(root, folder).glob("*.json")]
        except OSError:
            return True
        return not texts or any(f'"{uid}"' in text for text in texts for uid in uids)

    def may_be_in(self, key: str) -> bool:
        """Return whether an object of a revision is of a series with lost instances."""
        return key.rsplit("/", 2)[0] in self._lost

    def folders(self, root: Path) -> list[str]:
        """Return the folders of these series that were made of lost instances, relative to the root."""
        found = [
            path for folder in self._lost for path in sorted(glob(f"{folder}/*", root_dir=root, include_hidden=True))
        ]
        return [folder for folder in found if self.are_in(root, folder)]


def sweep_unknown(archive: Archive, index: Index) -> bool:
    """Remove all volume folders that no row names; return whether none is left.

    Folders that were made of lost instances stay (`LostSources`). What other hosts have published and not recorded yet
    belongs to their claims. The order matters: files, claims, rows; a claim ends with the commit of the rows.
    """
    there = glob(f"{VOLUMES}/*/*/*", root_dir=archive.root, include_hidden=True)
    claims = {claim[:CLAIM_LETTERS] for claim in index.series.claims()}
    live = index.conversions.live_folders() if there else set()  # with an object store, few are on the disk
    unnamed = {folder for folder in there if folder not in live}
    lost = LostSources(index.lost.by_series() if unnamed else {})
    for folder in sorted(unnamed):
        if folder.rpartition("-")[2] not in claims and not lost.are_in(archive.root, folder):
            with suppress(OSError):
                remove_folder(archive.root / folder)
                unnamed.remove(folder)
    return not unnamed


log = structlog.get_logger()

STUDIES_SECONDS = 1.0

FILES_SECONDS = 60.0
"""Interval between removals of files, and wait before sidecars are tried again that could not be written."""

BATCH = 20
"""Conversions whose sidecars are written in one step: series that are due wait for it."""


class Housekeeping:
    """The tasks of the worker other than conversions; each runs when it is due.

    `study_quiet`: time from the last conversion of a study until the study is quiet. `keep_superseded`: time for which
    the files of a superseded conversion are kept.
    """

    def __init__(
        self,
        archive: Archive,
        index: Index,
        study_quiet: dt.timedelta,
        keep_superseded: dt.timedelta,
        now: Callable[[], dt.datetime],
    ) -> None:
        self._archive, self._index, self._now = archive, index, now
        self._study_quiet, self._keep_superseded = study_quiet, keep_superseded
        self._studies_at = self._files_at = self._again_at = 0.0
        self._unwritable: set[int] = set()
        self._are_sidecars_owed = False

    def work(self, *, has_room: bool = True) -> float:
        """Run the tasks that are due; return the seconds until the next one is. Sidecars wait until there is room.

        Raises OutOfResources: a folder of the root is away, in which files would not be found.
        """
        self._archive.intake.require_here()
        moment = monotonic()
        has_more = has_room and self.write_verdicts()
        studies_wait = self._studies_at - moment
        if studies_wait <= 0:
            self._index.studies.mark_quiet(self._study_quiet, self._now())
            self._studies_at = moment + STUDIES_SECONDS
            quiet_at = self._index.studies.next_quiet_at(self._study_quiet)
            seconds = (quiet_at - self._now()).total_seconds() if quiet_at is not None else inf
            studies_wait = max(STUDIES_SECONDS, seconds)
        if moment >= self._files_at:
            self.remove_superseded()
            self._files_at = moment + FILES_SECONDS
        return 0.0 if has_more else min(self._files_at - moment, studies_wait)

    def write_verdicts(self) -> bool:
        """Write changed verdicts into sidecars; return whether more are to be written."""
        self._are_sidecars_owed |= self._index.take_note(OWED_SIDECARS)
        if (moment := monotonic()) >= self._again_at:  # at the start as well: the process before may have left some
            self._again_at, self._are_sidecars_owed = moment + FILES_SECONDS, True
            self._unwritable.clear()
        if not self._are_sidecars_owed:
            return False
        batch = self._index.conversions.owed_sidecars(BATCH, self._unwritable)
        for owed in batch:
            try:
                write_verdict(self._archive, self._index, owed)
            except OSError as error:  # tried again later
                log.error("verdict_not_written", folder=owed.folder, reason=error.strerror)
                self._unwritable.add(owed.conversion_id)
        self._are_sidecars_owed = len(batch) == BATCH
        return self._are_sidecars_owed

    def remove_superseded(self) -> None:
        """Remove the files of superseded revisions, then record it; a crash in between repeats both steps."""
        before = self._index.retention.old_before(self._now(), self._keep_superseded)
        for conversion in self._index.conversions.superseded_before(before) if before is not None else ():
            try:
                for folder in conversion.folders:
                    remove_folder(self._archive.root / folder)
            except OSError as error:
                log.error(
                    "revision_not_removed", series_instance_uid=conversion.series_instance_uid,
                    revision=conversion.revision, reason=error.strerror,
                )  # fmt: skip
                continue
            self._index.conversions.record_files_removed(conversion, self._now())


_LINE = b'  "completeness": '
"""The beginning of the line of `completeness`; a sidecar has at most one."""


def write_verdict(archive: Archive, index: Index, owed: OwedSidecars) -> None:
    """Write the verdict of a series into its current sidecars, and note that.

    Raises OSError if a sidecar cannot be read or written now.
    """
    with index.reading() as rows:
        files = revision_files(archive.root, rows, owed.folder)
    sidecars = [file for file in files if file.key.endswith(".json") and file.key not in owed.volumes]
    with archive.held(sidecars):
        before = {file.key: archive.path(file.key).read_bytes() for file in sidecars}
        after = {key: with_verdict(content, owed.completeness) for key, content in before.items()}
        changed = [key for key, content in after.items() if content != before[key]]
        if changed:
            index.conversions.begin_sidecars(owed, changed)
            if archive.remote is not None:
                archive.remote.withdraw(changed)
            reached("sidecars-noted")
        for key in changed:
            _replace(archive.path(key), after[key])
        if changed:
            archive.sync_folder(archive.path(owed.folder))
            reached("sidecars-renamed")
    noted = [RevisionFile(key, len(content), hashlib.sha256(content).hexdigest()) for key, content in after.items()]
    index.conversions.end_sidecars(owed, noted)
    reached("sidecars-done")


def with_verdict(content: bytes, verdict: Completeness) -> bytes:
    """Return a sidecar with a verdict in place of its own; the other lines are as they were."""
    lines = content.split(b"\n")
    for number, line in enumerate(lines):
        if line.startswith(_LINE):
            encoded = json.dumps(verdict.document(), ensure_ascii=False).encode("utf-8", "replace")
            lines[number] = _LINE + encoded + (b"," if line.endswith(b",") else b"")
    return b"\n".join(lines)


def _replace(path: Path, content: bytes) -> None:
    """Replace a file by another content; a crash leaves the old one or the new one, and a part that the next replaces.

    Its name is not synced.
    """
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(content)
    shutil.copymode(path, part)
    sync_file(part)
    reached("sidecar-written")
    os.replace(part, path)
