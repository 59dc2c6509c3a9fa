"""Work beside conversions: quiet studies, changed verdicts, files of superseded revisions.

A changed verdict converts nothing, but `completeness` of sidecars is written again. The commit that changes it notes in
the row of the conversion that its sidecars are owed; then, of each sidecar:

    rows without a digest, as old and new bytes are both right -> new file -> rename over the old one
                                                               -> rows with the new digest, nothing owed

If the process dies in between, the sidecars are still owed, and all steps are repeated. Only an object store has rows
of sidecars: their objects are removed first, and the new files are moved there as those of a new revision.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from math import inf
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import structlog

from node.archive.filesystem import Archive
from node.conversion.volume_files import remove_folder, revision_files
from node.files.durable import sync_file
from node.index.database.index import Index
from node.index.nouns.records import RevisionFile
from node.runtime.failpoints import reached

if TYPE_CHECKING:
    from node.archive.filesystem import Archive
    from node.completeness import Completeness
    from node.index.database.index import Index
    from node.index.nouns.records import OwedSidecars

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

    def work(self) -> float:
        """Run the tasks that are due; return the seconds until the next one is.

        Raises OutOfResources: a folder of the root is away, in which files would not be found.
        """
        self._archive.intake.require_here()
        moment = monotonic()
        has_more = self.write_verdicts()
        studies_wait = self._studies_at - moment
        if studies_wait <= 0:
            self.find_quiet_studies()
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
        self._are_sidecars_owed |= self._index.conversions.are_sidecars_owed_since()
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

    def find_quiet_studies(self) -> None:
        """Mark the studies that have become quiet."""
        if count := self._index.studies.mark_quiet(self._study_quiet, self._now()):
            log.info("studies_quiet", count=count)

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
            encoded = json.dumps(asdict(verdict), ensure_ascii=False).encode("utf-8", "replace")
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
