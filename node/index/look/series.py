"""What is read of series: rows of the documented views, pages, how many wait, and the facts that selectors compare."""

import datetime as dt
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

from node.index.rows.converted import SeriesKey
from node.index.rows.view_rows import (
    DAYS,
    DISTINCT,
    EACH,
    MOMENT,
    NUMBER,
    UNINDEXED,
    Kinds,
    Newest,
    PagedViews,
    Row,
    ViewRows,
    Words,
    certainty_of,
    distinct_values,
    grid_of,
    moment,
    written,
    years_of,
)
from node.selector import Facts, Selector
from node.selector.fields import FIELDS

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


CHUNK_ROWS = 500
"""Series of one query, which bounds the rows in memory."""

_ROWS = {"patient": "p", "study": "st", "series": "se", "instances": "i", "sender": "i", "volume": "v", "time": "se"}
"""The row that has a field in a column of its name, by the group of the field."""

_OF_LARGEST = frozenset(name for name, field in FIELDS.items() if field.group == "volume") - {"volumes", "warnings"}
"""Fields of the largest volume, which is looked for only if one of them is compared."""


def columns(say: Words, *, of_revision: bool = False) -> Mapping[str, str]:
    """Return the SQL of each field, of rows ``p``, ``st``, ``se``, and ``v`` for the largest volume.

    `of_revision`: volumes and failures are those of the revision ``:revision``, else those that count now. The row of a
    series has only the verdict of the newest revision.
    """
    newest = "CASE WHEN se.revision = :revision THEN {} END" if of_revision else "{}"
    volumes = _volumes(of_revision=of_revision)
    warned = _volumes(of_revision=of_revision, also=f", {say(EACH, 'o.warnings')} w")

    def of_images(value: str) -> str:
        return f"(SELECT {value} FROM images i WHERE i.series_id = se.id)"

    def images_have(column: str) -> str:
        return f"(SELECT {say(DISTINCT, column)} FROM images i WHERE i.series_id = se.id AND {column} IS NOT NULL)"

    return {
        **{name: f"{_ROWS[field.group]}.{name}" for name, field in FIELDS.items()},
        "patient_age": years_of("st.patient_age"),
        "labels": f"(SELECT {say(DISTINCT, 'l.label')} FROM labels l WHERE l.study_instance_uid = st.study_instance_uid"
        " AND l.series_instance_uid IN ('', se.series_instance_uid))",
        "study_series": "(SELECT count(*) FROM series o WHERE o.study_id = st.id)",
        "body_part": "se.body_part_examined",
        "verdict": newest.format("se.verdict"),
        "certainty": newest.format(certainty_of("se")),
        "failures": f"(SELECT {say(DISTINCT, 'f.reason')} FROM failures f WHERE f.series_id = se.id "
        f"AND f.revision = {':revision' if of_revision else 'se.revision'})",
        "instances": of_images("count(*)"),
        "frames": f"CAST({of_images('sum(coalesce(i.number_of_frames, 1))')} AS BIGINT)",
        "sop_class_uids": images_have("i.sop_class_uid"),
        "transfer_syntax_uids": images_have("i.transfer_syntax_uid"),
        "calling_ae_titles": images_have("i.calling_ae_title"),
        "called_ae_titles": images_have("i.called_ae_title"),
        "sources": images_have("i.source"),
        "volumes": f"(SELECT count(DISTINCT o.stack) {volumes})",
        **grid_of("v", say),
        "warnings": f"(SELECT {say(DISTINCT, 'w.value')} {warned})",
        "days_since_received": f"{say(DAYS, ':now')} - {say(DAYS, 'se.last_received_at')}",
        "days_since_study": f"{say(DAYS, ':today')} - {say(DAYS, 'st.study_date')}",
    }


def _volumes(*, of_revision: bool, also: str = "") -> str:
    """Return FROM and WHERE of the volumes ``o`` of a series; `also`: further tables, which may use ``o``."""
    meant = "c.revision = :revision" if of_revision else "NOT c.superseded"
    return (
        f"FROM conversions c JOIN volumes o ON o.conversion_id = c.id{also} "
        f"WHERE c.series_id = se.id AND o.kind = 'volume' AND {meant}"
    )


def _largest(say: Words, *, of_revision: bool) -> str:
    """Return the JOIN of the volume with the most voxels."""
    *axes, times = (say(NUMBER, "o.shape", axis) for axis in range(4))
    return (
        f"LEFT JOIN volumes v ON v.id = (SELECT o.id {_volumes(of_revision=of_revision)} "
        f"ORDER BY {' * '.join(axes)} * coalesce({times}, 1) DESC NULLS LAST, o.stack, o.id LIMIT 1)"
    )


