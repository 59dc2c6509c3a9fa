"""The labels and comments of what is in the index."""

from node.api import Row, ViewRows


class LabelViews(ViewRows):
    """Rows of ``v_labels`` and ``v_comments``; without a series, of a study."""

    def known(self) -> list[Row]:
        """Return ``label``, and how many ``studies`` and ``series`` have it, by label."""
        return self._rows(
            "SELECT label, sum(CASE WHEN series_instance_uid IS NULL THEN 1 ELSE 0 END) AS studies, "
            "sum(CASE WHEN series_instance_uid IS NULL THEN 0 ELSE 1 END) AS series FROM v_labels GROUP BY label "
            "ORDER BY label"
        )

    def labels(self, study: str, series: str) -> list[str]:
        """Return the labels of a study or a series."""
        whose = "study_instance_uid = :study AND series_instance_uid = :series"
        rows = self._rows(f"SELECT label FROM labels WHERE {whose} ORDER BY label", study=study, series=series)
        return [row["label"] for row in rows]

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

    def comments(self, study: str, series: str) -> list[Row]:
        """Return the comments on a study and its series, or on one series, newest first."""
        return self._rows(
            "SELECT * FROM v_comments WHERE study_instance_uid = :study "
            "AND (:series = '' OR series_instance_uid = :series) ORDER BY id DESC",
            study=study,
            series=series,
        )

    def comment(self, number: int) -> Row | None:
        """Return a comment by its number."""
        return self._row("SELECT * FROM v_comments WHERE id = :id", id=number)
