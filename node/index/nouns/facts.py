"""The facts of series that selectors compare: one query for any number of series, with only the fields it needs."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import mul
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Date,
    Float,
    Integer,
    Select,
    String,
    bindparam,
    case,
    cast,
    distinct,
    func,
    literal_column,
    not_,
    or_,
    select,
)
from sqlalchemy.orm import aliased, join

from node.index.engine.rows import ReadRepository
from node.index.engine.sql import Days, JsonEach, JsonGroupDistinct, JsonNumber, looked_up_in
from node.index.engine.view_rows import certainty_of
from node.index.engine.views import slice_spacing, years_of
from node.index.models.history import ConversionRow, FailureRow, VolumeRow
from node.index.models.levels import ImageRow, PatientRow, SeriesRow, StudyRow, Utc
from node.index.models.people import LabelRow
from node.index.nouns.converted import SeriesKey
from node.selector import FIELDS, Facts, Selector

CHUNK_ROWS = 500
"""Series of one query, which bounds the rows in memory."""

_REVISION = bindparam("revision", type_=Integer)
_NOW, _TODAY = bindparam("now", type_=Utc), bindparam("today", type_=Date)
_IS_NEWEST = or_(_REVISION.is_(None), SeriesRow.revision == _REVISION)
_IS_MEANT = case((_REVISION.is_(None), not_(ConversionRow.superseded)), else_=ConversionRow.revision == _REVISION)
_LARGEST = aliased(VolumeRow, name="largest")
_PATIENT = ("patient_id", "patient_name", "patient_birth_date", "patient_sex")
_STUDY = (
    "study_instance_uid", "study_date", "study_description", "study_id", "accession_number", "referring_physician_name",
)  # fmt: skip
_SERIES = (
    "series_instance_uid", "modality", "series_number", "series_description", "series_date", "laterality",
    "protocol_name", "manufacturer", "manufacturer_model_name", "station_name", "state", "expected_instances",
    "missing_instances", "revision", "last_received_at",
)  # fmt: skip


_LARGEST_HAS = (
    "geometry", "orientation", "slice_thickness_mm", "weighting", "sequence", "repetition_time_ms", "echo_time_ms",
    "inversion_time_ms", "flip_angle_degrees", "magnetic_field_strength_t", "contrast_agent", "convolution_kernel",
)  # fmt: skip


def _of_images(value: Any, *conditions: Any) -> Any:
    return select(value).where(ImageRow.series_id == SeriesRow.id, *conditions).scalar_subquery()


def _of_volumes(value: Any, *conditions: Any) -> Select[Any]:
    volumes = select(value).select_from(join(ConversionRow, VolumeRow)).correlate(SeriesRow)
    return volumes.where(ConversionRow.series_id == SeriesRow.id, VolumeRow.kind == "volume", _IS_MEANT, *conditions)


def _images_have(column: Any) -> Any:
    return _of_images(JsonGroupDistinct(column), column.is_not(None))


def _largest_volume() -> Any:
    extents = (JsonNumber(VolumeRow.shape, axis) for axis in range(3))
    size = reduce(mul, extents, func.coalesce(JsonNumber(VolumeRow.shape, 3), 1))
    by_size = _of_volumes(VolumeRow.id).order_by(size.desc().nulls_last(), VolumeRow.stack, VolumeRow.id)
    return by_size.limit(1).scalar_subquery()


def _extent(axis: int) -> Any:
    return cast(JsonNumber(_LARGEST.shape, axis), BigInteger)


def _spacing(axis: int) -> Any:
    return cast(JsonNumber(_LARGEST.spacing_mm, axis), Float)


_WARNING = JsonEach(VolumeRow.warnings).table_valued("value", joins_implicitly=True)
_OF_STUDY = aliased(SeriesRow)

COLUMNS: Mapping[str, Any] = {
    **{name: getattr(PatientRow, name) for name in _PATIENT},
    "patient_age": literal_column(years_of("studies.patient_age"), Float),
    **{name: getattr(StudyRow, name) for name in _STUDY},
    "labels": select(JsonGroupDistinct(LabelRow.label))
    .where(
        LabelRow.study_instance_uid == StudyRow.study_instance_uid,
        LabelRow.series_instance_uid.in_(("", SeriesRow.series_instance_uid)),
    )
    .scalar_subquery(),
    "study_series": select(func.count(_OF_STUDY.id)).where(_OF_STUDY.study_id == StudyRow.id).scalar_subquery(),
    **{name: getattr(SeriesRow, name) for name in _SERIES},
    "body_part": SeriesRow.body_part_examined,
    # The row of a series has only the verdict of the newest revision.
    "verdict": case((_IS_NEWEST, SeriesRow.verdict)),
    "certainty": case((_IS_NEWEST, literal_column(certainty_of("series"), String))),
    "failures": select(JsonGroupDistinct(FailureRow.reason))
    .where(FailureRow.series_id == SeriesRow.id, FailureRow.revision == func.coalesce(_REVISION, SeriesRow.revision))
    .scalar_subquery(),
    "instances": _of_images(func.count(ImageRow.id)),
    "frames": cast(_of_images(func.sum(func.coalesce(ImageRow.number_of_frames, 1))), BigInteger),
    "sop_class_uids": _images_have(ImageRow.sop_class_uid),
    "transfer_syntax_uids": _images_have(ImageRow.transfer_syntax_uid),
    "calling_ae_titles": _images_have(ImageRow.calling_ae_title),
    "called_ae_titles": _images_have(ImageRow.called_ae_title),
    "sources": _images_have(ImageRow.source),
    "volumes": _of_volumes(func.count(distinct(VolumeRow.stack))).scalar_subquery(),
    "columns": _extent(0),
    "rows": _extent(1),
    "slices": _extent(2),
    "times": case((_LARGEST.id.is_not(None), func.coalesce(_extent(3), 1))),
    "column_spacing_mm": _spacing(0),
    "row_spacing_mm": _spacing(1),
    "slice_spacing_mm": cast(slice_spacing(_LARGEST.shape, _LARGEST.spacing_mm, _LARGEST.geometry), Float),
    **{name: getattr(_LARGEST, name) for name in _LARGEST_HAS},
    "warnings": _of_volumes(JsonGroupDistinct(_WARNING.c.value)).select_from(_WARNING).scalar_subquery(),
    "days_since_received": Days(_NOW) - Days(SeriesRow.last_received_at),
    "days_since_study": Days(_TODAY) - Days(StudyRow.study_date),
}
"""The SQL of each field."""

_OF_LARGEST = frozenset(name for name, field in FIELDS.items() if field.group == "volume") - {"volumes", "warnings"}
"""Fields of the largest volume, which is looked for only if one of them is compared."""


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

        `fields`: names of `FIELDS`. `revision`: conversion whose volumes and failures count; None: the current one.
        """
        keys = (StudyRow.study_instance_uid == study_instance_uid, SeriesRow.series_instance_uid == series_instance_uid)
        found = self._described(fields, *keys, revision=revision, limit=1)
        return next((one.facts for one in found), None)

    def of_study(self, fields: Collection[str], study_instance_uid: str) -> Iterator[Facts]:
        """Return facts of each series of a study."""
        return (one.facts for one in self._described(fields, StudyRow.study_instance_uid == study_instance_uid))

    def all(self, fields: Collection[str]) -> Iterator[Described]:
        """Yield facts of every series, newest first."""
        before: int | None = None
        while True:
            older = () if before is None else (SeriesRow.id < before,)
            found = list(self._described(fields, *older, limit=CHUNK_ROWS))
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
        return {one.id: one.facts for one in self._described(fields, looked_up_in(SeriesRow.id, list(ids)))}

    def _described(
        self,
        fields: Collection[str],
        *conditions: ColumnElement[bool],
        revision: int | None = None,
        limit: int | None = None,
    ) -> Iterator[Described]:
        wanted = sorted(fields)
        levels: Any = join(SeriesRow, StudyRow).join(PatientRow)
        if not _OF_LARGEST.isdisjoint(wanted):
            levels = levels.outerjoin(_LARGEST, _LARGEST.id == _largest_volume())
        query = (
            select(SeriesRow.id, StudyRow.study_instance_uid, SeriesRow.series_instance_uid)
            .add_columns(*(COLUMNS[name].label(name) for name in wanted))
            .select_from(levels)
            .where(*conditions)
            .order_by(SeriesRow.id.desc())
            .limit(limit)
        )
        now = dt.datetime.now(dt.UTC)
        values = {"revision": revision, "now": now, "today": now.date()}
        for id_, study, series, *found in self._connection.execute(query, values):
            yield Described(id_, (study, series), dict(zip(wanted, found, strict=True)))
