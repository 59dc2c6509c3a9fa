"""The index of one root as the node has it open: one repository a noun, one writer, and readers beside it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from node.dicom.answers import Found
from node.dicom.matching import Query
from node.index.look.finder import Finder
from node.index.look.views import ReadIndex
from node.index.reading import LargeCounts
from node.index.rows.about_keys import CLOSED
from node.index.rows.backend import backend_at, backend_of, reason_of
from node.index.rows.copying import require_current
from node.index.rows.narrowed import Readers
from node.index.rows.place import IndexUnusable, Place, open_engine, place_of, require_sound, upgrade
from node.index.rows.repositories import AboutRepository, IndexRepository, Rows, about, perform, queries_of, set_about
from node.index.rows.sharing import Sharing
from node.index.rows.writer import IndexWriter, ServerWatch, WriterElsewhere
from node.index.rules.custody.deletions import DeletionRepository
from node.index.rules.custody.hosts import AuditLineRepository, ObjectRepository
from node.index.rules.custody.leaving import RetentionRepository
from node.index.rules.custody.lost import LostRepository
from node.index.rules.custody.problems import ConflictRepository, ProblemRepository, RejectionRepository
from node.index.rules.custody.salvage import SalvageRepository
from node.index.rules.custody.trash import TrashRepository
from node.index.rules.intake.instances import InstanceRepository
from node.index.rules.people.accounts import AccountRepository
from node.index.rules.series.association_ends import AssociationRepository
from node.index.rules.series.claims import SeriesRepository
from node.index.rules.series.conversions import ConversionRepository
from node.index.rules.series.reopening import ReferenceRepository
from node.index.rules.series.waits import SenderRepository, StudyRepository, TimerRepository
from node.index.rules.work.deliveries import DeliveryRepository
from node.index.rules.work.ledger import WorkRepository
from node.index.rules.work.messages import JobRepository
from node.index.rules.work.routes import RouteRepository
from node.runtime.link import APPLIED, LAST, VERSION, SharedNumbers
from node.runtime.metrics import Metrics

log = structlog.get_logger()


class Ahead:
    """What is ahead of the index: instances that were acknowledged and are not indexed yet. Here: none.

    `node.receive.apply.Applier` indexes those of a journal.

    `numbers`: what a process beside this one sees of it.
    """

    def __init__(self, numbers: SharedNumbers) -> None:
        self.numbers = numbers

    @property
    def lag(self) -> int:
        """How many records, nearly all of acknowledged instances, are not in the index yet."""
        return max(0, int(self.numbers.at[LAST] - self.numbers.at[APPLIED]))

    def may_bring(self, sop_instance_uid: str) -> bool:
        """Return whether an instance with this UID may be ahead of the index; never False if one is."""
        return self.numbers.may_bring(sop_instance_uid)

    def require_caught_up(self, *, reads: bool = True) -> None:
        """Return when everything that was acknowledged before this call is indexed.

        `reads`: the caller will probably ask again, and should not wait as long then.

        Raises QueryRefused if that takes too long.
        """

    def standing(self) -> AbstractContextManager[None]:
        """Keep what is ahead from being indexed until this is left; what is indexed is never applied again."""
        return nullcontext()


class Index:
    """The rows of one root, one repository a noun.

    `url`: ``[index] url``; None: ``index.sqlite`` in the root. The database is created or upgraded.
    `on_disk_error`: see `IndexWriter`.
    `host`: the name of this host, if several can share the index.
    `has_roots`: each of them has a root of its own, and they share an object store.

    `sharing`: of this host.
    `now`: the clock that all hosts of the index share.
    `numbers`: what a process beside this one sees at once.
    `large_counts`: counts that read whole tables.
    `commit_listeners`: called after each commit that changed rows, on the thread of the writer: they must not wait and
        not raise.
    `take_note`, `thread`: of the one writer.
    `watch`: None: the index is a file.

    Raises IndexUnusable: the file is damaged or newer than this program.
    """

    def __init__(
        self,
        root: Path,
        metrics: Metrics,
        on_disk_error: Callable[[str], None] = lambda reason: None,
        url: str | None = None,
        host: str = "",
        *,
        has_roots: bool = False,
    ) -> None:
        self.root = root.absolute()
        place = place_of(root, url)
        self.place = place = place if isinstance(place, Path) else replace(place, host=host, has_roots=has_roots)
        upgrade(place)
        self._engine = open_engine(place)
        try:
            with self._engine.connect() as connection:
                closed = about(connection, CLOSED)
                require_current(connection, place)
                if (stall := backend_of(connection).standbys(connection).stall) is not None:
                    log.warning("index_stalled", detail=stall)
                backend_of(connection).enter(connection, place)
        except BaseException:
            self._engine.dispose()
            raise
        self.was_closed = closed == "yes"
        if not self.was_closed:  # reading all of it takes seconds for a million instances: only after a crash
            require_sound(place)
        self._open_readers(place)
        self.numbers = SharedNumbers()
        self._writer = writer = IndexWriter(self._engine, metrics, self.numbers, on_disk_error, self.sharing, place)
        self.thread = writer.thread
        self._open_rows(writer)
        server = backend_at(place).server(place)
        self.watch = ServerWatch(server, writer) if server is not None else None
        if self.watch is not None:
            self.watch.start()
        self.about.set(CLOSED, "no")

    def _open_readers(self, place: Place) -> None:
        self._reader = Readers(place)  # for queries from outside
        self._watcher = Readers(place)  # for the threads of the node, which wait for no query
        self._finder = Finder(self._reader, lambda: self.instances.received_at)
        self.large_counts = LargeCounts()
        self.sharing: Sharing = backend_at(place).sharing(place, self._watcher.whole)
        self.now = self.sharing.now

    def _open_rows(self, writer: IndexWriter) -> None:
        self._rows_by, self.commit_listeners, self.take_note = writer, writer.commit_listeners, writer.take_note
        self.about = AboutRepository(writer, self._watcher)
        self.accounts = AccountRepository(writer, self._reader)
        self.audit_lines = AuditLineRepository(writer, self._watcher)
        self.conflicts = ConflictRepository(writer, self._watcher)
        self.conversions = ConversionRepository(writer, self._watcher)
        self.deletions = DeletionRepository(writer, self._watcher)
        self.deliveries = DeliveryRepository(writer, self._watcher)
        self.instances = InstanceRepository(writer, self._watcher)
        self.jobs = JobRepository(writer, self._watcher)
        self.lost = LostRepository(writer, self._watcher)
        self.objects = ObjectRepository(writer, self._watcher)
        self.problems = ProblemRepository(writer, self._watcher)
        self.references = ReferenceRepository(writer, self._watcher)
        self.rejections = RejectionRepository(writer, self._watcher)
        self.retention = RetentionRepository(writer, self._watcher)
        self.routes = RouteRepository(writer, self._watcher)
        self.salvage = SalvageRepository(writer, self._watcher)
        self.senders = SenderRepository(writer, self._watcher)
        self.associations = AssociationRepository(writer, self._watcher)
        self.series = SeriesRepository(writer, self._watcher)
        self.studies = StudyRepository(writer, self._watcher)
        self.timers = TimerRepository(writer, self._watcher)
        self.trash = TrashRepository(writer, self._watcher)
        self.work = WorkRepository(writer, self._watcher)
        self.ahead = Ahead(self.numbers)

    def repository(self, kind: type[Rows]) -> Rows:
        """Return rows that only an extension writes."""
        return kind(self._rows_by, self._watcher)

    def perform(self, kind: type[IndexRepository], name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Make a change for another process; see `IndexBeside`."""
        return perform(self.repository(kind), name, args, kwargs)

    def find(
        self, query: Query, maximum: int | None = None, stop: Callable[[], bool] = lambda: False
    ) -> Iterator[Found]:
        """Answer a query beside the writer, a page of rows at a time. See `node.index.look.finder.Finder.find`."""
        self.ahead.require_caught_up()
        return self._finder.find(query, maximum, stop)

    def software(self) -> tuple[str, str]:
        """Return the name and the version of the database system."""
        try:
            with self._reader.connect() as connection:
                return backend_of(connection).software(connection)
        except SQLAlchemyError as error:
            raise IndexUnusable(f"{self.place} cannot be read: {reason_of(error)}") from error

    @contextmanager
    def reading(self, *, wait: bool = True, following: bool = False) -> Iterator[ReadIndex]:
        """Open a view of the committed rows, beside the writer; for one thread.

        `wait`: wait until what was acknowledged before this call is in the view. Monitoring, and what follows commits,
            look at once instead.
        `following`: rows are read behind a cursor: leave out those before which others may still be committed.

        Raises QueryRefused: what was acknowledged does not become part of the view in time.
        """
        if wait:
            self.ahead.require_caught_up()
        watermarks = self.sharing.watermarks() if following else None
        with self._reader.connect() as connection:
            yield ReadIndex(queries_of(connection), watermarks)

    def version(self) -> int | None:
        """Return a number that changes with each commit that may take instances away from who asks for them.

        Such a commit deletes an instance, replaces its file, or withdraws a right. A commit that only adds rows keeps
        the number, so answers can be kept while instances are received. The call never waits. None: the index is on a
        server, where other hosts commit as well.
        """
        return int(self.numbers.at[VERSION]) if isinstance(self.place, Path) else None

    @contextmanager
    def searching(self) -> Iterator[ReadIndex]:
        """Open a view for searches and lists, which take longer: few at once, and they yield to received instances.

        Raises QueryRefused if there are too many of them, or one takes too long.
        """
        self.ahead.require_caught_up()
        with self._finder.turn() as connection:
            yield ReadIndex(queries_of(connection))

    def overwrite_deleted(self) -> bool:
        """Leave no deleted row in a file of the index; return False if a reader prevents it, or a server has them."""
        try:
            return backend_at(self.place).overwrite_deleted(self._engine)
        except (SQLAlchemyError, backend_at(self.place).Error) as error:
            log.warning("deleted_rows_not_overwritten", error=str(reason_of(error)))
            return False

    def note_commits(self) -> None:
        """Wake what follows commits: another host may have committed."""
        for listener in tuple(self.commit_listeners):
            listener()

    @property
    def stall(self) -> str | None:
        """What keeps commits waiting, to be read after "the server of the index"; None if nothing does."""
        return self.watch.stall if self.watch is not None else None

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that must stay where they are while the index is open."""
        return (self.place,) if isinstance(self.place, Path) else ()

    def begin_stop(self) -> None:
        """From now on, commit nothing more once the server keeps a commit waiting: nobody knows for how long."""
        if self.watch is not None:
            self.watch.give_up_stalls()

    def close(self) -> None:
        """Commit what is queued, and close the index.

        The index counts as closed only after its last commit. After an error of the disk it does not: the next start
        then reads all of it.
        """
        self.begin_stop()
        self._writer.close(partial(set_about, key=CLOSED, value="yes"))
        if self.watch is not None:
            self.watch.stop()
        for engine in (self._watcher, self._reader, self._engine):
            engine.dispose()


class IndexBeside(Index):
    """The index in a process beside the one that holds the root: it reads by connections of its own.

    `make`: has the other process make a change (`Index.perform`).
    `ahead`: what that process has not indexed yet.
    """

    def __init__(
        self, root: Path, place: Place, make: Callable[[type, str, Sequence[Any], Mapping[str, Any]], Any], ahead: Ahead
    ) -> None:
        self.root, self.place, self.watch, self.numbers = root, place, None, ahead.numbers
        self._open_readers(place)
        self._open_rows(WriterElsewhere(self.sharing, make))
        self.ahead = ahead

    def close(self) -> None:
        """Close the connections."""
        for engine in (self._watcher, self._reader):
            engine.dispose()
