"""Background services that work on what is committed to the index."""

from __future__ import annotations

from node.background import BackgroundService
from node.index.database import Index

FOLLOW_SECONDS = 0.25
"""Longest wait from a commit to the step that looks at it: while instances arrive, one step serves many commits."""


class IndexFollower(BackgroundService):
    """A background service that each commit to the index wakes.

    A step that commits wakes its own service once more. It must therefore commit only if there was something to do.

    Parameters
    ----------
    within : float, seconds
        Longest wait from a commit to the next step.
    """

    def __init__(self, name: str, index: Index, within: float = FOLLOW_SECONDS) -> None:
        super().__init__(name)
        self._index, self._within = index, within

    def start(self) -> None:
        self._index.commit_listeners.append(self._follow)
        super().start()

    def _close(self) -> None:
        self._index.commit_listeners.remove(self._follow)

    def _follow(self) -> None:
        self.wake(self._within)
