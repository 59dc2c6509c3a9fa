"""What the pages of studies and series show of labels, comments and kept searches."""

from __future__ import annotations

from typing import Any

from node.extensions.labels.marks import ReadMarks, Target
from node.extensions.labels.searches import ReadSearches
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


def list_marks(call: Call, index: ReadIndex) -> dict[str, Any]:
    """Return all labels, and the searches that the account keeps, for the list of studies."""
    if not is_on(call):
        return {"has_labels": False, "all_labels": [], "kept_searches": {}}
    labels = [row["label"] for row in index.repository(ReadMarks).known()]
    kept = index.repository(ReadSearches).of_account(call.account.name)
    return {"has_labels": True, "all_labels": labels, "kept_searches": kept}
