"""What the pages of studies and series show of labels and comments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from node.api import ReadIndex
from node.extensions.labels.marks import ReadMarks, Target


def marks_of(index: ReadIndex, study_instance_uid: str, series_instance_uid: str = "") -> dict[str, Any]:
    """Return the labels and comments of a study or a series, and all labels there are."""
    marks, target = index.repository(ReadMarks), Target(study_instance_uid, series_instance_uid)
    return {
        "labels": marks.labels(target),
        "of_study": marks.labels(Target(target.study)) if target.series else [],
        "of_series": {} if target.series else marks.labels_of_series(target.study),
        "comments": marks.comments(target),
        "known": [row["label"] for row in marks.known()],
    }


def known_labels(index: ReadIndex) -> list[str]:
    """Return all labels, for the list of studies."""
    return [row["label"] for row in index.repository(ReadMarks).known()]


def labels_of_series(index: ReadIndex, study_instance_uid: str) -> Mapping[str, Sequence[str]]:
    """Return the labels of the series of a study."""
    return index.repository(ReadMarks).labels_of_series(study_instance_uid)
