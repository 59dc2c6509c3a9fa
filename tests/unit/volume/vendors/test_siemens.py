"""Siemens: CSA headers of both versions, the protocol, and where the tiles of a mosaic lie."""

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, FileDataset
from pydicom.uid import MRImageStorage

from node.errors import ConversionRefused
from node.volume import vendors
from node.volume.describe.sidecar_fields import describe
from node.volume.vendors import siemens
from node.volume.vendors.siemens import csa_numbers, parse_csa, parse_protocol
from tests import make
from tests.unit.volume.grids import tiled, weighted

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
        ImagePositionPatient=[make.decimal(value) for value in corner],
        ImageOrientationPatient=[make.decimal(value) for value in orientation],
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
    elements = parse_csa(header)
    assert dict(elements) == {"B_value": ("1000",), "SliceNormalVector": ("0.1", "-0.2", "0.97")}
    assert csa_numbers(elements, "SliceNormalVector", 3) == (0.1, -0.2, 0.97)
    assert csa_numbers(elements, "SliceNormalVector", 2) is None
    assert csa_numbers(parse_csa(csa({"B_value": ("nan",)})), "B_value") is None


@given(st.binary(max_size=400), st.booleans())
@settings(max_examples=200)
def test_a_broken_csa_header_is_read_as_far_as_it_goes(tail: bytes, second: bool) -> None:
    whole = csa({"B_value": ("1000",), "Other": ("2",)}, 2 if second else 1)
    for data in (tail, b"SV10" + tail, whole[: len(whole) // 2] + tail):
        assert all(isinstance(value, str) for values in parse_csa(data).values() for value in values)


def test_the_protocol_is_read_out_of_its_envelope() -> None:
    assignments = parse_protocol(protocol(np.array([[1.5, 0, -3]])))
    assert assignments["sSliceArray.lSize"] == "1"
    assert assignments["sSliceArray.asSlice[0].sPosition.dTra"] == "-3.0"
    assert assignments["tSequenceFileName"] == "ep2d"
    assert not parse_protocol(b"no protocol")


# Mosaics


@pytest.mark.parametrize("orientation", [make.AXIAL, make.SAGITTAL, make.CORONAL, make.OBLIQUE])
@pytest.mark.parametrize("forward", [1.0, -1.0])
@pytest.mark.parametrize("version", [1, 2])
def test_tiles_lie_along_the_normal_of_the_csa_header(orientation: make.Numbers, forward: float, version: int) -> None:
    ds = mosaic(orientation=orientation)
    direction = normal(orientation) * forward
    times = (0.0, 1200.0, 400.0, 1600.0, 800.0)
    put_csa(ds, version=version, NumberOfImagesInMosaic=(5,), SliceNormalVector=direction, MosaicRefAcqTimes=times)
    tiling = tiled(ds)
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
    assert tiled(ds).count == 5


@pytest.mark.parametrize("reverse", [False, True])
def test_without_the_csa_header_the_slices_of_the_protocol_place_the_tiles(reverse: bool) -> None:
    centres = centres_of((10.0, 20.0, 30.0), make.OBLIQUE, 5)
    ds = mosaic(first=(10.0, 20.0, 30.0) if not reverse else centres[-1] - centres[0] + (10.0, 20.0, 30.0))
    put_protocol(ds, centres)
    steps = np.diff(tiled(ds).positions, axis=0)
    assert np.allclose(steps, normal(make.OBLIQUE) * DISTANCE * (-1 if reverse else 1), atol=1e-6)


def refused(ds: FileDataset) -> str:
    with pytest.raises(ConversionRefused) as caught:
        vendors.tiling(ds)
    assert caught.value.reason == "unproven-layout"
    return caught.value.detail


def test_a_mosaic_whose_layout_is_not_proven_is_refused() -> None:
    assert "number of images is neither" in refused(mosaic())

    elsewhere = mosaic()
    put_protocol(elsewhere, centres_of((10.0, 20.0, 130.0), make.OBLIQUE, 5))
    assert "neither the first nor the last slice" in refused(elsewhere)

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
    assert tiled(ds).count == 5


def test_an_image_that_is_no_mosaic_has_no_tiling() -> None:
    ds = make.mr_series(1)[0]
    put_csa(ds, NumberOfImagesInMosaic=(5,))
    assert vendors.tiling(ds) is None


# Diffusion


def siemens_mr(**attributes: Any) -> FileDataset:
    return make.mr_series(1, Manufacturer="SIEMENS", **attributes)[0]


def test_the_private_header_gives_direction_and_b_value() -> None:
    ds = siemens_mr()
    block = ds.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0C, "IS", "1000")
    block.add_new(0x0D, "CS", "DIRECTIONAL")
    block.add_new(0x0E, "FD", [0.6, 0.0, 0.8])
    diffusion = weighted(ds)
    assert (diffusion.b_value, diffusion.derived) == (1000, False)
    assert np.allclose(diffusion.direction_lps, (0.6, 0, 0.8))


def test_elements_without_creators_and_value_representations_are_still_read() -> None:
    ds = siemens_mr()
    ds.add_new((0x0019, 0x100C), "UN", b"1000")
    ds.add_new((0x0019, 0x100E), "UN", struct.pack("<3d", 0.0, 1.0, 0.0))
    diffusion = weighted(ds)
    assert diffusion.b_value == 1000
    assert np.allclose(diffusion.direction_lps, (0, 1, 0))


def test_the_csa_header_gives_them_too_and_the_matrix_where_the_vector_is_missing() -> None:
    ds = siemens_mr()
    put_csa(ds, B_value=(800,), B_matrix=(0, 0, 0, 800, 0, 0))
    diffusion = weighted(ds)
    assert diffusion.b_value == 800
    assert np.allclose(np.abs(diffusion.direction_lps), (0, 1, 0))


def test_trace_images_are_derived() -> None:
    ds = siemens_mr(ImageType="DERIVED\\PRIMARY\\DIFFUSION\\TRACEW\\ND")
    ds.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0C, "IS", "1000")
    diffusion = weighted(ds)
    assert (diffusion.b_value, diffusion.derived, diffusion.direction_lps) == (1000, True, None)


