"""Copies without identities, which the members of a de-identified project see in the place of its series.

An original and its copy are one row, which is there before the copy is and goes after it, so the series of a copy is
known as one from the commit that inserts it (`node.index.nouns.projects.enter_projects`). What is to be copied, and
which copies are to go, is the difference between `project_originals` and these rows: it is found again whenever the
process dies. Who does it is `node.extensions.projects.copying`.
"""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, delete, exists, func, or_, select, update

from node.index.engine.rows import ReadRepository, Row
from node.index.engine.sql import insert
from node.index.engine.writer import IndexRepository, on_writer
from node.index.models import (
    OPEN_STATES,
    CopiedInstanceRow,
    CopiedSeriesRow,
    ImageRow,
    ProjectOriginalRow,
    ProjectRow,
    SeriesRow,
    StudyRow,
    WorkRow,
)
from node.index.nouns.projects import Pseudonymity, has_original, settle_copies
from node.index.nouns.records import Level
from node.index.search.selection import StoredInstance
from node.index.work.ledger import Lane, add
from node.index.work.payloads import Copying

MAX_OWED = 1000
"""Series that are added to the ledger at a time."""


class Owed(NamedTuple):
    """A series whose copies are not as they should be. `revision`: None if they are to go."""

    project: str
    study: str
    series: str
    revision: int | None


@dataclass(frozen=True, slots=True)
class Original:
    """A series of a de-identified project; `receptions` and `revision` change with its instances."""

    project_id: int
    pseudonymity: Pseudonymity
    is_open: bool
    receptions: int
    revision: int


@dataclass(frozen=True, slots=True)
class Copied:
    """An instance and its copy; `reason` and `detail`: why it has none."""

    sop_instance_uid: str
    sha256: str
    copy_sop_instance_uid: str
    reason: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class CopiedSeries:
    """A series that was copied, and what is noted of its instances, by SOP Instance UID."""

    id: int
    copy_study: str
    copy_series: str
    instances: Mapping[str, Copied]


class CopyRepository(IndexRepository):
    """What is copied for projects."""

    @on_writer
    def owe(self, connection: Connection, owed: Sequence[Owed], now: dt.datetime) -> int:
        """Add to the ledger what is not on it yet; return how much that was.

        What has failed is owed again once the series has changed, or a person retries it.
        """
        added = 0
        for one in owed:
            known = select(WorkRow.id).where(
                WorkRow.kind == "copy",
                WorkRow.name == one.project,
                WorkRow.study_instance_uid == one.study,
                WorkRow.series_instance_uid == one.series,
                or_(
                    WorkRow.outcome.is_(None),
                    and_(WorkRow.outcome == "failed", WorkRow.revision.is_not_distinct_from(one.revision)),
                ),
            )
            if connection.execute(known.limit(1)).first() is None:
                uids = {"study_instance_uid": one.study, "series_instance_uid": one.series, "revision": one.revision}
                key = secrets.token_hex(16)
                who = {"requested_by": f"project {one.project}"[:64], "happened_at": now}
                add(connection, Lane("copy", one.project), key, Copying(), now, **uids, **who)
                added += 1
        return added

    @on_writer
    def begin(
        self, connection: Connection, owed: Owed, project_id: int, copy_study: str, copy_series: str
    ) -> CopiedSeries | None:
        """Note that a series is copied, and let copies that are there be seen; None if the project is gone."""
        if connection.scalar(select(ProjectRow.id).where(ProjectRow.id == project_id)) is None:
            return None
        key = {"project_id": project_id, "study_instance_uid": owed.study, "series_instance_uid": owed.series}
        copies = {"copy_study_instance_uid": copy_study, "copy_series_instance_uid": copy_series}
        new = insert(CopiedSeriesRow).values(**key, **copies, project=owed.project)
        connection.execute(new.on_conflict_do_nothing())
        settle_copies(connection, project_id)
        return _copied(connection, owed, project_id)

    @on_writer
    def note(self, connection: Connection, id: int, copied: Sequence[Copied]) -> None:
        """Note what instances are copied to, before that is done, or why they are not."""
        _forget(connection, id, [one.sop_instance_uid for one in copied])
        for one in copied:
            values = {name: getattr(one, name) for name in Copied.__slots__}
            connection.execute(insert(CopiedInstanceRow).values(copied_series_id=id, **values))

    @on_writer
    def forget(self, connection: Connection, id: int, sop_instance_uids: Collection[str]) -> None:
        """Forget instances whose copies are gone."""
        _forget(connection, id, sop_instance_uids)

    @on_writer
    def finish(self, connection: Connection, id: int, original: Original) -> None:
        """Note that all of a series was copied, as it was when that began."""
        done = {"receptions": original.receptions, "revision": original.revision}
        connection.execute(update(CopiedSeriesRow).where(CopiedSeriesRow.id == id).values(done))

    @on_writer
    def remove(self, connection: Connection, id: int) -> None:
        """Forget a series whose copies are gone."""
        connection.execute(delete(CopiedSeriesRow).where(CopiedSeriesRow.id == id))


