"""The grams of studies in PostgreSQL; see `node.index.engine.grams`."""

from __future__ import annotations

from sqlalchemy import Connection

from node.index.engine.grams import EVERY, NAME, OF_PATIENT, OF_STUDY, SIZE, text_of

_FUNCTION = """
CREATE OR REPLACE FUNCTION {name}_of_{row}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO {name} SELECT s.id, array_to_tsvector(array_append((
        SELECT array_agg(DISTINCT encode(convert_to(substr(t, i, {size}), 'UTF8'), 'hex'))
        FROM lower(({text}) COLLATE "C") t, generate_series(1, length(t)) i), '{every}'))
    FROM studies s JOIN patients p ON p.id = s.patient_id WHERE {row}.id = NEW.id
    ON CONFLICT (rowid) DO UPDATE SET grams = excluded.grams;
    RETURN NULL;
END $$
"""


def make_grams(connection: Connection) -> None:
    """See `node.index.engine.backend.Backend`."""
    connection.exec_driver_sql(
        f"CREATE TABLE {NAME} "
        "(rowid BIGINT PRIMARY KEY REFERENCES studies (id) ON DELETE CASCADE, grams TSVECTOR NOT NULL)"
    )
    connection.exec_driver_sql(f"CREATE INDEX ix_{NAME}_grams ON {NAME} USING gin (grams)")
    for row, table, changed in (("s", "studies", OF_STUDY), ("p", "patients", OF_PATIENT)):
        function = _FUNCTION.format(name=NAME, row=row, text=text_of("p", "s"), every=EVERY, size=SIZE)
        connection.exec_driver_sql(function)
        event = f"UPDATE OF {', '.join(changed)}" if row == "p" else f"INSERT OR UPDATE OF {', '.join(changed)}"
        connection.exec_driver_sql(
            f"CREATE TRIGGER {NAME} AFTER {event} ON {table} FOR EACH ROW EXECUTE FUNCTION {NAME}_of_{row}()"
        )


def drop_grams(connection: Connection) -> None:
    """See `node.index.engine.backend.Backend`."""
    for row in "sp":
        connection.exec_driver_sql(f"DROP FUNCTION {NAME}_of_{row}() CASCADE")  # and its trigger
    connection.exec_driver_sql(f"DROP TABLE {NAME}")
