"""Connections that show a caller the series of their projects only: the one place where that is decided.

A connection of a caller with a scope has temporary views of the names of the tables. Both engines look for a name among
what is temporary first, so every statement, written out or not, reads the views, and none can forget a condition. The
documented views are made again over them. A table without a rule here is empty for such a caller.

What the views hold back must not show in what they give, either: a study that is seen in part has no moment at which
the whole of it ended, and what the node does and knows beside its series (such as conflicts, messages and accounts) is
for those who have a role in the whole node.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, String, bindparam, text

from node.index.engine.backend import Place, backend_at, backend_of
from node.index.engine.scope import Scope, current_scope
from node.index.engine.views import views
from node.index.models import Base

_IS_MINE = "EXISTS (SELECT 1 FROM scope_projects mine WHERE mine.id = {project})"


def _is_seen(series: str) -> str:
    """Return the SQL of the condition that a series, by the expression of its id, is in a project of the caller."""
    mine = _IS_MINE.format(project="ps.project_id")
    return f"EXISTS (SELECT 1 FROM {{real}}.project_series ps WHERE ps.series_id = {series} AND {mine})"


def _is_seen_in_part(study: str) -> str:
    return f"EXISTS (SELECT 1 FROM {{real}}.series o WHERE o.study_id = {study} AND NOT {_is_seen('o.id')})"


_OF_CONVERSION = "EXISTS (SELECT 1 FROM conversions c WHERE c.id = t.conversion_id)"
_OF_STUDY_OR_SERIES = """EXISTS (
    SELECT 1 FROM studies st WHERE st.study_instance_uid = t.study_instance_uid AND (
        {of_study} OR EXISTS (
            SELECT 1 FROM series se
            WHERE se.study_id = st.id AND se.series_instance_uid = t.series_instance_uid)))"""
_OF_ACCOUNT = "EXISTS (SELECT 1 FROM scope_account a WHERE a.name = t.account)"

RULES: dict[str, str] = {
    "about": "t.\"key\" IN ('root', 'store', 'store_spooled', 'store_checksums', 'indexed')",
    "projects": _IS_MINE.format(project="t.id"),
    "project_series": _IS_MINE.format(project="t.project_id"),
    "project_members": _OF_ACCOUNT,
    "series": _is_seen("t.id"),
    "studies": f"EXISTS (SELECT 1 FROM {{real}}.series s WHERE s.study_id = t.id AND {_is_seen('s.id')})",
    # Of a patient that was merged, the studies that name it are seen as those of the other.
    "patients": "EXISTS (SELECT 1 FROM studies st WHERE st.patient_id = t.id) OR t.merged_into IS NOT NULL AND EXISTS ("
    "SELECT 1 FROM studies st WHERE st.patient_id = t.merged_into AND st.named_patient_id = t.id)",
    "images": _is_seen("t.series_id"),
    "image_documents": "EXISTS (SELECT 1 FROM images i WHERE i.id = t.image_id)",
    "series_documents": _is_seen("t.series_id"),
    "series_terms": _is_seen("t.series_id"),
    "series_references": _is_seen("t.series_id"),
    "conversions": _is_seen("t.series_id"),
    "revision_files": _OF_CONVERSION,
    "volumes": _OF_CONVERSION,
    "volume_sources": _OF_CONVERSION,
    "exclusions": _OF_CONVERSION,
    "failures": _is_seen("t.series_id"),
    "events": _OF_STUDY_OR_SERIES.format(of_study=f"t.series_instance_uid IS NULL AND NOT {_is_seen_in_part('st.id')}"),
    "labels": _OF_STUDY_OR_SERIES.format(of_study="t.series_instance_uid = ''"),
    "comments": _OF_STUDY_OR_SERIES.format(of_study="t.series_instance_uid = ''"),
    "kept_searches": _OF_ACCOUNT,
}
"""The condition on the rows, called ``t``, of each table that a caller sees a part of. ``{real}`` is the schema of the
tables; names without it are those of other views."""

EMPTY = frozenset(
    {
        "accounts", "added_peers", "audit_lines", "conflicts", "host_removals", "hosts", "keyed_requests", "leases",
        "limited_accounts", "lost_instances", "object_removals", "performed_series", "performed_steps",
        "project_contents", "protocols", "rejections", "results", "scheduled_steps", "senders", "sent_instances",
        "recovery_codes", "shares", "subscribers", "tokens", "tombstones", "trash", "web_sessions", "work", "workitems",
    }
)  # fmt: skip
"""Tables of which they see nothing."""

_UNTOLD = {("studies", name): _is_seen_in_part("t.id") for name in ("closed_at", "quiet_at")}
"""Conditions under which a column of a row is empty, because it tells of more than is seen."""


def _columns(table: str) -> str:
    return ", ".join(
        f'CASE WHEN NOT {hidden} THEN t."{name}" END AS "{name}"' if hidden is not None else f't."{name}"'
        for name in (column.name for column in Base.metadata.tables[table].columns)
        for hidden in (_UNTOLD.get((table, name)),)
    )


class Readers:
    """Connections for reading an index: of the whole index, or narrowed to the scope of who reads. Thread-safe.

    A caller without a scope reads the tables, and pays nothing for what others may not see.
    """

    def __init__(self, place: Place) -> None:
        self._place, self._lock = place, threading.Lock()
        self.whole: Engine = backend_at(place).open_engine(place, read_only=True)
        self._narrowed: Engine | None = None

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """Open a connection whose transaction, which is read-only, begins with its first statement."""
        scope = current_scope()
        if scope is None:
            with self.whole.connect() as connection:
                yield connection
            return
        with self._narrow_engine().connect() as connection:
            _enter(connection, scope, _narrow(connection))
            yield connection

    def dispose(self) -> None:
        """Close the connections that nobody uses."""
        self.whole.dispose()
        if self._narrowed is not None:
            self._narrowed.dispose()

    def _narrow_engine(self) -> Engine:
        with self._lock:
            if self._narrowed is None:
                self._narrowed = backend_at(self._place).open_engine(self._place, read_only=True)
            return self._narrowed


_SCHEMA = "schema of the tables"


def _narrow(connection: Connection) -> str:
    """Let a connection have the views, unless it has them since it was used before; return the schema of the tables."""
    if _SCHEMA not in connection.info:
        with connection.begin():
            schema = backend_of(connection).allow_temporary(connection)
            for statement in _narrowing(connection, schema):
                connection.exec_driver_sql(statement)
        connection.info[_SCHEMA] = schema
    return str(connection.info[_SCHEMA])


def _narrowing(connection: Connection, schema: str) -> Iterator[str]:
    yield "CREATE TEMP TABLE scope_projects (id INTEGER PRIMARY KEY)"
    yield "CREATE TEMP TABLE scope_account (name TEXT PRIMARY KEY)"
    others = (table for table in Base.metadata.tables if table not in RULES)
    for table, rule in [*RULES.items(), *((table, "1 = 0") for table in others)]:
        query = f"SELECT {_columns(table)} FROM {{real}}.{table} t WHERE {rule}"
        yield f"CREATE TEMP VIEW {table} AS {query.format(real=schema)}"
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
            "WHERE m.account IN :members AND m.role IN :roles AND (:only IS NULL OR p.name = :only)"
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
