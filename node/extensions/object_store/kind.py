"""What the node asks of `[storage] url`; see `node.hookspecs.StoreKind`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress

from node.archive.base import LocalFile, Remote, StoreAway
from node.archive.base import Uploads as UploadService
from node.archive.filesystem import Archive
from node.extensions.object_store.findings import findings
from node.extensions.object_store.opened import RootStore
from node.extensions.object_store.remote import checksum_problem, fetching, try_store
from node.extensions.object_store.stores import NotTaken, configured_store
from node.extensions.object_store.uploads import Uploads
from node.hookspecs import TriedStore
from node.index.database.index import Index
from node.index.database.reading import ReadIndex, other_host_of, reading
from node.index.engine.place import IndexUnusable
from node.lifecycle.fsck import Finding
from node.metrics import Metrics
from node.settings.model import Settings


class _Kind:
    """See `node.hookspecs.StoreKind`; so for its methods."""

    def opened(self, settings: Settings, archive: Archive, index: Index, *, new_index: bool) -> Remote:
        return RootStore(settings.storage, archive, index, new_index=new_index)

    def uploads(self, settings: Settings, archive: Archive, index: Index, metrics: Metrics) -> UploadService:
        remote, awaited = archive.remote, settings.acknowledge == "object"
        assert isinstance(remote, RootStore)
        return Uploads(archive, remote, index, metrics, awaited=awaited, now=index.now)

    def files(self, settings: Settings) -> AbstractContextManager[LocalFile]:
        root = settings.storage.root.absolute()
        others = other_host_of(root, settings.index.url, settings.holder)
        return fetching(root, configured_store(settings.storage), others)

    def findings(
        self, settings: Settings, index: ReadIndex, losers: set[str], *, digests: bool, serving: bool
    ) -> Iterator[Finding]:
        store = configured_store(settings.storage)
        try:
            yield from findings(store, index, losers, digests=digests, serving=serving)
        except StoreAway as error:
            yield Finding("store-away", store.place, str(error.strerror))

    def tried(self, settings: Settings) -> TriedStore:
        store = configured_store(settings.storage)
        identity, has_used_store = None, False
        with suppress(IndexUnusable), reading(settings.storage.root, settings.index.url) as index:
            identity, has_used_store = index.archive_in_store, index.has_used_store
        try:
            problem = try_store(store, identity, has_used_store)
            return TriedStore(store.place, problem, None if problem is not None else checksum_problem(store))
        except (StoreAway, NotTaken) as error:
            return TriedStore(store.place, str(getattr(error, "strerror", None) or error), None)


KIND = _Kind()
