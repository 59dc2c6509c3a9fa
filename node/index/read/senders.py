"""Senders: the quiet times learnt from them, with the evidence."""

from __future__ import annotations

from node.index.read.rows import ReadRepository, Row


class ReadSenders(ReadRepository):
    """Rows of ``v_senders``."""

    def all(self) -> list[Row]:
        """Return the rows of ``v_senders``, by AE title."""
        return self._rows("SELECT * FROM v_senders ORDER BY calling_ae_title")
