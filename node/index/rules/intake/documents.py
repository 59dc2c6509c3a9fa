"""The documents of series and instances: each is written and deleted in the transaction of its row."""

import json
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import JSON, Connection, bindparam, delete, select, update

from node.dicom.documents import Document, SeriesDocument, differences, document_of, effective
from node.dicom.header import Head, ReadHead, read_elements
from node.index.rows.hot_statements import PreparedStatement
from node.index.rows.models.levels import ImageDocumentRow, ImageRow, SeriesDocumentRow
from node.index.rows.sql import insert, listed_in, looked_up_in

_FIND_IDS = PreparedStatement(
    select(ImageRow.sop_instance_uid, ImageRow.id).where(
        looked_up_in(ImageRow.sop_instance_uid, bindparam("uids", type_=JSON))
    )
)
_HOLD_BASES = PreparedStatement(
    select(SeriesDocumentRow.series_id, SeriesDocumentRow.document, SeriesDocumentRow.varying)
    .where(looked_up_in(SeriesDocumentRow.series_id, bindparam("ids", type_=JSON)))
    .order_by(SeriesDocumentRow.series_id)
    .with_for_update()
)
_INSERT_BASE = PreparedStatement(
    insert(SeriesDocumentRow).on_conflict_do_nothing(), columns=("series_id", "document", "varying", "is_partial")
)
_WRITE = insert(ImageDocumentRow)
_WRITE_OWN = PreparedStatement(
    _WRITE.on_conflict_do_update(index_elements=["image_id"], set_={"document": _WRITE.excluded.document}),
    columns=("image_id", "document"),
)
_ENCODE = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":")).encode


def write_documents(connection: Connection, current: Mapping[str, tuple[int, ReadHead | None]]) -> None:
    """Write the documents of instances that have their rows.

    `current`: series, and what returns the head, by SOP Instance UID; without that, or once the file is gone, an
    instance gets no document.
    """
    known = {uid: (series, read) for uid, (series, read) in current.items() if read is not None}
    if not known:
        return
    ids = dict(_FIND_IDS.execute(connection, {"uids": list(known)}))
    found = _bases(connection, {series for series, _ in known.values()})
    for series, read in known.values():
        if series not in found and (head := read()) is not None:
            found = found | _new_base(connection, series, head, ids.values())
    rows = []
    varying: dict[int, set[str]] = {}
    without: dict[int, int] = {}
    for uid, (series, read) in known.items():
        if uid not in ids:  # the database has changed a character of it
            continue
        if series not in found or (head := read()) is None:
            without[ids[uid]] = series
            continue
        base, of_series = found[series]
        own = base.own(head)
        rows.append({"image_id": ids[uid], "document": _ENCODE(own)})
        if not own.keys() <= of_series:
            of_series |= own.keys()
            varying[series] = of_series
    _WRITE_OWN.execute_each(connection, rows)
    for series, names in sorted(varying.items()):
        row = update(SeriesDocumentRow).where(SeriesDocumentRow.series_id == series)
        connection.execute(row.values(varying=_ENCODE(sorted(names))))
    if without:
        connection.execute(delete(ImageDocumentRow).where(listed_in(ImageDocumentRow.image_id, sorted(without))))
        partial = listed_in(SeriesDocumentRow.series_id, sorted(set(without.values())))
        connection.execute(update(SeriesDocumentRow).where(partial).values(is_partial=True))


_Bases = dict[int, tuple[SeriesDocument, set[str]]]


def _bases(connection: Connection, series: Collection[int]) -> _Bases:
    rows = _HOLD_BASES.execute(connection, {"ids": sorted(series)})
    return {id: (_base(document), set(json.loads(varying))) for id, document, varying in rows}


@lru_cache(maxsize=32)
def _base(document: str) -> SeriesDocument:
    """Return the base of a document; the same one as before remembers the last instance."""
    return SeriesDocument(json.loads(document))


def _new_base(connection: Connection, series: int, head: Head, new: Collection[int]) -> _Bases:
    """Let a series have the document of an instance, unless another writer was quicker."""
    document = _ENCODE(document_of(read_elements(head)))
    before = select(ImageRow.id).where(ImageRow.series_id == series, ImageRow.id.not_in(list(new))).limit(1)
    is_partial = connection.execute(before).first() is not None
    values = {"series_id": series, "document": document, "varying": "[]", "is_partial": is_partial}
    _INSERT_BASE.execute(connection, values)
    return _bases(connection, [series])


def rebase(connection: Connection, series: int) -> None:
    """Write the document of a series again from the instances that remain, so that it has nothing of a removed one."""
    row = connection.execute(
        select(SeriesDocumentRow.document).where(SeriesDocumentRow.series_id == series).with_for_update()
    ).first()
    if row is None:
        return
    old = json.loads(row.document)
    rows: Sequence[Any] = connection.execute(
        select(ImageDocumentRow.image_id, ImageDocumentRow.document)
        .join(ImageRow, ImageRow.id == ImageDocumentRow.image_id)
        .where(ImageRow.series_id == series)
        .order_by(ImageRow.id)
    ).all()
    documents: dict[int, Document] = {id: effective(old, json.loads(own)) for id, own in rows}
    new: Document = next(iter(documents.values()), {})
    owns = {id: differences(document, new) for id, document in documents.items()}
    _WRITE_OWN.execute_each(connection, [{"image_id": id, "document": _ENCODE(own)} for id, own in owns.items()])
    names = {name for own in owns.values() for name in own}
    values = {"document": _ENCODE(new), "varying": _ENCODE(sorted(names))}
    connection.execute(update(SeriesDocumentRow).where(SeriesDocumentRow.series_id == series).values(values))
