"""The instances that have no document, and their documents, in the index."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, func, select, update

from node.dicom.header import Head, ReadHead
from node.index.engine.sql import listed_in
from node.index.engine.writer import IndexRepository, on_reader, on_writer
from node.index.models import ImageDocumentRow, ImageRow, SeriesDocumentRow
from node.index.nouns.documents import write_documents
from node.index.nouns.instance_files import FILES
from node.index.nouns.records import InstanceFile

WINDOW = 20_000
"""Numbers of instances that are looked through in one step."""


class DocumentRepository(IndexRepository):
    """Instances by their numbers."""

    @on_reader
    def without_document(
        self, connection: Connection, after: int, limit: int
    ) -> tuple[int | None, list[tuple[int, str, InstanceFile]]]:
        """Return instances without a document: number, transfer syntax and file, at most `limit` behind a number.

        Returns with them the number to go on behind; None if there are no more.
        """
        return _without_document(connection, after, limit)

    @on_writer
    def fill_documents(self, connection: Connection, found: Mapping[int, tuple[str, Head]]) -> None:
        """Write documents by the numbers of instances, unless their file is not that of the key any more."""
        _fill_documents(connection, found)


def _without_document(
    connection: Connection, after: int, limit: int
) -> tuple[int | None, list[tuple[int, str, InstanceFile]]]:
    rows = connection.execute(
        FILES.add_columns(ImageRow.id, ImageRow.transfer_syntax_uid)
        .outerjoin(ImageDocumentRow, ImageDocumentRow.image_id == ImageRow.id)
        .where(ImageDocumentRow.image_id.is_(None), ImageRow.file_missing.is_(False))
        .where(ImageRow.id > after, ImageRow.id <= after + WINDOW)
        .order_by(ImageRow.id)
        .limit(limit)
    ).all()
    found = [(id, syntax, InstanceFile(*file)) for *file, id, syntax in rows]
    if len(found) == limit:
        return found[-1][0], found
    following = connection.execute(select(func.min(ImageRow.id)).where(ImageRow.id > after + WINDOW)).scalar()
    return None if following is None else following - 1, found


def _fill_documents(connection: Connection, found: Mapping[int, tuple[str, Head]]) -> None:
    rows = connection.execute(
        select(ImageRow.id, ImageRow.sop_instance_uid, ImageRow.series_id, ImageRow.key)
        .outerjoin(ImageDocumentRow, ImageDocumentRow.image_id == ImageRow.id)
        .where(ImageDocumentRow.image_id.is_(None), listed_in(ImageRow.id, list(found)))
    ).all()
    same = [row for row in rows if found[row.id][0] == row.key]
    write_documents(connection, {row.sop_instance_uid: (row.series_id, _ready(found[row.id][1])) for row in same})
    bare = (
        select(ImageRow.id)
        .outerjoin(ImageDocumentRow, ImageDocumentRow.image_id == ImageRow.id)
        .where(ImageRow.series_id == SeriesDocumentRow.series_id, ImageDocumentRow.image_id.is_(None))
    )
    whole = update(SeriesDocumentRow).where(
        listed_in(SeriesDocumentRow.series_id, sorted({row.series_id for row in rows})),
        SeriesDocumentRow.is_partial,
        ~bare.correlate(SeriesDocumentRow).exists(),
    )
    connection.execute(whole.values(is_partial=False))


def _ready(head: Head) -> ReadHead:
    return lambda: head
