"""A root, opened and locked by one process: its archive, its index and its intake; a node without its services."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Self

import structlog

from node.archive.base import VOLUMES, Remote
from node.archive.filesystem import Archive
from node.archive.intake import Ballast
from node.archive.root import is_bare, keep_private, mark_folders, others_may
from node.audit.audit_log import Audit, Transfers
from node.control.actions import Actions
from node.control.root import (
    LOCK_FILE,
    hold_or_request,
    locked_root,
    require_barrier,
    require_created,
    require_index,
    require_place,
    require_store,
)
from node.conversion.volume_files import LostSources, sweep_unknown
from node.errors import OutOfResources
from node.files.durable import make_folder
from node.index.database import Index
from node.index.rows.about_keys import COMPARED, HELD_FOR_OLDER, JOURNAL, SWEPT_VOLUMES
from node.index.rows.backend import IndexUnusable, OldIndex
from node.journal.journal import SEGMENT_BYTES, Journal
from node.lifecycle.deletion import resume_deletions, resume_restores
from node.lifecycle.fsck import altered_volumes, has_volumes, lacks
from node.receive.accounting import CLEAN, INDEX, LISTED, RECORDS, account_for, complete_ledger, odd_parts, renew
from node.receive.apply import Applier
from node.receive.custody import take_back
from node.receive.ingest import Ingest
from node.receive.record import JOURNAL_FOLDER
from node.receive.recovery import IN_PLACE, mark_all_missing, record_quarantined, recover
from node.receive.results import Results
from node.receive.senders import quiet_seconds_of
from node.registry import RESULTS, audit_copy_of, part_of, store_kind
from node.runtime.metrics import Metrics
from node.settings.model import Settings

log = structlog.get_logger()

MIN_SEGMENTS = 4
"""A small journal has smaller segments instead of fewer: while one is synced elsewhere, the others take instances."""


class Repository:
    """Archive, index and ingest of one root, locked by this process: a node without its services.

    `new_index`: if there is no index, build one from the instances; by default, instances without an index are an
        error.
    `keeps`: see `locked_root`.
    `previous`: the index before the new one: what the instances do not tell is taken over from it.

    Raises RootInUse: another process holds the lock of the root.
    Raises LocksUnusable: locks do not work on its file system.
    Raises FolderAway: a folder of the root is not there, or not that of the root: its disk may not be mounted.
    Raises IndexUnusable: the index is damaged, or it is missing although there are instances.
    """

    def __init__(
        self, settings: Settings, *, new_index: bool = False, previous: OldIndex | None = None, keeps: bool = True
    ) -> None:
        root = settings.storage.root.absolute()
        if keeps:
            require_barrier()
        keep_private()
        require_place(root)
        make_folder(root)
        if others_may(root):
            log.warning("root_open_to_others", path=str(root), detail="`voxelnode doctor --repair` closes it")
        self._locks = locked_root(root, keeps=keeps)
        try:
            if not new_index:
                require_index(root, settings.index.url)
            with Ballast(root).dropped():  # a root on a full disk can be opened, to delete something
                self._open(root, settings, previous, new_index=new_index)
            self.actions.erasing.resume()
        except BaseException:
            self._locks.close()
            raise

    def _open(self, root: Path, settings: Settings, previous: OldIndex | None, *, new_index: bool) -> None:
        """Make the parts of the root, finish the work that earlier processes left, and take instances.

        The order of the steps is what a crash relies on; each says what it must come before. If the process dies in one
        of them, the next start begins with the first.
        """
        self._make_parts(root, settings, new_index=new_index)
        self._odd = odd_parts(self.archive, self.index, self.journal)  # before anything changes that
        if previous is not None:  # before any file is looked at: some were to go
            self.index.salvage.begin(previous)
        resume_deletions(self.archive, self.index, self.index.now())  # before files without a row are adopted
        is_older, marked = self._mark_missing_if_older()
        self._hold_retention_if_labels_are_lost(settings, previous, is_new=new_index, is_older=is_older)
        self._apply_journal()
        if self.journal.last == self.journal.freed and self.archive.acknowledged.keep_torn():  # no crash tore it
            detail = "the end of the ledger of acknowledged instances is damaged: `voxelnode fsck` tells where"
            log.error("ledger_damaged", detail=detail)
            self._odd[LISTED] = "torn"
        if LISTED in self._odd and not (is_older or new_index):
            complete_ledger(self.archive, self.index)
        self._compare_files(marked)
        self._adopt_from_files(is_new=new_index, is_older=is_older or bool(self._odd))
        resume_restores(self.archive, self.index, self._quiet_seconds, self.index.now())
        self._take_over_facts(previous)
        is_replaced = IN_PLACE in self.recovered.fates.values()  # rows have other versions than the ledger
        self._account_for_acknowledged(previous, is_new=new_index or bool(self._odd) or is_replaced)
        self.ingest.end_cut_off()
        self._compare_volumes(is_new=new_index, is_older=is_older or bool(self._odd))
        self._begin_to_take(root)

    def _make_parts(self, root: Path, settings: Settings, *, new_index: bool) -> None:
        """Make archive, index, journal and intake; no file of an instance is touched, and nothing is received yet."""
        storage = settings.storage
        self.metrics = Metrics()
        self.audit = Audit(root, settings.dicom.ae_title, copy=audit_copy_of(settings))
        self._transfers = Transfers(self.audit)
        self.archive = Archive(root, storage.reserve_bytes, storage.low_bytes, host=settings.holder)
        self.metrics.intake_open.set_function(lambda: float(self.archive.intake.has_room()))
        self.index = Index(
            self.archive.root,
            self.metrics,
            self.archive.intake.stop,
            settings.index.url,
            settings.cluster.name,
            has_roots=bool(settings.holder),
        )
        self.archive.remote = self._remote(settings, new_index=new_index)
        mark_folders(root, partial(lacks, self.archive, self.index), self._is_new)
        segment_bytes = min(SEGMENT_BYTES, storage.journal_bytes // MIN_SEGMENTS)
        self.journal = Journal(root / JOURNAL_FOLDER, segment_bytes, storage.journal_bytes)
        is_awaited = settings.acknowledge != "local"
        self.applier = Applier(self.journal, self.archive, self.index, self.metrics, self.audit, is_awaited=is_awaited)
        self._quiet_seconds = quiet_seconds_of(
            settings.series.quiet_seconds,
            settings.series.quiet_seconds_by_calling_ae_title,
            self.index.senders.quiet_seconds,
        )
        self.ingest = Ingest(
            self.archive,
            self.index,
            self.journal,
            self.applier,
            self.metrics,
            self._quiet_seconds,
            overwrite_policy=storage.overwrite_policy,
            conflict_answer=storage.conflict_answer,
            aborted_grace_seconds=settings.series.aborted_grace_seconds,
            transfers=self._transfers,
            now=self.index.now,
            acknowledge=settings.acknowledge,
            acknowledge_seconds=settings.journal.acknowledge_seconds,
            any_uids=storage.any_uids,
        )
        intake = part_of(settings, RESULTS) or Results
        self.results: Results = intake(self.index, self.ingest)
        self.actions = Actions(settings, self.ingest, self.applier, self.audit, self.results)

    def _is_new(self, folder: str) -> bool:
        """Return whether a folder is that of volumes, and there are none: nothing that was acknowledged lies there."""
        return folder == VOLUMES and not has_volumes(self.index)

    def _mark_missing_if_older(self) -> tuple[bool, Mapping[str, set[str]]]:
        """Mark the rows without files of an index that is older than the journal, before the journal is applied.

        A record of an instance whose row names a missing file then restores it; it would count as a repetition.
        """
        if not self._is_index_older():
            return False, {}
        return True, mark_all_missing(self.archive, self.index, self.index.now())

    def _hold_retention_if_labels_are_lost(
        self, settings: Settings, previous: OldIndex | None, *, is_new: bool, is_older: bool
    ) -> None:
        """Let retention wait for a person if labels are or may be gone, by which ``keep_where`` keeps studies.

        Before the journal is applied: a start after that does not see any more that the index is older.
        """
        reason, about, asked = None, self.index.about, f"{HELD_FOR_OLDER}/{self.journal.identity}"
        goes_by_labels = settings.retention.keep_where is not None
        if is_new:
            if previous is not None and "labels" in previous.salvaged.unread:
                reason = "the index was rebuilt, and labels could not be read"
            elif previous is None and goes_by_labels:
                reason = "the index was rebuilt without the one before it, and all labels are gone"
        elif is_older and goes_by_labels and about.applied(self.journal.identity).journal:
            is_asked = about.get(asked) == str(self.journal.freed)  # it stays older until the next instance is indexed
            reason = None if is_asked else "the index is older than the journal, and may lack labels"
        if reason is not None:
            log.error("retention_held", reason=reason)
            self.index.retention.hold(reason)
            about.set(asked, str(self.journal.freed))

    def _apply_journal(self) -> None:
        """Apply what was acknowledged, before files and rows are compared: a record has the file that its row lacks."""
        known, applied = self.index.about.get(self._journal_key), self.index.about.applied(self.journal.identity)
        if applied.journal == self.journal.identity and applied.sequence < self.journal.freed:
            self.index.associations.forget()  # those of an older index: how they ended is not in the journal any more
        self.replayed = self.applier.replay()
        self._look_for_journal(known or "", applied.sequence)

    def _look_for_journal(self, known: str, applied: int) -> None:
        """Note a gap if the journal is not the one that the process before has left with records of its own.

        Or it is that one as it was before: by its generation, or because its last record is one before `applied`, the
        last one in the index. If the index is as old, what else names acknowledged versions must not be.
        """
        odd, root = self._odd, self.archive.root
        is_ledger_odd = odd.get(LISTED) or (LISTED in odd and is_bare(root / LISTED))
        if known and known != self.journal.identity:
            what = f"the journal that the last process wrote is not in {root / JOURNAL_FOLDER}"
            applied = self.index.about.applied(known).sequence
        elif RECORDS in odd or (INDEX in odd and is_ledger_odd):
            what = f"{', '.join(odd)}: as they were before other parts of the root"
        elif known and applied > self.journal.found:
            what = f"the journal ends with its record {self.journal.found}"
        else:
            return
        detail = f"{what}: what was acknowledged after record {applied}, the last in the index, may be missing"
        log.error("journal_gone", detail=detail)
        self.index.lost.note_gap(detail + self.ingest.open_at_end(), self.index.now())

    @property
    def _journal_key(self) -> str:
        return f"{JOURNAL}{self.archive.suffix}"

    def _compare_files(self, marked: Mapping[str, set[str]]) -> None:
        """Make archive and index agree, and release the claims of the process before."""
        self.recovered = recover(
            self.archive,
            self.index,
            self._quiet_seconds,
            self.index.now(),
            marked,
            everything=bool(self._odd),
            lengths=not self.index.was_closed,
            digests=self.applier.lacks_segments,
        )

    def _adopt_from_files(self, *, is_new: bool, is_older: bool) -> None:
        """Index what quarantine and the object store have and no row names, after the files of the archive.

        A file of the archive comes before another one of its instance.
        """
        self.taken_back: list[str] = []
        if is_new:
            self.taken_back = take_back(self.archive, self.index, self._quiet_seconds, self.index.now())
            if self.archive.remote is not None:
                self.archive.remote.adopt_all(self._quiet_seconds, self.index.now())
        if is_new or is_older:
            record_quarantined(self.archive, self.index, self.index.now())

    def _take_over_facts(self, previous: OldIndex | None) -> None:
        """Take over what a previous index has about instances and series, once they have their rows."""
        if previous is not None:
            has_all = not self.unread()
            self.index.salvage.finish(
                previous, lambda path: (self.archive.root / path).is_file(), has_all, self.index.now()
            )

    def unread(self) -> list[str]:
        """Return the keys of the files of the archive that have no row: just after a start, they cannot be read now."""
        archive, instances = self.archive, self.index.instances
        return [key for folder in archive.folders() for key in instances.unknown_keys(archive.keys(folder))]

    def _account_for_acknowledged(self, previous: OldIndex | None, *, is_new: bool) -> None:
        """Note what was acknowledged and is not here, once everything that is here has its row."""
        gone = previous.salvaged.gone if previous is not None else ()
        account_for(self.archive, self.index, self.index.now(), gone, self._odd, is_new=is_new)

    def _compare_volumes(self, *, is_new: bool, is_older: bool) -> None:
        """Have series converted again whose files are missing or cut, of those that no earlier start has compared.

        Removes volumes that no row names, after those of a previous index have theirs: in folders, and as objects.
        """
        note, last, now = f"{SWEPT_VOLUMES}{self.archive.suffix}", self.index.conversions.last(), self.index.now()
        compared = "" if is_older else self.index.about.get(note) or ""
        is_lost = is_bare(self.archive.root / VOLUMES)
        again = altered_volumes(self.archive, self.index, now, 0 if is_lost else int(compared or 0))
        is_swept = bool(compared) or sweep_unknown(self.archive, self.index)
        self.index.about.set(note, str(last) if is_swept else "")
        if is_new and self.archive.remote is not None:
            lost = LostSources(self.index.lost.by_series())
            self.archive.remote.remove_unknown_volumes(lost.may_be_in, now)
        if self._odd:
            odd = ", ".join(self._odd)
            detail = f"all files, because of {odd}: {self.recovered.missing} missing, {again} series to convert again"
            log.warning("all_compared", detail=detail)
            self.index.about.set(COMPARED, f"{now:%Y-%m-%d %H:%M} UTC: {detail}")

    def _begin_to_take(self, root: Path) -> None:
        """Free the journal of what was applied, and apply what is received from now on."""
        renew(self.archive, self.index, self.journal)
        self.results.sweep()
        self.ingest.gaps = self.index.lost.gaps()
        self.applier.checkpoint()
        self.index.about.set(self._journal_key, self.journal.identity)
        self.applier.start()
        self.index.ahead = self.applier
        watched = {root, root / LOCK_FILE, *self.index.files}
        self.archive.intake.watch(watched, self.applier.journal_problem, self._has_trash)

    def _has_trash(self) -> bool:
        with suppress(IndexUnusable):
            return self.index.trash.size() != (0, 0)
        return False

    def _remote(self, settings: Settings, *, new_index: bool) -> Remote | None:
        """Return the object store of the archive, of which nothing is asked unless the index is new.

        Raises VoxelnodeError if there is none in the configuration, and instances are in one. Raises StoreAway if a new
        index needs to know whose store it is.
        """
        kind = store_kind(settings)
        if kind is not None:
            remote: Remote = kind.opened(settings, self.archive, self.index, new_index=new_index)
            return remote
        with self.index.reading(wait=False) as view:
            require_store(settings, view)
        return None

    def _is_index_older(self) -> bool:
        """Return whether the journal has let go of records that the index lacks: a copy of the index was restored."""
        if INDEX in self._odd:
            return True
        if self.index.sharing.holder is not None and not self.journal.freed:  # a host that joins others
            return False
        applied = self.index.about.applied(self.journal.identity)
        return applied.journal != self.journal.identity or applied.sequence < self.journal.freed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Finish instances under way, apply the journal, commit, and unlock the root."""
        self.results.close()
        self.ingest.close()
        self._transfers.close()
        self.applier.finish()
        if self.journal.freed == self.journal.last:
            with suppress(OutOfResources, OSError):  # the next start finds the journal, or tells that it is gone
                renew(self.archive, self.index, self.journal, CLEAN)
                self.index.about.set(self._journal_key, "")
        if self.archive.remote is not None:
            self.archive.remote.close()
        self.index.close()
        self.journal.close()
        self.audit.close()
        self.archive.close()
        self._locks.close()


