"""The benchmark of large indexes fills both engines with the rows that a node writes."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks.scale import TABLES, Shape, fill, fill_in_postgresql
from node.index.engine.place import FILE_NAME
from tests.postgresql import start


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("is_single", [False, True])
def test_an_index_is_filled_with_studies_as_the_node_has_received_one(tmp_path: Path, *, is_single: bool) -> None:
    shape = Shape(400, is_single)
    fill(path := tmp_path / "sqlite" / FILE_NAME, shape)  # refuses copies that have other columns than a later study
    # Each start adds events.
    with closing(sqlite3.connect(path)) as connection:
        counts = {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in TABLES[:-1]}
    assert counts["studies"] == shape.studies + 1, "and the later one"

    with start() as server:
        fill_in_postgresql(tmp_path / "postgresql" / FILE_NAME, shape, server)
        for name, count in counts.items():
            [[copied]] = server.run(f"SELECT count(*) FROM {name}", "benchmark")
            assert copied == count * shape.studies // counts["studies"], name
