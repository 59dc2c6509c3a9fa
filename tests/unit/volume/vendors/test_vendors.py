"""What a pixel is, GE's protocol, UIH's grid, Philips' scale slope: from vendors' own elements."""

import gzip
from typing import Any

import numpy as np
import pytest
from pydicom import FileDataset

from node.errors import ConversionRefused
from node.volume import vendors
from node.volume.describe.sidecar_fields import describe
from node.volume.vendors import ge, philips
from tests import make
from tests.unit.volume.grids import tiled


@pytest.mark.parametrize(
    ("image_type", "component"),
    [
        ("ORIGINAL\\PRIMARY\\M\\ND", "magnitude"),
        ("ORIGINAL\\PRIMARY\\P\\ND", "phase"),
        ("ORIGINAL\\PRIMARY\\M_FFE\\M\\FFE", "magnitude"),
        ("ORIGINAL\\PRIMARY\\PHASE MAP\\P\\FFE", "phase"),
        ("ORIGINAL\\PRIMARY\\R_IR\\R\\IR", "real"),
        ("ORIGINAL\\PRIMARY\\I_SE\\I\\SE", "imaginary"),
        ("DERIVED\\PRIMARY\\B0 MAP\\B0\\FFE", "fieldmap"),
        ("ORIGINAL\\PRIMARY\\OTHER", None),
        ("M\\P", None),
    ],
)
def test_image_type_tells_what_a_pixel_is_from_its_third_value_on(image_type: str, component: str | None) -> None:
    assert vendors.mr_kind(make.mr_series(1, ImageType=image_type)[0]).component == component


def test_the_standards_attribute_goes_before_image_type() -> None:
    item = make.dataset(FrameType=["ORIGINAL", "PRIMARY", "M", "NONE"], ComplexImageComponent="PHASE")
    assert vendors.mr_kind(item).component == "phase"
    item.ComplexImageComponent = "MIXED"
    assert vendors.mr_kind(item).component == "magnitude"


@pytest.mark.parametrize(("number", "component"), [(0, "magnitude"), (1, "phase"), (2, "real"), (3, "imaginary")])
def test_ge_numbers_the_components(number: int, component: str) -> None:
    ds = make.mr_series(1, ImageType="ORIGINAL\\PRIMARY\\OTHER")[0]
    ds.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(0x2F, "SS", number)
    assert vendors.mr_kind(ds).component == component


def test_philips_states_component_and_scale_slope() -> None:
    ds = make.mr_series(1, ImageType="ORIGINAL\\PRIMARY")[0]
    block = ds.private_block(0x2005, "Philips MR Imaging DD 001", create=True)
    block.add_new(0x11, "CS", "R")
    block.add_new(0x0E, "FL", 0.5)
    assert vendors.mr_kind(ds).component == "real"
    assert philips.scale_slope(ds) == 0.5
    assert philips.scale_slope(make.mr_series(1)[0]) is None


def with_protocol(data: bytes) -> FileDataset:
    ds = make.mr_series(1)[0]
    ds.private_block(0x0025, "GEMS_SERS_01", create=True).add_new(0x1B, "OB", data)
    return ds


def test_the_protocol_block_of_ge_is_inflated_and_a_bomb_is_not() -> None:
    block = b'SLICEORDER "1"\nVIEWORDER "0"\n'
    assert ge.protocol(with_protocol(len(block).to_bytes(4, "little") + gzip.compress(block)))["SLICEORDER"] == "1"
    assert ge.protocol(with_protocol(b"nothing compressed")) == {}
    assert ge.protocol(with_protocol(b"\x1f\x8b\x08broken")) == {}
    bomb = gzip.compress(b'A "1"\n' + bytes(4_000_000) + b'\nZ "2"\n')
    assert dict(ge.protocol(with_protocol(bomb))) == {"A": "1"}


def epi(order: str, bands: str = "1") -> FileDataset:
    ds = with_protocol(bytes(4) + gzip.compress(b'SLICEORDER "' + order.encode() + b'"\n'))
    ds.Manufacturer = "GE MEDICAL SYSTEMS"
    ds.private_block(0x0019, "GEMS_ACQU_01", create=True).add_new(0x9E, "LO", "EPI2")
    ds.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(0xB6, "LO", [bands, "0"])
    return ds


def test_slices_of_ge_follow_each_other_or_the_odd_ones_come_first() -> None:
    assert vendors.planned_slice_timings(epi("0"), 4, 2.0) == [(0.0, 0.5, 1.0, 1.5)]
    assert vendors.planned_slice_timings(epi("1"), 5, 2.5) == [(0.0, 1.5, 0.5, 2.0, 1.0)]
    assert vendors.planned_slice_timings(epi("7"), 4, 2.0) == []
    assert vendors.planned_slice_timings(epi("0", bands="4"), 4, 2.0) == []
    assert vendors.planned_slice_timings(make.changed(epi("0"), Manufacturer="SIEMENS"), 4, 2.0) == []
    cycling = epi("0")
    cycling.private_block(0x0019, "GEMS_ACQU_01").add_new(0xB3, "DS", "1")
    assert vendors.planned_slice_timings(cycling, 4, 2.0) == []


@pytest.mark.parametrize("bands", ["", "0", "1"])
def test_slices_of_ge_that_the_protocol_says_were_excited_together_have_one_planned_time(bands: str) -> None:
    ds = epi("0", bands)
    ds[0x0025, 0x101B].value = bytes(4) + gzip.compress(b'SLICEORDER "0"\nMBACCEL "3"\n')
    assert vendors.planned_slice_timings(ds, 6, 2.0) == [(0.0, 1.0) * 3]
    assert vendors.planned_slice_timings(ds, 7, 2.0) == []
    assert describe(ds, [])["MultibandAccelerationFactor"] == 3


