"""What the conformance statement says of results is what they are like."""

import pytest

from node.extensions.results.makers import VERBATIM
from node.extensions.results.statement import recorded
from tests.results_samples import described


@pytest.mark.slow
def test_the_statement_has_what_is_made() -> None:
    assert described() == recorded(), "run `python -m tests.results_samples`, then `voxelnode conformance`"


def test_each_result_copies_patient_and_study_of_its_source() -> None:
    for made in recorded():
        copied = [one for one in made.attributes if one.source == "SRC_INSTANCE" and not one.name.startswith(">")]
        assert len(copied) >= len(VERBATIM), made.title
