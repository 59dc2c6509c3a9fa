"""Projects: who is in them, and which series.

What people and called AE titles put into a project is noted by UID (`project_contents`), so it lasts when an index is
built anew, or when a study is deleted and comes again. `project_series` has the series that this and the rule come to,
and is what every read of a member looks up (`node.index.engine.narrowed`). A series is in its projects from the commit
that inserts it; what a rule says follows (`node.extensions.projects`).
"""

import datetime as dt
from typing import NamedTuple

from sqlalchemy import Connection, Select, literal, select

from node.errors import UsageError
from node.index.engine.rows import ReadRepository
from node.index.engine.sql import insert
from node.index.models.work import ProjectContentRow, ProjectRow, ProjectSeriesRow

BY_CALLED_AE_TITLE = "called AE title"
"""Who has added what was sent to the AE title of a project."""


class NoSuchProject(UsageError):
    """No project has this name."""


class Content(NamedTuple):
    """A study, or one of its series if `series` is not empty."""

    study: str
    series: str = ""


class KnownProjects(ReadRepository):
    """The projects, in the view of who reads."""

    def names(self) -> list[str]:
        """Return their names, in order."""
        return list(self._connection.scalars(select(ProjectRow.name).order_by(ProjectRow.name)))

    def require(self, name: str) -> None:
        """Raise NoSuchProject if there is no project of this name."""
        project_id(self._connection, name)


def enter_projects(
    connection: Connection, series_id: int, content: Content, called_ae_title: str | None, now: dt.datetime
) -> None:
    """Put a series that was just inserted into the projects that have it, or its study, or the AE title called."""
    if called_ae_title:
        values = literal(content.study), literal(content.series), literal(BY_CALLED_AE_TITLE), literal(now)
        called = select(ProjectRow.id, *values).where(ProjectRow.called_ae_title == called_ae_title)
        names = ["project_id", "study_instance_uid", "series_instance_uid", "added_by", "added_at"]
        connection.execute(insert(ProjectContentRow).from_select(names, called).on_conflict_do_nothing())
    having = select(literal(series_id), ProjectContentRow.project_id, literal(False)).where(
        ProjectContentRow.study_instance_uid == content.study,
        ProjectContentRow.series_instance_uid.in_(("", content.series)),
    )
    insert_series(connection, having.distinct())


def insert_series(connection: Connection, rows: Select[int, int, bool]) -> int:
    """Put series into projects; return how many came."""
    new = insert(ProjectSeriesRow).from_select(["series_id", "project_id", "is_by_rule"], rows)
    return connection.execute(new.on_conflict_do_nothing()).rowcount


def project_id(connection: Connection, name: str) -> int:
    """Return the row id of a project. Raises NoSuchProject."""
    project = connection.scalar(select(ProjectRow.id).where(ProjectRow.name == name))
    if project is None:
        raise NoSuchProject(f"there is no project {name!r}: `voxelnode projects list` lists all")
    return int(project)
