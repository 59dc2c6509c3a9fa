"""The facts of series that selectors compare: one query for any number of series, with only the fields it needs."""

import datetime as dt
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from node.index.rows.converted import SeriesKey
from node.index.rows.view_rows import (
    DAYS,
    DISTINCT,
    EACH,
    NUMBER,
    ViewRows,
    Words,
    certainty_of,
    grid_of,
    moment,
    years_of,
)
from node.selector import Facts, Selector
from node.selector.fields import FIELDS

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
