"""The labels in use, as commands list them."""

from node.api import Row, ViewRows


class LabelViews(ViewRows):
    """Rows of ``v_labels``."""

    def known(self) -> list[Row]:
        """Return ``label``, and how many ``studies`` and ``series`` have it, by label."""
        return self._rows(
            "SELECT label, sum(CASE WHEN series_instance_uid IS NULL THEN 1 ELSE 0 END) AS studies, "
            "sum(CASE WHEN series_instance_uid IS NULL THEN 0 ELSE 1 END) AS series FROM v_labels GROUP BY label "
            "ORDER BY label"
        )
