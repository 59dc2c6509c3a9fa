"""Labels and comments of studies and of their series: rows, and the actions that change them.

Comments are in a table of their own; labels are in one of the core, whose selectors compare them. Labels and comments
outlive the rows of what they are about: they name it by its UIDs, as people do. A study that comes back, from the trash
or from a sender, has those that it had. They are forgotten with the last files.
"""

import datetime as dt
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Integer, MetaData, String, Text, and_, delete, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from node.api import (
    NAMES,
    SEEN_WITH_STUDY_OR_SERIES,
    AuditAction,
    AuditEvent,
    AuditMessage,
    IndexRepository,
    IndexTables,
    LabelRow,
    NoSuchWork,
    OpenedRoot,
    PatientRow,
    ReadIndex,
    SeriesRow,
    StudyRow,
    UsageError,
    Utc,
    in_trash,
    insert,
    on_writer,
)
from node.api import Action as RootAction
from node.extensions.labels.known import LabelViews


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMES)


class CommentRow(Base):
    """What somebody wrote about a study, or about one of its series."""

    __tablename__ = "comments"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(String(64), index=True)
    series_instance_uid: Mapped[str] = mapped_column(String(64))  # empty: it is about the study
    comment: Mapped[str] = mapped_column(Text)
    written_by: Mapped[str] = mapped_column(String(64))
    written_at: Mapped[dt.datetime] = mapped_column(Utc)


def _forget(connection: Connection, study_instance_uid: str) -> None:
    """Delete the labels and comments of a study, and of its series, that are neither in the index nor in the trash."""
    kinds = (LabelRow, CommentRow)
    marked = [select(kind.id).where(kind.study_instance_uid == study_instance_uid).limit(1) for kind in kinds]
    if all(connection.execute(query).first() is None for query in marked):
        return  # the trash need not be read
    if in_trash(connection, "study", study_instance_uid):
        return
    study = select(StudyRow.id).where(StudyRow.study_instance_uid == study_instance_uid)
    series = select(SeriesRow.series_instance_uid).where(SeriesRow.study_id.in_(study))
    for kind in kinds:
        is_gone = and_(kind.series_instance_uid != "", kind.series_instance_uid.not_in(series)) | ~study.exists()
        connection.execute(delete(kind).where(kind.study_instance_uid == study_instance_uid, is_gone))


TABLES = IndexTables(
    Base.metadata,
    Path(__file__).with_name("migrations"),
    "labels_0001",
    seen={"comments": SEEN_WITH_STUDY_OR_SERIES},
    views={
        "v_comments": """
            SELECT c.id, c.study_instance_uid, nullif(c.series_instance_uid, '') AS series_instance_uid, c.comment,
                   c.written_by, c.written_at
            FROM comments c JOIN studies st ON st.study_instance_uid = c.study_instance_uid
            WHERE c.series_instance_uid = '' OR EXISTS (
                SELECT 1 FROM series se
                WHERE se.study_id = st.id AND se.series_instance_uid = c.series_instance_uid)"""
    },
    forget=_forget,
)


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


def marks_of(index: ReadIndex, study_instance_uid: str, series_instance_uid: str = "") -> dict[str, Any]:
    """Return the labels and comments of a study or a series, and all labels there are."""
    marks, target = index.views(LabelViews), Target(study_instance_uid, series_instance_uid)
    return {
        "labels": marks.labels(*target),
        "of_study": marks.labels(target.study, "") if target.series else [],
        "of_series": {} if target.series else marks.labels_of_series(target.study),
        "comments": marks.comments(*target),
        "known": [row["label"] for row in marks.known()],
    }


def known_labels(index: ReadIndex) -> list[str]:
    """Return all labels, for the list of studies."""
    return [row["label"] for row in index.views(LabelViews).known()]


def labels_of_series(index: ReadIndex, study_instance_uid: str) -> Mapping[str, Sequence[str]]:
    """Return the labels of the series of a study."""
    return index.views(LabelViews).labels_of_series(study_instance_uid)


def actions(root: OpenedRoot) -> Mapping[str, RootAction]:
    """Return the actions by name."""
    ingest, audit = root.ingest, root.audit
    marks = ingest.index.repository(MarkRepository)

    def record(changed: Iterable[Changed], who: str, detail: str) -> None:
        studies = dict.fromkeys((one.target.study, one.patient_id) for one in changed)
        if studies:
            objects = [{"study_instance_uid": study, "patient_id": patient_id} for study, patient_id in studies]
            audit.note(AuditMessage.by(who, AuditEvent.INSTANCES_ACCESSED, AuditAction.UPDATE, detail, objects))

    def change_labels(
        targets: Sequence[Sequence[str]], who: str, add: Sequence[str] = (), remove: Sequence[str] = ()
    ) -> Mapping[str, Any]:
        if len(targets) > MAX_TARGETS:
            raise UsageError(f"{len(targets)} studies or series at a time are too many: at most {MAX_TARGETS}")
        new, gone = [label_of(one) for one in add], [" ".join(one.split()) for one in remove]
        changed = marks.change_labels([Target(*one) for one in targets], new, gone, who, ingest.now())
        record(changed, who, "labels changed")
        return {"changed": len(changed)}

    def set_labels(study: str, series: str, labels: Sequence[str], who: str) -> Mapping[str, Any]:
        wanted = sorted({label_of(one) for one in labels})
        record(marks.set_labels(Target(study, series), wanted, who, ingest.now()), who, "labels changed")
        return {"labels": wanted}

    def comment(study: str, series: str, comment: str, who: str) -> Mapping[str, Any]:
        target = Target(study, series)
        number, patient_id = marks.comment(target, comment, who, ingest.now())
        record([Changed(target, patient_id)], who, f"comment {number} written")
        return {"id": number}

    def remove_comment(number: int, who: str, *, any_account: bool = False) -> Mapping[str, Any]:
        record([marks.remove_comment(number, None if any_account else who)], who, f"comment {number} removed")
        return {"removed": number}

    return {
        "change-labels": change_labels,
        "set-labels": set_labels,
        "comment": comment,
        "remove-comment": remove_comment,
    }
