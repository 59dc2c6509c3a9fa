"""Phase direction, echo spacing and readout time; the expected numbers are worked out by BIDS' definitions."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from pydicom import Dataset

from node.volume.describe.sidecar_fields import describe
from node.volume.model import Frame
from tests import make


def frame(rows: int = 64, columns: int = 32) -> Frame:
    return Frame("1.2.3", 1, lambda: None, rows, columns)


def epi(**attributes: Any) -> Dataset:
    [ds] = make.mr_series(1, **({"InPlanePhaseEncodingDirection": "COL", "ScanningSequence": r"EP\GR"} | attributes))
    return ds


@pytest.mark.parametrize(("direction", "axis", "lines"), [("ROW", "i", 32), ("COL", "j", 64), ("COLUMN", "j", 64)])
def test_without_a_vendor_the_axis_is_known_and_not_the_sign(direction: str, axis: str, lines: int) -> None:
    facts = describe(epi(InPlanePhaseEncodingDirection=direction), [frame()])
    assert (facts["PhaseEncodingAxis"], facts["ReconMatrixPE"]) == (axis, lines)
    assert "PhaseEncodingDirection" not in facts
    assert "TotalReadoutTime" not in facts


def test_the_bandwidth_of_siemens_gives_echo_spacing_and_readout_time() -> None:
    ds = epi(Manufacturer="SIEMENS")
    ds.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x28, "FD", 25.0)
    facts = describe(ds, [frame()])
    assert facts["EffectiveEchoSpacing"] == pytest.approx(1 / (25.0 * 64))
    assert facts["TotalReadoutTime"] == pytest.approx(63 / (25.0 * 64))


def csa2(**elements: str) -> bytes:
    """A CSA header of version 2 with these elements."""
    packed = b"SV10" + bytes(4) + struct.pack("<ii", len(elements), 77)
    for name, value in elements.items():
        text = value.encode() + b"\0"
        packed += struct.pack("<64si4siii", name.encode(), 1, b"IS", 6, 1, 77)
        packed += struct.pack("<4i", *(len(text),) * 4) + text.ljust(-(-len(text) // 4) * 4, b"\0")
    return packed


@pytest.mark.parametrize(("positive", "direction"), [("1", "j"), ("0", "j-")])
def test_a_csa_header_tells_the_sign_and_the_bandwidth(positive: str, direction: str) -> None:
    ds = epi(Manufacturer="SIEMENS")
    header = csa2(PhaseEncodingDirectionPositive=positive, BandwidthPerPixelPhaseEncode="25.0")
    ds.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", header)
    facts = describe(ds, [frame()])
    assert facts["PhaseEncodingDirection"] == direction
    assert facts["TotalReadoutTime"] == pytest.approx(63 / (25.0 * 64))


def test_an_image_that_is_not_echo_planar_has_no_readout_time() -> None:
    ds = epi(Manufacturer="SIEMENS", ScanningSequence="GR")
    ds.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x28, "FD", 25.0)
    assert "TotalReadoutTime" not in describe(ds, [frame()])


@pytest.mark.parametrize(("positive", "direction"), [(1, "j"), (0, "j-")])
def test_siemens_xa_tells_sign_and_bandwidth_in_a_private_functional_group(positive: int, direction: str) -> None:
    ds = make.enhanced_mr(2)
    ds.EchoPlanarPulseSequence = "YES"
    geometry = Dataset()
    geometry.InPlanePhaseEncodingDirection = "COLUMN"
    ds.SharedFunctionalGroupsSequence[0].MRFOVGeometrySequence = [geometry]
    item = Dataset()
    block = item.private_block(0x0021, "SIEMENS MR SDI 02", create=True)
    block.add_new(0x1C, "IS", str(positive))
    block.add_new(0x53, "FD", 20.0)
    group = ds.PerFrameFunctionalGroupsSequence[0]
    group.private_block(0x0021, "SIEMENS MR SDI 02", create=True).add_new(0xFE, "SQ", [item])
    facts = describe(ds, [frame()])
    assert facts["PhaseEncodingDirection"] == direction
    assert facts["TotalReadoutTime"] == pytest.approx(63 / (20.0 * 64))


@pytest.mark.parametrize(
    ("part", "options", "lines"),
    [("1", "NONE", 64), ("0.5", "NONE", 32), ("0.34", "NONE", 22), ("0.34", "PFP", 24)],
)
def test_ge_reads_an_even_number_of_lines_and_spreads_them_over_the_image(part: str, options: str, lines: int) -> None:
    ds = epi(
        Manufacturer="GE MEDICAL SYSTEMS",
        ScanOptions=options,
        AcquisitionMatrix=[[64, 0, 0, 64]],
        RectilinearPhaseEncodeReordering="REVERSE_LINEAR",
    )
    block = ds.private_block(0x0043, "GEMS_PARM_01", create=True)
    block.add_new(0x2C, "SS", 500)
    block.add_new(0x83, "DS", [part, "1"])
    facts = describe(ds, [frame()])
    assert facts["PhaseEncodingDirection"] == "j-"
    assert facts["TotalReadoutTime"] == pytest.approx((lines - 1) * 500e-6)
    assert facts["EffectiveEchoSpacing"] == pytest.approx((lines - 1) * 500e-6 / 63, rel=1e-5)


def test_an_image_of_ge_with_fewer_lines_than_were_acquired_has_no_readout_time() -> None:
    ds = epi(Manufacturer="GE MEDICAL SYSTEMS", AcquisitionMatrix=[[64, 0, 0, 64]])
    ds.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(0x2C, "SS", 500)
    assert "TotalReadoutTime" in describe(ds, [frame(rows=64)])
    assert "TotalReadoutTime" not in describe(ds, [frame(rows=40)])
