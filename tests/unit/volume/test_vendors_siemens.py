"""Siemens: CSA headers of both versions, the protocol, and where the tiles of a mosaic lie."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import FileDataset
from pydicom.uid import MRImageStorage

from node.errors import ConversionRefused
from node.volume import vendors
from node.volume.diffusion import diffusion_of
from node.volume.vendors import siemens
from node.volume.vendors.csa import csa_numbers, parse_csa, parse_protocol
from tests import make

TILE = 4
SPACING = (2.0, 3.0)
DISTANCE = 5.0


def csa(elements: Mapping[str, tuple[str, ...]], version: int = 2) -> bytes:
    """Write a CSA header; version 1 counts lengths from the number of items of its first element."""
    out = (b"SV10\4\3\2\1" if version == 2 else b"") + struct.pack("<II", len(elements), 77)
    origin = 6
    for name, values in elements.items():
        items = (*values, *[""] * (origin - len(values)))
        out += struct.pack("<64si4siii", name.encode(), len(values), b"DS", 3, len(items), 77)
        for value in items:
            text = value.encode() + b"\0" if value else b""
            length = len(text)
            lengths = (length, length, 77, length) if version == 2 else (length + origin, length, 77, length)
            out += struct.pack("<4i", *lengths) + text + b"\0" * (-length % 4)
    return out


def protocol(centres: np.ndarray) -> bytes:
    lines = [f"sSliceArray.lSize = {len(centres)}", 'tSequenceFileName = "ep2d"']
    for index, centre in enumerate(centres):
        for axis, value in zip(("Sag", "Cor", "Tra"), centre, strict=True):
            if value:
                lines.append(f"sSliceArray.asSlice[{index}].sPosition.d{axis}\t = \t{value}")
    body = "\n".join(lines)
    return b"xprotocol\0### ASCCONV BEGIN object=MrProt ###\n" + body.encode() + b"\n### ASCCONV END ###\0"


def mosaic(
    count: int = 5, *, orientation: make.Numbers = make.OBLIQUE, first: make.Numbers = (10.0, 20.0, 30.0)
) -> FileDataset:
    """A mosaic without any private element; `first` is the place of its first tile's first pixel."""
    across = int(np.ceil(np.sqrt(count)))
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    half = TILE * (across - 1) / 2
    corner = np.array(first) - row * SPACING[1] * half - column * SPACING[0] * half
    ds = make.instance(
        sop_class_uid=MRImageStorage,
        modality="MR",
        Manufacturer="SIEMENS",
        ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"],
        ImagePositionPatient=[make.decimal(each) for each in corner],
        ImageOrientationPatient=[make.decimal(each) for each in orientation],
        PixelSpacing=list(SPACING),
        SpacingBetweenSlices=DISTANCE,
    )
    make.set_pixels(ds, np.arange((across * TILE) ** 2, dtype=np.uint16).reshape(across * TILE, across * TILE))
    return ds


def put_csa(ds: FileDataset, *, block: int = 0x10, version: int = 2, **elements: Any) -> None:
    ds.add_new((0x0029, block), "LO", "SIEMENS CSA HEADER")
    ds.add_new(
        (0x0029, block << 8 | 0x10), "OB", csa({name: tuple(map(str, e)) for name, e in elements.items()}, version)
    )


def put_protocol(ds: FileDataset, centres: np.ndarray) -> None:
    ds.add_new((0x0029, 0x1020), "OB", protocol(centres))


def normal(orientation: make.Numbers) -> np.ndarray:
    return np.cross(orientation[:3], orientation[3:])


def centres_of(first: make.Numbers, orientation: make.Numbers, count: int) -> np.ndarray:
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    centre = np.array(first) + row * SPACING[1] * TILE / 2 + column * SPACING[0] * TILE / 2
    return centre + np.outer(np.arange(count) * DISTANCE, normal(orientation))


# Headers


