"""Cases of the corpus of real series."""

import json
from collections import defaultdict
from pathlib import Path

import pydicom


def corpus_cases(folder: Path) -> list[str]:
    """Names of all cases; one placeholder where there is no corpus, for its test to be skipped."""
    expected = folder / "expected.json"
    return list(json.loads(expected.read_text())["cases"]) if expected.is_file() else ["-"]


def read_series(folder: Path) -> dict[str, list[pydicom.FileDataset]]:
    """Data sets of a folder by Series Instance UID."""
    series: dict[str, list[pydicom.FileDataset]] = defaultdict(list)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        ds = pydicom.dcmread(path, force=True)
        series[str(ds.SeriesInstanceUID)].append(ds)
    return series
