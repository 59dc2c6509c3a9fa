"""The database: created, upgraded, checked; its views hold what they promise."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from node.index.database.index import reading
from node.index.engine.backend import Place, ServerPlace
from node.index.engine.place import FILE_NAME, IndexUnusable, check, open_engine, upgrade
from node.index.models import REVISION
from tests.integration.conftest import downgrade
from tests.made_once import IN_POSTGRESQL
from tests.postgresql import shared

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
def database(tmp_path: Path) -> Place:
    """A new index, made by all migrations."""
    place: Place = tmp_path / FILE_NAME
    if IN_POSTGRESQL:
        place = ServerPlace(shared().create(f"schema_{uuid4().hex}"), tmp_path)
    upgrade(place)
    return place


def run(place: Place, *statements: str) -> Sequence[str]:
    """Commit statements; return the names of the columns of the last one."""
    engine = open_engine(place)
    try:
        with engine.begin() as connection:
            *_, last = [connection.execute(text(statement)) for statement in statements]
            return list(last.keys()) if last.returns_rows else []
    finally:
        engine.dispose()


@pytest.mark.slow
@pytest.mark.parametrize("view", PROMISED)
def test_a_view_has_the_columns_that_it_promises(database: Place, view: str) -> None:
    assert set(run(database, f"SELECT * FROM {view}")) >= PROMISED[view]


@pytest.mark.slow
def test_upgrading_twice_changes_nothing(database: Place) -> None:
    assert upgrade(database) == (REVISION, REVISION), "the last migration leads to the revision of the models"
    assert check(database) == []


@pytest.mark.slow
def test_a_database_of_a_newer_version_is_refused(database: Place) -> None:
    run(
        database,
        "UPDATE alembic_version SET version_num = 'from the future'",
        "UPDATE about SET value = 'from the future' WHERE key = 'oldest_schema'",
    )
    with pytest.raises(IndexUnusable, match="install the newer one"):
        upgrade(database)


@pytest.mark.sqlite("the file")
def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(IndexUnusable, match="no usable database"):
        upgrade(path)
    assert path.read_bytes().startswith(b"not a database")


@pytest.mark.slow
def test_a_missing_table_is_found_by_the_check(database: Place) -> None:
    run(database, "DROP VIEW v_exclusions", "DROP TABLE exclusions")
    assert any("exclusions" in problem for problem in check(database))


@pytest.mark.slow
def test_foreign_keys_are_enforced(database: Place) -> None:
    with pytest.raises(IntegrityError):
        run(database, "INSERT INTO studies (patient_id, study_instance_uid) VALUES (99, '1.2')")


def test_reading_where_there_is_no_index_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(IndexUnusable, match="db upgrade"), reading(tmp_path):
        pass


@pytest.mark.slow
@pytest.mark.sqlite("no index of a server is older than revision 0023")
def test_instances_of_an_older_schema_keep_the_way_by_which_they_came(tmp_path: Path) -> None:
    database = tmp_path / FILE_NAME
    upgrade(database)
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
