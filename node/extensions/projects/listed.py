"""Projects with their members, as commands and pages list them, and what their rules are compared with."""

import json
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass

from node.index.rows.view_rows import Row, ViewRows


@dataclass(frozen=True, slots=True)
class ProjectRule:
    """The rule of a project: the text of a selector."""

    project_id: int
    project: str
    rule: str


class ProjectViews(ViewRows):
    """Projects, their rules, and their series, in the view of who reads."""

    def all(self) -> list[Row]:
        """Return the columns of people and the number of ``series``, by name."""
        return self._described(None)

    def one(self, name: str) -> Row | None:
        """Return a project as in `all`, or None."""
        return next(iter(self._described(name)), None)

    def _described(self, name: str | None) -> list[Row]:
        return self._rows(
            "SELECT p.name, p.description, p.rule, p.called_ae_title, (SELECT count(DISTINCT ps.series_id) "
            "FROM project_series ps WHERE ps.project_id = p.id) AS series "
            "FROM projects p WHERE p.name = :name OR :name IS NULL ORDER BY p.name",
            name=name,
        )

    def members(self, name: str) -> list[Row]:
        """Return ``account`` and ``role`` of each member of a project."""
        return self._rows(
            "SELECT m.account, m.role FROM project_members m JOIN projects p ON p.id = m.project_id "
            "WHERE p.name = :name ORDER BY m.account",
            name=name,
        )

    def rules(self) -> list[ProjectRule]:
        """Return the rules of the projects that have one."""
        rows = self._rows("SELECT id, name, rule FROM projects WHERE rule IS NOT NULL ORDER BY id")
        return [ProjectRule(*row.values()) for row in rows]

    def by_rules(self, series: Collection[int]) -> dict[int, set[int]]:
        """Return those of some series, by their row ids, that each project, by its row id, has by its rule."""
        looked_up = self._queries.say.looked_up("series_id", ":ids")
        query = f"SELECT project_id, series_id FROM project_series WHERE is_by_rule AND {looked_up}"
        found: dict[int, set[int]] = defaultdict(set)
        for row in self._rows(query, ids=json.dumps(list(series))):
            found[row["project_id"]].add(row["series_id"])
        return found

    def rows_of(self, keys: Collection[tuple[str | None, str | None]]) -> set[int]:
        """Return the row ids of series, by the UIDs of study and series; without a series, of all of the study."""
        of_study = "SELECT se.id FROM series se JOIN studies st ON st.id = se.study_id"
        return {row["id"] for study, uid in keys for row in self._rows_of_study(of_study, study or "", uid or None)}

    def newest_series(self) -> tuple[int, str]:
        """Return row id and UID of the series with the largest row id; 0 and no UID if there is none."""
        row = self._row("SELECT id, series_instance_uid FROM series ORDER BY id DESC LIMIT 1")
        return (0, "") if row is None else (row["id"], row["series_instance_uid"])

    def series_since(self, row_id: int) -> set[int]:
        """Return the row ids of series from this one on."""
        return {row["id"] for row in self._rows("SELECT id FROM series WHERE id >= :row_id", row_id=row_id)}

    def series_behind(self, newest: tuple[int, str]) -> set[int] | None:
        """Return the row ids of series since one was the newest, and of those beside them in their studies.

        None: that one is gone, and SQLite gives its row id, and those before it, to others.
        """
        row_id, uid = newest
        same = "SELECT id FROM series WHERE id = :row_id AND series_instance_uid = :uid"
        if self._row(same, row_id=row_id, uid=uid) is None:
            return None
        studies = "SELECT study_id FROM series WHERE id >= :row_id"
        return {row["id"] for row in self._rows(f"SELECT id FROM series WHERE study_id IN ({studies})", row_id=row_id)}

    def labels_state(self) -> tuple[object, ...]:
        """Return what is not the same after a change of labels."""
        return tuple(self._rows("SELECT count(*) AS labels, max(id) AS id FROM labels")[0].values())
