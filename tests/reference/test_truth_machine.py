"""Series whose voxels tell what they are: no volume of a random one lies in silence, and none that once did."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tests.reference.truth_machine import cases, examine
from tests.reference.truth_series import Case

EXAMPLES, LONG_EXAMPLES = 50, 1000

_LINES = Path(__file__).with_name("found_cases.txt").read_text(encoding="utf-8").splitlines()
FOUND: dict[str, Case] = {
    name: eval(case.strip(), {"Case": Case}) for name, case in zip(_LINES[::2], _LINES[1::2], strict=True)
}
"""Cases that once gave a wrong volume in silence, by what is wrong with them, as the truth machine prints them."""


pytestmark = pytest.mark.usefixtures("quiet")


@pytest.mark.sample(26)
@pytest.mark.parametrize("case", FOUND.values(), ids=FOUND)
def test_no_volume_of_a_case_that_was_found_lies(case: Case) -> None:
    assert examine(case) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("examples", [EXAMPLES, pytest.param(LONG_EXAMPLES, marks=pytest.mark.long)])
def test_no_volume_of_a_random_series_lies(examples: int) -> None:
    @settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(cases())
    def tell_the_truth(case: Case) -> None:
        assert examine(case) == []

    tell_the_truth()
