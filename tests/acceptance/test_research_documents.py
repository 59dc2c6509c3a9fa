"""The questions of docs/data.md, asked of a node's root."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from pydicom import dcmwrite

from tests import make
from tests.acceptance.served import Served
from tests.documents.datasette import questions
from tests.preloaded import run


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with two patients: a T1 twice, a time series, a CT; and a series of which a slice is missing."""
    folder = tmp_path_factory.mktemp("sent")
    first, second = ({"PatientID": name, "PatientName": f"{name}^Secret"} for name in ("P1", "P2"))
    study = {"study_uid": make.generate_uid()} | first
    wholes = [
        make.mr_series(5, SeriesDescription="t1_mprage_sag", SeriesNumber=2, **study),
        make.mr_series(5, SeriesDescription="T1w again", SeriesNumber=3, **study),
        make.time_series(4, 3, SeriesDescription="rest fMRI", SeriesNumber=4, **study),
        make.ct_series(5, SeriesDescription="mprage is no CT", SeriesNumber=5, **second),
        make.mr_series(5, SeriesDescription="AX FLAIR", SeriesNumber=1, **second),
        make.mr_series(6, SeriesDescription="t2w", SeriesNumber=9, **second),
    ]
    del wholes[-1][3]
    for number, ds in enumerate(ds for series in wholes for ds in series):
        dcmwrite(folder / f"{number}.dcm", ds)
    root = tmp_path_factory.mktemp("node") / "root"
    run("import", folder, "--root", root, check=True)
    with Served(root) as node:
        node.wait_until_settled()
        node.terminate()
    return root


@pytest.mark.slow
@pytest.mark.sqlite("the documents open the file")
def test_the_ten_questions_are_answered_on_a_root_with_data(root: Path) -> None:
    answers = {}
    with closing(sqlite3.connect(f"file:{root / 'index.sqlite'}?mode=ro", uri=True)) as connection:
        for title, query in questions().items():
            answers[title] = connection.execute(query).fetchall()
    assert len(answers["What came since the last time, by the `id` of the last event that you have seen"]) == 6
    [(*_, counts)] = [row[:3] for row in answers["Volumes and gigabytes by year and modality"] if row[1] == "MR"]
    assert counts == 5
