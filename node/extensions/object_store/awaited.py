"""Uploads for which somebody waits: instances that are acknowledged once the object store has them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from itertools import islice
from time import monotonic

from node.errors import OutOfResources

STOPPING = "the node is stopping"


class AwaitedUploads:
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
