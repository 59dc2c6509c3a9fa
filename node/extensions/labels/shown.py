"""What the pages of studies and series show of labels and comments."""

from __future__ import annotations

from typing import Any

from node.extensions.labels.marks import ReadMarks, Target
from node.index.database.reading import ReadIndex
from node.web.access import Call


def is_on(call: Call) -> bool:
    """Return whether the configuration leaves the extension on."""
    return "labels" not in call.node.settings.extensions.disabled


def marks_of(call: Call, index: ReadIndex, target: Target) -> dict[str, Any] | None:
    """Return the labels and comments of a study or a series, and all labels there are; None: they are off."""
    if not is_on(call):
        return None
    marks = index.repository(ReadMarks)
    return {
        "labels": marks.labels(target),
        "of_study": marks.labels(Target(target.study)) if target.series else [],
        "of_series": {} if target.series else marks.labels_of_series(target.study),
        "comments": marks.comments(target),
        "known": [row["label"] for row in marks.known()],
    }


def list_labels(call: Call, index: ReadIndex) -> list[str] | None:
    """Return all labels, for the list of studies; None: they are off."""
    return [row["label"] for row in index.repository(ReadMarks).known()] if is_on(call) else None
