"""An index in which every table has rows: of the archive as many as wanted, and few of what is owed or kept."""

import re
import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy import CheckConstraint, Column, Table
from sqlalchemy.dialects import sqlite

from node.index.rows.extension_tables import every_table

ARCHIVE = {
    "patients", "studies", "series", "images", "series_documents", "image_documents", "statements", "conversions",
    "volumes", "volume_sources", "revision_files", "exclusions", "failures", "events",
}  # fmt: skip
FEW = 20
KINDS = {
    "DATE": "'2026-01-02'", "DATETIME": "strftime('%Y-%m-%d %H:%M:%f000', '2026-01-02', i || ' seconds')",
    "BOOLEAN": "0", "JSON": "'{}'", "BLOB": "x'00'", **dict.fromkeys(("INTEGER", "BIGINT", "FLOAT"), "i"),
}  # fmt: skip
USUAL = {
    "accounts.role": "'read'", "failures.reason": "'not-an-image'", "images.source": "'dicom'",
    "series.state": "'converted'", "series.verdict": "'complete'", "series.modality": "'CT'",
    "series.verdict_rule": "CASE i % 2 WHEN 0 THEN 'headers' ELSE 'files' END",
    "series.series_description": "'T' || i % 9", "studies.study_description": "'T' || i % 9",
    "studies.study_date": "date('1950-01-01', i || ' days')", "studies.uncounted": "0",
    "subscribers.kind": "CASE i % 2 WHEN 0 THEN 'hook' ELSE 'route' END", "work.state": "'waiting'",
    "subscribers.wanted_kinds": "' study-quiet '", "volumes.format": "'nifti'", "volumes.kind": "'volume'",
    "work.kind": "CASE i % 3 WHEN 0 THEN 'hook' WHEN 1 THEN 'route' ELSE 'job' END",
    "events.kind": "'series-converted'", "hosts.roles": "'{}'", "hosts.problems": "'{}'", "hosts.not_ready": "'{}'",
    **dict.fromkeys(("series_documents.document", "series_documents.varying", "image_documents.document"), "'{}'"),
    **dict.fromkeys(
        ("work.outcome", "series.claim", "series.due_at", "series.open_since", "images.spool_host", "images.place",
         "revision_files.spool_host", "revision_files.place", "patients.merged_into", "conflicts.decision",
         "conversions.files_removed_at", "studies.corrected_patient_id", "studies.closed_at"),
        "NULL",
    ),
}  # fmt: skip
"""What most rows have, where another value would change what is read."""


def filled(path: Path, number: int) -> None:
    """Add rows to each table of an index: 1 to `number` of the archive, and `FEW` others from the middle of them on.

    A text and a UID of row ``i`` are ``1.2.i``: what names a row names it in every table.
    """
    with closing(sqlite3.connect(path)) as connection, connection:
        for name, table in every_table().items():
            first, last = (1, number) if name in ARCHIVE else (number // 2, number // 2 + FEW)
            values = {f'"{column.name}"': _value(table, column) for column in table.columns}
            connection.execute(
                f"WITH RECURSIVE n(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {last}) "
                f"INSERT INTO {name} ({', '.join(values)}) SELECT {', '.join(values.values())} FROM n"
            )


def _value(table: Table, column: Column) -> str:
    kind = str(column.type.compile(sqlite.dialect()))
    checks = (str(check.sqltext) for check in table.constraints if isinstance(check, CheckConstraint))
    allowed = re.search(rf"\b{column.name} IN \(('[^']*')", " ".join(checks))
    usual = allowed[1] if allowed else KINDS.get(kind, "'1.2.' || i")
    return USUAL.get(f"{table.name}.{column.name}", usual)
