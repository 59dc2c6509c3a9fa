"""The object store of an opened root."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Mapping, Sequence
from itertools import islice

from node.archive.base import VOLUMES
from node.archive.filesystem import Archive, is_key
from node.extensions.object_store.places import PlaceRepository
from node.extensions.object_store.remote import CachedStore, marked
from node.extensions.object_store.settings import StoreSettings
from node.extensions.object_store.stores import configured_store
from node.index.database.index import Index
from node.index.engine.about_keys import STORE
from node.receive.apply import MAX_BATCH
from node.receive.recovery import adopt


class RootStore(CachedStore):
    """The store of a root that this process has opened; see `node.archive.base.Remote`.

    Nothing is asked of it unless the index is new.

    Raises StoreAway: a new index needs to know whose store it is.
    """

    def __init__(self, storage: StoreSettings, archive: Archive, index: Index, *, new_index: bool) -> None:
        store = configured_store(storage, index.sharing.holder or "")
        identity = index.about.get(STORE)
        if not identity:
            identity = (marked(store) if new_index else None) or uuid.uuid4().hex
            identity = index.about.set_once(STORE, identity)
        self._archive, self._index, self._places = archive, index, index.repository(PlaceRepository)
        if index.sharing.holder is not None:
            key = self._places.of_no_host()
            if key is not None and archive.path(key).exists():
                self._places.own_spool()
        super().__init__(store, archive.root, archive.intake, storage.cache_bytes, identity, self._places.host_of)

    def adopt(self, keys: Sequence[str], quiet_seconds: Callable[[str], float], now: dt.datetime) -> Mapping[str, str]:
        """See `node.archive.base.Remote`; so for the methods below."""
        self.require_own()
        deleted = self._index.deletions.deleted_among(keys)
        self._places.remove(sorted(deleted), now)
        unknown = [
            key
            for key in self._index.instances.unknown_keys(keys)
            if key not in deleted and self._archive.take_in(key, self.downloaded(key))
        ]
        fates = adopt(self._archive, self._index, unknown, quiet_seconds, now)
        stored = self._places.record_stored(unknown, now)
        self.note_copies((key, self._archive.path(key).stat().st_size) for key in stored)
        return fates | dict.fromkeys(deleted, "removed: it was deleted")

    def adopt_all(self, quiet_seconds: Callable[[str], float], now: dt.datetime) -> None:
        keys = (found.key for found in self.store.objects("objects") if is_key(found.key))
        while batch := list(islice(keys, MAX_BATCH)):
            self.adopt(batch, quiet_seconds, now)

    def remove_unknown_volumes(self, keeps: Callable[[str], bool], now: dt.datetime) -> None:
        keys = (found.key for found in self.store.objects(VOLUMES) if not keeps(found.key))
        while batch := list(islice(keys, MAX_BATCH)):
            self._places.remove(batch, now)
