"""The table of fields: documented, and with the values that the rest of the node has."""

import sqlite3
from contextlib import closing
from typing import get_args

from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateTable

from node.completeness import State
from node.extensions.bids.rules import VOLUME_FIELDS, volume_facts
from node.index.look.series import SeriesFacts
from node.index.rows.extension_tables import every_table
from node.index.rows.models.history import VolumeRow
from node.index.rows.models.levels import SERIES_STATES
from node.index.rows.view_rows import queries_of_file
from node.index.rows.views import views
from node.selector.fields import FIELDS
from node.volume.describe.scan_parameters import WEIGHTINGS
from node.volume.model import Geometry
from tests.field_tables import DOCS, with_table

NOT_IN_CATALOG = frozenset(
    {"patient_name", "patient_birth_date", "study_id", "referring_physician_name", "study_series", "labels"}
    | {"series_date", "laterality", "station_name", "certainty", "expected_instances", "missing_instances", "failures"}
    | {"frames", "sop_class_uids", "transfer_syntax_uids", "calling_ae_titles", "called_ae_titles", "sources"}
    | {"volumes", "last_received_at", "days_since_received", "days_since_study"}
)
"""Fields that are no columns of ``v_catalog``: they are of people, of the whole series, or in another view."""

OF_FILES = {"stack", "suffix", "patient", "affine_lps", "dtype", "format", "path", "bytes", "sha256", "created_at"}
"""Columns of ``v_catalog`` that say where a volume is, and which one."""


def test_the_document_has_the_current_table() -> None:
    document = (DOCS / "select.md").read_text(encoding="utf-8")
    assert with_table("select.md") == document, "run: python -m tests.field_tables"


def test_every_field_has_a_column_of_the_index() -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        _make_tables(connection)
        assert list(SeriesFacts(queries_of_file(connection)).all(FIELDS)) == []


def test_the_catalog_has_a_column_of_the_name_of_each_field() -> None:
    query = views(sqlite.dialect())["v_catalog"]
    with closing(sqlite3.connect(":memory:")) as connection:
        _make_tables(connection)
        connection.create_function("root_folder", 0, lambda: "")
        columns = {column[0] for column in connection.execute(query).description}
    assert set(FIELDS) - columns == NOT_IN_CATALOG
    assert columns - set(FIELDS) == OF_FILES


def _make_tables(connection: sqlite3.Connection) -> None:
    for table in every_table().values():
        connection.execute(str(CreateTable(table).compile(dialect=sqlite.dialect())))


def test_no_name_of_rules_says_something_else_in_a_selector() -> None:
    assert FIELDS.keys() & VOLUME_FIELDS.keys() == set()


def test_fields_of_sidecars_are_columns_of_volumes_by_the_same_names() -> None:
    stated = {name for name, field in FIELDS.items() if field.sidecar}
    assert stated | {"weighting", "contrast_agent"} <= set(VolumeRow.__table__.columns.keys())
    sidecar = {field.sidecar: 1.5 if field.type == "number" else "word" for field in FIELDS.values() if field.sidecar}
    facts = volume_facts("", [""], sidecar, 0)
    assert {name: facts[name] for name in stated} == {
        name: 1.5 * FIELDS[name].times if FIELDS[name].type == "number" else "word" for name in stated
    }


def test_choices_are_the_values_that_exist() -> None:
    assert FIELDS["state"].choices == SERIES_STATES
    assert FIELDS["verdict"].choices == get_args(State)
    assert set(FIELDS["weighting"].choices) == set(WEIGHTINGS.values())
    assert FIELDS["geometry"].choices == tuple(Geometry)