@pytest.mark.parametrize("version", [1, 2])
def test_both_versions_of_the_csa_header_are_read(version: int) -> None:
    header = csa({"B_value": ("1000",), "Empty": (), "SliceNormalVector": ("0.1", "-0.2", "0.97")}, version)
    found = parse_csa(header)
    assert dict(found) == {"B_value": ("1000",), "SliceNormalVector": ("0.1", "-0.2", "0.97")}
    assert csa_numbers(found, "SliceNormalVector", 3) == (0.1, -0.2, 0.97)
    assert csa_numbers(found, "SliceNormalVector", 2) is None
    assert csa_numbers(parse_csa(csa({"B_value": ("nan",)})), "B_value") is None


@given(st.binary(max_size=400), st.booleans())
@settings(max_examples=200, deadline=None)
def test_a_broken_csa_header_is_read_as_far_as_it_goes(tail: bytes, second: bool) -> None:
    whole = csa({"B_value": ("1000",), "Other": ("2",)}, 2 if second else 1)
    for data in (tail, b"SV10" + tail, whole[: len(whole) // 2] + tail):
        assert all(isinstance(value, str) for values in parse_csa(data).values() for value in values)


def test_the_protocol_is_read_out_of_its_envelope() -> None:
    found = parse_protocol(protocol(np.array([[1.5, 0, -3]])))
    assert found["sSliceArray.lSize"] == "1"
    assert found["sSliceArray.asSlice[0].sPosition.dTra"] == "-3.0"
    assert found["tSequenceFileName"] == "ep2d"
    assert not parse_protocol(b"no protocol")


# Mosaics


@pytest.mark.parametrize("orientation", [make.AXIAL, make.SAGITTAL, make.CORONAL, make.OBLIQUE])
@pytest.mark.parametrize("forward", [1.0, -1.0])
@pytest.mark.parametrize("version", [1, 2])
def test_tiles_lie_along_the_slice_normal_of_the_csa_header(
    orientation: make.Numbers, forward: float, version: int
) -> None:
    ds = mosaic(orientation=orientation)
    direction = normal(orientation) * forward
    times = (0.0, 1200.0, 400.0, 1600.0, 800.0)
    put_csa(ds, version=version, NumberOfImagesInMosaic=(5,), SliceNormalVector=direction, MosaicRefAcqTimes=times)
    tiling = vendors.tiling(ds)
    assert tiling is not None
    assert (tiling.count, tiling.tile_rows, tiling.tile_columns, tiling.columns_of_tiles) == (5, TILE, TILE, 3)
    expected = np.array([10.0, 20.0, 30.0]) + np.outer(np.arange(5) * DISTANCE, direction)
    assert np.allclose(tiling.positions, expected, atol=1e-6)
    assert tiling.slice_times_s == (0.0, 1.2, 0.4, 1.6, 0.8)
    assert np.array_equal(tiling.cut(ds.pixel_array, 4), ds.pixel_array[TILE : 2 * TILE, TILE : 2 * TILE])


def test_a_renumbered_private_block_is_found_by_its_creator() -> None:
    ds = mosaic()
    ds.add_new((0x0029, 0x0010), "LO", "SOMEONE ELSE")
    ds.add_new((0x0029, 0x1010), "OB", b"SV10 not ours")
    put_csa(ds, block=0x24, NumberOfImagesInMosaic=(5,), SliceNormalVector=normal(make.OBLIQUE))
    tiling = vendors.tiling(ds)
    assert tiling is not None
    assert tiling.count == 5


@pytest.mark.parametrize("reverse", [False, True])
def test_without_the_csa_header_the_slices_of_the_protocol_place_the_tiles(reverse: bool) -> None:
    centres = centres_of((10.0, 20.0, 30.0), make.OBLIQUE, 5)
    ds = mosaic(first=(10.0, 20.0, 30.0) if not reverse else centres[-1] - centres[0] + (10.0, 20.0, 30.0))
    put_protocol(ds, centres)
    tiling = vendors.tiling(ds)
    assert tiling is not None
    assert tiling.positions is not None
    steps = np.diff(tiling.positions, axis=0)
    assert np.allclose(steps, normal(make.OBLIQUE) * DISTANCE * (-1 if reverse else 1), atol=1e-6)


def refused(ds: FileDataset) -> str:
    with pytest.raises(ConversionRefused) as caught:
        vendors.tiling(ds)
    assert caught.value.reason == "unproven-layout"
    return caught.value.detail


def test_a_mosaic_whose_layout_is_not_proven_is_refused() -> None:
    assert "number of its images" in refused(mosaic())

    elsewhere = mosaic()
    put_protocol(elsewhere, centres_of((10.0, 20.0, 130.0), make.OBLIQUE, 5))
    assert "neither where the first nor where the last" in refused(elsewhere)

    endless = mosaic()
    put_protocol(endless, np.full((5, 3), np.inf))
    assert "order of the tiles" in refused(endless)

    counted = mosaic()
    counted.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", 5)
    assert "order of the tiles" in refused(counted)

    odd = mosaic()
    odd.Rows = 13
    put_csa(odd, NumberOfImagesInMosaic=(5,), SliceNormalVector=(0, 0, 1))
    assert "do not divide" in refused(odd)


@pytest.mark.parametrize("count", ["0", "-4", "100000000", "2.5", "many"])
def test_impossible_counts_of_tiles_are_refused(count: str) -> None:
    ds = mosaic()
    put_csa(ds, NumberOfImagesInMosaic=(count,), SliceNormalVector=(0, 0, 1))
    refused(ds)


def test_a_mosaic_is_one_without_its_image_type_too() -> None:
    ds = mosaic()
    del ds.ImageType
    put_csa(ds, NumberOfImagesInMosaic=(5,), SliceNormalVector=normal(make.OBLIQUE))
    tiling = vendors.tiling(ds)
    assert tiling is not None
    assert tiling.count == 5


def test_an_image_that_is_no_mosaic_has_no_tiling() -> None:
    ds = make.mr_series(1)[0]
    put_csa(ds, NumberOfImagesInMosaic=(5,))
    assert vendors.tiling(ds) is None


# Diffusion


def dwi(**attributes: Any) -> FileDataset:
    return make.mr_series(1, Manufacturer="SIEMENS", **attributes)[0]


def test_the_private_header_gives_direction_and_b_value() -> None:
    ds = dwi()
    block = ds.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0C, "IS", "1000")
    block.add_new(0x0D, "CS", "DIRECTIONAL")
    block.add_new(0x0E, "FD", [0.6, 0.0, 0.8])
    found = diffusion_of(ds)
    assert found is not None
    assert (found.b_value, found.derived) == (1000, False)
    assert np.allclose(found.direction_lps, (0.6, 0, 0.8))


def test_elements_without_creators_and_value_representations_are_still_read() -> None:
    ds = dwi()
    ds.add_new((0x0019, 0x100C), "UN", b"1000")
    ds.add_new((0x0019, 0x100E), "UN", struct.pack("<3d", 0.0, 1.0, 0.0))
    found = diffusion_of(ds)
    assert found is not None
    assert found.b_value == 1000
    assert np.allclose(found.direction_lps, (0, 1, 0))


def test_the_csa_header_gives_them_too_and_the_matrix_where_the_vector_is_missing() -> None:
    ds = dwi()
    put_csa(ds, B_value=(800,), B_matrix=(0, 0, 0, 800, 0, 0))
    found = diffusion_of(ds)
    assert found is not None
    assert found.b_value == 800
    assert found.direction_lps is not None
    assert np.allclose(np.abs(found.direction_lps), (0, 1, 0))


def test_trace_images_are_derived() -> None:
    ds = dwi(ImageType="DERIVED\\PRIMARY\\DIFFUSION\\TRACEW\\ND")
    ds.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0C, "IS", "1000")
    found = diffusion_of(ds)
    assert found is not None
    assert (found.b_value, found.derived, found.direction_lps) == (1000, True, None)


def test_the_protocol_is_found_in_the_series_header() -> None:
    ds = mosaic()
    put_protocol(ds, np.zeros((1, 3)))
    assert siemens.protocol(ds)["sSliceArray.lSize"] == "1"
    assert siemens.protocol(dwi()) == {}