class ReadCopies(ReadRepository):
    """What is copied for projects, and what is to be."""

    def owed(self) -> list[Owed]:
        """Return series that have changed since they were copied, and copies whose originals are not in the project."""
        is_as_copied = and_(
            CopiedSeriesRow.receptions == SeriesRow.receptions, CopiedSeriesRow.revision == SeriesRow.revision
        )
        changed = (
            select(ProjectRow.name, StudyRow.study_instance_uid, SeriesRow.series_instance_uid, SeriesRow.revision)
            .select_from(ProjectOriginalRow)
            .join(ProjectRow, ProjectRow.id == ProjectOriginalRow.project_id)
            .join(SeriesRow, SeriesRow.id == ProjectOriginalRow.series_id)
            .join(StudyRow, StudyRow.id == SeriesRow.study_id)
            .where(SeriesRow.state.not_in(OPEN_STATES), ~exists().where(_OF_ORIGINAL, is_as_copied))
            .distinct()
            .limit(MAX_OWED)
        )
        gone = select(
            CopiedSeriesRow.project, CopiedSeriesRow.study_instance_uid, CopiedSeriesRow.series_instance_uid
        ).where(~has_original())
        found = [Owed(*row) for row in self._connection.execute(changed)]
        return found + [Owed(*row, None) for row in self._connection.execute(gone.limit(MAX_OWED))]

    def original(self, owed: Owed) -> Original | None:
        """Return a series of a project; None if it is not in it."""
        query = (
            select(
                ProjectRow.id,
                ProjectRow.pseudonym_key,
                ProjectRow.deidentification,
                SeriesRow.state,
                SeriesRow.receptions,
                SeriesRow.revision,
            )
            .select_from(ProjectOriginalRow)
            .join(ProjectRow, ProjectRow.id == ProjectOriginalRow.project_id)
            .join(SeriesRow, SeriesRow.id == ProjectOriginalRow.series_id)
            .join(StudyRow, StudyRow.id == SeriesRow.study_id)
            .where(
                ProjectRow.name == owed.project,
                StudyRow.study_instance_uid == owed.study,
                SeriesRow.series_instance_uid == owed.series,
            )
        )
        row = self._connection.execute(query.limit(1)).first()
        if row is None:
            return None
        how = Pseudonymity(row.pseudonym_key, row.deidentification)
        return Original(row.id, how, row.state in OPEN_STATES, row.receptions, row.revision)

    def instances(self, study: str, series: str) -> Iterator[tuple[StoredInstance, bool]]:
        """Yield the instances of a series, each with whether its file is known to be missing or damaged."""
        columns = [getattr(_LEVELS[name], name) for name in StoredInstance.__slots__]
        query = (
            select(*columns, ImageRow.file_missing)
            .select_from(ImageRow)
            .join(SeriesRow, SeriesRow.id == ImageRow.series_id)
            .join(StudyRow, StudyRow.id == SeriesRow.study_id)
            .where(StudyRow.study_instance_uid == study, SeriesRow.series_instance_uid == series)
            .order_by(ImageRow.instance_number.nulls_first(), ImageRow.id)
        )
        for *values, is_missing in self._connection.execute(query):
            yield StoredInstance(*values), is_missing

    def again(self, copies: CopiedSeries) -> CopiedSeries:
        """Return a series with what is noted of its instances now."""
        return replace(copies, instances=_instances(self._connection, copies.id))

    def made(self, copies: CopiedSeries) -> set[str]:
        """Return the SOP Instance UIDs of the copies of a series that are here and whole, as far as is known."""
        query = (
            select(ImageRow.sop_instance_uid)
            .join(SeriesRow, SeriesRow.id == ImageRow.series_id)
            .join(StudyRow, StudyRow.id == SeriesRow.study_id)
            .where(
                StudyRow.study_instance_uid == copies.copy_study,
                SeriesRow.series_instance_uid == copies.copy_series,
                SeriesRow.copied_for.is_not(None),
                ImageRow.file_missing.is_(False),
            )
        )
        return set(self._connection.scalars(query))

    def without_original(self, owed: Owed) -> list[CopiedSeries]:
        """Return the copies of a series for projects of a name that it is not in: also for one that was removed."""
        gone = select(CopiedSeriesRow.project_id).where(
            CopiedSeriesRow.project == owed.project,
            CopiedSeriesRow.study_instance_uid == owed.study,
            CopiedSeriesRow.series_instance_uid == owed.series,
            ~has_original(),
        )
        found = [_copied(self._connection, owed, project) for project in self._connection.scalars(gone).all()]
        return [one for one in found if one is not None]

    def of_original(self, level: Level, uid: str, study: str) -> list[tuple[Level, str, str]]:
        """Return level, UID and Study Instance UID of what a study, series or instance was copied to, here or not."""
        if level == "instance":
            columns = CopiedInstanceRow.copy_sop_instance_uid, CopiedSeriesRow.copy_study_instance_uid
            instances = select(*columns).join(CopiedSeriesRow, CopiedSeriesRow.id == CopiedInstanceRow.copied_series_id)
            instances = instances.where(CopiedInstanceRow.sop_instance_uid == uid, CopiedInstanceRow.reason.is_(None))
            return [("instance", copy, its_study) for copy, its_study in self._connection.execute(instances)]
        series = select(CopiedSeriesRow.copy_series_instance_uid, CopiedSeriesRow.copy_study_instance_uid)
        series = series.where(CopiedSeriesRow.study_instance_uid == study)
        if level == "series":
            series = series.where(CopiedSeriesRow.series_instance_uid == uid)
        return [("series", copy, its_study) for copy, its_study in self._connection.execute(series)]

    def listed(self, project: str) -> Iterator[Row]:
        """Yield the instances of a de-identified project with their copies, and what became of each."""
        rows = (
            select(
                *(getattr(CopiedSeriesRow, name) for name in _UIDS),
                CopiedInstanceRow.sop_instance_uid,
                CopiedInstanceRow.copy_sop_instance_uid,
                ImageRow.id.is_not(None).label("is_here"),
                CopiedInstanceRow.reason,
                CopiedInstanceRow.detail,
            )
            .join(CopiedInstanceRow, CopiedInstanceRow.copied_series_id == CopiedSeriesRow.id)
            .outerjoin(ImageRow, ImageRow.sop_instance_uid == CopiedInstanceRow.copy_sop_instance_uid)
            .where(CopiedSeriesRow.project_id == _id_of(project))
            .order_by(CopiedSeriesRow.id, CopiedInstanceRow.sop_instance_uid)
        )
        for row in self._connection.execute(rows).mappings():
            state = "not copied" if row["reason"] is not None else "copied" if row["is_here"] else "waiting"
            yield {name: value for name, value in row.items() if name != "is_here"} | {"state": state}
        noted = exists().where(
            _OF_ORIGINAL,
            CopiedInstanceRow.copied_series_id == CopiedSeriesRow.id,
            CopiedInstanceRow.sop_instance_uid == ImageRow.sop_instance_uid,
        )
        new = select(StudyRow.study_instance_uid, SeriesRow.series_instance_uid, ImageRow.sop_instance_uid).distinct()
        for study, series, instance in self._connection.execute(_of_project(new, project).where(~noted)):
            uids = {"study_instance_uid": study, "series_instance_uid": series, "sop_instance_uid": instance}
            copies = dict.fromkeys(f"copy_{name}" for name in uids)
            yield {**uids, **copies, "reason": None, "detail": None, "state": "waiting"}

    def counts(self, project: str) -> dict[str, int]:
        """Return how many ``instances`` a de-identified project has, ``copied`` and ``refused``; others wait."""
        instances = select(func.count(ImageRow.id.distinct()))
        in_all = self._connection.execute(_of_project(instances, project)).scalar_one()
        known = (
            select(func.count())
            .select_from(CopiedInstanceRow)
            .join(CopiedSeriesRow, CopiedSeriesRow.id == CopiedInstanceRow.copied_series_id)
            .where(CopiedSeriesRow.project_id == _id_of(project), has_original())
        )
        here = exists().where(ImageRow.sop_instance_uid == CopiedInstanceRow.copy_sop_instance_uid)
        copied = self._connection.execute(known.where(CopiedInstanceRow.reason.is_(None), here)).scalar_one()
        refused = self._connection.execute(known.where(CopiedInstanceRow.reason.is_not(None))).scalar_one()
        return {"instances": int(in_all), "copied": int(copied), "refused": int(refused)}

    def refusals(self, project: str) -> list[Row]:
        """Return why instances of a project have no copy, each reason with how many, without saying which."""
        query = (
            select(CopiedInstanceRow.reason, CopiedInstanceRow.detail, func.count().label("instances"))
            .join(CopiedSeriesRow, CopiedSeriesRow.id == CopiedInstanceRow.copied_series_id)
            .where(CopiedSeriesRow.project_id == _id_of(project), CopiedInstanceRow.reason.is_not(None))
            .group_by(CopiedInstanceRow.reason, CopiedInstanceRow.detail)
            .order_by(CopiedInstanceRow.reason, CopiedInstanceRow.detail)
        )
        return [dict(row) for row in self._connection.execute(query).mappings()]