def perform_action(
    settings: Settings, action: str, *, may_create_index: bool = False, **arguments: Any
) -> dict[str, Any]:
    """Perform one of `Actions.by_name`: in the process that holds the root or, if none does, in this process.

    If that process accepts no requests (an import, or a node that is still starting), wait for it.

    `may_create_index`: the action is useful on a root that is still empty: create the root and its index.
    `arguments`: keyword arguments of the action, as JSON values.

    Raises IndexUnusable: there is no index at the root, or it is missing although there are instances.
    Raises NotPerformed: the node refused or failed, or no process was ready within `REQUEST_SECONDS`.
    Raises VoxelnodeError: the action was refused.
    """
    root = settings.storage.root.absolute()
    if not may_create_index:
        require_created(settings)
    held = hold_or_request(root, lambda: Repository(settings), action, arguments)
    if isinstance(held, Repository):
        with held as repository:
            return dict(repository.actions.by_name[action](**arguments))
    return held


@contextmanager
def open_for_import(settings: Settings) -> Iterator[Ingest]:
    """Open a root to store instances without a listener.

    Raises RootInUse if a node or another import holds the lock of the root.
    """
    with Repository(settings) as repository:
        # An import is complete when it ends: its series are due as soon as a node serves.
        repository.ingest.quiet_seconds = lambda calling_ae_title: 0.0
        yield repository.ingest
