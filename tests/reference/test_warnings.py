"""What ``conversion.json`` tells of the series of the corpus: the warnings that its reference lists, by their names."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from node.conversion.offline import convert_folder
from node.volume.reasons import WarningKind
from node.writers.options import WriteOptions
from tests.conftest import corpus_folder
from tests.converting import here

pytestmark = pytest.mark.corpus


def _expected() -> dict[str, Any]:
    path = corpus_folder() / "expected.json"
    cases: dict[str, Any] = json.loads(path.read_text())["cases"] if path.is_file() else {}
    return cases


def _with_warnings() -> list[tuple[str, str]]:
    """Cases and their series of which the reference lists a warning."""
    return [
        (case, uid)
        for case, facts in _expected().items()
        for uid, series in facts["series"].items()
        if series.get("warnings")
    ]


@pytest.fixture(scope="module")
def reported(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, set[str]]]:
    """By series: the warnings of conversion.json, those of the sidecars, and the reasons of refusals."""
    out = tmp_path_factory.mktemp("converted")
    cases = sorted({corpus / case for case, _ in _with_warnings()})
    convert_folder(cases, out, WriteOptions(formats=("nifti",), thumbnails=False), here)
    listing = json.loads((out / "conversion.json").read_text())
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: {"listed": set(), "sidecar": set(), "refused": set()})
    for row in listing["volumes"]:
        series = found[row["series_instance_uid"]]
        series["listed"] |= set(row["warnings"])
        name = row["path"].removesuffix(".gz").removesuffix(".nii")
        sidecar = json.loads((out / f"{name}.json").read_text())
        series["sidecar"] |= {warning["name"] for warning in sidecar["warnings"]}
    for row in listing["refusals"]:
        found[row["series_instance_uid"]]["refused"].add(row["reason"])
    return found


def test_the_names_of_the_reference_are_names_of_warnings() -> None:
    names = {
        name
        for facts in _expected().values()
        for series in facts["series"].values()
        for name in (*series.get("warnings", ()), *(w for v in series.get("volumes", ()) for w in v["warnings"]))
    }
    assert names <= set(WarningKind)


@pytest.mark.slow
@pytest.mark.parametrize(("case", "uid"), _with_warnings() or [("-", "-")])
def test_a_series_is_reported_with_the_warnings_of_the_reference(
    case: str, uid: str, reported: dict[str, dict[str, set[str]]]
) -> None:
    expected = set(_expected()[case]["series"][uid]["warnings"])
    if reported[uid]["refused"] and not reported[uid]["listed"]:
        return  # a refusal says more than a warning
    assert expected <= reported[uid]["listed"]
    assert expected <= reported[uid]["sidecar"]
