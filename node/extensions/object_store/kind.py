"""What the node asks of `[storage] url` (`node.registry.STORE`).

Every function but `tried` and `findings` may raise `node.archive.base.StoreAway`, and each `UsageError` if the
configuration cannot be used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress

from node.archive.base import LocalFile, Remote, StoreAway
from node.archive.base import Uploads as UploadService
from node.archive.filesystem import Archive
from node.extensions.object_store.findings import findings as found_in
from node.extensions.object_store.opened import RootStore
from node.extensions.object_store.remote import checksum_problem, fetching, try_store
from node.extensions.object_store.stores import NotTaken, configured_store
from node.extensions.object_store.uploads import Uploads
from node.index.database.index import Index
from node.index.database.reading import ReadIndex, other_host_of, reading
from node.index.engine.place import IndexUnusable
from node.lifecycle.fsck import Finding
from node.metrics import Metrics
from node.settings.model import Settings


def opened(settings: Settings, archive: Archive, index: Index, *, new_index: bool) -> Remote:
    """Return the store of a root that this process has opened; `new_index`: the index has no rows yet."""
    return RootStore(settings.storage, archive, index, new_index=new_index)


def uploads(settings: Settings, archive: Archive, index: Index, metrics: Metrics) -> UploadService:
    """Return the service that moves files to the store of an opened root."""
    remote, awaited = archive.remote, settings.acknowledge == "object"
    assert isinstance(remote, RootStore)
    return Uploads(archive, remote, index, metrics, awaited=awaited, now=index.now)


def files(settings: Settings) -> AbstractContextManager[LocalFile]:
    """Yield what gives the files of the archive to a process that does not hold its lock."""
    root = settings.storage.root.absolute()
    others = other_host_of(root, settings.index.url, settings.holder)
    return fetching(root, configured_store(settings.storage), others)


def findings(
    settings: Settings, index: ReadIndex, losers: set[str], *, digests: bool, serving: bool
) -> Iterator[Finding]:
    """Yield the differences between the index and the objects (`node.lifecycle.fsck.examine`).

    `losers`: keys of files that lost a conflict.
    """
    store = configured_store(settings.storage)
    try:
        yield from found_in(store, index, losers, digests=digests, serving=serving)
    except StoreAway as error:
        yield Finding("store-away", store.place, str(error.strerror))


def tried(settings: Settings) -> tuple[str, str | None, str | None]:
    """Return the place of a store that was tried, its problem, and a warning; None: there is none."""
    store = configured_store(settings.storage)
    identity, has_used_store = None, False
    with suppress(IndexUnusable), reading(settings.storage.root, settings.index.url) as index:
        identity, has_used_store = index.archive_in_store, index.has_used_store
    try:
        problem = try_store(store, identity, has_used_store)
        return store.place, problem, None if problem is not None else checksum_problem(store)
    except (StoreAway, NotTaken) as error:
        return store.place, str(getattr(error, "strerror", None) or error), None
