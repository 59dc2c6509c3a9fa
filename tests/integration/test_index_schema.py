"""The database file: created, upgraded, checked; its views hold what they promise."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from node.index.database import reading
from node.index.engine import FILE_NAME, IndexUnusable, check, open_engine, upgrade
from node.index.models import REVISION
from tests.integration.conftest import downgrade

pytestmark = pytest.mark.sqlite

PROMISED = {
    "v_patients": {"patient_id", "patient_name"},
    "v_studies": {"study_instance_uid", "patient_id", "patient_name", "study_date", "accession_number"},
    "v_series": {
        "series_instance_uid", "study_instance_uid", "modality", "series_number", "series_description", "state",
        "verdict", "verdict_reason", "expected_instances", "instances", "revision", "last_received_at", "due_at",
        "error",
    },
    "v_images": {
        "sop_instance_uid", "series_instance_uid", "sop_class_uid", "transfer_syntax_uid", "instance_number",
        "number_of_frames", "bytes", "sha256", "path", "source", "calling_ae_title", "received_at",
    },
    "v_volumes": {
        "series_instance_uid", "revision", "superseded", "stack", "kind", "format", "path", "shape", "spacing_mm",
        "dtype", "instances", "warnings", "bytes", "sha256", "created_at",
    },
    "v_failures": {"series_instance_uid", "revision", "stack", "reason", "detail", "failed_at"},
    "v_sources": {"series_instance_uid", "revision", "stack", "sop_instance_uid", "sha256"},
    "v_exclusions": {"series_instance_uid", "revision", "sop_instance_uid", "reason", "detail"},
    "v_catalog": {"path", "modality", "weighting", "orientation", "echo_time_ms", "slice_thickness_mm", "verdict"},
    "v_conflicts": {"kind", "sop_instance_uid", "detail", "path"},
}  # fmt: skip


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / FILE_NAME
    upgrade(path)
    return path


@pytest.mark.parametrize("view", PROMISED)
def test_a_view_has_the_columns_that_it_promises(database: Path, view: str) -> None:
    with sqlite3.connect(database) as connection:
        names = {column[0] for column in connection.execute(f"SELECT * FROM {view}").description}
    connection.close()
    assert names >= PROMISED[view]


def test_upgrading_twice_changes_nothing(database: Path) -> None:
    before, after = upgrade(database)
    assert before == after
    assert check(database) == []


def test_the_last_migration_leads_to_the_revision_of_the_models(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(REVISION,)]


def test_a_database_of_a_newer_version_is_refused(database: Path) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'from the future'")
    connection.close()
    with pytest.raises(IndexUnusable, match="install the newer one"):
        upgrade(database)


def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(IndexUnusable, match="no usable database"):
        upgrade(path)
    assert path.read_bytes().startswith(b"not a database")


def test_a_missing_table_is_found_by_the_check(database: Path) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute("DROP TABLE exclusions")
    connection.close()
    assert any("exclusions" in problem for problem in check(database))


def test_foreign_keys_are_enforced(database: Path) -> None:
    engine = open_engine(database)
    with engine.connect() as connection, connection.begin(), pytest.raises(IntegrityError):
        connection.execute(text("INSERT INTO studies (patient_id, study_instance_uid) VALUES (99, '1.2')"))
    engine.dispose()


def test_reading_where_there_is_no_index_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(IndexUnusable, match="db upgrade"), reading(tmp_path):
        pass


def test_instances_of_an_older_schema_keep_the_way_by_which_they_came(database: Path) -> None:
    downgrade(database, "0006")
    with sqlite3.connect(database) as connection:
        connection.execute(
            "INSERT INTO images (series_id, sop_instance_uid, sop_class_uid, transfer_syntax_uid, bytes, sha256, "
            'data_set_offset, "key", door, received_at) '
            "VALUES (1, '1.2.3', '1.2', '1.2', 1, '', 0, 'objects/00000000/a.dcm', 'stow', '2026-01-01 12:00:00')"
        )
    connection.close()
    assert upgrade(database) == ("0006", REVISION)
    with sqlite3.connect(database) as connection:
        assert connection.execute("SELECT source FROM images").fetchall() == [("stow",)]
        assert "source" in {column[0] for column in connection.execute("SELECT * FROM v_images").description}
    connection.close()
