"""The list of indexed attributes, and the series whose terms are not complete for it."""

from __future__ import annotations

import json
from collections.abc import Collection

from sqlalchemy import Connection, func, select

from node.index.engine.about import set_about
from node.index.engine.about_keys import INDEXED
from node.index.engine.indexed import listed
from node.index.engine.writer import IndexRepository, on_reader, on_writer
from node.index.models import SeriesDocumentRow
from node.index.nouns.terms_of_documents import write_terms_again


class TermRepository(IndexRepository):
    """See `node.index.engine.indexed` and `node.index.nouns.terms_of_documents`."""

    @on_writer
    def set_list(self, connection: Connection, names: Collection[str]) -> None:
        """Let the index have terms of these attributes and no others."""
        known = listed(connection)
        if known.since.keys() == set(names):
            return
        number = known.number + 1
        since = {name: known.since.get(name, number) for name in sorted(names)}
        set_about(connection, INDEXED, json.dumps({"number": number, "since": since}))

    @on_reader
    def left(self, connection: Connection) -> int:
        """Return the number of series whose terms are still to be written."""
        lacking = SeriesDocumentRow.terms_number < listed(connection).number
        return connection.execute(select(func.count(SeriesDocumentRow.series_id)).where(lacking)).scalar_one()

    @on_writer
    def fill(self, connection: Connection, limit: int) -> None:
        """Write the terms of some of these series."""
        lacking = SeriesDocumentRow.terms_number < listed(connection).number
        held = select(SeriesDocumentRow.series_id).where(lacking).order_by(SeriesDocumentRow.series_id)
        series = connection.scalars(held.limit(limit).with_for_update()).all()
        if series:
            write_terms_again(connection, series)
