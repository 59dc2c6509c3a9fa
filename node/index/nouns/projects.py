"""Projects: who is in them, and which series.

What people and called AE titles put into a project is noted by UID (`project_contents`), so it lasts when an index is
built anew, or when a study is deleted and comes again. `project_series` has the series that this and the rule come to,
and is what every read of a member looks up (`node.index.engine.narrowed`). A series is in its projects from the commit
that inserts it; what a rule says follows (`node.extensions.projects`).

A project with a secret is de-identified: what it comes to is in `project_originals`, and `project_series` has the
copies that are made of these (`node.index.nouns.copies`). `_insert_series` alone decides between the two.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, delete, exists, func, literal, or_, select, update
from sqlalchemy.orm import aliased

from node.errors import UsageError
from node.index.engine.rows import ReadRepository, Row
from node.index.engine.scope import GROUP_PREFIX, MAX_GROUP_CHARACTERS, is_group
from node.index.engine.sql import insert, looked_up_in
from node.index.engine.writer import IndexRepository, on_writer
from node.index.models import (
    AccountRow,
    CopiedSeriesRow,
    LabelRow,
    LimitedAccountRow,
    ProjectContentRow,
    ProjectMemberRow,
    ProjectOriginalRow,
    ProjectRow,
    ProjectSeriesRow,
    SeriesRow,
    StudyRow,
)
from node.index.nouns.shares import end_shares

BY_CALLED_AE_TITLE = "called AE title"
"""Who has added what was sent to the AE title of a project."""

IN_PROJECT: tuple[type[ProjectSeriesRow | ProjectOriginalRow], ...] = (ProjectSeriesRow, ProjectOriginalRow)
"""What has the series that contents and rules come to."""

COPY, RECOVERED = "copy", "recovered"
"""Sources of what may be in the series of copies: a recovered file is one that the node has received before."""


class NoSuchProject(UsageError):
    """No project has this name."""


class Content(NamedTuple):
    """A study, or one of its series if `series` is not empty."""

    study: str
    series: str = ""


@dataclass(frozen=True, slots=True)
class Pseudonymity:
    """What makes a project de-identified: the secret of its pseudonyms, and what is retained, cleaned and allowed."""

    secret: str
    options: Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class ProjectRule:
    """The rule of a project: the text of a selector."""

    project_id: int
    project: str
    rule: str


class RuleChange(NamedTuple):
    """The row ids of series that come into a project by its rule, and of those that leave it."""

    rule: ProjectRule
    came: Collection[int]
    gone: Collection[int]


class ProjectRepository(IndexRepository):
    """Projects, their members and their contents."""

    @on_writer
    def set(
        self,
        connection: Connection,
        name: str,
        who: str,
        now: dt.datetime,
        *,
        description: str | None = None,
        rule: str | None = None,
        called_ae_title: str | None = None,
        pseudonymity: Pseudonymity | None = None,
    ) -> bool:
        """Create a project, or change what is not None: an empty text takes a rule or an AE title away.

        The series of a rule that has changed leave the project now, and come back when the new one is applied. Returns
        whether the project is new. Raises UsageError if a project that has anything, or had, is to be de-identified.
        """
        given = {"description": description, "rule": rule, "called_ae_title": called_ae_title}
        values: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        for key in ("rule", "called_ae_title"):
            if values.get(key) == "":
                values[key] = None
        project = connection.scalar(select(ProjectRow.id).where(ProjectRow.name == name))
        if pseudonymity is not None:
            if project is not None:
                _require_empty(connection, name, project)
            values |= {"pseudonym_key": pseudonymity.secret, "deidentification": dict(pseudonymity.options)}
        if project is None:
            connection.execute(insert(ProjectRow).values(name=name, created_by=who, created_at=now, **values))
            return True
        if values:
            connection.execute(update(ProjectRow).where(ProjectRow.id == project).values(values))
        if "rule" in values:
            for table in IN_PROJECT:
                connection.execute(delete(table).where(table.project_id == project, table.is_by_rule))
            settle_copies(connection, project)
        return False

    @on_writer
    def remove(self, connection: Connection, name: str) -> None:
        """Remove a project; its series stay, its copies go, and its members keep their limits."""
        connection.execute(delete(ProjectRow).where(ProjectRow.id == _id(connection, name)))

    @on_writer
    def set_member(self, connection: Connection, name: str, account: str, role: str, *, may_limit: bool = True) -> None:
        """Give an account or a group a role in a project, and limit it to its projects.

        Without `may_limit` it is limited already. Raises UsageError if there is no such account, if its role in the
        node is lower than that role needs, or if it is an administrator: these see the whole node. Nobody knows which
        groups there are, and each of their accounts does no more than its role in the node lets it.
        """
        project = _id(connection, name)
        of_node = connection.scalar(select(AccountRow.role).where(AccountRow.name == account))
        limited = select(LimitedAccountRow.account).where(LimitedAccountRow.account == account)
        if account.startswith(GROUP_PREFIX):
            if not is_group(account.removeprefix(GROUP_PREFIX)):
                raise UsageError(f"a group has a name of 1 to {MAX_GROUP_CHARACTERS} printable characters")
            of_node = "write"
        if not may_limit and (of_node is None or connection.scalar(limited) is None):
            raise UsageError(f"there is no account {account!r} that sees projects only: ask an administrator")
        if of_node is None:
            raise UsageError(f"there is no account {account!r}: `voxelnode account list` lists accounts and tokens")
        if of_node == "admin":
            raise UsageError(f"{account} is an administrator and sees the whole node: give it another role first")
        if of_node == "read" and role != "read":
            raise UsageError(
                f"{account} may read only, wherever: run `voxelnode account role {account} write` before it has the "
                f"role {role} in a project"
            )
        _limit(connection, account)
        key = {"project_id": project, "account": account}
        added = insert(ProjectMemberRow).values(**key, role=role)
        elements = ["project_id", "account"]
        connection.execute(added.on_conflict_do_update(index_elements=elements, set_={"role": role}))

    @on_writer
    def remove_member(self, connection: Connection, name: str, account: str) -> None:
        """Take the role in a project from an account, which stays limited to its other projects."""
        of_account = ProjectMemberRow.project_id == _id(connection, name), ProjectMemberRow.account == account
        if connection.execute(delete(ProjectMemberRow).where(*of_account)).rowcount == 0:
            raise UsageError(f"{account} is no member of {name}")

    @on_writer
    def limit(self, connection: Connection, account: str, *, is_limited: bool) -> None:
        """Let an account see its projects only, or the whole node again: it leaves its projects then."""
        if is_limited:
            _limit(connection, account)
            return
        connection.execute(delete(LimitedAccountRow).where(LimitedAccountRow.account == account))
        connection.execute(delete(ProjectMemberRow).where(ProjectMemberRow.account == account))

    @on_writer
    def add(self, connection: Connection, name: str, contents: Collection[Content], who: str, now: dt.datetime) -> int:
        """Put studies and series into a project; return how many were not in it by hand.

        Raises UsageError if one of them is not in the index, or is a copy, and the project makes copies.
        """
        project, added = _id(connection, name), 0
        for content in contents:
            _require(connection, content, project)
            values = {"project_id": project, "added_by": who, "added_at": now}
            uids = {"study_instance_uid": content.study, "series_instance_uid": content.series}
            new = insert(ProjectContentRow).values(**values, **uids).on_conflict_do_nothing()
            added += connection.execute(new.returning(ProjectContentRow.project_id)).first() is not None
            _derive(connection, project, content.study)
        return added

    @on_writer
    def take(self, connection: Connection, name: str, contents: Collection[Content]) -> int:
        """Take studies and series out of a project; return how many were in it by hand. A rule may keep their series.

        A series of a study that is in the project as a whole stays.
        """
        project, taken = _id(connection, name), 0
        for content in contents:
            of_content = (
                ProjectContentRow.project_id == project,
                ProjectContentRow.study_instance_uid == content.study,
                ProjectContentRow.series_instance_uid == content.series,
            )
            taken += connection.execute(delete(ProjectContentRow).where(*of_content)).rowcount
            _derive(connection, project, content.study)
        return taken

    @on_writer
    def change_by_rules(self, connection: Connection, changes: Sequence[RuleChange]) -> int:
        """Have series in projects, and no longer others, as the rules select them; return how many came or went.

        What is of a rule that a project no longer has changes nothing.
        """
        changed = 0
        for rule, came, gone in changes:
            current = select(ProjectRow.rule).where(ProjectRow.id == rule.project_id).with_for_update()
            if connection.scalar(current) != rule.rule:
                continue
            if gone:
                for table in IN_PROJECT:
                    by_rule = table.project_id == rule.project_id, table.is_by_rule
                    of_gone = delete(table).where(*by_rule, looked_up_in(table.series_id, list(gone)))
                    changed += connection.execute(of_gone).rowcount
            if came:
                # Those that are still there: others were deleted meanwhile.
                known = select(SeriesRow.id, literal(rule.project_id), literal(True))
                changed += _insert_series(connection, known.where(looked_up_in(SeriesRow.id, list(came))))
            settle_copies(connection, rule.project_id)
        return changed


class ReadProjects(ReadRepository):
    """Projects, in the view of who reads."""

    def all(self) -> list[Row]:
        """Return the columns of people, the number of ``series``, and whether it is ``deidentified``, by name."""
        return self._described()

    def one(self, name: str) -> Row | None:
        """Return a project as in `all`, or None."""
        return next(iter(self._described(ProjectRow.name == name)), None)

    def _described(self, *conditions: ColumnElement[bool]) -> list[Row]:
        series = (
            select(func.count(ProjectSeriesRow.series_id.distinct()))
            .where(ProjectSeriesRow.project_id == ProjectRow.id)
            .scalar_subquery()
        )
        columns = ProjectRow.name, ProjectRow.description, ProjectRow.rule, ProjectRow.called_ae_title
        is_deidentified = ProjectRow.deidentification.is_not(None).label("deidentified")
        query = select(*columns, series.label("series"), is_deidentified).where(*conditions).order_by(ProjectRow.name)
        return [dict(row) for row in self._connection.execute(query).mappings()]

    def require(self, name: str) -> None:
        """Raise NoSuchProject if there is no project of this name."""
        _id(self._connection, name)

    def members(self, name: str) -> list[Row]:
        """Return ``account`` and ``role`` of each member of a project."""
        query = (
            select(ProjectMemberRow.account, ProjectMemberRow.role)
            .join(ProjectRow, ProjectRow.id == ProjectMemberRow.project_id)
            .where(ProjectRow.name == name)
            .order_by(ProjectMemberRow.account)
        )
        return [dict(row) for row in self._connection.execute(query).mappings()]

    def rules(self) -> list[ProjectRule]:
        """Return the rules of the projects that have one."""
        columns = ProjectRow.id, ProjectRow.name, ProjectRow.rule
        query = select(*columns).where(ProjectRow.rule.is_not(None)).order_by(ProjectRow.id)
        return [ProjectRule(id, name, rule) for id, name, rule in self._connection.execute(query) if rule is not None]

    def by_rules(self, series: Collection[int]) -> dict[int, set[int]]:
        """Return those of some series, by their row ids, that each project, by its row id, has by its rule."""
        found: dict[int, set[int]] = defaultdict(set)
        for table in IN_PROJECT:
            query = select(table.project_id, table.series_id)
            query = query.where(table.is_by_rule, looked_up_in(table.series_id, list(series)))
            for project, one in self._connection.execute(query):
                found[project].add(one)
        return found

    def rows_of(self, keys: Collection[tuple[str | None, str | None]]) -> set[int]:
        """Return the row ids of series, by the UIDs of study and series; without a series, of all of the study."""
        found: set[int] = set()
        for study, series in keys:
            query = select(SeriesRow.id).join(StudyRow, StudyRow.id == SeriesRow.study_id)
            query = query.where(StudyRow.study_instance_uid == study)
            if series:
                query = query.where(SeriesRow.series_instance_uid == series)
            found.update(self._connection.scalars(query))
        return found

    def newest_series(self) -> tuple[int, str]:
        """Return row id and UID of the series with the largest row id; 0 and no UID if there is none."""
        query = select(SeriesRow.id, SeriesRow.series_instance_uid).order_by(SeriesRow.id.desc()).limit(1)
        row = self._connection.execute(query).first()
        return (0, "") if row is None else (row.id, row.series_instance_uid)

    def series_since(self, row_id: int) -> set[int]:
        """Return the row ids of series from this one on."""
        return set(self._connection.scalars(select(SeriesRow.id).where(SeriesRow.id >= row_id)))

    def series_behind(self, newest: tuple[int, str]) -> set[int] | None:
        """Return the row ids of series since one was the newest, and of those beside them in their studies.

        None: that one is gone, and SQLite gives its row id, and those before it, to others.
        """
        row_id, uid = newest
        same = select(SeriesRow.id).where(SeriesRow.id == row_id, SeriesRow.series_instance_uid == uid)
        if self._connection.execute(same).first() is None:
            return None
        studies = select(SeriesRow.study_id).where(SeriesRow.id >= row_id)
        return set(self._connection.scalars(select(SeriesRow.id).where(SeriesRow.study_id.in_(studies))))

    def labels_state(self) -> tuple[object, ...]:
        """Return what is not the same after a change of labels."""
        state = select(func.count(), func.max(LabelRow.id), func.max(LabelRow.given_at)).select_from(LabelRow)
        return tuple(self._connection.execute(state).one())


def enter_projects(
    connection: Connection, series_id: int, content: Content, source: str, called_ae_title: str | None, now: dt.datetime
) -> None:
    """Put a series that was just inserted into the projects that have it, or its study, or the AE title called.

    A series of copies is in the project that they were made for, and in no other one.
    """
    if source in (COPY, RECOVERED) and _enter_as_copies(connection, series_id, content):
        return
    if called_ae_title:
        values = literal(content.study), literal(content.series), literal(BY_CALLED_AE_TITLE), literal(now)
        called = select(ProjectRow.id, *values).where(ProjectRow.called_ae_title == called_ae_title)
        names = ["project_id", "study_instance_uid", "series_instance_uid", "added_by", "added_at"]
        connection.execute(insert(ProjectContentRow).from_select(names, called).on_conflict_do_nothing())
    having = select(literal(series_id), ProjectContentRow.project_id, literal(False)).where(
        ProjectContentRow.study_instance_uid == content.study,
        ProjectContentRow.series_instance_uid.in_(("", content.series)),
    )
    _insert_series(connection, having.distinct())
    originals = select(ProjectOriginalRow.project_id).where(ProjectOriginalRow.series_id == series_id)
    for project in connection.scalars(originals).all():
        settle_copies(connection, project)


def _enter_as_copies(connection: Connection, series_id: int, content: Content) -> bool:
    of_copies = (
        CopiedSeriesRow.copy_study_instance_uid == content.study,
        CopiedSeriesRow.copy_series_instance_uid == content.series,
    )
    project = connection.scalar(select(CopiedSeriesRow.project_id).where(*of_copies))
    if project is None:
        return False
    connection.execute(update(SeriesRow).where(SeriesRow.id == series_id).values(copied_for=project))
    settle_copies(connection, project)
    return True


def has_original() -> ColumnElement[bool]:
    """Return the condition that the project of a row of `copied_series` has its original."""
    of_original = (
        ProjectOriginalRow.project_id == CopiedSeriesRow.project_id,
        StudyRow.study_instance_uid == CopiedSeriesRow.study_instance_uid,
        SeriesRow.series_instance_uid == CopiedSeriesRow.series_instance_uid,
    )
    levels = select(ProjectOriginalRow.series_id).join(SeriesRow, SeriesRow.id == ProjectOriginalRow.series_id)
    levels = levels.join(StudyRow, StudyRow.id == SeriesRow.study_id).where(*of_original)
    return levels.correlate(CopiedSeriesRow).exists()


def settle_copies(connection: Connection, project: int) -> None:
    """Let members of a project see the copies of what is in it, and none of what is not, before these are removed."""
    copies = aliased(SeriesRow)
    of_project = (
        select(copies.id)
        .join(CopiedSeriesRow, CopiedSeriesRow.copy_series_instance_uid == copies.series_instance_uid)
        .where(CopiedSeriesRow.project_id == project, copies.copied_for == project)
    )
    withdrawn = of_project.where(~has_original())
    seen = ProjectSeriesRow.project_id == project, ProjectSeriesRow.series_id.in_(withdrawn)
    connection.execute(delete(ProjectSeriesRow).where(*seen))
    shown = of_project.where(has_original()).add_columns(literal(project), literal(False))
    names = ["series_id", "project_id", "is_by_rule"]
    connection.execute(insert(ProjectSeriesRow).from_select(names, shown).on_conflict_do_nothing())


def _insert_series(connection: Connection, rows: Select[int, int, bool]) -> int:
    """Put series into projects: as originals into those that are de-identified, unless they are copies themselves.

    Returns how many came.
    """
    names, found = ["series_id", "project_id", "is_by_rule"], rows.subquery()
    series_id, project_id = found.c[0], found.c[1]
    is_deidentified = exists().where(ProjectRow.id == project_id, ProjectRow.pseudonym_key.is_not(None))
    is_copy = exists().where(SeriesRow.id == series_id, SeriesRow.copied_for.is_not(None))
    came = 0
    for table, condition in ((ProjectSeriesRow, ~is_deidentified), (ProjectOriginalRow, is_deidentified & ~is_copy)):
        new = insert(table).from_select(names, select(found).where(condition)).on_conflict_do_nothing()
        came += connection.execute(new, execution_options={"preserve_rowcount": True}).rowcount
    return came


def _derive(connection: Connection, project: int, study: str) -> None:
    """Have the series of a study in a project that its contents name, beside those of its rule."""
    of_study = select(SeriesRow.id).join(StudyRow, StudyRow.id == SeriesRow.study_id)
    of_study = of_study.where(StudyRow.study_instance_uid == study)
    for table in IN_PROJECT:
        by_hand = table.project_id == project, table.is_by_rule.is_(False), table.series_id.in_(of_study)
        connection.execute(delete(table).where(*by_hand))
    is_named = (
        select(ProjectContentRow.project_id)
        .where(
            ProjectContentRow.project_id == project,
            ProjectContentRow.study_instance_uid == study,
            ProjectContentRow.series_instance_uid.in_(("", SeriesRow.series_instance_uid)),
        )
        .correlate(SeriesRow)
        .exists()
    )
    named = select(SeriesRow.id, literal(project), literal(False)).join(StudyRow, StudyRow.id == SeriesRow.study_id)
    _insert_series(connection, named.where(StudyRow.study_instance_uid == study, is_named))
    settle_copies(connection, project)


def _limit(connection: Connection, account: str) -> None:
    """Let an account see its projects only; its links end, for they show what it may see no more."""
    if connection.scalar(select(AccountRow.role).where(AccountRow.name == account)) != "admin":
        end_shares(connection, account)
    connection.execute(insert(LimitedAccountRow).values(account=account).on_conflict_do_nothing())


def _id(connection: Connection, name: str) -> int:
    project = connection.scalar(select(ProjectRow.id).where(ProjectRow.name == name))
    if project is None:
        raise NoSuchProject(f"there is no project {name!r}: `voxelnode projects list` lists all")
    return int(project)


def _require(connection: Connection, content: Content, project: int) -> None:
    query = select(SeriesRow.copied_for).join(StudyRow, StudyRow.id == SeriesRow.study_id)
    query = query.where(StudyRow.study_instance_uid == content.study)
    if content.series:
        query = query.where(SeriesRow.series_instance_uid == content.series)
    found = connection.execute(query).all()
    what = f"series {content.series} in study {content.study}" if content.series else f"study {content.study}"
    if not found:
        raise UsageError(f"no {what[:200]} in the index; `voxelnode series` lists all")
    makes_copies = connection.scalar(select(ProjectRow.pseudonym_key).where(ProjectRow.id == project)) is not None
    if makes_copies and all(row.copied_for is not None for row in found):
        raise UsageError(f"{what[:200]} is a copy that was made for a project: put its original into this one")


def _require_empty(connection: Connection, name: str, project: int) -> None:
    held = select(ProjectContentRow.project_id).where(ProjectContentRow.project_id == project)
    named = select(ProjectRow.id).where(
        ProjectRow.id == project,
        or_(
            ProjectRow.rule.is_not(None), ProjectRow.called_ae_title.is_not(None), ProjectRow.pseudonym_key.is_not(None)
        ),
    )
    seen = select(ProjectSeriesRow.project_id).where(ProjectSeriesRow.project_id == project)
    if any(connection.execute(query.limit(1)).first() is not None for query in (held, named, seen)):
        raise UsageError(
            f"project {name} has contents, a rule or an AE title, or is de-identified already: only a new or an empty "
            "project becomes de-identified; choose another name"
        )
