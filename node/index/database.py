"""The index of one root: opened once by the node, which alone writes to it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from sqlalchemy import Connection, select, text
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import SQLAlchemyError

from node.dicom.attributes import InstanceAttributes
from node.dicom.matching import Query
from node.dicom.retrieval import Selection
from node.errors import OutOfResources
from node.index import (
    accounts,
    commitments,
    deletion,
    deliveries,
    files,
    instances,
    patients,
    queries,
    rejections,
    retention,
    selection,
    series,
    timers,
)
from node.index.browse import Browse
from node.index.deliveries import Attempted, HookWork, Place
from node.index.engine import FILE_NAME, IndexUnusable, open_engine, require_sound, upgrade
from node.index.finder import Finder
from node.index.levels import Arrived
from node.index.models import AboutRow
from node.index.records import (
    ClaimedSeries,
    CountedRefusal,
    Deletion,
    DeletionPlan,
    Kept,
    Level,
    PatientMerge,
    Refused,
    SeriesOutcome,
    SeriesPlace,
    StoredFile,
    StoredStudy,
    SupersededConversion,
    UnconfirmedSeries,
)
from node.index.selection import Selected, StoredInstance
from node.index.study_list import (
    ListedStudy,
    StudyFilter,
    StudyOrder,
    StudyPlace,
    count_levels,
    count_studies_since,
    known_modalities,
    listed_studies,
    newest_study,
)
from node.index.writer import IndexWriter
from node.metrics import Metrics
from node.settings.model import HookEvent, OverwritePolicy

CLOSED = "closed"
"""A fact of the index: whether the last process that wrote to it ended in good order."""


class Index:
    """Rows of one root.

    Parameters
    ----------
    root : Path
        Holds ``index.sqlite``, which is created or upgraded.
    sync_folder, on_disk_error : callable
        See `IndexWriter`.

    Raises
    ------
    IndexUnusable
        The file is damaged or newer than this program.
    """

    def __init__(
        self,
        root: Path,
        sync_folder: Callable[[Path], None],
        metrics: Metrics,
        on_disk_error: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self.path = root.absolute() / FILE_NAME
        upgrade(self.path)
        self._engine = open_engine(self.path)
        with self._engine.connect() as connection:
            closed = connection.scalar(select(AboutRow.value).where(AboutRow.key == CLOSED))
        if closed != "yes":  # reading all of it takes seconds for a million instances: only after a crash
            require_sound(self.path)
        self._reader = open_engine(self.path, read_only=True)  # for whoever asks
        self._watcher = open_engine(self.path, read_only=True)  # for the worker and the hooks, who wait for no one
        self._finder = Finder(self._reader)
        self._writer = IndexWriter(self._engine, sync_folder, metrics, on_disk_error)
        self.accounts = accounts.Accounts(self._writer, self._reader)
        self.commitments = commitments.Commitments(self._writer, self._reader)
        self.remember("root", str(root.absolute()))
        self.remember(CLOSED, "no")

    def add_instance(
        self,
        attributes: InstanceAttributes,
        file: StoredFile,
        quiet_seconds: float,
        folder: Path,
        overwrite_policy: OverwritePolicy = "never",
    ) -> Kept:
        """Index one instance; returns after the commit. See `node.index.instances.add_instances`.

        Parameters
        ----------
        folder : Path
            Holds the file; synced before the commit.

        Raises
        ------
        OutOfResources
            The row may not be committed.
        """
        self._finder.note_arrival()
        return self._writer.add(Arrived(attributes, file, quiet_seconds, overwrite_policy), folder)

    def expecting(self) -> AbstractContextManager[None]:
        """Around what is done to an instance right before it is added: others wait a moment to share its commit."""
        return self._writer.expecting()

    def submit_instance(
        self, attributes: InstanceAttributes, file: StoredFile, quiet_seconds: float, folder: Path
    ) -> Future[Kept]:
        """As `add_instance` under the policy ``never``, without waiting: many share a commit, in their order."""
        self._finder.note_arrival()
        return self._writer.submit(Arrived(attributes, file, quiet_seconds), folder)

    def unknown_keys(self, keys: Sequence[str]) -> list[str]:
        """Those of `keys` (at most a folder's worth) that no row names."""
        known = self._writer.run(lambda connection: instances.known_keys(connection, keys))
        return [key for key in keys if key not in known]

    def instance_files(self, folder: str) -> list[files.InstanceFile]:
        """The files that rows of images name in one folder, such as ``objects/00000000``."""
        return self._writer.run(lambda connection: list(files.instance_files(connection, folder)))

    def mark_files(self, keys: Sequence[str], *, missing: bool, now: dt.datetime) -> int:
        """Note that files (at most a folder's worth) are missing, or there again; returns how many that is news of."""
        return self._writer.run(lambda connection: files.mark_files(connection, keys, missing=missing, now=now))

    def loser_keys(self) -> set[str]:
        """Keys of the files that lost against another one of their SOP Instance UID, where they are or will be."""
        return self._writer.run(files.loser_keys)

    def claim_due_series(self, now: dt.datetime, longest_wait: dt.timedelta | None = None) -> ClaimedSeries | None:
        """Take the series that has been due longest, if there is one. See `node.index.series.claim_due_series`."""
        with self._watcher.connect() as connection:  # asked all the time, and mostly none is: the writer need not wake
            if not series.is_series_due(connection, now, longest_wait):
                return None
        return self._writer.run(lambda connection: series.claim_due_series(connection, now, longest_wait))

    def record_outcome(self, claimed: ClaimedSeries, outcome: SeriesOutcome, now: dt.datetime) -> bool:
        """Write a revision and end the claim; False when the claim was no longer ours."""
        return self._writer.run(lambda connection: series.record_outcome(connection, claimed, outcome, now))

    def record_unchanged(self, claimed: ClaimedSeries, now: dt.datetime) -> None:
        """End a claim whose conversion would give what is there already."""
        self._writer.run(lambda connection: series.record_unchanged(connection, claimed, now))

    def record_crash(self, claimed: ClaimedSeries, detail: str, attempts: int, now: dt.datetime) -> bool:
        """Note that the converter died; returns whether it will be tried again."""
        return self._writer.run(lambda connection: series.record_crash(connection, claimed, detail, attempts, now))

    def release_claim(self, claimed: ClaimedSeries, now: dt.datetime) -> None:
        """Hand a series back unconverted: it is due at once."""
        self._writer.run(lambda connection: series.release_claim(connection, claimed, now))

    def release_all_claims(self, now: dt.datetime) -> int:
        """Hand back what a dead process had claimed; returns how many series."""
        return self._writer.run(lambda connection: series.release_all_claims(connection, now))

    def shift_times(self, step: dt.timedelta) -> None:
        """Follow a step of the system clock, so that what was due in ten seconds still is."""
        self._writer.run(lambda connection: timers.shift_times(connection, step))

    def rearm(self, now: dt.datetime) -> None:
        """At a start: let nothing wait longer because the clock was set back meanwhile."""
        self._writer.run(lambda connection: timers.rearm(connection, now))

    def wait_after_abort(
        self, places: Collection[SeriesPlace], grace: dt.timedelta, why: str, now: dt.datetime
    ) -> None:
        """Give the sender of an association that was not released time to come back."""
        self._writer.run(lambda connection: timers.wait_after_abort(connection, places, grace, why, now))

    def owe_conversions(self, places: Collection[SeriesPlace], now: dt.datetime) -> int:
        """Make series due, whatever became of them; returns how many were not open anyway."""
        return self._writer.run(lambda connection: timers.owe_conversions(connection, places, now))

    def unconfirmed_series(self, calling_ae_titles: Collection[str]) -> list[UnconfirmedSeries]:
        """Series that wait and came last from one of these senders."""
        return self._writer.run(lambda connection: timers.unconfirmed_series(connection, calling_ae_titles))

    def confirm_count(self, place: SeriesPlace, count: int, now: dt.datetime) -> bool:
        """Note how many instances the sender has; returns whether all of them are here, and the series is due."""
        return self._writer.run(lambda connection: timers.confirm_count(connection, place, count, now))

    def find_quiet_studies(self, quiet: dt.timedelta, now: dt.datetime) -> int:
        """Mark the studies none of whose series has been open for so long; returns how many became quiet."""
        with self._watcher.connect() as connection:  # asked every second: the writer need not wake for nothing
            if not timers.has_quiet_study(connection, quiet, now):
                return 0
        return self._writer.run(lambda connection: timers.find_quiet_studies(connection, quiet, now))

    def superseded_before(self, moment: dt.datetime) -> list[SupersededConversion]:
        """Conversions that a newer one took the place of before `moment`, and whose files are still there."""
        return self._writer.run(lambda connection: series.superseded_before(connection, moment))

    def record_files_removed(self, conversion: SupersededConversion, now: dt.datetime) -> None:
        """Note that the files of a superseded conversion are gone; its rows stay."""
        self._writer.run(lambda connection: series.record_files_removed(connection, conversion, now))

    def live_revisions(self) -> set[tuple[str, str, int]]:
        """(Study Instance UID, Series Instance UID, revision) of every recorded conversion."""
        return self._writer.run(series.live_revisions)

    def record_refusals(self, refusals: Sequence[CountedRefusal]) -> list[Refused]:
        """Add to the table of what was refused; returns the refusals that are news."""
        return self._writer.run(lambda connection: rejections.record_refusals(connection, refusals))

    def plan_deletion(self, level: Level, uid: str, study_instance_uid: str | None = None) -> DeletionPlan:
        """What a deletion would take away; raises a `UsageError` when there is nothing."""
        return self._writer.run(lambda connection: deletion.plan_deletion(connection, level, uid, study_instance_uid))

    def order_deletion(self, plan: DeletionPlan, reason: str, now: dt.datetime) -> Deletion:
        """Take the rows away; the files are the caller's, see `node.index.deletion`."""
        return self._writer.run(lambda connection: deletion.order_deletion(connection, plan, reason, now))

    def unfinished_deletions(self) -> list[Deletion]:
        """Deletions whose files may still be there."""
        return self._writer.run(deletion.unfinished_deletions)

    def finish_deletion(self, ordered: Deletion, now: dt.datetime) -> None:
        """Note that every file of a deletion is gone."""
        self._writer.run(lambda connection: deletion.finish_deletion(connection, ordered, now))

    def stored_studies(self) -> list[StoredStudy]:
        """Every study as retention sees it, the one that grew last at the end."""
        return self._writer.run(retention.stored_studies)

    def merge_patients(self, source: int, target: int, now: dt.datetime) -> PatientMerge:
        """Say that two patients are one, see `node.index.patients.merge_patients`."""
        return self._writer.run(lambda connection: patients.merge_patients(connection, source, target, now))

    def begin_hooks(self, wants_instances: Mapping[str, bool]) -> None:
        """At a start: note which hooks there are. See `node.index.deliveries.begin_hooks`."""
        self._writer.run(lambda connection: deliveries.begin_hooks(connection, wants_instances))

    def hook_work(self, hook: str, events: Collection[HookEvent], seen_event: int, now: dt.datetime) -> HookWork:
        """What a hook has to do now. See `node.index.deliveries.hook_work`."""
        with self._watcher.connect() as connection:
            return deliveries.hook_work(connection, hook, events, seen_event, now)

    def settle_deliveries(self, hook: str, attempted: Sequence[Attempted], place: Place, now: dt.datetime) -> None:
        """Record what came of attempts to tell a hook, and how far it is now."""
        self._writer.run(lambda connection: deliveries.settle_deliveries(connection, hook, attempted, place, now))

    def retry_deliveries(self, hook: str, message_id: str | None, now: dt.datetime) -> int:
        """Try what was given up again, and what waits at once; returns how many messages."""
        return self._writer.run(lambda connection: deliveries.retry_deliveries(connection, hook, message_id, now))

    def find(
        self, query: Query, maximum: int | None = None, stop: Callable[[], bool] = lambda: False
    ) -> Iterator[Dataset]:
        """Answer a query beside the writer, a page of rows at a time. See `node.index.finder.Finder.find`."""
        return self._finder.find(query, maximum, stop)

    @contextmanager
    def reading(self) -> Iterator[ReadIndex]:
        """A view of what is committed now, beside the writer; for one thread."""
        with self._reader.connect() as connection:
            yield ReadIndex(connection)

    @contextmanager
    def searching(self) -> Iterator[ReadIndex]:
        """The same for searches and lists, which take longer: few at once, and while instances arrive they give way.

        Raises
        ------
        QueryRefused
            There are too many of them, or one takes too long.
        """
        with self._finder.turn() as connection:
            yield ReadIndex(connection)

    @property
    def is_alive(self) -> bool:
        """Whether the one writer works."""
        return self._writer.is_alive

    @property
    def waiting(self) -> int:
        """Pieces of work that wait for the writer."""
        return self._writer.waiting

    def remember(self, key: str, value: str) -> None:
        """Keep a fact of this index."""
        statement = insert(AboutRow).values(key=key, value=value)
        statement = statement.on_conflict_do_update(index_elements=["key"], set_={"value": value})
        self._writer.run(lambda connection: connection.execute(statement))

    def about(self, key: str) -> str | None:
        """A fact that `remember` kept."""
        return self._writer.run(lambda connection: connection.scalar(select(AboutRow.value).where(AboutRow.key == key)))

    def close(self) -> None:
        """Commit what is queued and let go of the file."""
        with suppress(OutOfResources):  # after an error of the disk nothing is written: the next start looks closely
            self.remember(CLOSED, "yes")
        self._writer.close()
        for engine in (self._watcher, self._reader, self._engine):
            engine.dispose()


@contextmanager
def reading(root: Path) -> Iterator[ReadIndex]:
    """Open the index of a root for reading only, also while a node writes to it.

    Raises
    ------
    IndexUnusable
        There is none, or it cannot be read.
    """
    path = root.absolute() / FILE_NAME
    if not path.exists():
        raise IndexUnusable(f"no index at {path}: is the root right? `voxelnode db upgrade` makes a new one")
    engine = open_engine(path, read_only=True)
    try:
        with engine.connect() as connection:
            yield ReadIndex(connection)
    except SQLAlchemyError as error:
        raise IndexUnusable(f"{path} cannot be read: {getattr(error, 'orig', error)}") from error
    finally:
        engine.dispose()


class ReadIndex:
    """Queries on the documented views."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def rows(self, query: str, **values: Any) -> list[dict[str, Any]]:
        """The rows that a query on the views gives; `values` fill its ``:names``."""
        return [dict(row) for row in self._connection.execute(text(query), values).mappings()]

    def instance_files(self) -> Iterator[files.InstanceFile]:
        """The file of every instance, in the order of the folders that hold them."""
        return files.instance_files(self._connection)

    def volume_files(self) -> Iterator[files.VolumeFile]:
        """Every file of a revision that should be there."""
        return files.volume_files(self._connection)

    def loser_keys(self) -> set[str]:
        """Keys of the files that lost against another one of their SOP Instance UID, and are kept."""
        return files.loser_keys(self._connection)

    def find(self, query: Query) -> Iterator[Dataset]:
        """The answers to a query. See `node.index.queries.find`."""
        return queries.find(self._connection, query)

    def stored_instances(
        self,
        study_instance_uid: str | None = None,
        series_instance_uid: str | None = None,
        sop_instance_uids: Collection[str] = (),
    ) -> Iterator[StoredInstance]:
        """The instances of a study, of a series or by their UIDs. See `node.index.selection.stored_instances`."""
        return selection.stored_instances(self._connection, study_instance_uid, series_instance_uid, sop_instance_uids)

    def selected_instances(self, selected: Selection, limit: int | None = None) -> Selected:
        """What a retrieve asks for. See `node.index.selection.selected_instances`."""
        return selection.selected_instances(self._connection, selected, limit)

    def plan_deletion(self, level: Level, uid: str, study_instance_uid: str | None = None) -> DeletionPlan:
        """What a deletion would take away; raises a `UsageError` when there is nothing."""
        return deletion.plan_deletion(self._connection, level, uid, study_instance_uid)

    def stored_studies(self) -> list[StoredStudy]:
        """Every study as retention sees it, the one that grew last at the end."""
        return retention.stored_studies(self._connection)

    @property
    def browse(self) -> Browse:
        """Lists of what is there, page by page."""
        return Browse(self._connection)

    def listed_accounts(self) -> list[accounts.ListedAccount]:
        """Who may ask over HTTP, by name."""
        return accounts.list_accounts(self._connection)

    def listed_studies(
        self,
        wanted: StudyFilter,
        order: StudyOrder = "arrival",
        after: StudyPlace | None = None,
        limit: int = 50,
    ) -> list[ListedStudy]:
        """The next studies of a list. See `node.index.study_list.listed_studies`."""
        return listed_studies(self._connection, wanted, order, after, limit)

    def count_levels(self) -> dict[str, int]:
        """How many patients, studies, series and instances there are."""
        return count_levels(self._connection)

    def newest_study(self) -> int:
        """The number of the study that arrived last; 0 where there is none."""
        return newest_study(self._connection)

    def count_studies_since(self, number: int) -> int:
        """How many studies arrived after the one that was the newest."""
        return count_studies_since(self._connection, number)

    def known_modalities(self) -> list[str]:
        """Modalities of all series, each once."""
        return known_modalities(self._connection)

    def count(self, view: str) -> int:
        """How many rows one of the views has."""
        return int(self._connection.execute(text(f'SELECT count(*) FROM "{view}"')).scalar_one())
