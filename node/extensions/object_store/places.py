"""The places of files, as the object store changes them: what is to be moved there, what it has, what is to be removed.

These are the files of instances, and those of revisions: volumes, and what lies beside them. Hosts that share a store
move what is on their own disks. What is to be moved is, here, always what this host has.
"""

import datetime as dt
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice
from time import monotonic

from sqlalchemy import ColumnElement, Connection, delete, exists, func, select, update

from node.archive.base import StoreAway
from node.errors import OutOfResources
from node.extensions.object_store.listed import PlaceViews
from node.index.rows.about_keys import STORE as STORE_IDENTITY
from node.index.rows.about_keys import STORE_CHECKSUMS, STORE_SPOOLED
from node.index.rows.converted import SeriesKey
from node.index.rows.files import FILES, REVISION_FILES, aside_of_order
from node.index.rows.models.history import ConflictRow, ConversionRow, RevisionFileRow, TrashRow, VolumeRow
from node.index.rows.models.levels import MARKED_IMAGES, SPOOL, STORE, ImageRow
from node.index.rows.models.work import HostRemovalRow, ObjectRemovalRow
from node.index.rows.records import InstanceFile, RevisionFile
from node.index.rows.repositories import on_reader, on_writer, queries_of, reads, set_about
from node.index.rows.sql import in_partial_index, insert
from node.index.rules.custody.hosts import (
    SPOOLED,
    SPOOLED_FILES,
    ObjectRepository,
    current_of_files,
    instance_files,
    instances_first,
    named_objects,
)
from node.index.rules.work.events import owe_files

_IS_WRITTEN = RevisionFileRow.sha256 != ""
"""A sidecar that is being written again waits; see `node.conversion.volume_files`."""


@dataclass(frozen=True, slots=True)
class UnnotedRevision:
    """A revision from before the object store: its folder, and the digests of its volumes by their paths."""

    conversion_id: int
    folder: str
    sha256: dict[str, str]


