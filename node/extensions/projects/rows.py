"""Projects as people and rules change them, and as they are listed; see `node.index.rules.people.accounts`."""

import datetime as dt
from collections.abc import Collection, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, Select, delete, literal, select, update

from node.errors import UsageError
from node.extensions.projects.listed import ProjectRule
from node.index.rows.models.levels import SeriesRow, StudyRow
from node.index.rows.models.work import (
    AccountRow,
    LimitedAccountRow,
    ProjectContentRow,
    ProjectMemberRow,
    ProjectRow,
    ProjectSeriesRow,
)
from node.index.rows.repositories import IndexRepository, on_reader, on_writer
from node.index.rows.scope import GROUP_PREFIX, MAX_GROUP_CHARACTERS, is_group
from node.index.rows.sql import insert, looked_up_in
from node.index.rows.writer import note
from node.index.rules.people.accounts import Content, insert_series, project_id
from node.registry import shares


class RuleChange(NamedTuple):
    """The row ids of series that come into a project by its rule, and of those that leave it."""

    rule: ProjectRule
    came: Collection[int]
    gone: Collection[int]


RULES = "rules of projects"
"""What a commit notes that may have changed the rules."""


class ProjectRepository(IndexRepository):
    """Projects, their members and their contents."""

    @on_reader
    def has_rules(self, connection: Connection) -> bool:
        """Return whether any project has a rule."""
        return connection.scalar(select(ProjectRow.id).where(ProjectRow.rule.is_not(None)).limit(1)) is not None

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
    ) -> bool:
        """Create a project, or change what is not None: an empty text takes a rule or an AE title away.

        The series of a rule that has changed leave the project now, and come back when the new one is applied. Returns
        whether the project is new.
        """
        given = {"description": description, "rule": rule, "called_ae_title": called_ae_title}
        changed = {key: value for key, value in given.items() if value is not None}
        values = {key: value if key == "description" else value or None for key, value in changed.items()}
        project = connection.scalar(select(ProjectRow.id).where(ProjectRow.name == name))
        if project is None:
            connection.execute(insert(ProjectRow).values(name=name, created_by=who, created_at=now, **values))
            note(connection, RULES)
            return True
        if values:
            connection.execute(update(ProjectRow).where(ProjectRow.id == project).values(values))
        if "rule" in values:
            note(connection, RULES)
            by_rule = ProjectSeriesRow.project_id == project, ProjectSeriesRow.is_by_rule
            connection.execute(delete(ProjectSeriesRow).where(*by_rule))
        return False

    @on_writer
    def remove(self, connection: Connection, name: str) -> None:
        """Remove a project; its series stay, and its members keep their limits."""
        connection.execute(delete(ProjectRow).where(ProjectRow.id == project_id(connection, name)))

    @on_writer
    def set_member(self, connection: Connection, name: str, account: str, role: str, *, may_limit: bool = True) -> None:
        """Give an account or a group a role in a project, and limit it to its projects.

        Without `may_limit` it is limited already. Raises UsageError if there is no such account, if its role in the
        node is lower than that role needs, or if it is an administrator: these see the whole node. Nobody knows which
        groups there are, and each of their accounts does no more than its role in the node lets it.
        """
        project = project_id(connection, name)
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
        connection.execute(added.on_conflict_do_update(index_elements=list(key), set_={"role": role}))

    @on_writer
    def remove_member(self, connection: Connection, name: str, account: str) -> None:
        """Take the role in a project from an account, which stays limited to its other projects."""
        of_account = ProjectMemberRow.project_id == project_id(connection, name), ProjectMemberRow.account == account
        if connection.execute(delete(ProjectMemberRow).where(*of_account)).rowcount == 0:
            raise UsageError(f"{account} is not a member of {name}")

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

        Raises UsageError if one of them is not in the index.
        """
        project, added = project_id(connection, name), 0
        for content in contents:
            _require(connection, content)
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
        project, taken = project_id(connection, name), 0
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
                by_rule = ProjectSeriesRow.project_id == rule.project_id, ProjectSeriesRow.is_by_rule
                of_gone = delete(ProjectSeriesRow).where(*by_rule, looked_up_in(ProjectSeriesRow.series_id, list(gone)))
                changed += connection.execute(of_gone).rowcount
            if came:
                # Those that are still there: others were deleted meanwhile.
                known = select(SeriesRow.id, literal(rule.project_id), literal(True))
                changed += insert_series(connection, known.where(looked_up_in(SeriesRow.id, list(came))))
        return changed


def _series_of(study: str | None, series: str | None = None) -> Select[int]:
    """Return what selects the row ids of a series, or of all of a study."""
    query = select(SeriesRow.id).join(StudyRow, StudyRow.id == SeriesRow.study_id)
    query = query.where(StudyRow.study_instance_uid == study)
    return query.where(SeriesRow.series_instance_uid == series) if series else query


def _derive(connection: Connection, project: int, study: str) -> None:
    """Have the series of a study in a project that its contents name, beside those of its rule."""
    by_hand = ProjectSeriesRow.project_id == project, ProjectSeriesRow.is_by_rule.is_(False)
    connection.execute(delete(ProjectSeriesRow).where(*by_hand, ProjectSeriesRow.series_id.in_(_series_of(study))))
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
    insert_series(connection, named.where(StudyRow.study_instance_uid == study, is_named))


def _limit(connection: Connection, account: str) -> None:
    """Let an account, or those of a group, see their projects only; links end that show what is seen no more."""
    known = connection.execute(select(AccountRow.name, AccountRow.groups).where(AccountRow.role != "admin")).all()
    for name, groups in known:
        if account in (name, *(groups or ())):
            shares().end_shares(connection, name)
    connection.execute(insert(LimitedAccountRow).values(account=account).on_conflict_do_nothing())


def _require(connection: Connection, content: Content) -> None:
    if connection.execute(_series_of(content.study, content.series).limit(1)).first() is None:
        what = f"series {content.series} in study {content.study}" if content.series else f"study {content.study}"
        raise UsageError(f"no {what[:200]} in the index; `voxelnode series --uids` lists all")
