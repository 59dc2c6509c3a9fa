"""Phase direction, echo spacing and readout time; the expected numbers are worked out by BIDS' definitions."""

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
    ds.SharedFunctionalGroupsSequence[0].MRFOVGeometrySequence = [make.dataset(InPlanePhaseEncodingDirection="COLUMN")]
    item = Dataset()
    block = item.private_block(0x0021, "SIEMENS MR SDI 02", create=True)
    block.add_new(0x1C, "IS", str(positive))
    block.add_new(0x53, "FD", 20.0)
    group = ds.PerFrameFunctionalGroupsSequence[0]
    group.private_block(0x0021, "SIEMENS MR SDI 02", create=True).add_new(0xFE, "SQ", [item])
    facts = describe(ds, [frame()])
    assert facts["PhaseEncodingDirection"] == direction
    assert facts["TotalReadoutTime"] == pytest.approx(63 / (20.0 * 64))


def ge_epi(**attributes: Any) -> Dataset:
    ds = epi(Manufacturer="GE MEDICAL SYSTEMS", **({"AcquisitionMatrix": [[64, 0, 0, 64]]} | attributes))
    ds.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(0x2C, "SS", 500)
    return ds


@pytest.mark.parametrize(
    ("part", "options", "lines"),
    [("1", "NONE", 64), ("0.5", "NONE", 32), ("0.34", "NONE", 22), ("0.34", "PFP", 24), ("0.34", "PFF", 24)],
)
def test_ge_reads_an_even_number_of_lines_and_spreads_them_over_the_image(part: str, options: str, lines: int) -> None:
    ds = ge_epi(ScanOptions=options)
    ds.private_block(0x0043, "GEMS_PARM_01").add_new(0x83, "DS", [part, "1"])
    facts = describe(ds, [frame()])
    assert facts["TotalReadoutTime"] == pytest.approx((lines - 1) * 500e-6)
    assert facts["EffectiveEchoSpacing"] == pytest.approx((lines - 1) * 500e-6 / 63, rel=1e-5)


@pytest.mark.parametrize(
    ("rows", "spacing_us", "part", "options", "echo_spacing", "readout"),
    [
        (128, 580, "1", "HYPERBAND_GEMS", 0.00058, 0.07366),
        (80, 580, "1", "HYPERBAND_GEMS", 0.00058, 0.04582),
        (128, 568, "0.5", "HYPERBAND_GEMS", 0.000280405, 0.0356114),
        (80, 568, "0.5", "HYPERBAND_GEMS", 0.000280405, 0.022152),
        (128, 572, "1", "ACC_GEMS", 0.000572, 0.072644),
        (128, 572, "1", "PFF", 0.000572, 0.072644),
        (128, 560, "0.5", "ACC_GEMS", 0.000276456, 0.0351099),
        (128, 560, "0.333333", "ACC_GEMS", 0.000191392, 0.0243068),
    ],
)
def test_readout_times_of_ge_are_those_published_with_series_of_known_distortion(
    rows: int, spacing_us: int, part: str, options: str, echo_spacing: float, readout: float
) -> None:
    """80 lines were acquired; the values are those of https://github.com/neurolabusc/dcm_qa_trt."""
    ds = ge_epi(ScanOptions=options, AcquisitionMatrix=[[80, 0, 0, 80]])
    block = ds.private_block(0x0043, "GEMS_PARM_01")
    block.add_new(0x2C, "SS", spacing_us)
    block.add_new(0x83, "DS", [part, "1"])
    facts = describe(ds, [frame(rows, rows)])
    assert facts["EffectiveEchoSpacing"] == pytest.approx(echo_spacing, rel=1e-5)
    assert facts["TotalReadoutTime"] == pytest.approx(readout, rel=1e-5)
    assert (facts["AcquisitionMatrixPE"], facts["ReconMatrixPE"]) == (80, rows)


def test_an_image_of_ge_with_fewer_lines_than_were_acquired_has_no_readout_time() -> None:
    ds = ge_epi()
    assert "TotalReadoutTime" in describe(ds, [frame(rows=64)])
    assert "TotalReadoutTime" not in describe(ds, [frame(rows=40)])


