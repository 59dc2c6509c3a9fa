"""What is read of series: rows of the documented views, pages, and how many wait."""

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar

from node.index.look.facts import CHUNK_ROWS, SeriesFacts
from node.index.rows.view_rows import (
    MOMENT,
    UNINDEXED,
    Kinds,
    Newest,
    PagedViews,
    Row,
    certainty_of,
    distinct_values,
    moment,
    written,
)
from node.selector import Selector

COMMON_STATES = ("converted", "not-an-image")
OTHER_STATES = ("receiving", "converting", "refused", "failed")
"""States that most series are in at last, and those of few."""


FEW_SERIES = 5000
"""Series that are looked up one by one and sorted, in some 10 ms."""

_DOUBTED = "study_id > 0 AND verdict IN ('suspect', 'incomplete')"  # of the index `ix_series_doubted`
_WITH_STUDY = "v_series se JOIN v_studies st USING (study_instance_uid)"
"""Series, with the patients of their studies."""


class SeriesViews(PagedViews):
    """Rows of ``series`` and ``v_series``."""

    listing = (
        f"SELECT se.*, st.study_instance_uid, {certainty_of('se')} AS certainty FROM series se "
        "JOIN studies st ON st.id = se.study_id"
    )
    kinds: ClassVar[Kinds] = {
        "open_since": moment,
        "series_date": dt.date.fromisoformat,
        "performed_procedure_step_start_date": dt.date.fromisoformat,
    }

    def page(
        self, after: int | None, limit: int, *, states: Sequence[str] = (), where: Selector | None = None, **wanted: Any
    ) -> list[Row]:
        """Return the next page of series with their numbers of instances, newest first."""
        if where is None:
            rows = super().page(after, limit, states=states, **wanted)
        else:
            rows = list(islice(self._selected(after, where, states=states, **wanted), limit))
        return self._with_counts(rows, "instances", "images", "series_id")

    def count_matching(self, *, where: Selector | None = None, **wanted: Any) -> int:
        """Count all series that match; this reads every one of them."""
        if where is None:
            return super().count_matching(**wanted)
        return sum(1 for _ in self._selected(None, where, **wanted))

    def _matching(
        self, *, states: Sequence[str] = (), modality: str | None = None, **wanted: Any
    ) -> tuple[str, dict[str, Any]]:
        matching, values = super()._matching(**wanted)
        for column, of_column in (("modality", [modality] if modality is not None else []), ("state", states)):
            named = {f"{column}_{number}": value for number, value in enumerate(of_column)}
            is_any = f"IN ({', '.join(f':{name}' for name in named)})"
            if named:
                is_few = self._are_few(f"{column} {is_any}", named)
                matching += f" AND {column if is_few else self._queries.say(UNINDEXED, column)} {is_any}"
            values |= named
        return matching, values

    def _are_few(self, condition: str, values: Mapping[str, str]) -> bool:
        """Return whether few series match: by an index, SQLite reads and sorts all of them."""
        found = f"SELECT 1 FROM series WHERE {condition} LIMIT {FEW_SERIES}"
        return self._number(f"SELECT count(*) FROM ({found}) found", **values) < FEW_SERIES

    def _selected(self, after: int | None, where: Selector, **wanted: Any) -> Iterator[Row]:
        """Yield the rows that match and whose series are selected."""
        facts = SeriesFacts(self._queries)
        rows = super().page(after, CHUNK_ROWS, **wanted)
        while rows:
            known = facts.of_rows(where.fields, [row["id"] for row in rows])
            yield from (row for row in rows if row["id"] in known and where.matches(known[row["id"]]))
            rows = super().page(rows[-1]["id"], CHUNK_ROWS, **wanted)

    def modalities(self) -> list[str]:
        """Return the distinct modalities of all series."""
        return [row["value"] for row in self._rows(distinct_values("modality", "series")) if row["value"]]

    def count_open_by_state(self) -> dict[str, int]:
        """Count the series that wait or are being converted by state; an index finds them."""
        is_open = "state IN ('receiving', 'converting')"
        return self._counts(f"SELECT state, count(*) AS count FROM series WHERE {is_open} GROUP BY state")

    def count_open(self) -> int:
        """Count the series that wait or are being converted."""
        return sum(self.count_open_by_state().values())

    def oldest_unconverted(self) -> dt.datetime | None:
        """Return when the oldest instance without a conversion was received, or None if there is none."""
        oldest = self._text("SELECT min(open_since) FROM series WHERE state IN ('receiving', 'converting')")
        return None if oldest is None else moment(oldest)

    def oldest_due(self, now: dt.datetime) -> dt.datetime | None:
        """Return since when a series has been due and waits for a converter, of the one that waits longest, or None."""
        oldest = self._value(f"SELECT min(due_at) FROM series WHERE {self._is_due()}", now=written(now))
        return None if oldest is None else moment(oldest)

    def _is_due(self) -> str:
        return f"state = 'receiving' AND due_at <= {self._queries.say(MOMENT, ':now')}"

    def row(self, study_instance_uid: str, series_instance_uid: str) -> Row | None:
        """Return the row of ``v_series`` of a series, or None."""
        return next(iter(self._rows_of_study("SELECT * FROM v_series", study_instance_uid, series_instance_uid)), None)

    def with_uid(self, series_instance_uid: str) -> list[Row]:
        """Return the rows of ``v_series`` with a Series Instance UID: one for each study that contains it."""
        query = "SELECT * FROM v_series WHERE series_instance_uid = :series ORDER BY study_instance_uid"
        return self._rows(query, series=series_instance_uid)

    def ending(self, end: str) -> list[Row]:
        """Return two of the studies and series whose UIDs end in `end`, digits and dots; this compares all of them."""
        query = (
            "SELECT study_instance_uid, '' AS series_instance_uid FROM studies WHERE study_instance_uid LIKE :end "
            "UNION SELECT study_instance_uid, series_instance_uid FROM series se JOIN studies st "
            "ON st.id = se.study_id WHERE series_instance_uid LIKE :end LIMIT 2"
        )
        return self._rows(query, end=f"%{end}")

    def waits(self, study_instance_uid: str, series_instance_uid: str) -> list[Row]:
        """Return what an open series waits for: ``calling_ae_title``, the moments of each sender."""
        source = (
            "SELECT aw.calling_ae_title, aw.quiet_at, aw.grace_until, (SELECT max(o.open_until) FROM open_associations "
            "o WHERE o.series_id = se.id AND o.calling_ae_title = aw.calling_ae_title) AS open_until "
            "FROM awaited_senders aw JOIN series se ON se.id = aw.series_id JOIN studies st ON st.id = se.study_id"
        )
        return self._rows_of_study(source, study_instance_uid, series_instance_uid, "ORDER BY aw.calling_ae_title")

    def of_study(self, study_instance_uid: str) -> list[Row]:
        """Return the rows of ``v_series`` of a study, by Series Number; series without a number come last."""
        order = "ORDER BY series_number IS NULL, series_number, series_instance_uid"
        return self._rows_of_study("SELECT * FROM v_series", study_instance_uid, None, order)

    def newest(
        self,
        limit: int,
        *,
        study: str | None = None,
        states: Sequence[str] = (),
        patient: str | None = None,
        modality: str | None = None,
        since: dt.datetime | None = None,
    ) -> Newest:
        """Return at most `limit` rows of ``v_series`` with their studies, the last to receive an instance first.

        `study`, `states`, `patient`, `modality`, `since`: Filters; without one, all match. `states`: alternatives, also
        the certainties of what is converted; `patient`: its Patient ID; `since`: of the last instance.
        """
        # The newest series of a common value are at the beginning of `ix_series_listed`. SQLite would read and sort all
        # of them by an index of `=`, and has none for NOT <>. PostgreSQL knows how many there are.
        is_rare = modality is not None and self._are_few("modality = :modality", {"modality": modality})
        is_of_few = {"suspect", "incomplete"}.issuperset(states) and states and self._are_few(_DOUBTED, {})
        named = {f"state_{number}": state for number, state in enumerate(states)}
        is_in_state = " OR ".join(
            f"NOT se.state <> :{name}"
            if state in COMMON_STATES
            else f"se.state = :{name}"
            if state in OTHER_STATES
            else f"NOT se.state <> 'converted' AND {certainty_of('se')} = :{name}"
            for name, state in named.items()
        )
        values = {"study": study, "patient": patient, "modality": modality, "since": since and written(since), **named}
        filters = {
            "study": "se.study_id IN (SELECT id FROM studies WHERE study_instance_uid = :study)",
            "patient": "se.study_id IN (SELECT st.id FROM patients p JOIN studies st ON st.patient_id = p.id "
            "WHERE p.patient_id = :patient)",
            "modality": "se.modality = :modality" if is_rare else "NOT se.modality <> :modality",
            "since": f"se.last_received_at >= {self._queries.say(MOMENT, ':since')}",
        }
        conditions = [f"({is_in_state or '1 = 1'})", *(filters[name] for name in filters if values[name] is not None)]
        conditions += [f"se.id IN (SELECT id FROM series WHERE {_DOUBTED})"] if is_of_few else []
        matching = f"SELECT se.id FROM series se WHERE {' AND '.join(conditions)}"
        newest = f"{matching} ORDER BY se.last_received_at DESC LIMIT :limit"
        rows = self._rows(
            f"SELECT v.*, p.patient_name, p.patient_id, st.study_date FROM ({newest}) k CROSS JOIN series own "
            "CROSS JOIN studies st CROSS JOIN patients p CROSS JOIN v_series v "
            "WHERE own.id = k.id AND st.id = own.study_id AND p.id = st.patient_id "
            "AND v.study_instance_uid = st.study_instance_uid AND v.series_instance_uid = own.series_instance_uid "
            "ORDER BY own.last_received_at DESC",
            limit=limit,
            **values,
        )
        return self._with_total(rows, limit, matching, **values)

    def under_way(self, limit: int) -> list[Row]:
        """Return the series that wait or are being converted, with their patients, earliest due first."""
        return self._rows(
            "SELECT se.study_instance_uid, se.series_instance_uid, se.series_number, se.series_description, "
            "se.modality, se.state, se.instances, se.expected_instances, se.verdict, se.certainty, se.revision, "
            "se.attempts, se.error, se.due_at, se.last_received_at, st.patient_name, st.patient_id "
            f"FROM {_WITH_STUDY} WHERE se.state IN ('receiving', 'converting') "
            "ORDER BY se.state, se.due_at NULLS FIRST LIMIT :limit",
            limit=limit,
        )

    def retried(self) -> list[Row]:
        """Return the series whose conversion failed and is tried again, with their patients, earliest due first."""
        return self._rows(
            "SELECT se.study_instance_uid, se.series_instance_uid, se.series_number, se.series_description, "
            "se.modality, se.attempts, se.error, se.due_at, st.patient_name, st.patient_id "
            f"FROM {_WITH_STUDY} WHERE se.state = 'receiving' AND se.attempts > 0 ORDER BY se.due_at"
        )

    def count_by_state(self) -> dict[str, int]:
        """Count the series by state."""
        return self._counts("SELECT state, count(*) AS count FROM series GROUP BY state ORDER BY state")

    def count_waiting(self, now: dt.datetime) -> int:
        """Count the series that are due: they wait for a converter, and for nothing else."""
        return self._number(f"SELECT count(*) FROM series WHERE {self._is_due()}", now=written(now))

    def count_doubted(self) -> dict[str, int]:
        """Count what `newest` lists in the states ``incomplete`` and ``suspect``, by state."""
        converted = f"FROM series WHERE {_DOUBTED} AND NOT state <> 'converted' GROUP BY verdict"
        return {"incomplete": 0, "suspect": 0} | self._counts(f"SELECT verdict, count(*) AS count {converted}")

    def last_received_at(self) -> str | None:
        """Return when the newest instance was received, in the format of ``v_series``, or None if there are none."""
        return self._text("SELECT max(last_received_at) FROM series")

    def next_due_at(self) -> str | None:
        """Return when the next waiting series is due, in the format of ``v_series``, or None if no series waits."""
        return self._text("SELECT min(due_at) FROM series WHERE state = 'receiving'")
