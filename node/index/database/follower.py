"""Background services that process what was committed to the index."""

from __future__ import annotations

from typing import TYPE_CHECKING

from node.background import BackgroundService

if TYPE_CHECKING:
    from node.index.database.index import Index

FOLLOW_SECONDS = 0.25
"""Longest delay from a commit to the next step; one step serves all commits of this time."""


class IndexFollower(BackgroundService):
    """A background service that wakes after each commit to the index.

    A step that commits wakes its own service again. It must therefore commit only if it had something to do.

    `within` (seconds): longest delay from a commit to the next step. `turn`: the work that only one host does at a
    time, if several share the index; None: all of them do it.
    """

    def __init__(self, name: str, index: Index, within: float = FOLLOW_SECONDS, turn: str | None = None) -> None:
        super().__init__(name)
        self._index, self._within, self.turn = index, within, turn

    def start(self) -> None:
        self._index.commit_listeners.append(self._follow)
        super().start()

    def _is_ours(self) -> bool:
        return self.turn is None or self._index.turn.has(self.turn)

    def _close(self) -> None:
        self._index.commit_listeners.remove(self._follow)

    def _follow(self) -> None:
        self.wake(self._within)
