"""The recipes of docs/research.md, run on a node's root."""

import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from pydicom import dcmwrite

from tests import make
from tests.acceptance.served import Served
from tests.documents.datasette import questions
from tests.preloaded import run

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "research.md").read_text(encoding="utf-8")


def blocks() -> Iterator[str]:
    """The indented blocks of the document."""
    for block in re.findall(r"(?:^    .*\n|^\n+(?=    ))+", TEXT, flags=re.MULTILINE):
        yield re.sub(r"^    ", "", block.strip("\n"), flags=re.MULTILINE)


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


@pytest.fixture(scope="module")
def exported(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    script = next(block for block in blocks() if "def export(" in block)
    (folder / "bids_export.py").write_text(script, encoding="utf-8")
    command = [sys.executable, "-W", "error", "bids_export.py", str(root / "index.sqlite"), "out"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "4 volumes of 2 subjects in out\n", done.stderr
    return folder / "out"


def test_the_ten_questions_are_answered_on_a_root_with_data(root: Path) -> None:
    answers = {}
    with closing(sqlite3.connect(f"file:{root / 'index.sqlite'}?mode=ro", uri=True)) as connection:
        for title, query in questions().items():
            answers[title] = connection.execute(query).fetchall()
    assert len(answers["What came since the last time, by the `id` of the last event that you have seen"]) == 6
    [(*_, counts)] = [row[:3] for row in answers["Volumes and gigabytes by year and modality"] if row[1] == "MR"]
    assert counts == 5


def test_the_export_is_laid_out_as_bids_says(exported: Path) -> None:
    volumes = sorted(str(path.relative_to(exported)) for path in exported.rglob("*.nii.gz"))
    subjects = sorted({name.split("/")[0] for name in volumes})
    by_rank = {re.sub(r"sub-[0-9a-f]{8}", "sub", name) for name in volumes}
    assert len(subjects) == 2
    assert by_rank == {
        "sub/ses-01/anat/sub_ses-01_run-1_T1w.nii.gz",
        "sub/ses-01/anat/sub_ses-01_run-2_T1w.nii.gz",
        "sub/ses-01/anat/sub_ses-01_FLAIR.nii.gz",
        "sub/ses-01/func/sub_ses-01_task-rest_bold.nii.gz",
    }
    assert (exported / "participants.tsv").read_text().split() == ["participant_id", *subjects]


def test_the_export_names_nobody(exported: Path) -> None:
    text = "".join(path.read_text() for path in exported.rglob("*") if path.suffix in (".json", ".tsv"))
    assert "Secret" not in text
    assert re.search(r"\bP[12]\b", text) is None
    assert re.search(r"\d\.\d+\.\d+\.\d+", text) is None, "a UID leads back to the patient"


def test_a_time_series_has_the_fields_that_bids_requires(exported: Path) -> None:
    [sidecar] = exported.rglob("*_bold.json")
    facts = json.loads(sidecar.read_text())
    assert facts["TaskName"] == "rest"
    assert facts["RepetitionTime"] == 2.0


def test_the_validator_of_bids_finds_no_error(exported: Path) -> None:
    validator = Path(sys.executable).with_name("bids-validator-deno")
    if not validator.exists():
        pytest.skip("no bids-validator-deno here: it comes with the extra `dev`")
    done = subprocess.run(
        [str(validator), "--json", str(exported)], capture_output=True, text=True, timeout=100, check=False
    )
    issues = json.loads(done.stdout)["issues"]["issues"]
    assert [issue for issue in issues if issue["severity"] == "error"] == []
