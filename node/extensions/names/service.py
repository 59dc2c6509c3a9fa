"""Keeps the tree of names true: every study at the start, and those that an event is about."""

from __future__ import annotations

from node.extensions.names.tree import Tree
from node.index.database.index import Index
from node.index.database.work_loop import IndexFollower

WITHIN_SECONDS = 1.0
AT_ONCE = 50
"""Studies of one step."""

MAX_EVENTS = 500


class Names(IndexFollower):
    """Changes folders of studies after each commit with an event about them.

    What became of the tree while no node ran is found at the start. A crash leaves at most one folder half changed,
    which the next start brings to its end.
    """

    def __init__(self, tree: Tree, index: Index) -> None:
        super().__init__("names", index, WITHIN_SECONDS)
        self._tree = tree
        self._due: dict[str, None] | None = None
        self._last_event = 0

    def step(self) -> float | None:
        """Change some folders; return 0 if more are due."""
        with self._index.reading() as index:
            if self._due is None or self._tree.is_lost:
                self._last_event = index.events.newest()
                there = {study for study, _ in index.exports.series_keys()}
                self._due = dict.fromkeys(sorted(there | self._tree.scan()))
            events = index.events.since(self._last_event, MAX_EVENTS)
            for event in events:
                self._last_event = event["id"]
                if event["study_instance_uid"] is not None:
                    self._due[event["study_instance_uid"]] = None
            for uid in list(self._due)[:AT_ONCE]:
                revisions = {
                    series: folder
                    for series, revision in index.volumes.current_revisions(uid)
                    if (folder := index.volumes.folder(uid, series, revision)) is not None
                }
                self._tree.change(uid, index.studies.row(uid), index.series.of_study(uid), revisions)
                del self._due[uid]
        if self._due or len(events) == MAX_EVENTS:
            return 0.0
        self._tree.end()
        return None
