"""What a comparison names as deciding is what scales the values and places the planes."""

from __future__ import annotations

from pathlib import Path

from node.extensions.second_opinion.evidence import decided_by
from tests import make


def test_a_dose_grid_is_decided_by_its_offsets_and_its_scaling(tmp_path: Path) -> None:
    [ds] = make.ct_series(1)
    ds.GridFrameOffsetVector, ds.DoseGridScaling = [0.0, 5.0], "0.001"
    ds.save_as(tmp_path / "dose.dcm", enforce_file_format=True)
    decided = decided_by(["place", "values"], [tmp_path / "dose.dcm"])
    assert "GridFrameOffsetVector" in decided["place"]
    assert "DoseGridScaling" in decided["values"]
