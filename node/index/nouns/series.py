"""Series: their rows, states and counts."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from sqlalchemy import String, bindparam, func, literal_column, select, text
from sqlalchemy.orm import join

from node.index.engine.rows import PagedRepository, ReadRepository, Row, columns_but, distinct_values
from node.index.engine.sql import Unindexed
from node.index.engine.view_rows import certainty_of
from node.index.models.levels import OPEN_STATES, ImageRow, SeriesRow, StudyRow
from node.index.nouns.facts import CHUNK_ROWS, SeriesFacts
from node.index.nouns.views import FEW_SERIES, SeriesViews
from node.selector import Selector


class ReadSeries(PagedRepository, SeriesViews):
    """Rows of ``series`` and ``v_series``."""

    listing = select(
        *columns_but(SeriesRow, "request_attributes", "reported"),
        StudyRow.study_instance_uid,
        literal_column(certainty_of("series"), String).label("certainty"),
    ).select_from(join(SeriesRow, StudyRow))
    filters = (StudyRow.study_instance_uid, SeriesRow.series_instance_uid, SeriesRow.modality, SeriesRow.verdict)

    def page(
        self, after: int | None, limit: int, *, states: Sequence[str] = (), where: Selector | None = None, **wanted: Any
    ) -> list[Row]:
        """Return the next page of series with their numbers of instances, newest first."""
        if where is None:
            rows = self._page(after, limit, states=states, **wanted)
        else:
            rows = list(islice(self._selected(after, where, states=states, **wanted), limit))
        return self._with_counts(rows, "instances", select(ImageRow.series_id, func.count()), ImageRow.series_id)

    def count_matching(self, *, where: Selector | None = None, **wanted: Any) -> int:
        """Count all series that match; this reads every one of them."""
        if where is None:
            return super().count_matching(**wanted)
        return sum(1 for _ in self._selected(None, where, **wanted))

    def _matching(self, *, states: Sequence[str] = (), modality: str | None = None, **wanted: Any) -> Any:
        query = super()._matching(**wanted)
        for column, values in (
            (SeriesRow.modality, [modality] if modality is not None else []),
            (SeriesRow.state, states),
        ):
            if values:
                query = query.where((column if self._are_few(column, values) else Unindexed(column)).in_(values))
        return query

    def _are_few(self, column: Any, values: Sequence[str]) -> bool:
        """Return whether few series have one of some values: by an index, SQLite reads and sorts all of them."""
        found = select(literal_column("1")).where(column.in_(values)).limit(FEW_SERIES).subquery()
        return int(self._connection.execute(select(func.count()).select_from(found)).scalar_one()) < FEW_SERIES

    def _selected(self, after: int | None, where: Selector, **wanted: Any) -> Iterator[Row]:
        """Yield the rows that match and whose series are selected."""
        facts = SeriesFacts(self._queries)
        rows = self._page(after, CHUNK_ROWS, **wanted)
        while rows:
            known = facts.of_rows(where.fields, [row["id"] for row in rows])
            yield from (row for row in rows if row["id"] in known and where.matches(known[row["id"]]))
            rows = self._page(rows[-1]["id"], CHUNK_ROWS, **wanted)

    def modalities(self) -> list[str]:
        """Return the distinct modalities of all series."""
        return [modality for modality in self._connection.scalars(distinct_values(SeriesRow.modality)) if modality]

    def count_open_by_state(self) -> dict[str, int]:
        """Count the series that wait or are being converted by state; an index finds them."""
        query = select(SeriesRow.state, func.count()).where(SeriesRow.state.in_(OPEN_STATES)).group_by(SeriesRow.state)
        return {state: count for state, count in self._connection.execute(query)}

    def count_open(self) -> int:
        """Count the series that wait or are being converted."""
        return sum(self.count_open_by_state().values())

    def count_due(self, now: dt.datetime) -> int:
        """Count the series that wait for a converter and for nothing else."""
        query = select(func.count()).where(SeriesRow.state == "receiving", SeriesRow.due_at <= now)
        return int(self._connection.execute(query).scalar_one())

    def oldest_unconverted(self) -> dt.datetime | None:
        """Return when the oldest instance without a conversion was received, or None if there is none."""
        waits = SeriesRow.state.in_(OPEN_STATES)
        return self._connection.execute(select(func.min(SeriesRow.open_since)).where(waits)).scalar()

    def oldest_due(self, now: dt.datetime) -> dt.datetime | None:
        """Return since when a series has been due and waits for a converter, of the one that waits longest, or None."""
        is_due = SeriesRow.state == "receiving", SeriesRow.due_at <= now
        return self._connection.execute(select(func.min(SeriesRow.due_at)).where(*is_due)).scalar()


class ReadExports(ReadRepository):
    """Rows of patients, studies, series and volumes, for programs that write data sets."""

    def patients(self, patient: int | None = None) -> list[Row]:
        """Return ``id``, ``identity`` and ``patient_id`` of each patient with a series, by ``id``.

        `patient`: only this one and all of the same identity, as people with one issuer and Patient ID are.
        """
        query = (
            "SELECT p.id, p.identity, p.patient_id FROM patients p WHERE EXISTS "
            "(SELECT 1 FROM studies st JOIN series se ON se.study_id = st.id WHERE st.patient_id = p.id)"
        )
        if patient is None:
            return self._rows(f"{query} ORDER BY p.id")
        alike = "p.identity = (SELECT identity FROM patients WHERE id = :patient)"
        return self._rows(f"{query} AND {alike} ORDER BY p.id", patient=patient)

    def patient_of(self, study_instance_uid: str) -> int | None:
        """Return the ``id`` of the patient of a study, or None if there is no such study."""
        row = self._row("SELECT patient_id FROM studies WHERE study_instance_uid = :uid", uid=study_instance_uid)
        return None if row is None else int(row["patient_id"])

    def series_keys(self) -> list[tuple[str, str]]:
        """Return study and series UID of all series."""
        query = "SELECT study_instance_uid, series_instance_uid FROM series se JOIN studies st ON st.id = se.study_id"
        return [(row["study_instance_uid"], row["series_instance_uid"]) for row in self._rows(query)]

    def series_of(self, patients: Sequence[int]) -> list[Row]:
        """Return the series of patients, by their ``id``, with dates and times, state, verdict and failures."""
        return self._of_ids(
            "SELECT se.id, st.patient_id AS patient, st.study_instance_uid, se.series_instance_uid, st.study_date, "
            "st.study_time, se.series_date, se.series_time, se.state, se.verdict, se.verdict_reason, se.error, "
            "(SELECT f.detail FROM failures f WHERE f.series_id = se.id AND f.revision = se.revision LIMIT 1) "
            "AS failure FROM series se JOIN studies st ON st.id = se.study_id "
            "WHERE st.patient_id IN :ids ORDER BY se.id",
            patients,
        )

    def nifti_of(self, series: Sequence[int]) -> list[Row]:
        """Return the current NIfTI volumes, spectra and recordings of series, by their ``id``.

        Paths are relative to the root.
        """
        return self._of_ids(
            "SELECT c.series_id, v.stack, v.suffix, v.path, v.sha256, v.shape, v.spacing_mm, v.geometry, "
            "v.orientation, v.warnings, v.weighting, v.contrast_agent "
            "FROM conversions c JOIN volumes v ON v.conversion_id = c.id "
            "WHERE c.series_id IN :ids AND NOT c.superseded AND c.files_removed_at IS NULL "
            "AND (v.kind IN ('volume', 'spectra') AND v.format = 'nifti' OR v.kind = 'physio') "
            "ORDER BY v.stack, v.path",
            series,
        )

    def _of_ids(self, query: str, ids: Sequence[int]) -> list[Row]:
        statement = text(query).bindparams(bindparam("ids", expanding=True))
        return self._plain(self._connection.execute(statement, {"ids": list(ids)}))
