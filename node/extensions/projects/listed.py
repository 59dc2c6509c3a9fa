"""Projects with their members, as commands and pages list them."""

from node.index.rows.view_rows import Row, ViewRows


class ProjectViews(ViewRows):
    """Projects, in the view of who reads."""

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
