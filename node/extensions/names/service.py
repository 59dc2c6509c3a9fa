"""Keeps the tree of names true: every study at the start, and those that an event is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any

import structlog

from node.extensions.names.tree import Tree
from node.index.database.index import Index
from node.index.database.reading import ReadIndex
from node.index.database.work_loop import IndexFollower

log = structlog.get_logger()

WITHIN_SECONDS = 1.0
AT_ONCE = 50
"""Studies of one step."""

MAX_EVENTS = 500

_Study = tuple[str, Mapping[str, Any] | None, Sequence[Mapping[str, Any]], Mapping[str, str]]
"""What the index says about a study: the arguments of `Tree.change`."""

RETRY_SECONDS = 30.0
"""Pause before the folders that could not be changed are tried again."""


class Names(IndexFollower):
    """Changes folders of studies after each commit with an event about them.

    What became of the tree while no node ran is found at the start. A crash leaves at most one folder half changed,
    which the next start brings to its end. A folder that cannot be changed delays no other: it is tried again later.
    """

    def __init__(self, tree: Tree, index: Index) -> None:
        super().__init__("names", index, WITHIN_SECONDS)
        self._tree = tree
        self._due: dict[str, None] | None = None
        self._last_event = 0
        self._failed: dict[str, None] = {}
        self._retry_at = 0.0

    def step(self) -> float | None:
        """Change some folders; return 0 if more are due."""
        if self._tree.is_lost:
            self._due = None
        there = self._tree.scan() if self._due is None else None
        with self._index.reading() as index:
            if there is not None:
                self._last_event = index.events.newest()
                exported = {study for study, _ in index.exports.series_keys()}
                self._due = dict.fromkeys(sorted(exported | there))
                self._failed.clear()
            due = self._due = self._due or {}
            events = index.events.since(self._last_event, MAX_EVENTS)
            for event in events:
                self._last_event = event["id"]
                if event["study_instance_uid"] is not None:
                    due[event["study_instance_uid"]] = None
            if self._failed and monotonic() >= self._retry_at:
                due.update(self._failed)
                self._failed.clear()
            studies = [_read(index, uid) for uid in list(due)[:AT_ONCE]]
        for study in studies:
            self._change(study)
            del due[study[0]]
        if due or len(events) == MAX_EVENTS:
            return 0.0
        if self._failed:
            return max(self._retry_at - monotonic(), 0.0)
        self._tree.end()
        return None

    def _change(self, study: _Study) -> None:
        """Change the folder of a study, or note that it has to be tried again."""
        uid = study[0]
        try:
            self._tree.change(*study)
        except OSError as error:
            log.warning("names_not_changed", study_instance_uid=uid, reason=error.strerror or type(error).__name__)
            self._failed[uid] = None
            self._retry_at = monotonic() + RETRY_SECONDS
        else:
            self._failed.pop(uid, None)


def _read(index: ReadIndex, uid: str) -> _Study:
    revisions = {
        series: folder
        for series, revision in index.volumes.current_revisions(uid)
        if (folder := index.volumes.folder(uid, series, revision)) is not None
    }
    return uid, index.studies.row(uid), index.series.of_study(uid), revisions
