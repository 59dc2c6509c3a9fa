"""Overlays (PS3.3 C.9): what was drawn over the pixels is in no volume, and is not lost without a word."""

import pytest
from pydicom import Dataset

from node.volume.assemble import assemble
from node.volume.reasons import WarningKind
from tests import make


def draw(ds: Dataset, group: int, data: bytes | None) -> None:
    ds.add_new(group << 16 | 0x0010, "US", ds.Rows)
    ds.add_new(group << 16 | 0x0011, "US", ds.Columns)
    ds.add_new(group << 16 | 0x0040, "CS", "G")
    ds.add_new(group << 16 | 0x0100, "US", 1 if data is not None else 16)
    ds.add_new(group << 16 | 0x0102, "US", 0 if data is not None else 12)
    if data is not None:
        ds.add_new(group << 16 | 0x3000, "OW", data)


@pytest.mark.parametrize("group", [0x6000, 0x6002, 0x601E])
@pytest.mark.parametrize("data", [b"\0\x10" * 8, None])
def test_a_volume_of_images_with_overlays_says_how_many_have_one(group: int, data: bytes | None) -> None:
    series = make.ct_series(5)
    for ds in series[1:3]:
        draw(ds, group, data)
    [volume] = assemble(series).volumes
    [warning] = [each for each in volume.warnings if each.name is WarningKind.OVERLAYS_LEFT_OUT]
    assert warning.detail.startswith("2 instances have overlays")


def test_an_empty_overlay_shows_nothing() -> None:
    series = make.ct_series(3)
    for ds in series:
        draw(ds, 0x6000, bytes(16))
    [volume] = assemble(series).volumes
    assert volume.warnings == ()


def test_an_overlay_of_an_instance_with_many_frames_is_reported_too() -> None:
    ds = make.enhanced_mr(4)
    draw(ds, 0x6000, b"\x01\0" * 8)
    [volume] = assemble([ds]).volumes
    assert [each.name for each in volume.warnings] == [WarningKind.OVERLAYS_LEFT_OUT]