class PlaceRepository(ObjectRepository):
    """The places of files, with what moves them."""

    @on_reader
    def spooled(
        self, connection: Connection, after: str, limit: int, *, missing: bool
    ) -> list[InstanceFile | RevisionFile]:
        """Return files to be moved to the store, in the order of their keys, from behind one: instances first.

        `missing`: also instances whose local file is known to be missing: the store may have them.
        """
        images = FILES.where(SPOOLED, self._is_here(ImageRow), ImageRow.key > after)
        images = images if missing else images.where(ImageRow.file_missing.is_(False))
        of_revisions = SPOOLED_FILES, _IS_WRITTEN, self._is_here(RevisionFileRow), RevisionFileRow.key > after
        return instances_first(connection, images, REVISION_FILES.where(*of_revisions), limit)

    @on_reader
    def of_keys(self, connection: Connection, keys: Collection[str]) -> list[InstanceFile]:
        """Return the instances with these keys, as far as there are any."""
        return instance_files(connection, FILES.where(ImageRow.key.in_(keys)))

    @on_reader
    def unnoted(self, connection: Connection, after: int, limit: int) -> list[UnnotedRevision]:
        """Return revisions whose files exist and have no rows of places, from behind the number of one."""
        rows = connection.execute(
            select(ConversionRow.id)
            .where(
                ConversionRow.id > after,
                ConversionRow.files_removed_at.is_(None),
                select(VolumeRow.id).where(VolumeRow.conversion_id == ConversionRow.id).exists(),
                ~select(RevisionFileRow.id).where(RevisionFileRow.conversion_id == ConversionRow.id).exists(),
            )
            .order_by(ConversionRow.id)
            .limit(limit)
        )
        found = []
        for number in rows.scalars().all():
            volumes = select(VolumeRow.path, VolumeRow.sha256).where(VolumeRow.conversion_id == number)
            sha256 = {path: digest for path, digest in connection.execute(volumes)}
            found.append(UnnotedRevision(number, next(iter(sha256)).rpartition("/")[0], sha256))
        return found

    @on_writer
    def note_files(self, connection: Connection, conversion_id: int, files: Sequence[RevisionFile]) -> None:
        """Note the files of an `unnoted` revision as to be moved, unless they were removed meanwhile."""
        live = select(ConversionRow.id).where(
            ConversionRow.id == conversion_id, ConversionRow.files_removed_at.is_(None)
        )
        if files and connection.execute(live).first() is not None:
            rows = [
                {
                    "conversion_id": conversion_id, "key": file.key, "bytes": file.bytes, "sha256": file.sha256,
                    "place": SPOOL, "spool_host": self._sharing.holder,
                }
                for file in files
            ]  # fmt: skip
            connection.execute(insert(RevisionFileRow).on_conflict_do_nothing(), rows)

    @on_writer
    def spool_all(self, connection: Connection) -> None:
        """Note that the files that are in the folder alone are to be moved to the store."""
        for table in (ImageRow, RevisionFileRow):
            spooled = {"place": SPOOL, "spool_host": self._sharing.holder}
            connection.execute(update(table).where(table.place.is_(None)).values(spooled))
        set_about(connection, STORE_SPOOLED, "yes")

    @on_reader
    def of_no_host(self, connection: Connection) -> str | None:
        """Return the key of a file that is to be moved to the store by no host yet, or None."""
        images = select(ImageRow.key).where(SPOOLED, ImageRow.spool_host.is_(None), ImageRow.file_missing.is_(False))
        files = select(RevisionFileRow.key).where(SPOOLED_FILES, RevisionFileRow.spool_host.is_(None))
        return connection.scalar(images.limit(1)) or connection.scalar(files.limit(1))

    @on_writer
    def own_spool(self, connection: Connection) -> None:
        """Note that this host has what is to be moved, from when the index had one host."""
        for table, is_spooled in ((ImageRow, SPOOLED), (RevisionFileRow, SPOOLED_FILES)):
            unowned = update(table).where(is_spooled, table.spool_host.is_(None))
            connection.execute(unowned.values(spool_host=self._sharing.holder))

    @on_reader
    def host_of(self, connection: Connection, key: str) -> str | None:
        """Return which other host alone has a file; None if it is in the store, here, or lost."""
        host = PlaceViews(queries_of(connection)).only_host_of(key)
        return host if host != self._sharing.holder else None

    @on_reader
    def current_of(self, connection: Connection, key: str) -> list[SeriesKey]:
        """Return the series to whose current volumes a file of a revision belongs, if there is one."""
        return current_of_files(connection, RevisionFileRow.key == key)

    @on_writer
    def record_lost(self, connection: Connection, key: str, now: dt.datetime) -> None:
        """Note that neither a disk nor the store has a file of a revision, which thus no longer counts as unchanged."""
        conversion = select(RevisionFileRow.conversion_id).where(RevisionFileRow.key == key)
        connection.execute(update(ConversionRow).where(ConversionRow.id.in_(conversion)).values(input_sha256=None))
        owe_files(connection, RevisionFileRow.key == key, now)

    @on_reader
    def stored(self, connection: Connection, after: str, limit: int) -> list[InstanceFile | RevisionFile]:
        """Return files that the store has, in the order of their keys, from behind one: instances first."""
        images = FILES.where(ImageRow.place == STORE, ImageRow.key > after)
        files = REVISION_FILES.where(RevisionFileRow.place == STORE, RevisionFileRow.key > after)
        return instances_first(connection, images, files, limit)

    @on_reader
    def marked(self, connection: Connection, after: str, limit: int) -> list[InstanceFile]:
        """Return instances of the store that are marked as missing or damaged, in the order of their keys."""
        of_marked = in_partial_index(ImageRow.series_id, MARKED_IMAGES), ImageRow.file_missing, ImageRow.place == STORE
        return instance_files(
            connection, FILES.where(*of_marked, ImageRow.key > after).order_by(ImageRow.key).limit(limit)
        )

    @on_writer
    def record_local(self, connection: Connection, keys: Sequence[str]) -> None:
        """Note that durable files are in the folder of the archive, and in no store."""
        for table in (ImageRow, RevisionFileRow):
            connection.execute(update(table).where(table.key.in_(keys)).values(place=None, spool_host=None))

    @on_writer
    def leave_store(self, connection: Connection) -> None:
        """Note that no file is in the store, or on its way there.

        Raises AssertionError if one of them is.
        """
        connection.execute(update(ImageRow).where(ImageRow.place == SPOOL).values(place=None, spool_host=None))
        for table in (ImageRow, RevisionFileRow):
            assert connection.execute(select(table.id).where(table.place == STORE).limit(1)).first() is None
        for of_store in (RevisionFileRow, ObjectRemovalRow, HostRemovalRow):
            connection.execute(delete(of_store))
        of_holder = update(ConflictRow).where(ConflictRow.host == self._sharing.holder)
        connection.execute(of_holder.values(host=None))  # from now on, in the archive of all
        for key in (STORE_SPOOLED, STORE_IDENTITY, STORE_CHECKSUMS):
            set_about(connection, key, "")

    @on_reader
    def removals(self, connection: Connection, limit: int | None = None) -> list[str]:
        """Return keys of objects that may be removed now, in their order.

        Those of instances that came again stay until the new object is in the store: it may be all that a lost disk
        leaves. Those that another host is to set aside wait for that host.
        """
        removals = select(ObjectRemovalRow.key).order_by(ObjectRemovalRow.key).limit(limit)
        came_again = select(ImageRow.received_at).where(SPOOLED)  # the moment of their orders
        removals = removals.where(ObjectRemovalRow.ordered_at.not_in(came_again))
        if self._sharing.holder is not None:
            aside = exists().where(ConflictRow.key == aside_of_order(), ConflictRow.host != self._sharing.holder)
            removals = removals.where(~aside)
        return list(connection.scalars(removals))

    @on_reader
    def host_removals(self, connection: Connection, limit: int) -> list[str]:
        """Return files and folders to be removed from the disk of this host; their objects are gone."""
        removals = select(HostRemovalRow.path).where(
            HostRemovalRow.host == self._sharing.holder, ~exists().where(ObjectRemovalRow.key == HostRemovalRow.path)
        )
        return list(connection.scalars(removals.order_by(HostRemovalRow.path).limit(limit)))

    @on_writer
    def removed_here(self, connection: Connection, paths: Sequence[str]) -> None:
        """Note that files and folders are gone from the disk of this host."""
        of_holder = HostRemovalRow.host == self._sharing.holder, HostRemovalRow.path.in_(paths)
        connection.execute(delete(HostRemovalRow).where(*of_holder))

    @on_writer
    def removed(self, connection: Connection, keys: Sequence[str]) -> None:
        """Note that objects are gone from the store."""
        connection.execute(delete(ObjectRemovalRow).where(ObjectRemovalRow.key.in_(keys)))

    @on_reader
    def count_spooled(self, connection: Connection) -> int:
        """Return how many instances are to be moved to the store."""
        query = select(func.count()).select_from(ImageRow).where(SPOOLED, self._is_here(ImageRow))
        return int(connection.execute(query).scalar_one())

    def _is_here(self, table: type[ImageRow | RevisionFileRow]) -> ColumnElement[bool]:
        return table.spool_host.is_(None) if self._sharing.holder is None else table.spool_host == self._sharing.holder

    @on_reader
    def count_spooled_files(self, connection: Connection) -> int:
        """Return how many files of revisions are to be moved to the store."""
        here = SPOOLED_FILES, _IS_WRITTEN, self._is_here(RevisionFileRow)
        query = select(func.count()).select_from(RevisionFileRow).where(*here)
        return int(connection.execute(query).scalar_one())

    named = reads(named_objects)