_UIDS = ("study_instance_uid", "series_instance_uid", "copy_study_instance_uid", "copy_series_instance_uid")

_LEVELS: Mapping[str, Any] = {
    **dict.fromkeys(StoredInstance.__slots__, ImageRow),
    "study_instance_uid": StudyRow,
    "series_instance_uid": SeriesRow,
}

_OF_ORIGINAL = and_(
    CopiedSeriesRow.project_id == ProjectOriginalRow.project_id,
    CopiedSeriesRow.study_instance_uid == StudyRow.study_instance_uid,
    CopiedSeriesRow.series_instance_uid == SeriesRow.series_instance_uid,
)


def _of_project(query: Any, project: str) -> Any:
    levels = query.select_from(ProjectOriginalRow).join(SeriesRow, SeriesRow.id == ProjectOriginalRow.series_id)
    levels = levels.join(StudyRow, StudyRow.id == SeriesRow.study_id).join(ImageRow, ImageRow.series_id == SeriesRow.id)
    return levels.where(ProjectOriginalRow.project_id == _id_of(project))


def _id_of(project: str) -> Any:
    return select(ProjectRow.id).where(ProjectRow.name == project).scalar_subquery()


def _forget(connection: Connection, id: int, sop_instance_uids: Collection[str]) -> None:
    for uid in sop_instance_uids:
        of_instance = CopiedInstanceRow.copied_series_id == id, CopiedInstanceRow.sop_instance_uid == uid
        connection.execute(delete(CopiedInstanceRow).where(*of_instance))


def _copied(connection: Connection, owed: Owed, project_id: int) -> CopiedSeries | None:
    of_series = (
        CopiedSeriesRow.project_id == project_id,
        CopiedSeriesRow.study_instance_uid == owed.study,
        CopiedSeriesRow.series_instance_uid == owed.series,
    )
    row = connection.execute(select(CopiedSeriesRow.__table__).where(*of_series)).first()
    if row is None:
        return None
    copies = row.copy_study_instance_uid, row.copy_series_instance_uid
    return CopiedSeries(row.id, *copies, _instances(connection, row.id))


def _instances(connection: Connection, id: int) -> dict[str, Copied]:
    columns = [getattr(CopiedInstanceRow, name) for name in Copied.__slots__]
    found = connection.execute(select(*columns).where(CopiedInstanceRow.copied_series_id == id))
    return {copied.sop_instance_uid: copied for copied in (Copied(*one) for one in found)}
