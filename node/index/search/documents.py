"""Attributes that have no column: a document of each series, what its instances differ in, and the search in them.

`node.dicom.documents` defines documents and matches them. The transaction that writes or deletes the row of an instance
does so with its document.

SQL reads only the values that a query names. A series whose
instances all have the same values is decided by its own document; the instances of the others are read one by one.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from sqlalchemy import JSON, ColumnElement, Connection, bindparam, delete, func, literal, or_, select, update

from node.dicom.coercion import identifies
from node.dicom.documents import (
    OTHERS,
    Document,
    SeriesDocument,
    differences,
    document_of,
    effective,
    holds,
    selected,
    standard,
    whole_model,
)
from node.dicom.header import Head, ReadHead, read_elements
from node.dicom.json_model import Json
from node.dicom.keys import Level
from node.dicom.matching import Query
from node.index.engine.hot_statements import PreparedStatement
from node.index.engine.sql import JsonEntry, insert, listed_in, looked_up_in
from node.index.models.levels import ImageDocumentRow, ImageRow, PatientRow, SeriesDocumentRow, SeriesRow, StudyRow
from node.index.search.conditions import own_conditions, restrictions

CHUNK = 500
"""Series whose instances are read at a time."""


@dataclass(slots=True)
class Matched:
    """What matches the keys of a query that have no column.

    `series`: all instances of these; `images`: further instances, by the id of their series. `is_certain`: whether all
    values were known; instances for which they are not known are among them.
    """

    series: list[int] = field(default_factory=list)
    images: dict[int, list[int]] = field(default_factory=dict)
    is_certain: bool = True

    def add(self, known: bool | None, series: int, image: int | None = None) -> None:
        """Take a series, or an instance, unless it is known that it does not match."""
        if known is False:
            return
        self.is_certain &= known is True
        if image is None:
            self.series.append(series)
        else:
            self.images.setdefault(series, []).append(image)


def matched(connection: Connection, query: Query) -> Matched | None:
    """Return what matches the keys of a query that have no column; None if no such key restricts it."""
    keys = [key for key in query.documents if key.restricts]
    if not keys:
        return None
    names = list(dict.fromkeys([*(key.name for key in keys), OTHERS]))
    found, various = Matched(), {}
    for series, document, is_same in _series_documents(connection, query, names):
        if is_same or document is None:
            found.add(None if document is None else holds(keys, document), series)
        else:
            various[series] = document
    for series, image, own in _image_documents(connection, various, names):
        found.add(None if own is None else holds(keys, effective(various[series], own)), series, image)
    return found


def restriction(query: Query, found: Matched) -> ColumnElement[bool]:
    """Return the condition that rows of the query's level have something below that matches."""
    ids = [image for images in found.images.values() for image in images]
    images = or_(listed_in(ImageRow.series_id, found.series), listed_in(ImageRow.id, ids))
    if query.level == Level.IMAGE:
        return images
    of_images = own_conditions(query.conditions, Level.IMAGE)
    series: ColumnElement[bool]
    if of_images:
        series = SeriesRow.id.in_(select(ImageRow.series_id).where(images, *of_images))
    else:
        series = listed_in(SeriesRow.id, [*found.series, *found.images])
    if query.level == Level.SERIES:
        return series
    studies = StudyRow.id.in_(select(SeriesRow.study_id).where(series))
    if query.level == Level.STUDY:
        return studies
    return PatientRow.id.in_(select(StudyRow.patient_id).where(studies))


def models(connection: Connection, query: Query, ids: Sequence[int]) -> dict[int, Json]:
    """Return the attributes without a column that answers have, by the row id of the query's level.

    An entity has the value of most of its series that have one, of as many that of the first series. A series has the
    value of most of its instances. With all attributes, a series lacks those in which its instances differ.
    """
    names = None if query.with_all else [key.name for key in query.documents]
    documents = (
        _of_images(connection, ids, names)
        if query.level == Level.IMAGE
        else _of_entities(connection, query.level, ids, names)
    )
    return {
        id: (whole_model(documents.get(id, {})) if query.with_all else {})
        | selected(documents.get(id, {}), query.documents)
        for id in ids
    }


def _of_images(connection: Connection, ids: Sequence[int], names: Sequence[str] | None) -> dict[int, Document]:
    columns = _columns(ImageDocumentRow.document, names)
    rows = connection.execute(
        select(ImageRow.id, ImageRow.series_id, StudyRow.identified_at, *columns)
        .join(ImageDocumentRow, ImageDocumentRow.image_id == ImageRow.id)
        .join(SeriesRow, SeriesRow.id == ImageRow.series_id)
        .join(StudyRow)
        .where(listed_in(ImageRow.id, ids))
    ).all()
    of_series = select(SeriesDocumentRow.series_id, *_columns(SeriesDocumentRow.document, names))
    series = {row[1] for row in rows}
    found = connection.execute(of_series.where(listed_in(SeriesDocumentRow.series_id, series)))
    bases = {id: _document(names, texts) for id, *texts in found}
    return {
        id: _as_it_leaves(effective(bases.get(of, {}), _document(names, texts)), decided)
        for id, of, decided, *texts in rows
    }


def _as_it_leaves(document: Document, decided: object) -> Document:
    """Return a document without what it says of somebody who was named wrongly, if a person has decided that."""
    return document if decided is None else {name: own for name, own in document.items() if not _identifies(name)}


