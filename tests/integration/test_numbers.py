"""Each number of `status` has a list with as many rows, and says which."""

import datetime as dt
import json
from pathlib import Path
from typing import Any, get_args

import pytest
from pydicom import Dataset

from node.selector.fields import SeriesState
from tests import make
from tests.integration.conftest import Root
from tests.preloaded import run

LISTS = {
    **{state: ("series", "--state", state) for state in get_args(SeriesState)},
    **{f"{state}_series": ("series", "--state", state) for state in ("incomplete", "suspect")},
    "series_waiting": ("series", "--state", "waiting"),
    "conflict_decisions": ("conflicts",),
    "patients": ("patient", "list"),
}
"""The command that lists what each number counts."""

FAILURES = "v_failures WHERE reason <> 'not-an-image'"
VIEWS = {"studies": "v_studies", "instances": "v_images", "volume_files": "v_catalog", "failures": FAILURES}
OWED = {"lost_instances", "missing_files"}  # `lost list` names them together, as a test of the doctor shows
SIZES = {"bytes", "journal_bytes", "free_bytes", "queued_instances"}


def of_every_kind(root: Root) -> Dataset:
    """Series in each state, some converted in doubt, one that failed in doubt, one of them open again: return that."""
    reopened, whole = make.ct_series(5), make.ct_series(3)
    for first, _, *others in (make.ct_series(5), make.ct_series(5), reopened):
        root.take_all([first, *others])
    root.take_all([*whole, make.structured_report(), make.changed(make.ct_series(1)[0], Rows=0)])
    root.convert_due()
    root.take(make.changed(reopened[0], SOPInstanceUID="1.2.3.4", InstanceNumber=9))
    root.take(make.corrected(whole[0]))
    for _ in range(2):
        root.take(make.ct_series(1)[0])
    crashed = root.claim()
    assert root.index.series.record_crash(crashed, "it took too long", attempts=2, now=dt.datetime.now(dt.UTC))
    return reopened[0]


def rows_of(folder: Path, *command: str) -> int:
    listed = json.loads(run(*command, "--root", folder, "--json").stdout)
    return len(listed) if isinstance(listed, list) else int(listed["total"])


@pytest.mark.slow
def test_each_number_of_the_status_is_that_of_the_rows_of_its_list(root: Root) -> None:
    reopened = of_every_kind(root)
    facts: dict[str, Any] = json.loads(run("status", "--root", root.folder, "--json").stdout)
    every = {name: fact for name, fact in facts.items() if type(fact) is int}
    assert every.keys() <= LISTS.keys() | VIEWS.keys() | OWED | SIZES, "each number has a list"
    numbers = {name: fact for name, fact in (every | facts["series"]).items() if name in LISTS}
    assert {name: rows_of(root.folder, *LISTS[name]) for name in numbers} == numbers
    assert {name: len(root.rows(f"SELECT 1 FROM {view}")) for name, view in VIEWS.items()} == {
        name: every[name] for name in VIEWS
    }
    assert numbers["incomplete_series"] == 2, "without the one that is open again"
    assert numbers["conflict_decisions"] == 1
    for uid in (reopened.StudyInstanceUID, reopened.SeriesInstanceUID):
        assert "missing-slice" not in run("info", uid, "--root", root.folder).stdout, "of its last conversion"
    told = run("status", "--root", root.folder).stdout
    assert f"{numbers['incomplete_series']} series: voxelnode series --state incomplete" in told
    assert "1 waiting for another try)" in told
    assert "\n1 series waits for another try" in told