def test_a_pause_between_volumes_of_ge_belongs_to_the_repetition_time_and_to_no_slice() -> None:
    ds = epi("0")
    ds.RepetitionTime = "2000"
    ds.private_block(0x0043, "GEMS_PARM_01").add_new(0x7C, "FL", 0.5)
    facts = describe(ds, [])
    assert (facts["RepetitionTime"], facts["DelayTime"]) == (2.5, 0.5)
    assert vendors.planned_slice_timings(ds, 4, 2.5) == [(0.0, 0.5, 1.0, 1.5)]
    ds.Manufacturer = "SIEMENS"
    assert describe(ds, [])["RepetitionTime"] == 2.0


def test_ge_tells_how_a_series_was_accelerated() -> None:
    ds = epi("0", bands="2")
    ds.private_block(0x0043, "GEMS_PARM_01").add_new(0x83, "DS", ["0.333333", "1"])
    facts = describe(ds, [])
    assert facts["ParallelReductionFactorInPlane"] == 3
    assert facts["ParallelReductionFactorOutOfPlane"] == 1
    assert facts["MultibandAccelerationFactor"] == 2
    assert "MultibandAccelerationFactor" not in describe(epi("0", bands="1"), [])


@pytest.mark.parametrize("technique", ["PSEUDOCONTINUOUS", "CONTINUOUS"])
def test_ge_tells_the_labelling_of_perfusion_images_and_not_of_those_beside_them(technique: str) -> None:
    ds = make.mr_series(1, Manufacturer="GE MEDICAL SYSTEMS", InversionTime="2025")[0]
    block = ds.private_block(0x0043, "GEMS_PARM_01", create=True)
    block.add_new(0xA3, "CS", technique)
    block.add_new(0xA5, "IS", "1450")
    facts = describe(ds, [])
    names = ("ArterialSpinLabelingType", "LabelingDuration", "PostLabelingDelay")
    expected = ("PCASL", 1.45, 2.025) if technique == "PSEUDOCONTINUOUS" else (None, None, None)
    assert tuple(map(facts.get, names)) == expected


def test_philips_tells_the_water_fat_shift() -> None:
    ds = make.mr_series(1, Manufacturer="Philips Medical Systems")[0]
    ds.private_block(0x2001, "Philips Imaging DD 001", create=True).add_new(0x22, "FL", 11.0501)
    assert describe(ds, [])["WaterFatShift"] == 11.0501


def test_classic_images_of_philips_tell_their_acceleration_in_a_private_item() -> None:
    ds = make.mr_series(1, Manufacturer="Philips Medical Systems")[0]
    reported = make.dataset(ParallelReductionFactorInPlane=2.0)
    ds.private_block(0x2005, "Philips MR Imaging DD 005", create=True).add_new(0x0F, "SQ", [reported])
    assert describe(ds, [])["ParallelReductionFactorInPlane"] == 2


def test_the_timer_of_ge_tells_when_a_slice_was_acquired() -> None:
    ds = make.mr_series(1, Manufacturer="GE MEDICAL SYSTEMS")[0]
    assert vendors.slice_time_s(ds) is None
    ds.private_block(0x0021, "GEMS_RELA_01", create=True).add_new(0x5E, "DS", "0.75")
    assert vendors.slice_time_s(ds) == 0.75


def grid(count: int, positions: int | None = None, **attributes: Any) -> FileDataset:
    pixels = np.arange(12 * 16, dtype=np.uint16).reshape(1, 12, 16)
    ds = make.mr_series(1, pixels=pixels, Manufacturer="UIH", ImageType="ORIGINAL\\PRIMARY\\M\\VFRAME", **attributes)[0]
    places = range(count if positions is None else positions)
    planes = [make.dataset(ImagePositionPatient=[1.0, 2.0, 3.0 + 4.0 * index]) for index in places]
    block = ds.private_block(0x0065, "Image Private Header", create=True)
    block.add_new(0x50, "DS", str(count))
    block.add_new(0x51, "SQ", planes)
    return ds


def test_a_uih_grid_has_a_position_for_each_plane() -> None:
    ds = grid(11)
    tiling = tiled(ds)
    assert (tiling.count, tiling.columns_of_tiles) == (11, 4)
    assert (tiling.tile_rows, tiling.tile_columns) == (4, 4)
    assert tiling.positions[10].tolist() == [1, 2, 43]
    assert tiling.cut(ds.pixel_array, 10).tolist() == ds.pixel_array[8:12, 8:12].tolist()


def test_a_uih_grid_is_one_without_its_image_type_too() -> None:
    ds = grid(11)
    del ds.ImageType
    assert tiled(ds).count == 11
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M"]
    assert vendors.tiling(ds) is None


def test_planes_of_a_uih_grid_tell_when_they_were_acquired() -> None:
    ds = grid(3)
    planes = ds[0x0065, 0x1051].value
    for plane, time in zip(planes, ("000000.5", "235959.25", "000001"), strict=True):
        plane.AcquisitionDate = "20240101" if time.startswith("23") else "20240102"
        plane.AcquisitionTime = time
    assert tiled(ds).slice_times_s == (1.25, 0, 1.75)
    del planes[1].AcquisitionTime
    assert tiled(ds).slice_times_s is None


@pytest.mark.parametrize(("count", "positions"), [(11, 10), (7, 7), (0, 0)])
def test_a_grid_whose_planes_do_not_add_up_is_refused(count: int, positions: int) -> None:
    with pytest.raises(ConversionRefused) as caught:
        vendors.tiling(grid(count, positions))
    assert caught.value.reason == "unproven-layout"
