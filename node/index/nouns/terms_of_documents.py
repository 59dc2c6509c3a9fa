"""Which series may have a value of an indexed attribute: the terms of all documents of a series (`node.dicom.terms`).

The document of a series has the number of the list of indexed attributes (`node.index.engine.indexed`) that its terms
are complete for. A query takes every series whose number is lower than that of its key as a candidate: until the terms
are complete, it is slow, not wrong.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator

from sqlalchemy import Connection, delete, select, update

from node.dicom.documents import OTHERS, Document
from node.dicom.terms import terms_of
from node.index.engine.hot_statements import Prepared
from node.index.engine.indexed import Listed, listed
from node.index.engine.sql import insert, listed_in
from node.index.models import ImageDocumentRow, ImageRow, SeriesDocumentRow, SeriesTermRow

_INSERT = Prepared(insert(SeriesTermRow).on_conflict_do_nothing(), columns=("name", "value", "series_id"))


def write_terms(connection: Connection, known: Listed, documents: Iterable[tuple[int, Document]]) -> None:
    """Write the terms of documents by their series."""
    rows = {
        (name, term, series)
        for series, document in documents
        for name, path in known.paths.items()
        if path[0] in document or OTHERS in document
        for term in terms_of(document, path)
    }
    _INSERT.execute_each(
        connection, [dict(zip(("name", "value", "series_id"), row, strict=True)) for row in sorted(rows)]
    )


def write_terms_again(connection: Connection, series: Collection[int]) -> None:
    """Write all terms of series whose rows of documents this transaction holds, and none that are not theirs."""
    known = listed(connection)
    of_series = listed_in(SeriesTermRow.series_id, series)
    connection.execute(delete(SeriesTermRow).where(of_series))
    write_terms(connection, known, _documents(connection, series) if known.paths else ())
    row = update(SeriesDocumentRow).where(listed_in(SeriesDocumentRow.series_id, series))
    connection.execute(row.values(terms_number=known.number))


def _documents(connection: Connection, series: Collection[int]) -> Iterator[tuple[int, Document]]:
    bases = select(SeriesDocumentRow.series_id, SeriesDocumentRow.document)
    own = select(ImageRow.series_id, ImageDocumentRow.document).join(
        ImageDocumentRow, ImageDocumentRow.image_id == ImageRow.id
    )
    for statement, id in ((bases, SeriesDocumentRow.series_id), (own, ImageRow.series_id)):
        for of, document in connection.execute(statement.where(listed_in(id, series))):
            yield of, json.loads(document)
