"""The verdict on real series: none that is whole is called incomplete; `test_properties` takes instances away."""

from pathlib import Path

import pytest

from benchmarks.completeness import read_folder, verdict

pytestmark = [pytest.mark.long, pytest.mark.corpus]

INCOMPLETE = {
    "dcm_qa_stc/ge-epirt": "24 of 128",
    "dcmstack/multi-echo-part": "missing-slice",
    "dicom2nifti/ct-missing-slices": "missing-slice",
    "dicom2nifti/rgb-secondary-capture": "4 of 77",
}
"""Cases that lack instances as they are, and why that is known. Derived ones announce the ten times of their source."""


def test_no_whole_series_is_called_incomplete_or_suspect(corpus: Path) -> None:
    found = read_folder(corpus)
    assert len(found) > 50
    for name, series in found.items():
        case = name.split(" ")[0]
        state, reason = verdict(series)
        if case in INCOMPLETE:
            assert state == "incomplete"
            assert INCOMPLETE[case] in reason
        elif case.startswith("derived/"):
            assert state == "complete" or " of 150 instances that " in reason
        else:
            assert state == "complete", f"{name}: {reason}"
