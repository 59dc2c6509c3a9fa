"""A node without a listener, in a program of somebody else: its handlers serve an acceptor of pynetdicom."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Self

from node.control.node import Node
from node.errors import UsageError
from node.registry import HANDLERS, required
from node.settings.load import load


class Handlers(list[Any]):
    """Handlers for the events of pynetdicom, and the node behind them, which runs from here on until `close`.

    Parameters and errors are those of `node.handlers`.
    """

    def __init__(self, root: Path, keys: dict[str, Any], *, create: bool) -> None:
        if "storage.root" in keys:
            raise UsageError("the root is given twice: by the first argument, and as storage.root; leave out the key")
        settings = load(flags={"web.enabled": False, **keys, "storage.root": root})
        served = required(settings, HANDLERS, "voxelnode.handlers")
        self._node = Node(settings, listens=False, root_maker="" if create else "voxelnode.handlers(..., create=True)")
        self._drain_seconds = settings.dicom.drain_seconds
        self._stop = threading.Event()
        try:
            self._node.start()
        except BaseException:  # the program goes on, and may try again
            self._node.stop(0.0)
            raise
        self._thread = threading.Thread(
            target=self._node.serve_until, args=(self._stop,), name="voxelnode", daemon=True
        )
        self._thread.start()
        super().__init__(served(self._node.listener))

    def close(self) -> None:
        """Stop the node: shut the acceptor down first, or what it still receives is refused."""
        if self._stop.is_set():  # the descriptors of the node may by now be those of the program
            return
        self._stop.set()
        self._thread.join()
        self._node.stop(self._drain_seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
