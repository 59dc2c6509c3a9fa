"""The links of an index, to list them."""

from node.index.rows.records import Share
from node.index.rows.view_rows import ViewRows, timed


class ShareViews(ViewRows):
    """Rows of ``shares``."""

    def listed(self, study: str | None = None) -> list[Share]:
        """Return the links of a study, or all, newest first."""
        rows = self._rows(
            "SELECT id, study_instance_uid AS study, series_instance_uid AS series, may_download, "
            "deidentification, made_by, made_at, expires_at, uses, used_at FROM shares "
            "WHERE passphrase_hash IS NULL AND (study_instance_uid = :study OR :study IS NULL) ORDER BY id DESC",
            study=study,
        )
        return [Share(**{**timed(row), "may_download": bool(row["may_download"])}) for row in rows]