def unknown_volumes(connection: Connection, keys: Sequence[str]) -> list[str]:
    """Return those of `keys` that neither a revision, nor the trash, nor an order to remove objects names."""
    rows = (RevisionFileRow, ObjectRemovalRow, TrashRow)
    named = {key for row in rows for key in connection.scalars(select(row.key).where(row.key.in_(keys)))}
    return [key for key in keys if key not in named]


STOPPING = "the node is stopping"


class AwaitedObjects:
    """The instances for whose objects somebody waits, by their keys. Thread-safe.

    A key stays until its upload has succeeded or failed, also after those who waited have given up: the longest wait
    tells whether the store takes anything.

    `wake`: has what is awaited uploaded at once.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._lock = threading.Lock()
        self._waiting: dict[str, tuple[float, list[Future[None]]]] = {}  # and since when
        self._is_closed = False

    def upload(self, key: str) -> Future[None]:
        """Return a future that is done when the store has the object of an instance, which is in the index."""
        stored: Future[None] = Future()
        with self._lock:
            is_closed = self._is_closed
            if not is_closed:
                self._waiting.setdefault(key, (monotonic(), []))[1].append(stored)
        if is_closed:
            stored.set_exception(OutOfResources(STOPPING))
        else:
            self._wake()
        return stored

    def keys(self, limit: int) -> list[str]:
        """Return the keys that have waited longest."""
        with self._lock:
            return list(islice(self._waiting, limit))

    def oldest_seconds(self) -> float:
        """Return how long the oldest key has waited; 0 if there is none."""
        with self._lock:
            return max((monotonic() - since for since, _ in islice(self._waiting.values(), 1)), default=0.0)

    def stored(self, keys: Iterable[str]) -> None:
        """Note that the store has these objects, and the index says so."""
        for stored in self._taken(keys):
            stored.set_result(None)

    def failed(self, keys: Iterable[str], reason: str) -> None:
        """Note that these objects will not be in the store."""
        for stored in self._taken(keys):
            stored.set_exception(OutOfResources(reason))

    def close(self) -> None:
        """Let nobody wait any more: nothing is uploaded from here on."""
        with self._lock:
            self._is_closed = True
            keys = list(self._waiting)
        self.failed(keys, STOPPING)

    def _taken(self, keys: Iterable[str]) -> list[Future[None]]:
        with self._lock:
            taken = [self._waiting.pop(key) for key in keys if key in self._waiting]
        return [stored for _, waiting in taken for stored in waiting]


HOST_SECONDS = 10.0
"""Longest wait of a reader for a file that another host has received, and is about to move to the store."""


HOST_LOOK_SECONDS = 0.2
"""Interval at which that wait looks at the index."""


HostOf = Callable[[str], str | None]
"""Asks the index which other host alone has the file with a key; see `node.extensions.object_store.places`."""


class HostAway(StoreAway):
    """The object store does not have a file yet, which another host is to move there."""

    def __init__(self, host: str) -> None:
        super().__init__(
            f"host {host} alone has the file, and has not moved it to the object store yet: try again when {host} runs"
        )


class Hosts:
    """The other hosts that share a store, and waits for what they are about to move there. Thread-safe.

    `seconds`: longest wait. `closing`: ends waits.
    """

    def __init__(self, host_of: HostOf) -> None:
        self._host_of = host_of
        self._in_vain: dict[str, float] = {}  # until when nobody waits for a host
        self.seconds = HOST_SECONDS
        self.closing = threading.Event()

    def wait(self, key: str) -> None:
        """Wait while another host alone has a file; not again for a host that was just awaited in vain."""
        deadline = monotonic() + self.seconds
        while (host := self._host_of(key)) is not None:
            now = monotonic()
            if now < self._in_vain.get(host, 0.0):
                raise HostAway(host)
            if now >= deadline:
                self._in_vain[host] = now + self.seconds
                raise HostAway(host)
            if self.closing.wait(HOST_LOOK_SECONDS):
                raise HostAway(host)
