"""Labels and comments of studies and of their series."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, delete, func, select

from node.api import (
    IndexRepository,
    LabelRow,
    NoSuchWork,
    PatientRow,
    ReadRepository,
    Row,
    SeriesRow,
    StudyRow,
    UsageError,
    insert,
    on_writer,
)
from node.extensions.labels.known import LabelViews
from node.extensions.labels.tables import CommentRow

MAX_LABEL_CHARACTERS = 64
MAX_LABELS = 50
"""Labels of one study or series."""

MAX_COMMENTS = 1000
"""Comments on one study and its series."""

MAX_COMMENT_CHARACTERS = 2000

MAX_TARGETS = 1000
"""Studies and series whose labels are changed at a time."""


class Target(NamedTuple):
    """A study, or one of its series if `series` is not empty."""

    study: str
    series: str = ""


class Changed(NamedTuple):
    """A target that has changed, and the Patient ID of its study."""

    target: Target
    patient_id: str


class NotMarkable(NoSuchWork):
    """There is no such study, series or comment."""


def label_of(text: str) -> str:
    """Return a label as it is stored: without spaces around it. Raises UsageError if it cannot be one."""
    label = " ".join(text.split())
    if not 0 < len(label) <= MAX_LABEL_CHARACTERS or not label.isprintable() or "," in label:
        raise UsageError(
            f"{text[:80]!r} cannot be a label: write 1 to {MAX_LABEL_CHARACTERS} printable characters without a comma"
        )
    return label


class MarkRepository(IndexRepository):
    """What people say of studies and series."""

    @on_writer
    def change_labels(
        self,
        connection: Connection,
        targets: Sequence[Target],
        add: Collection[str],
        remove: Collection[str],
        who: str,
        now: dt.datetime,
    ) -> list[Changed]:
        """Give labels to studies and series, and take others from them, in one transaction; return those that changed.

        Raises NotMarkable, and UsageError if one of them would have more than `MAX_LABELS`.
        """
        return [
            Changed(target, patient_id)
            for target, patient_id in _existing(connection, targets)
            if _change(connection, target, add, remove, who, now)
        ]

    @on_writer
    def set_labels(
        self, connection: Connection, target: Target, labels: Collection[str], who: str, now: dt.datetime
    ) -> list[Changed]:
        """Give a study or a series these labels and no others; raises as `change_labels` does."""
        [(target, patient_id)] = _existing(connection, [target])
        others = set(connection.scalars(select(LabelRow.label).where(*_of(target)))) - set(labels)
        return [Changed(target, patient_id)] if _change(connection, target, labels, others, who, now) else []

    @on_writer
    def comment(
        self, connection: Connection, target: Target, comment: str, who: str, now: dt.datetime
    ) -> tuple[int, str]:
        """Add a comment; return its number, and the Patient ID. Raises NotMarkable, and UsageError if it cannot be."""
        if not comment.strip() or len(comment) > MAX_COMMENT_CHARACTERS:
            raise UsageError(f"a comment has 1 to {MAX_COMMENT_CHARACTERS} characters; this one has {len(comment)}")
        [(target, patient_id)] = _existing(connection, [target])
        there = select(func.count()).select_from(CommentRow).where(CommentRow.study_instance_uid == target.study)
        if connection.execute(there).scalar_one() >= MAX_COMMENTS:
            raise UsageError(f"the study has {MAX_COMMENTS} comments: remove some that nobody needs")
        values = {
            "study_instance_uid": target.study,
            "series_instance_uid": target.series,
            "comment": comment.strip(),
            "written_by": who,
            "written_at": now,
        }
        added = insert(CommentRow).values(values).returning(CommentRow.id)
        return int(connection.execute(added).scalar_one()), patient_id

    @on_writer
    def remove_comment(self, connection: Connection, number: int, who: str | None) -> Changed:
        """Remove a comment; `who`: only one that this account wrote. Raises NotMarkable."""
        of_account = CommentRow.written_by == who if who is not None else CommentRow.id == number
        gone = delete(CommentRow).where(CommentRow.id == number, of_account).returning(CommentRow)
        row = connection.execute(gone).first()
        if row is None:
            raise NotMarkable("no such comment, or somebody else wrote it: administrators remove any")
        target = Target(row.study_instance_uid, row.series_instance_uid)
        return Changed(target, next((patient_id for _, patient_id in _found(connection, [target])), ""))


class ReadMarks(ReadRepository, LabelViews):
    """Labels and comments of what is in the index."""

    def labels(self, target: Target) -> list[str]:
        """Return the labels of a study or a series."""
        return list(self._connection.scalars(select(LabelRow.label).where(*_of(target)).order_by(LabelRow.label)))

    def labels_of_series(self, study_instance_uid: str) -> dict[str, list[str]]:
        """Return the labels of the series of a study that have some, by Series Instance UID."""
        rows = self._rows(
            "SELECT series_instance_uid, label FROM v_labels WHERE study_instance_uid = :study "
            "AND series_instance_uid IS NOT NULL ORDER BY label",
            study=study_instance_uid,
        )
        found: dict[str, list[str]] = {}
        for row in rows:
            found.setdefault(row["series_instance_uid"], []).append(row["label"])
        return found

    def comments(self, target: Target) -> list[Row]:
        """Return the comments on a study and its series, or on one series, newest first."""
        return self._rows(
            "SELECT * FROM v_comments WHERE study_instance_uid = :study "
            "AND (:series = '' OR series_instance_uid = :series) ORDER BY id DESC",
            study=target.study,
            series=target.series,
        )

    def comment(self, number: int) -> Row | None:
        """Return a comment by its number."""
        return next(iter(self._rows("SELECT * FROM v_comments WHERE id = :id", id=number)), None)


def _of(target: Target) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return LabelRow.study_instance_uid == target.study, LabelRow.series_instance_uid == target.series


def _existing(connection: Connection, targets: Iterable[Target]) -> list[tuple[Target, str]]:
    """Return targets with the Patient IDs of their studies. Raises NotMarkable if one is not in the index."""
    wanted = list(dict.fromkeys(targets))
    found = _found(connection, wanted)
    if len(found) < len(wanted):
        missing = next(one for one in wanted if one not in dict(found))
        what = f"series {missing.series} in study {missing.study}" if missing.series else f"study {missing.study}"
        raise NotMarkable(f"no {what[:200]} in the index; `voxelnode series --uids` lists all")
    return found


def _found(connection: Connection, targets: Sequence[Target]) -> list[tuple[Target, str]]:
    found = []
    for target in targets:
        query = select(PatientRow.patient_id).join(StudyRow, StudyRow.patient_id == PatientRow.id)
        query = query.where(StudyRow.study_instance_uid == target.study)
        if target.series:
            of_study = SeriesRow.study_id == StudyRow.id
            query = query.join(SeriesRow, of_study).where(SeriesRow.series_instance_uid == target.series)
        row = connection.execute(query).first()
        if row is not None:
            found.append((target, str(row[0] or "")))
    return found


def _change(
    connection: Connection, target: Target, add: Collection[str], remove: Collection[str], who: str, now: dt.datetime
) -> bool:
    known = set(connection.scalars(select(LabelRow.label).where(*_of(target))))
    new, gone = set(add) - known, known & set(remove) - set(add)
    if len(known | new) - len(gone) > MAX_LABELS:
        raise UsageError(f"{target.series or target.study} would have more than {MAX_LABELS} labels: remove some")
    whose = {"study_instance_uid": target.study, "series_instance_uid": target.series}
    if gone:
        connection.execute(delete(LabelRow).where(*_of(target), LabelRow.label.in_(gone)))
    if new:  # another host may give the same label at the same time
        rows = [{**whose, "label": label, "given_by": who, "given_at": now} for label in sorted(new)]
        connection.execute(insert(LabelRow).on_conflict_do_nothing(), rows)
    return bool(new or gone)