@lru_cache(maxsize=4096)
def _identifies(name: str) -> bool:
    tag = standard(name)
    return tag is not None and identifies(tag)


def _of_entities(
    connection: Connection, level: Level, ids: Sequence[int], names: Sequence[str] | None
) -> dict[int, Document]:
    owner: Any = {Level.PATIENT: StudyRow.patient_id, Level.STUDY: SeriesRow.study_id, Level.SERIES: SeriesRow.id}[
        level
    ]
    statement = (
        select(
            owner, SeriesRow.id, SeriesDocumentRow.varying, StudyRow.identified_at,
            *_columns(SeriesDocumentRow.document, names),
        )
        .select_from(SeriesRow)
        .join(StudyRow)
        .join(SeriesDocumentRow, SeriesDocumentRow.series_id == SeriesRow.id)
        .where(listed_in(owner, ids))
        .order_by(SeriesRow.id)
    )  # fmt: skip
    found = [
        (
            id,
            series,
            _as_it_leaves(dict.fromkeys(_names(varying)), decided),
            _as_it_leaves(_document(names, texts), decided),
        )
        for id, series, varying, decided, *texts in connection.execute(statement)
    ]
    for name in names or ():
        various = {series: document for _, series, varying, document in found if name in varying}
        if various:
            _put_most_frequent(connection, name, various)
    counted: dict[int, dict[str, dict[str, int]]] = {}
    for id, _, varying, document in found:
        counts = counted.setdefault(id, {})
        for name, value in document.items():
            if value and (names is not None or name not in varying):
                values = counts.setdefault(name, {})
                text = json.dumps(value)
                values[text] = values.get(text, 0) + 1
    return {
        id: {name: _value(max(values, key=values.__getitem__)) for name, values in counts.items()}
        for id, counts in counted.items()
    }


def _put_most_frequent(connection: Connection, name: str, documents: dict[int, Document]) -> None:
    """Give the documents of some series the value that most of their instances have, the first one of as many.

    Those that lack the attribute, have it without a value, or have no document, do not count.
    """
    images = (
        select(ImageRow.series_id, ImageRow.id, JsonEntry(ImageDocumentRow.document, name).label("text"))
        .join(ImageDocumentRow, ImageDocumentRow.image_id == ImageRow.id)
        .where(listed_in(ImageRow.series_id, documents))
        .subquery()
    )
    counts = select(images.c.series_id, images.c.text, func.count()).group_by(images.c.series_id, images.c.text)
    found: dict[int, Any] = {}
    for series, text, _ in connection.execute(counts.order_by(func.count().desc(), func.min(images.c.id))):
        value = documents[series].get(name) if text is None else _value(text)
        if value:
            found.setdefault(series, value)
    for series, document in documents.items():
        document[name] = found.get(series)


def _series_documents(
    connection: Connection, query: Query, names: Sequence[str]
) -> Iterator[tuple[int, Document | None, bool]]:
    """Yield the series that may have matches, what their documents have, and whether all of their instances have it."""
    conditions = restrictions(replace(query, level=Level.SERIES))
    if any(key.restricts and identifies(key.tag) for key in query.documents):  # whoever was named wrongly is not found
        decided = select(StudyRow.id).where(StudyRow.identified_at.is_not(None))
        conditions.append(SeriesRow.study_id.not_in(decided))
    statement = select(
        SeriesRow.id,
        SeriesDocumentRow.varying,
        SeriesDocumentRow.is_partial,
        *_columns(SeriesDocumentRow.document, names),
    ).outerjoin(SeriesDocumentRow, SeriesDocumentRow.series_id == SeriesRow.id)
    for id, varying, is_partial, *texts in connection.execute(statement.where(*conditions)):
        if varying is None:
            yield id, None, True
        else:
            yield id, _document(names, texts), not is_partial and _names(varying).isdisjoint(names)


def _image_documents(
    connection: Connection, series: Collection[int], names: Sequence[str]
) -> Iterator[tuple[int, int, Document | None]]:
    """Yield the instances of some series, and what their own documents have; None if they have no document."""
    ids = sorted(series)
    columns = _columns(ImageDocumentRow.document, names)
    for at in range(0, len(ids), CHUNK):
        rows = connection.execute(
            select(ImageRow.series_id, ImageRow.id, ImageDocumentRow.image_id, *columns)
            .outerjoin(ImageDocumentRow, ImageDocumentRow.image_id == ImageRow.id)
            .where(listed_in(ImageRow.series_id, ids[at : at + CHUNK]))
        )
        for of, id, has_document, *texts in rows:
            yield of, id, None if has_document is None else _document(names, texts)


def _columns(document: Any, names: Sequence[str] | None) -> list[Any]:
    """Return the JSON texts of some names of a document, or of all of it."""
    return [document] if names is None else [JsonEntry(document, name) for name in names] or [literal("")]


def _document(names: Sequence[str] | None, texts: Iterable[str | None]) -> Document:
    if names is None:
        return dict(_object(next(iter(texts)) or "{}"))
    return {name: _value(text) for name, text in zip(names, texts, strict=False) if text is not None}


@lru_cache(maxsize=64)
def _object(text: str) -> Document:
    found: Document = json.loads(text)
    return found


@lru_cache(maxsize=4096)
def _value(text: str) -> Any:
    """Return the value of a JSON text; it is shared and must not be changed."""
    return json.loads(text)


@lru_cache(maxsize=256)
def _names(text: str) -> frozenset[str]:
    return frozenset(json.loads(text))


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
