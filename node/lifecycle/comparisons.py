"""Compare versions of an instance that may be the same in different encodings: behind the acknowledgement, in a child.

A version that came again in another lossless transfer syntax counts as kept at once, until both are decoded
(`node.receive.stored_files.compared`). If they differ, or it cannot be said, the conflict is open again, and a
person decides. What a crash leaves is compared after the next start.
"""

from __future__ import annotations

import structlog

from node.archive.filesystem import Archive
from node.children.decoder import Decoder, NotDecoded, NotDecodedNow
from node.children.decoding import SAME, recoded
from node.index.database.index import Index
from node.runtime.background import MAX_PAUSE_SECONDS, BackgroundService

log = structlog.get_logger()

MOVED_SECONDS = 1.0
"""After the commit, a file is moved into quarantine: that has nearly always happened then."""


class Comparisons(BackgroundService):
    """Makes the comparisons that `ConflictRepository.not_compared` lists."""

    def __init__(self, archive: Archive, index: Index, decoder: Decoder) -> None:
        super().__init__("comparisons")
        self._archive, self._index, self._decoder = archive, index, decoder

    def start(self) -> None:
        """Start the thread; commits that add to the list wake it."""
        self._index.commit_listeners.append(self._wake_if_noted)
        super().start()

    def _close(self) -> None:
        self._index.commit_listeners.remove(self._wake_if_noted)

    def _wake_if_noted(self) -> None:
        if self._index.conflicts.is_noted():
            self.wake(MOVED_SECONDS)

    def step(self) -> float | None:
        """Compare all that can be compared now."""
        again = None
        for conflict, sop_instance_uid, key in self._index.conflicts.not_compared():
            current, is_same = self._index.instances.current(sop_instance_uid), False
            try:
                if current is not None and key is not None:
                    paths = self._archive.path(key), self._archive.local(current)
                    is_same = self._decoder.run(recoded, *paths) == SAME
            except (NotDecodedNow, FileNotFoundError):  # the node stops, or the file is on its way into quarantine
                again = MAX_PAUSE_SECONDS
                continue
            except (NotDecoded, OSError):
                log.warning("not_compared", sop_instance_uid=sop_instance_uid, detail="a person decides")
            self._index.conflicts.compared(conflict, self._index.now(), is_same=is_same)
        return again
