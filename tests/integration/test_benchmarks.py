"""The benchmark of large indexes fills both engines with the rows that a node writes; mutants are tried again."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks.mutants import Outcome, Sites, record, tried_again
from benchmarks.scale import TABLES, Shape, fill, fill_in_postgresql, main
from node.index.rows.place import FILE_NAME
from tests.postgresql import start


@pytest.mark.slow
@pytest.mark.peer
def test_the_benchmark_of_large_indexes_ends_on_a_small_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.query.ROUNDS", 1)
    parts = "--instances", "400", "--only", "commands", "pages", "queries"
    monkeypatch.setattr("sys.argv", ["scale.py", str(tmp_path), *parts])
    main()


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


@pytest.mark.slow
def test_a_recorded_mutant_whose_quick_test_does_not_see_it_any_more_is_named(tmp_path: Path) -> None:
    code = "def total(one, other):\n    return one + other\ndef same(one):\n    return one + 1 == one + 1\n"
    tests = (
        "from node.sums import total\ndef test_of():\n    assert total(2, 1) == 3\ndef test_with():\n    total(2, 1)\n"
    )
    for name, text in {
        "node/sums.py": code,
        "node/__init__.py": "",
        "tests/test_sums.py": tests,
        "tests/pace.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "benchmarks").mkdir()
    by = "tests/test_sums.py::test_of", "tests/test_sums.py::test_with", "tests/test_sums.py::test_that_went"
    mutants = [*Sites("node/sums.py", code).found, *Sites("node/sums.py", code.replace("+", "-")).found]
    in_total = [mutant for mutant in mutants if mutant.function == "total"]
    in_two_places = next(mutant for mutant in mutants if mutant.before == "one + 1")
    seen = [*zip(in_total, by, strict=False), (in_two_places, by[0])]
    record(tmp_path, [Outcome(mutant, True, test, 1, 0.0) for mutant, test in seen])
    few, unseen = tried_again(tmp_path, 9, least=3)
    assert few.startswith("less than 3")
    assert unseen.endswith("not seen any more by tests/test_sums.py::test_with")
