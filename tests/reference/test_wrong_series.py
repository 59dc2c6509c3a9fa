"""The corpus of wrong series, and the tables that docs/project/wrong-series.md has of it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.reference import wrong_series
from tests.reference.wrong_series import CASES, Case, Outcome, Plane, by_dcm2niix, by_voxelnode, evidence_of, row_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "project" / "wrong-series.md"

NOT_RIGHT = {
    "first slice twice, one missing": "warned",
    "a gap of ten slices": "warned",
    "close slices, then far ones": "warned",
    "b-values missing in some slices": "refused",
    "positions of two slices exchanged": "warned",
    "positions at half the distance": "warned",
}
"""Whose planes no affine has in their places, or whose times nothing states; the others must be right."""

LARGE = {"many_slices"}


@pytest.mark.sample(14)
@pytest.mark.parametrize(
    "make_case",
    [pytest.param(make, id=name, marks=[pytest.mark.slow] if name in LARGE else []) for name, make in CASES.items()],
)
def test_a_series_that_somebody_converted_wrongly_is_right_or_not_in_silence(make_case: Callable[[], Case]) -> None:
    case = make_case()
    outcome = by_voxelnode(case)
    assert outcome.state == NOT_RIGHT.get(case.name, "right"), outcome.why
    page = PAGE.read_text()
    assert any(line.startswith(row_of(case, outcome)) for line in page.splitlines()), row_of(case, outcome)
    for evidence in evidence_of(case, outcome):
        assert evidence in page.splitlines(), evidence


@pytest.mark.long
@pytest.mark.skipif(wrong_series.DCM2NIIX is None, reason="dcm2niix is not installed")
def test_the_page_says_what_its_version_of_dcm2niix_makes_of_every_case() -> None:
    version, page = wrong_series.version_of_dcm2niix(), PAGE.read_text()
    if version not in page:
        pytest.skip(f"the page is about another version than {version}")
    for make_case in CASES.values():
        case = make_case()
        state = by_dcm2niix(case).state
        [line] = [line for line in page.splitlines() if line.startswith(f"| {case.name} | ") and line.count(" | ") == 3]
        assert line.split(" | ")[3].partition(", ")[2] == f"{state} |", case.name


@pytest.mark.slow
def test_the_judge_sees_each_kind_of_mistake() -> None:
    """A judge that cannot fail proves nothing: planes in the wrong place, mixed, doubled, lost, or of other values."""
    case = CASES["times_in_indirect_order"]()
    moved = [Plane(plane.values, plane.affine + np.diag([0, 0, 0.1, 0]), "", plane.time) for plane in case.planes]
    shifted = [
        Plane(p.values, p.affine @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 1.0]])) for p in moved
    ]
    brighter = [Plane(plane.values + 5, plane.affine, "", plane.time) for plane in case.planes]
    several = [
        Plane(plane.values, plane.affine, str(number % 2), plane.time) for number, plane in enumerate(case.planes)
    ]
    backwards = [Plane(plane.values, plane.affine, "", -plane.time) for plane in case.planes]
    more = [*case.planes, Plane(case.planes[0].values + 9, case.planes[0].affine)]
    for planes, word in (
        (shifted, "no match at their place"),
        (brighter, "no match at their place"),
        (several, "images are mixed"),
        (backwards, "another order"),
        (more, "in no volume"),
    ):
        changed = Case(case.name, case.issues, case.mistake, case.datasets, planes)
        assert by_voxelnode(changed) == Outcome("wrong", by_voxelnode(changed).why)
        assert word in by_voxelnode(changed).why