def _parsed(name: str) -> Callable[[Any], Any] | None:
    """Return the function that parses the text of a field; None: the index has the value itself."""
    field = FIELDS[name]
    if field.several:
        return json.loads
    return {"date": dt.date.fromisoformat, "moment": moment}.get(field.type)


@dataclass(frozen=True, slots=True)
class Described:
    """A series and its facts; `id` is that of its row."""

    id: int
    key: SeriesKey
    facts: Facts


class SeriesFacts(ViewRows):
    """What selectors compare, from the rows of patients, studies, series, instances and volumes."""

    def of_series(
        self, fields: Collection[str], study_instance_uid: str, series_instance_uid: str, revision: int | None = None
    ) -> Facts | None:
        """Return facts of one series, or None if it is not there.

        `fields`: names of `FIELDS`. `revision`: conversion whose volumes and failures count; None: the current one.
        """
        found = self._described(
            fields,
            "WHERE st.study_instance_uid = :study AND se.series_instance_uid = :series",
            study=study_instance_uid,
            series=series_instance_uid,
            revision=revision,
        )
        return next((one.facts for one in found), None)

    def of_study(self, fields: Collection[str], study_instance_uid: str) -> Iterator[Facts]:
        """Return facts of each series of a study."""
        found = self._described(fields, "WHERE st.study_instance_uid = :study", study=study_instance_uid)
        return (one.facts for one in found)

    def all(self, fields: Collection[str]) -> Iterator[Described]:
        """Yield facts of every series, newest first."""
        of_chunk = "ORDER BY se.id DESC LIMIT :limit"
        found = list(self._described(fields, of_chunk, limit=CHUNK_ROWS))
        while found:
            yield from found
            older = f"WHERE se.id < :before {of_chunk}"
            found = list(self._described(fields, older, before=found[-1].id, limit=CHUNK_ROWS))

    def selected(self, *selectors: Selector) -> Iterator[SeriesKey]:
        """Yield the series that all of the selectors select, newest first."""
        fields = frozenset[str]().union(*(selector.fields for selector in selectors))
        return (one.key for one in self.all(fields) if all(selector.matches(one.facts) for selector in selectors))

    def count_undecided(self, selector: Selector) -> int:
        """Count the series that a selector does not select, and may select when they are converted."""
        found = self._described(selector.fields | {"state"}, "WHERE se.state IN ('receiving', 'converting')")
        return sum(selector.may_match(one.facts) and not selector.matches(one.facts) for one in found)

    def studies_with(self, selector: Selector, study_instance_uids: Sequence[str]) -> set[str]:
        """Return those of some studies of which a series is selected."""
        in_list = f"WHERE st.study_instance_uid IN (SELECT value FROM {self._queries.say(EACH, ':studies')})"
        found = self._described(selector.fields, in_list, studies=json.dumps(study_instance_uids))
        return {one.key[0] for one in found if selector.matches(one.facts)}

    def of_rows(self, fields: Collection[str], ids: Iterable[int]) -> dict[int, Facts]:
        """Return facts of the series with these ids, by id."""
        looked_up = f"WHERE {self._queries.say.looked_up('se.id', ':ids')}"
        return {one.id: one.facts for one in self._described(fields, looked_up, ids=json.dumps(list(ids)))}

    def _described(
        self, fields: Collection[str], rest: str, *, revision: int | None = None, **values: Any
    ) -> Iterator[Described]:
        """Return facts of series; `rest`: their condition, order and limit, whose ``:names`` have `values`."""
        say, of_revision = self._queries.say, revision is not None
        known = columns(say, of_revision=of_revision)
        wanted = {name: _parsed(name) for name in sorted(fields)}
        selected = "".join(f", {known[name]} AS {name}" for name in wanted)
        largest = "" if _OF_LARGEST.isdisjoint(wanted) else _largest(say, of_revision=of_revision)
        query = (
            f"SELECT se.id AS id, st.study_instance_uid AS of_study, se.series_instance_uid AS of_series{selected} "
            "FROM series se JOIN studies st ON st.id = se.study_id JOIN patients p ON p.id = st.patient_id "
            f"{largest} {rest}"
        )
        now = dt.datetime.now(dt.UTC).replace(tzinfo=None)
        values |= {"revision": revision, "now": now.isoformat(" "), "today": now.date().isoformat()}
        for row in self._rows(query, **values):
            facts = {
                name: row[name] if parsed is None or row[name] is None else parsed(row[name])
                for name, parsed in wanted.items()
            }
            yield Described(row["id"], (row["of_study"], row["of_series"]), facts)