def test_the_protocol_is_found_in_the_series_header() -> None:
    ds = mosaic()
    put_protocol(ds, np.zeros((1, 3)))
    assert siemens.protocol(ds)["sSliceArray.lSize"] == "1"
    assert siemens.protocol(siemens_mr()) == {}


def planned(**assignments: str) -> bytes:
    """A protocol with these assignments; two underscores stand for a dot."""
    lines = "\n".join(f"{name.replace('__', '.')} = {value}" for name, value in assignments.items())
    return b"### ASCCONV BEGIN ###\n" + lines.encode() + b"\n### ASCCONV END ###\0"


def v_series(protocol: bytes, **attributes: Any) -> FileDataset:
    ds = siemens_mr(**attributes)
    ds.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x20, "OB", csa({}) + protocol)
    return ds


@pytest.mark.parametrize(("written", "part"), [("0x4", 0.75), ("8", 0.875), ("16", 1.0), ("0x3", None), ("half", None)])
def test_the_protocol_tells_partial_fourier_as_old_and_new_software_write_it(written: str, part: float | None) -> None:
    assert describe(v_series(planned(sKSpace__ucPhasePartialFourier=written)), []).get("PartialFourier") == part


def test_the_protocol_tells_acceleration_and_the_pause_in_the_repetition_time() -> None:
    ds = v_series(
        planned(
            sPat__lAccelFactPE="3",
            sPat__lAccelFact3D="1",
            sPat__ucPATMode="0x2",
            sSliceAcceleration__lMultiBandFactor="4",
            lDelayTimeInTR="10000",
        )
    )
    facts = describe(ds, [])
    assert facts["ParallelReductionFactorInPlane"] == 3
    assert facts["ParallelReductionFactorOutOfPlane"] == 1
    assert facts["ParallelAcquisitionTechnique"] == "GRAPPA"
    assert facts["MultibandAccelerationFactor"] == 4
    assert facts["DelayTime"] == 0.01
    assert facts["RepetitionTime"] == 2.0


