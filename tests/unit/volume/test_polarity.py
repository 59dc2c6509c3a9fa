"""GE's sequence for both polarities of the phase encoding: its images may be mirrored, which is told."""

import pytest

from node.volume.assemble import assemble
from node.volume.reasons import WarningKind
from tests import make


@pytest.mark.parametrize(
    ("manufacturer", "sequence", "reported"),
    [
        ("GE MEDICAL SYSTEMS", "/psd/epi_pepolar", True),
        ("GE MEDICAL SYSTEMS", "epi2", False),
        ("SIEMENS", "epi_pepolar", False),
    ],
)
def test_images_that_may_be_mirrored_are_reported(manufacturer: str, sequence: str, reported: bool) -> None:
    series = make.mr_series(4, Manufacturer=manufacturer)
    for ds in series:
        ds.private_block(0x0019, "GEMS_ACQU_01", create=True).add_new(0x9C, "LO", sequence)
    [volume] = assemble(series).volumes
    assert (WarningKind.POLARITY_REVERSED in {warning.name for warning in volume.warnings}) is reported
