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

SERIES = 300
KILLS = 2


def terms(root: Path) -> list[tuple[str, str]]:
    return [tuple(row.values()) for row in read_rows(root, "SELECT * FROM series_terms ORDER BY 1, 2, 3")]


def test_a_killed_reindex_goes_on_and_ends_with_the_answers_of_before(tmp_path: Path) -> None:
    root, config = tmp_path / "root", tmp_path / "voxelnode.toml"
    config.write_text(
        f'[storage]\nroot = "{root}"\nreserve_bytes = 0\n[query]\nindexed = ["InstitutionName", "Exposure"]\n',
        encoding="utf-8",
    )
    for number in range(SERIES):
        ds = make.instance(series_uid=f"1.2.{number + 1}", InstitutionName="General", Exposure=str(number))
        (tmp_path / "scans").mkdir(exist_ok=True)
        ds.save_as(tmp_path / "scans" / f"{number}.dcm", enforce_file_format=True)
    assert run("import", str(tmp_path / "scans"), "--config", config).returncode == 0
    assert run("db", "reindex", "--config", config).returncode == 0
    before = terms(root)
    assert len(before) >= 2 * SERIES

    write_rows(root, "DELETE FROM series_terms")
    write_rows(root, "UPDATE series_documents SET terms_number = 0")
    killed = 0
    for _ in range(KILLS):
        there = len(terms(root))
        with (tmp_path / "log").open("w") as log:
            process = Process(["db", "reindex", "--config", str(config)], {}, log)
            until(lambda there=there: len(terms(root)) > there)
            process.kill()
            killed += process.wait(30) == -signal.SIGKILL
            process.stdout.close()
    assert killed, "every reindex had ended before it was killed"
    assert run("db", "reindex", "--config", config).returncode == 0
    assert terms(root) == before