def test_one_band_in_the_protocol_is_no_word_on_sequences_of_others() -> None:
    ds = v_series(planned(sPat__ucPATMode="1", sSliceAcceleration__lMultiBandFactor="1"))
    assert "MultibandAccelerationFactor" not in describe(ds, [])
    assert "ParallelAcquisitionTechnique" not in describe(ds, [])


@pytest.mark.parametrize(
    ("sequence", "kind", "times"),
    [
        (r"%SiemensSeq%\gre_field_mapping", "P", (0.00519, 0.00765)),
        (r"%SiemensSeq%\gre_field_mapping", "M", (None, None)),  # of one echo
        (r"%SiemensSeq%\gre", "P", (None, None)),  # the phase of one echo
    ],
)
def test_phase_differences_tell_both_echoes(sequence: str, kind: str, times: tuple[float | None, float | None]) -> None:
    protocol = planned(**{"tSequenceFileName": f'"{sequence}"', "alTE[0]": "5190", "alTE[1]": "7650"})
    facts = describe(v_series(protocol, ImageType=f"ORIGINAL\\PRIMARY\\{kind}\\ND"), [])
    assert (facts.get("EchoTime1"), facts.get("EchoTime2")) == times


def test_dwell_time_and_coils_are_reported_by_private_elements_or_the_csa_header() -> None:
    ds = siemens_mr()
    put_csa(ds, RealDwellTime=("3400",), ImaCoilString=("HEA;HEP",))
    facts = describe(ds, [])
    assert (facts["DwellTime"], facts["ReceiveCoilActiveElements"]) == (3.4e-6, "HEA;HEP")
    ds.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x18, "IS", "2600")
    ds.private_block(0x0051, "SIEMENS MR HEADER", create=True).add_new(0x0F, "LO", "C:HE")
    facts = describe(ds, [])
    assert (facts["DwellTime"], facts["ReceiveCoilActiveElements"]) == (2.6e-6, "C:HE")
    ds.PatientName = "Hep^Anna"
    ds[0x0051, 0x100F].value = "HEA;HEP"
    assert "ReceiveCoilActiveElements" not in describe(ds, [])


@pytest.mark.parametrize(("kind", "corrected"), [("ND", False), ("DIS2D", True), ("DIS3D", True), ("NORM", None)])
def test_image_type_tells_whether_nonlinearity_of_gradients_was_corrected(kind: str, corrected: bool | None) -> None:
    ds = siemens_mr(ImageType=f"ORIGINAL\\PRIMARY\\M\\{kind}")
    assert describe(ds, []).get("NonlinearGradientCorrection") == corrected


@pytest.mark.parametrize(
    ("coils", "expected"), [(("Head_32", "Head_32"), "Head_32"), (("Head_32", "Spine_32"), None), ((), None)]
)
def test_the_protocol_names_the_coil_if_it_is_one(coils: tuple[str, ...], expected: str | None) -> None:
    selected = "sCoilSelectMeas.aRxCoilSelectData[{}].asList[{}].sCoilElementID.tCoilID"
    names = {selected.format(0, index): f'"{name}"' for index, name in enumerate(coils)}
    ds = v_series(planned(**names, **{selected.format(1, 0): '"Body"'}))
    assert describe(ds, []).get("ReceiveCoilName") == expected


