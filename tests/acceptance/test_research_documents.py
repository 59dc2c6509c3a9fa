"""The questions of docs/data.md, asked of a node's root."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from pydicom import dcmwrite

from tests import make
from tests.acceptance.served import Served
from tests.documents.datasette import questions
from tests.preloaded import run


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with two patients: what each question looks for, and beside it something like that."""
    folder = tmp_path_factory.mktemp("sent")
    first, second = ({"PatientID": name, "PatientName": f"{name}^Secret"} for name in ("P1", "P2"))
    fine: dict[str, Any] = {"pixel_spacing": (1.0, 1.0), "spacing": 1.0}
    spin_echo, inversion = {"ScanningSequence": "SE"}, {"ScanningSequence": r"SE\IR", "InversionTime": "2500"}
    t1 = {**spin_echo, "RepetitionTime": "500", "EchoTime": "10"}
    flair = {**inversion, "RepetitionTime": "9000", "EchoTime": "100"}
    epi = {"ScanningSequence": r"EP\GR", "RepetitionTime": "2000", "EchoTime": "30", "FlipAngle": "77"}
    head = {"study_uid": make.generate_uid(), "StudyDate": "20250115"} | first
    chest = {"BodyPartExamined": "CHEST", "ConvolutionKernel": "B20f", "spacing": 1.5} | second
    wholes = [
        make.mr_series(5, SeriesDescription="t1_mprage_sag", SeriesNumber=2, **fine, **t1, **head),
        make.mr_series(5, SeriesDescription="thick T1", SeriesNumber=3, **t1, **head),
        make.mr_series(5, SeriesDescription="AX FLAIR", SeriesNumber=4, **flair, **head),
        make.time_series(4, 3, SeriesDescription="rest fMRI", SeriesNumber=5, **epi, **head),
        make.mr_series(5, SeriesDescription="old T1", SeriesNumber=1, StudyDate="20240115", **fine, **t1, **second),
        make.ct_series(5, SeriesDescription="chest", SeriesNumber=5, StudyDate="20250101", **chest),
        make.ct_series(5, SeriesDescription="later", SeriesNumber=9, StudyDate="20250702", **second),
        make.mr_series(6, SeriesDescription="t2w", SeriesNumber=9, StudyDate="20250630", **second),
        make.ct_series(1, SeriesDescription="broken", SeriesNumber=7, StudyDate="20250702", **second),
    ]
    del wholes[-2][3]
    del wholes[-1][0].Rows
    for number, ds in enumerate(ds for series in wholes for ds in series):
        dcmwrite(folder / f"{number}.dcm", ds)
    root = tmp_path_factory.mktemp("node") / "root"
    run("import", folder, "--root", root, check=True)
    with Served(root) as node:
        node.wait_until_idle()
        node.terminate()
    return root


SMALLER = {"slices >= 100": "slices >= 5", "times >= 200": "times >= 4"}
"""What a test asks for instead."""

ANSWERS: dict[str, list[tuple[Any, ...]]] = {
    "All complete T1 of 2025 with slices of 1 mm or less": [("2025-01-15", "P1", "t1_mprage_sag", 1.0, None)],
    "Thin axial CT of the chest with a soft kernel, with and without contrast agent": [(None, "B20f", 1, 1.5)],
    "Functional series with at least 200 volumes and a repetition time of 2 s or less": [("P1", "2025-01-15", 4)],
    "Studies that have both an isotropic T1 and a FLAIR": [()],
    "Patients with two CT at least half a year apart, with both dates": [(ANY, "P2", "2025-01-01", "2025-07-02")],
    "Protocols that differ between scanners: one description, several echo times": [
        ("AX FLAIR", None, 100.0, 9000.0, 1),
        ("old T1", None, 10.0, 500.0, 1),
        ("rest fMRI", None, 30.0, 2000.0, 1),
        ("t1_mprage_sag", None, 10.0, 500.0, 1),
        ("t2w", None, 30.0, 2000.0, 1),
        ("thick T1", None, 10.0, 500.0, 1),
    ],
    "Volumes and gigabytes by year and modality": [
        ("2024", "MR", 1, 0.0),
        ("2025", "CT", 2, 0.0),
        ("2025", "MR", 5, 0.0),
    ],
    "Whatever is in doubt in the studies of one month, and why": [("2025-06-30", "t2w", "incomplete")],
    "Series without a volume, by reason": [("contradictory", "CT", 1)],
}
"""The rows of each answer, without paths and long texts."""


@pytest.mark.slow
@pytest.mark.sqlite("the documents open the file")
def test_the_ten_questions_are_answered_on_a_root_with_data(root: Path) -> None:
    answers = {}
    with closing(sqlite3.connect(f"file:{root / 'index.sqlite'}?mode=ro", uri=True)) as connection:
        for title, query in questions().items():
            for large, small in SMALLER.items():
                query = query.replace(large, small)
            answers[title] = connection.execute(query).fetchall()
    came = answers.pop("What came since the last time, by the `id` of the last event that you have seen")
    assert [row[0] for row in came] == sorted(row[0] for row in came)
    assert sorted(row[3] for row in came) == [
        "AX FLAIR", "chest", "later", "old T1", "rest fMRI", "t1_mprage_sag", "t2w", "thick T1",
    ]  # fmt: skip
    assert all(Path(row[4]).is_file() for row in came)
    assert answers.keys() == ANSWERS.keys()
    for title, rows in ANSWERS.items():
        found = [tuple(value for value in row if len(str(value)) < 20) for row in answers[title]]
        assert [row[: len(expected)] for row, expected in zip(found, rows, strict=True)] == rows, title
    [(_, t1, flair)] = answers["Studies that have both an isotropic T1 and a FLAIR"]
    assert [row[3] for row in came if row[4] in (t1, flair)] in (
        ["t1_mprage_sag", "AX FLAIR"],
        ["AX FLAIR", "t1_mprage_sag"],
    )
