"""Connections that show a caller the series of their projects only: the one place where that is decided.

A connection of a caller with a scope has temporary views of the names of the tables. Both engines look for a name among
what is temporary first, so every statement, written out or not, reads the views, and none can forget a condition. The
documented views are made again over them. A table without a rule here is empty for such a caller.

There are two kinds of views. In the usual one, the series of a caller, with their studies and patients, were listed
when the connection was opened, and rows are compared with these lists. Who sees more than `MAX_LISTED` series would
wait for them, so each series is looked up in its projects instead.

What the views hold back must not show in what they give, either: a study that is seen in part has no moment at which
the whole of it ended, and what the node does and knows beside its series (such as conflicts, messages and accounts) is
for those who have a role in the whole node.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, String, bindparam, text

from node.index.rows.backend import Place, backend_at, backend_of
from node.index.rows.extension_tables import (
    OF_STUDY_OR_SERIES,
    SEEN_WITH_STUDY_OR_SERIES,
    every_table,
    extension_tables,
)
from node.index.rows.scope import Scope, current_scope
from node.index.rows.views import views

MAX_LISTED = 5000
"""Series of a scope that are listed; to list these takes 10 ms."""

_IS_MINE = "EXISTS (SELECT 1 FROM scope_projects mine WHERE mine.id = {project})"


def _is_seen(series: str, *, is_listed: bool) -> str:
    """Return the SQL of the condition that a series, by the expression of its id, is in a project of the caller."""
    if is_listed:
        return f"{series} IN (SELECT id FROM scope_series)"
    mine = _IS_MINE.format(project="ps.project_id")
    return f"EXISTS (SELECT 1 FROM {{real}}.project_series ps WHERE ps.series_id = {series} AND {mine})"


def _is_study_seen(*, is_listed: bool) -> str:
    if is_listed:
        # Not by row id: SQLite would look each one of the list up for each patient, in the index of their studies.
        return "t.study_instance_uid IN (SELECT uid FROM scope_studies)"
    seen = _is_seen("s.id", is_listed=False)
    return f"EXISTS (SELECT 1 FROM {{real}}.series s WHERE s.study_id = t.id AND {seen})"


def _is_seen_in_part(study: str, *, is_listed: bool) -> str:
    seen = _is_seen("o.id", is_listed=is_listed)
    return f"EXISTS (SELECT 1 FROM {{real}}.series o WHERE o.study_id = {study} AND NOT ({seen}))"


_OF_CONVERSION = "EXISTS (SELECT 1 FROM conversions c WHERE c.id = t.conversion_id)"
# Of a patient that was merged, the studies that name it are seen as those of the other.
_OF_PATIENT = """EXISTS (SELECT 1 FROM studies st WHERE st.patient_id = t.id) OR t.merged_into IS NOT NULL AND EXISTS (
    SELECT 1 FROM studies st WHERE st.patient_id = t.merged_into AND st.named_patient_id = t.id)"""
_OF_ACCOUNT = "EXISTS (SELECT 1 FROM scope_account a WHERE a.name = t.account)"


def _rules(*, is_listed: bool) -> dict[str, str]:
    is_seen, of_series = (_is_seen(series, is_listed=is_listed) for series in ("t.id", "t.series_id"))
    in_part = _is_seen_in_part("st.id", is_listed=is_listed)
    return {
        "about": "t.\"key\" IN ('root', 'store', 'store_spooled', 'store_checksums', 'indexed')",
        "projects": _IS_MINE.format(project="t.id"),
        "project_series": _IS_MINE.format(project="t.project_id"),
        "project_members": _OF_ACCOUNT,
        "series": is_seen,
        "studies": _is_study_seen(is_listed=is_listed),
        "patients": "t.id IN (SELECT id FROM scope_patients)" if is_listed else _OF_PATIENT,
        "images": of_series,
        "image_documents": "EXISTS (SELECT 1 FROM images i WHERE i.id = t.image_id)",
        "series_documents": of_series,
        "series_references": of_series,
        "conversions": of_series,
        "revision_files": _OF_CONVERSION,
        "volumes": _OF_CONVERSION,
        "volume_sources": _OF_CONVERSION,
        "exclusions": _OF_CONVERSION,
        "failures": of_series,
        "events": OF_STUDY_OR_SERIES.format(of_study=f"t.series_instance_uid IS NULL AND NOT {in_part}"),
        "labels": SEEN_WITH_STUDY_OR_SERIES,
        "work": "t.kind = 'download' AND EXISTS (SELECT 1 FROM scope_account a WHERE a.name = t.name)",
    }


RULES = {is_listed: _rules(is_listed=is_listed) for is_listed in (True, False)}
"""The condition on the rows, called ``t``, of each table that a caller sees a part of, by the kind of the views.
``{real}`` is the schema of the tables; names without it are those of other views. Extensions have rules of their own
tables (`IndexTables.seen`)."""

_IN_PART = frozenset({("studies", "closed_at"), ("studies", "quiet_at")})
"""Columns that are empty in the row of a study that is seen in part, because they tell of more than is seen."""


def _columns(table: str, *, is_listed: bool) -> str:
    hidden = _is_seen_in_part("t.id", is_listed=is_listed)
    return ", ".join(
        f'CASE WHEN NOT {hidden} THEN t."{name}" END AS "{name}"' if (table, name) in _IN_PART else f't."{name}"'
        for name in (column.name for column in every_table()[table].columns)
    )


class Readers:
    """Connections for reading an index: of the whole index, or narrowed to the scope of who reads. Thread-safe.

    A caller without a scope reads the tables, and pays nothing for what others may not see.
    """

    def __init__(self, place: Place) -> None:
        self._place, self._lock = place, threading.Lock()
        self.whole: Engine = backend_at(place).open_engine(place, read_only=True)
        self._narrowed: dict[bool, Engine] = {}

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """Open a connection whose transaction, which is read-only, begins with its first statement."""
        scope = current_scope()
        if scope is None:
            with self.whole.connect() as connection:
                yield connection
            return
        for is_listed in (True, False):
            with self._narrow_engine(is_listed).connect() as connection:
                schema = _narrow(connection, is_listed=is_listed)
                _enter(connection, scope, schema)
                if not is_listed or _is_whole_list(connection, schema):
                    yield connection
                    return

    def dispose(self) -> None:
        """Close the connections that nobody uses."""
        self.whole.dispose()
        for engine in self._narrowed.values():
            engine.dispose()

    def _narrow_engine(self, is_listed: bool) -> Engine:
        with self._lock:
            if is_listed not in self._narrowed:
                self._narrowed[is_listed] = backend_at(self._place).open_engine(self._place, read_only=True)
            return self._narrowed[is_listed]


_SCHEMA = "schema of the tables"


def _narrow(connection: Connection, *, is_listed: bool) -> str:
    """Let a connection have the views, unless it has them since it was used before; return the schema of the tables."""
    if _SCHEMA not in connection.info:
        with connection.begin():
            schema = backend_of(connection).allow_temporary(connection)
            for statement in _narrowing(connection, schema, is_listed=is_listed):
                connection.exec_driver_sql(statement)
        connection.info[_SCHEMA] = schema
    return str(connection.info[_SCHEMA])


def _narrowing(connection: Connection, schema: str, *, is_listed: bool) -> Iterator[str]:
    for of in ("projects", "series", "patients"):
        yield f"CREATE TEMP TABLE scope_{of} (id INTEGER PRIMARY KEY)"
    yield "CREATE TEMP TABLE scope_studies (id INTEGER PRIMARY KEY, uid TEXT UNIQUE)"
    yield "CREATE TEMP TABLE scope_account (name TEXT PRIMARY KEY)"
    rules = {table: rule.format(real=schema) for table, rule in RULES[is_listed].items()}
    for own in extension_tables().values():
        rules |= own.seen
    others = (table for table in every_table() if table not in rules)
    for table, rule in [*rules.items(), *((table, "1 = 0") for table in others)]:
        columns = _columns(table, is_listed=is_listed).format(real=schema)
        yield f"CREATE TEMP VIEW {table} AS SELECT {columns} FROM {schema}.{table} t WHERE {rule}"
    for name, query in views(connection.dialect).items():
        yield f"CREATE TEMP VIEW {name} AS {query}"


def _enter(connection: Connection, scope: Scope, schema: str) -> None:
    """Note whose projects the views show: those of the snapshot that the transaction sees."""
    connection.exec_driver_sql("DELETE FROM scope_projects")
    connection.exec_driver_sql("DELETE FROM scope_account")
    if scope.account:
        of_members = text(
            f"INSERT INTO scope_projects SELECT DISTINCT m.project_id FROM {schema}.project_members m "
            f"JOIN {schema}.projects p ON p.id = m.project_id "
            "WHERE m.account IN :members AND m.role IN :roles AND (p.name = :only OR :only IS NULL)"
        ).bindparams(
            *(bindparam(name, expanding=True) for name in ("members", "roles")), bindparam("only", type_=String)
        )
        values = {"members": list(scope.members), "roles": list(scope.roles), "only": scope.only}
        connection.execute(of_members, values)
        names = [{"name": name} for name in scope.members]
        connection.execute(text("INSERT INTO scope_account VALUES (:name)"), names)
    if scope.projects:
        of_names = text(f"INSERT INTO scope_projects SELECT id FROM {schema}.projects WHERE name IN :names")
        connection.execute(of_names.bindparams(bindparam("names", expanding=True)), {"names": list(scope.projects)})


def _is_whole_list(connection: Connection, schema: str) -> bool:
    """List the series of the projects, their studies and patients; return False if there are too many."""
    for table in ("scope_series", "scope_studies", "scope_patients"):
        connection.exec_driver_sql(f"DELETE FROM {table}")
    connection.exec_driver_sql(
        f"INSERT INTO scope_series SELECT DISTINCT series_id FROM {schema}.project_series "
        f"WHERE project_id IN (SELECT id FROM scope_projects) LIMIT {MAX_LISTED + 1}"
    )
    if connection.exec_driver_sql("SELECT count(*) FROM scope_series").scalar_one() > MAX_LISTED:
        return False
    connection.exec_driver_sql(
        f"INSERT INTO scope_studies SELECT id, study_instance_uid FROM {schema}.studies WHERE id IN "
        f"(SELECT study_id FROM {schema}.series WHERE id IN (SELECT id FROM scope_series))"
    )
    of_studies = f"{schema}.studies st WHERE st.id IN (SELECT id FROM scope_studies)"
    merged = f"SELECT 1 FROM {schema}.patients p WHERE p.id = st.named_patient_id AND p.merged_into = st.patient_id"
    connection.exec_driver_sql(
        f"INSERT INTO scope_patients SELECT st.patient_id FROM {of_studies} "
        f"UNION SELECT st.named_patient_id FROM {of_studies} AND EXISTS ({merged})"
    )
    return True