def test_enhanced_images_of_xa_tell_sequence_and_image_type_in_private_items() -> None:
    ds, of_all, of_frame = make.enhanced_mr(2, Manufacturer="Siemens Healthineers"), Dataset(), Dataset()
    block = of_all.private_block(0x0021, "SIEMENS MR SDS 01", create=True)
    block.add_new(0x5A, "CS", "EP")
    block.add_new(0x5C, "CS", ["PFP", "FS"])
    of_frame.private_block(0x0021, "SIEMENS MR SDI 02", create=True).add_new(0x75, "CS", ["ORIGINAL", "M", "DIS2D"])
    shared, frame = ds.SharedFunctionalGroupsSequence[0], ds.PerFrameFunctionalGroupsSequence[0]
    shared.private_block(0x0021, "SIEMENS MR SDS 01", create=True).add_new(0xFE, "SQ", [of_all])
    frame.private_block(0x0021, "SIEMENS MR SDI 02", create=True).add_new(0xFE, "SQ", [of_frame])
    facts = describe(ds, [])
    assert (facts["ScanningSequence"], facts["ScanOptions"]) == (["EP"], ["PFP", "FS"])
    assert facts["NonlinearGradientCorrection"] is True


def test_enhanced_images_of_xa_keep_the_protocol_beside_the_shared_groups() -> None:
    ds, kept = make.enhanced_mr(2, Manufacturer="Siemens Healthineers"), Dataset()
    block = kept.private_block(0x0021, "SIEMENS MR SDS 01", create=True)
    block.add_new(0x19, "OB", planned(sSliceAcceleration__lMultiBandFactor="2"))
    shared = ds.SharedFunctionalGroupsSequence[0]
    shared.private_block(0x0021, "SIEMENS MR SDS 01", create=True).add_new(0xFE, "SQ", [kept])
    assert describe(ds, [])["MultibandAccelerationFactor"] == 2


@pytest.mark.parametrize(
    ("mode", "count", "turns"),
    [
        ("0x1", 4, (0, 1, 2, 3)),
        ("0x2", 4, (3, 2, 1, 0)),
        ("0x4", 4, (2, 0, 3, 1)),  # of an even number of slices the second one is first
        ("4", 5, (0, 3, 1, 4, 2)),
    ],
)
def test_older_mosaics_tell_the_order_of_slices_in_a_protocol(mode: str, count: int, turns: tuple[int, ...]) -> None:
    expected = pytest.approx(tuple(turn * 2.0 / count for turn in turns))
    assert tiled(older_mosaic(count, mode)).slice_times_s == expected


def test_a_protocol_that_lists_slices_the_other_way_round_turns_their_times() -> None:
    assert tiled(older_mosaic(4, reverse=True)).slice_times_s == pytest.approx((1.5, 1.0, 0.5, 0.0))


def test_the_order_of_slices_is_not_reported_where_anything_may_have_changed_it() -> None:
    for change in ({"mode": "0x8"}, {"passes": "2"}, {"repetition_time": ""}, {"software": "syngo MR B17 4VB17A"}):
        assert tiled(older_mosaic(4, **change)).slice_times_s is None


def older_mosaic(
    count: int,
    mode: str = "0x1",
    *,
    passes: str = "1",
    reverse: bool = False,
    repetition_time: str = "2010",
    software: str = "syngo MR B13 4VB13A",
) -> FileDataset:
    """A mosaic from before the CSA header listed the times of its slices; the pause in its repetition is 10 ms."""
    ds = mosaic(count)
    ds.SoftwareVersions, ds.RepetitionTime = software, repetition_time
    put_csa(ds, NumberOfImagesInMosaic=(count,), SliceNormalVector=normal(make.OBLIQUE))
    centres = np.outer(np.arange(count) * DISTANCE, normal(make.OBLIQUE))[:: -1 if reverse else 1]
    settings = {"sSliceArray__ucMode": mode, "sSliceArray__lConc": passes, "lDelayTimeInTR": "10000"}
    both = protocol(centres).split(b"\n### ASCCONV END")[0] + planned(**settings).split(b"###", 2)[2]
    ds.add_new((0x0029, 0x1020), "OB", both)
    return ds


def test_the_csa_header_states_the_encoded_velocity_before_the_name_of_the_sequence() -> None:
    ds = make.mr_series(1, Manufacturer="SIEMENS", SequenceName="*fl2d1_v150in")[0]
    put_csa(ds, FlowVenc=("120.0",))
    assert describe(ds, [])["VelocityEncodingMaximumValue"] == 120.0
