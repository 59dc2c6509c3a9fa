"""``voxelnode db reindex``, killed between its transactions: the next one goes on, and answers are those of before."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests import make
from tests.preloaded import Process, run
from tests.rows import read_rows, write_rows
from tests.web.conftest import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

INSTANCES = 300
KILLS = 2


def documents(root: Path) -> dict[str, list[tuple[str, str]]]:
    """All documents and terms, by table."""
    return {
        "image_documents": [tuple(row.values()) for row in read_rows(root, "SELECT * FROM image_documents ORDER BY 1")],
        "series_terms": [tuple(row.values()) for row in read_rows(root, "SELECT * FROM series_terms ORDER BY 1, 2, 3")],
    }


def count(root: Path) -> int:
    [row] = read_rows(root, "SELECT count(*) AS n FROM image_documents")
    return int(row["n"])


def test_a_killed_reindex_goes_on_and_ends_with_the_answers_of_before(tmp_path: Path) -> None:
    root, config = tmp_path / "root", tmp_path / "voxelnode.toml"
    config.write_text(
        f'[storage]\nroot = "{root}"\nreserve_bytes = 0\n[query]\nindexed = ["InstitutionName", "Exposure"]\n',
        encoding="utf-8",
    )
    for number, ds in enumerate(make.ct_series(INSTANCES, rows=1, columns=1)):
        ds.InstitutionName, ds.Exposure = "General", number
        (tmp_path / "scans").mkdir(exist_ok=True)
        ds.save_as(tmp_path / "scans" / f"{number}.dcm", enforce_file_format=True)
    assert run("import", str(tmp_path / "scans"), "--config", config).returncode == 0
    assert run("db", "reindex", "--config", config).returncode == 0
    before = documents(root)
    assert len(before["image_documents"]) == INSTANCES
    assert before["series_terms"]

    for table in ("image_documents", "series_documents", "series_terms"):
        write_rows(root, f"DELETE FROM {table}")
    killed = 0
    for _ in range(KILLS):
        there = count(root)
        with (tmp_path / "log").open("w") as log:
            process = Process(["db", "reindex", "--config", str(config)], {}, log)
            until(lambda there=there: count(root) > there)
            process.kill()
            killed += process.wait(30) == -signal.SIGKILL
            process.stdout.close()
    assert killed, "every reindex had ended before it was killed"
    assert run("db", "reindex", "--config", config).returncode == 0
    assert documents(root) == before
