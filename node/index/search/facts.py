"""The facts of series that selectors compare: one query for any number of series, with only the fields it needs."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, text

from node.index.converted import SeriesKey
from node.index.engine.backend import backend_of
from node.index.engine.rows import ReadRepository
from node.index.search.certainty import certainty_of
from node.selector import FIELDS, Facts, Selector

CHUNK_ROWS = 500
"""Series of one query: so many rows are in memory at a time, and many queries cost little."""

_AGE = """CASE WHEN st.patient_age GLOB '[0-9][0-9][0-9][YMWD]' THEN CAST(substr(st.patient_age, 1, 3) AS FLOAT) /
    CASE substr(st.patient_age, 4) WHEN 'Y' THEN 1.0 WHEN 'M' THEN 12.0 WHEN 'W' THEN 52.1775 ELSE 365.2425 END END"""
_IMAGES = "FROM images i WHERE i.series_id = se.id"
_REVISION = "CASE WHEN :revision IS NULL THEN NOT c.superseded ELSE c.revision = :revision END"
_VOLUMES = f"""FROM conversions c JOIN volumes v ON v.conversion_id = c.id
    WHERE c.series_id = se.id AND v.kind = 'volume' AND {_REVISION}"""
_LARGEST = f"""LEFT JOIN volumes big ON big.id = (SELECT v.id {_VOLUMES}
    ORDER BY json_extract(v.shape, '$[0]') * json_extract(v.shape, '$[1]') * json_extract(v.shape, '$[2]')
        * coalesce(json_extract(v.shape, '$[3]'), 1) DESC, v.stack, v.id LIMIT 1)"""
_PATIENT = ("patient_id", "patient_name", "patient_birth_date", "patient_sex")
_STUDY = (
    "study_instance_uid", "study_date", "study_description", "study_id", "accession_number", "referring_physician_name",
)  # fmt: skip
_SERIES = (
    "series_instance_uid", "modality", "series_number", "series_description", "series_date", "laterality",
    "protocol_name", "manufacturer", "manufacturer_model_name", "station_name", "state", "expected_instances",
    "missing_instances", "revision", "last_received_at",
)  # fmt: skip


def _list(column: str, rows: str) -> str:
    return f"(SELECT json_group_array(x) FROM (SELECT DISTINCT {column} AS x {rows} AND {column} IS NOT NULL) listed)"


COLUMNS: Mapping[str, str] = {
    **{name: f"p.{name}" for name in _PATIENT},
    "patient_age": _AGE,
    **{name: f"st.{name}" for name in _STUDY},
    "study_series": "(SELECT count(*) FROM series s WHERE s.study_id = st.id)",
    **{name: f"se.{name}" for name in _SERIES},
    "body_part": "se.body_part_examined",
    # The row of a series has only the verdict of the newest revision.
    "verdict": "CASE WHEN :revision IS NULL OR se.revision = :revision THEN se.verdict END",
    "certainty": f"CASE WHEN :revision IS NULL OR se.revision = :revision THEN {certainty_of('se')} END",
    "failures": _list(
        "f.reason", "FROM failures f WHERE f.series_id = se.id AND f.revision = coalesce(:revision, se.revision)"
    ),
    "instances": f"(SELECT count(*) {_IMAGES})",
    "frames": f"(SELECT sum(coalesce(i.number_of_frames, 1)) {_IMAGES})",
    "sop_class_uids": _list("i.sop_class_uid", _IMAGES),
    "transfer_syntax_uids": _list("i.transfer_syntax_uid", _IMAGES),
    "calling_ae_titles": _list("i.calling_ae_title", _IMAGES),
    "called_ae_titles": _list("i.called_ae_title", _IMAGES),
    "sources": _list("i.source", _IMAGES),
    "volumes": f"(SELECT count(DISTINCT v.stack) {_VOLUMES})",
    "columns": "json_extract(big.shape, '$[0]')",
    "rows": "json_extract(big.shape, '$[1]')",
    "slices": "json_extract(big.shape, '$[2]')",
    "times": "CASE WHEN big.id IS NOT NULL THEN coalesce(json_extract(big.shape, '$[3]'), 1) END",
    "column_spacing": "json_extract(big.spacing_mm, '$[0]')",
    "row_spacing": "json_extract(big.spacing_mm, '$[1]')",
    "slice_spacing": "json_extract(big.spacing_mm, '$[2]')",
    "geometry": "big.geometry",
    "orientation": "big.orientation",
    "warnings": _list("w.value", _VOLUMES.replace("WHERE", ", json_each(v.warnings) w WHERE", 1)),
    "days_since_received": "julianday(:now) - julianday(se.last_received_at)",
    "days_since_study": "julianday(date(:now)) - julianday(st.study_date)",
}
"""The SQL of each field."""

_CONVERTED: Mapping[str, Callable[[str], Any]] = {
    "date": dt.date.fromisoformat,
    "moment": lambda value: dt.datetime.fromisoformat(value).replace(tzinfo=dt.UTC),
}


@dataclass(frozen=True, slots=True)
class Described:
    """A series and its facts; `id` is that of its row."""

    id: int
    key: SeriesKey
    facts: Facts


class ReadFacts(ReadRepository):
    """What selectors compare, from the rows of patients, studies, series, instances and volumes."""

    def of_series(
        self, fields: Collection[str], study_instance_uid: str, series_instance_uid: str, revision: int | None = None
    ) -> Facts | None:
        """Return facts of one series, or None if it is not there.

        Parameters
        ----------
        fields : collection of str
            Names of `FIELDS`.
        revision : int or None
            Conversion whose volumes and failures count; None: the current one.
        """
        condition = "st.study_instance_uid = :study AND se.series_instance_uid = :series"
        found = self._described(
            fields, condition, revision, study=study_instance_uid, series=series_instance_uid, limit=1
        )
        return next((one.facts for one in found), None)

    def of_study(self, fields: Collection[str], study_instance_uid: str) -> Iterator[Facts]:
        """Return facts of each series of a study."""
        condition = "st.study_instance_uid = :study"
        return (one.facts for one in self._described(fields, condition, None, limit=None, study=study_instance_uid))

    def all(self, fields: Collection[str]) -> Iterator[Described]:
        """Yield facts of every series, newest first."""
        before: int | None = None
        while True:
            condition = "(:before IS NULL OR se.id < :before)"
            found = list(self._described(fields, condition, None, before=before, limit=CHUNK_ROWS))
            yield from found
            if len(found) < CHUNK_ROWS:
                return
            before = found[-1].id

    def selected(self, *selectors: Selector) -> Iterator[SeriesKey]:
        """Yield the series that all of the selectors select, newest first."""
        fields = frozenset[str]().union(*(selector.fields for selector in selectors))
        return (one.key for one in self.all(fields) if all(selector.matches(one.facts) for selector in selectors))

    def of_rows(self, fields: Collection[str], ids: Iterable[int]) -> dict[int, Facts]:
        """Return facts of the series with these ids, by id."""
        found = self._described(fields, "se.id IN :ids", None, ids=list(ids), limit=None)
        return {one.id: one.facts for one in found}

    def _described(
        self, fields: Collection[str], condition: str, revision: int | None, *, limit: int | None, **values: Any
    ) -> Iterator[Described]:
        wanted = sorted(fields)
        columns = "".join(f", {COLUMNS[name]}" for name in wanted)
        largest = _LARGEST if any("big." in COLUMNS[name] for name in wanted) else ""
        query = (
            f"SELECT se.id, st.study_instance_uid, se.series_instance_uid{columns} FROM series se "
            f"JOIN studies st ON st.id = se.study_id JOIN patients p ON p.id = st.patient_id {largest} "
            f"WHERE {condition} ORDER BY se.id DESC"
        )
        if limit is not None:
            query += f" LIMIT {limit}"
        values |= {"revision": revision, "now": dt.datetime.now(dt.UTC).replace(tzinfo=None).isoformat(" ")}
        used = {name: value for name, value in values.items() if f":{name}" in query}
        statement = text(query)
        if "ids" in used:
            statement = statement.bindparams(bindparam("ids", expanding=True))
        rows = backend_of(self._connection).plain(self._connection.execute(statement, used))
        for id_, study, series, *found in rows:
            facts = {name: _value(name, value) for name, value in zip(wanted, found, strict=True)}
            yield Described(id_, (study, series), facts)


def _value(name: str, value: Any) -> Any:
    if FIELDS[name].several:
        return json.loads(value)
    convert = _CONVERTED.get(FIELDS[name].type)
    return convert(value) if value is not None and convert is not None else value
