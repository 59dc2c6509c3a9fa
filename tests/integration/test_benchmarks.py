"""The benchmarks of queries start, from an index in which no row is left of the instance that made it."""

from pathlib import Path

import pytest

from benchmarks.query import emptied
from node.index.engine.place import FILE_NAME


@pytest.mark.slow
def test_an_emptied_index_has_no_rows_but_what_it_knows_of_itself(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with emptied(root / FILE_NAME) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        counts = {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in tables}
    filled = {name for name, count in counts.items() if count and not name.startswith(("study_grams_", "sqlite_"))}
    assert filled == {"about", "alembic_version"}