def raw_data(version: float, *, polarity: int, order: int, options: int = 0x840) -> bytes:
    """The header of GE's raw data, with what tells the direction of phase encoding."""
    start = 100
    data = bytearray(start + 2000)
    moved = version >= 25.002
    struct.pack_into("<H", data, 24, start)
    struct.pack_into("<f", data, start, version)
    base = start + (0x4C if moved else 0)
    struct.pack_into("<H", data, base + 0x30, polarity)
    struct.pack_into("<H", data, base + 0x3A, options)
    struct.pack_into("<h", data, base + 0x394 - (0x8C if moved else 0), order)
    return bytes(data)


@pytest.mark.parametrize(("reordering", "direction"), [("LINEAR", "-"), ("REVERSE_LINEAR", ""), ("CENTRIC", None)])
@pytest.mark.parametrize(("along", "axis"), [("COL", "j"), ("ROW", "i")])
def test_ge_tells_a_sign_by_the_order_of_lines(reordering: str, direction: str | None, along: str, axis: str) -> None:
    facts = describe(
        ge_epi(RectilinearPhaseEncodeReordering=reordering, InPlanePhaseEncodingDirection=along), [frame()]
    )
    assert facts.get("PhaseEncodingDirection") == (None if direction is None else axis + direction)
    assert facts.get("PhaseEncodingAxis") == (axis if direction is None else None)
    assert facts.get("PhaseEncodingPolarityGE") == {"-": "Flipped", "": "Unflipped", None: None}[direction]


@pytest.mark.parametrize("version", [24.0, 26.002])
@pytest.mark.parametrize(
    ("polarity", "order", "direction"), [(0x8, 0, "j"), (0xC, 0, "j-"), (0x8, 2, "j-"), (0xC, 2, "j")]
)
def test_older_software_of_ge_tells_the_sign_in_the_header_of_its_raw_data(
    version: float, polarity: int, order: int, direction: str
) -> None:
    ds = ge_epi()
    block = ds.private_block(0x0043, "GEMS_PARM_01")
    block.add_new(0x2A, "OB", raw_data(version, polarity=polarity, order=order))
    assert describe(ds, [frame()])["PhaseEncodingDirection"] == direction
    ds.RectilinearPhaseEncodeReordering = "LINEAR"
    assert describe(ds, [frame()])["PhaseEncodingDirection"] == "j-", "what the standard's attribute says goes first"


@pytest.mark.parametrize(
    "data",
    [b"", bytes(30), bytes(4000), raw_data(4.0, polarity=8, order=0), raw_data(26.0, polarity=8, order=0, options=0)],
)
def test_without_a_known_header_of_an_echo_planar_scan_the_sign_is_unknown(data: bytes) -> None:
    ds = ge_epi()
    ds.private_block(0x0043, "GEMS_PARM_01").add_new(0x2A, "OB", data)
    assert describe(ds, [frame()])["PhaseEncodingAxis"] == "j"


def uih_epi(duration_ms: float) -> Dataset:
    ds = epi(Manufacturer="UIH", EchoTrainLength=32, ScanningSequence="EP")
    plane = make.dataset(AcquisitionDuration=duration_ms)
    block = ds.private_block(0x0065, "Image Private Header", create=True)
    block.add_new(0x51, "SQ", [plane])
    block.add_new(0x0D, "SH", "F:2S")
    return ds


def test_united_imaging_states_the_duration_of_a_readout_or_that_of_the_scan() -> None:
    facts = describe(uih_epi(21.0), [frame()])
    assert facts["TotalReadoutTime"] == pytest.approx(0.021)
    assert facts["EffectiveEchoSpacing"] == pytest.approx(0.021 / 63)
    assert facts["ParallelReductionFactorInPlane"] == 2
    assert "TotalReadoutTime" not in describe(uih_epi(229.32), [frame()])


def test_echo_spacing_of_philips_is_an_estimate_from_the_shift_of_fat() -> None:
    ds = epi(Manufacturer="Philips", ImagingFrequency="127.7")
    block = ds.private_block(0x2001, "Philips Imaging DD 001", create=True)
    block.add_new(0x22, "FL", 12.5)
    block.add_new(0x13, "SL", 39)
    facts = describe(ds, [frame()])
    readout_s = 12.5 / (127.7 * 3.4 * 40) * 39
    assert facts["EstimatedTotalReadoutTime"] == pytest.approx(readout_s, rel=1e-5)
    assert facts["EstimatedEffectiveEchoSpacing"] == pytest.approx(readout_s / 63, rel=1e-5)
    assert "TotalReadoutTime" not in facts
    ds.ScanningSequence = "GR"
    assert "EstimatedTotalReadoutTime" not in describe(ds, [frame()])
