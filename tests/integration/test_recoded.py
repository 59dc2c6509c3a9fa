"""An instance that comes again with its pixels in another lossless encoding is the same version: nobody need decide."""

import base64
import subprocess
import zlib
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import FileDataset, dcmread
from pydicom.encaps import encapsulate, encapsulate_extended, generate_frames
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from node.archive.intact import data_set_offset
from node.children.forwarding import CopyChange, copy_of, forward
from node.index.rows.records import Outcome
from node.lifecycle.scrub import Comparisons
from node.receive.ingest import Announced
from node.volume.read.transfer_syntaxes import DEFLATED_IMAGE_FRAME
from tests import make
from tests.integration.conftest import Root
from tests.integration.test_patients import number, persons, right
from tests.made_once import decoder
from tests.programs import needs
from tests.unit.volume.read.test_pixels import HIGH_THROUGHPUT

Recoder = Callable[[Path, Path], object]
"""Writes an uncompressed file in another encoding."""


def native(syntax: UID) -> Recoder:
    def recode(path: Path, into: Path) -> None:
        ds = dcmread(path)
        ds.file_meta.TransferSyntaxUID = syntax
        ds.save_as(into, implicit_vr=syntax.is_implicit_VR, little_endian=True)

    return recode


def by_pydicom(syntax: UID, **options: Any) -> Recoder:
    def recode(path: Path, into: Path) -> None:
        ds = dcmread(path)
        ds.compress(syntax, generate_instance_uid=False, **options)
        ds.save_as(into)

    return recode


def by_dcmtk(program: str, *options: str) -> Recoder:
    return lambda path, into: subprocess.run([needs(program), *options, path, into], check=True)


def in_deflated_frames(path: Path, into: Path) -> None:
    ds = dcmread(path)
    frames, size = int(ds.get("NumberOfFrames", 1)), ds.Rows * ds.Columns * ds.SamplesPerPixel * ds.BitsAllocated // 8
    pieces = [zlib.compress(ds.PixelData[index * size :][:size], wbits=-15) for index in range(frames)]
    ds.PixelData = encapsulate(pieces)
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = UID(DEFLATED_IMAGE_FRAME)
    ds.save_as(into)


def with_offsets(path: Path, into: Path) -> None:
    """RLE with an Extended Offset Table."""
    by_pydicom(RLELossless, encoding_plugin="pylibjpeg")(path, into)
    ds = dcmread(into)
    frames = list(generate_frames(ds.PixelData, number_of_frames=int(ds.get("NumberOfFrames", 1))))
    ds.PixelData, ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths = encapsulate_extended(frames)
    ds.save_as(into)


RECODERS: dict[str, Recoder] = {
    "implicit": native(ImplicitVRLittleEndian),
    "big endian": by_dcmtk("dcmconv", "+tb"),
    "deflated": native(DeflatedExplicitVRLittleEndian),
    "RLE": by_pydicom(RLELossless, encoding_plugin="pylibjpeg"),
    "RLE with offsets": with_offsets,
    "JPEG-LS": by_pydicom(JPEGLSLossless),
    "JPEG 2000": by_pydicom(JPEG2000Lossless),
    "deflated frames": in_deflated_frames,
    "RLE of dcmtk": by_dcmtk("dcmcrle"),
    "JPEG of dcmtk": by_dcmtk("dcmcjpeg", "+e1"),
    "JPEG process 14 of dcmtk": by_dcmtk("dcmcjpeg", "+el"),
    "JPEG-LS of dcmtk": by_dcmtk("dcmcjpls"),
    "deflated of dcmtk": by_dcmtk("dcmconv", "+td"),
}

WITHOUT_SPARE_BITS = "JPEG-LS", "JPEG 2000", "JPEG of dcmtk", "JPEG process 14 of dcmtk"


def grey(**attributes: Any) -> FileDataset:
    [ds] = make.ct_series(1, **attributes)
    make.set_pixels(ds, make.pattern(1, 48, 64)[0])
    block = ds.private_block(0x0099, "VOXELNODE TEST", create=True)
    block.add_new(1, "US", [1, 2, 3])
    block.add_new(2, "SQ", [make.dataset(PatientID="inside")])
    known = ds.private_block(0x2001, "Philips Imaging DD 001", create=True)
    known.add_new(3, "LO", "1000.0")  # an FL by the dictionary of pydicom
    ds.IconImageSequence = [make.dataset(Rows=2, Columns=2, BitsAllocated=8, SamplesPerPixel=1, PixelData=bytes(4))]
    return ds


def frames() -> FileDataset:
    ds = make.rgb_capture(frames=3)
    pixels = np.random.default_rng(1).integers(0, 256, (3, 41, 33), np.uint8)
    ds.NumberOfFrames, ds.Rows, ds.Columns, ds.SamplesPerPixel = 3, 41, 33, 1
    ds.PhotometricInterpretation, ds.PixelData = "MONOCHROME2", pixels.tobytes() + b"\0"
    ds["PixelData"].VR = "OB"
    del ds.PlanarConfiguration
    return ds


def palette() -> FileDataset:
    ds = frames()
    ds.PhotometricInterpretation = "PALETTE COLOR"
    for colour in ("Red", "Green", "Blue"):
        setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(ds, f"{colour}PaletteColorLookupTableData", np.arange(256, dtype="<u2").repeat(1).tobytes())
        ds[f"{colour}PaletteColorLookupTableData"].VR = "OW"
    return ds


def unsigned() -> FileDataset:
    ds = grey()
    make.set_pixels(ds, (np.frombuffer(ds.PixelData, "<i2").reshape(ds.Rows, ds.Columns) & 0xFFF).astype(np.uint16))
    ds.BitsStored, ds.HighBit = 12, 11
    return ds


IMAGES: dict[str, Callable[[], FileDataset]] = {
    "signed": grey,
    "12 bits": unsigned,
    "colour": lambda: make.rgb_capture(40, 48),
    "odd frames": frames,
    "palette": palette,
    "overlay": lambda: overlay(unsigned()),
}


def received(root: Root, path: Path) -> Outcome:
    meta = dcmread(path, stop_before_pixels=True).file_meta
    said = Announced(meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID)
    return root.take_bytes(said, path.read_bytes()[data_set_offset(path) or 0 :])


def compare(root: Root) -> dict[str, Any]:
    """Make the comparisons that are owed; return what became of the one conflict."""
    Comparisons(root.archive, root.index, decoder()).step()
    [row] = root.rows("SELECT decision, decided_by FROM v_conflicts")
    return row


KEPT, OPEN = (
    {"decision": "kept", "decided_by": "the same data set in another encoding"},
    {"decision": None, "decided_by": None},
)


@pytest.mark.sample(4, 12)
@pytest.mark.diagonal
@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("encoding", RECODERS)
def test_an_instance_of_another_lossless_encoding_stays(root: Root, tmp_path: Path, image: str, encoding: str) -> None:
    [first] = make.saved([IMAGES[image]()], tmp_path)
    second = tmp_path / "second"
    RECODERS[encoding](first, second)
    assert received(root, first) is Outcome.STORED
    assert received(root, second) is Outcome.OTHER_BYTES
    assert root.rows("SELECT decision FROM v_conflicts") == [{"decision": "kept"}]
    assert compare(root) == (OPEN if image == "overlay" and encoding in WITHOUT_SPARE_BITS else KEPT)


ENCODED = ("RLE", "JPEG-LS", "JPEG of dcmtk", "JPEG 2000", "deflated", "big endian", "deflated frames", "implicit")


PAIRS = [*zip(ENCODED, (ENCODED[-1], *ENCODED), strict=False), ("RLE", "RLE with offsets"), ("RLE", "RLE of dcmtk")]


@pytest.mark.sample(4)
@pytest.mark.parametrize("names", PAIRS)
def test_two_lossless_encodings_are_compared_in_any_order(root: Root, tmp_path: Path, names: tuple[str, str]) -> None:
    [path] = make.saved([unsigned()], tmp_path)
    one, other = tmp_path / "one", tmp_path / "other"
    for name, into in zip(names, (one, other), strict=True):
        RECODERS[name](path, into)
    assert received(root, one) is Outcome.STORED
    assert received(root, other) is Outcome.OTHER_BYTES
    assert compare(root) == KEPT


def test_high_throughput_jpeg_2000_is_kept(root: Root, tmp_path: Path) -> None:
    ds = unsigned()
    make.set_pixels(ds, np.add.outer(np.arange(16) * 37, np.arange(20) * 11).astype(np.uint16))
    ds.BitsStored, ds.HighBit = 12, 11
    assert root.take(ds) is Outcome.STORED
    ds.PixelData = encapsulate([base64.b64decode(HIGH_THROUGHPUT)])
    ds["PixelData"].is_undefined_length, ds["PixelData"].VR = True, "OB"
    ds.file_meta.TransferSyntaxUID = HTJ2KLossless
    [path] = make.saved([ds], tmp_path)
    assert received(root, path) is Outcome.OTHER_BYTES
    assert compare(root) == KEPT


def test_colours_by_plane_and_transformed_are_kept(root: Root, tmp_path: Path) -> None:
    ds = make.rgb_capture(40, 48)
    [second] = make.saved([deepcopy(ds)], tmp_path)
    ds.PlanarConfiguration, ds.PixelData = 1, np.frombuffer(ds.PixelData, np.uint8).reshape(-1, 3).T.tobytes()
    assert root.take(ds) is Outcome.STORED
    packed = dcmread(second)
    packed.compress(JPEG2000Lossless, generate_instance_uid=False, use_mct=True)
    packed.PhotometricInterpretation = "YBR_RCT"
    packed.save_as(second)
    assert received(root, second) is Outcome.OTHER_BYTES
    assert compare(root) == KEPT


def one_pixel(ds: FileDataset) -> None:
    pixels = bytearray(ds.PixelData)
    pixels[len(pixels) // 2] ^= 1
    ds.PixelData = bytes(pixels)


def overlay(ds: FileDataset) -> FileDataset:
    """Its overlay is in the spare bits of the pixels, which a codec leaves out."""
    pixels = np.frombuffer(ds.PixelData, "<u2").copy()
    pixels[3:30] |= 1 << 13
    ds.PixelData = pixels.tobytes()
    ds.add_new(0x60000010, "US", ds.Rows)
    ds.add_new(0x60000011, "US", ds.Columns)
    ds.add_new(0x60000100, "US", 16)
    ds.add_new(0x60000102, "US", 13)
    return ds


def overlay_elsewhere(ds: FileDataset) -> None:
    overlay(ds)[0x60000102].value = 14


def overlay_otherwise(ds: FileDataset) -> None:
    overlay(ds)
    ds.PixelData = ds.PixelData[:81] + bytes([ds.PixelData[81] ^ 0x20]) + ds.PixelData[82:]


def flat_palette() -> FileDataset:
    ds = palette()
    for colour in ("Red", "Green", "Blue"):
        setattr(ds, f"{colour}PaletteColorLookupTableData", bytes(512))
    return ds


ATTACKS: dict[str, tuple[Callable[[], FileDataset], Callable[[FileDataset], object]]] = {
    "one pixel": (unsigned, one_pixel),
    "one pixel of one frame": (frames, one_pixel),
    "one sample of a colour": (IMAGES["colour"], one_pixel),
    "one attribute": (unsigned, lambda ds: make.changed(ds, PatientComments="other")),
    "one value of a private element": (grey, lambda ds: setattr(ds[0x00991001], "value", [1, 2, 4])),
    "bits stored": (unsigned, lambda ds: make.changed(ds, BitsStored=13, HighBit=12)),
    "signed": (unsigned, lambda ds: make.changed(ds, PixelRepresentation=1 - ds.PixelRepresentation)),
    "a frame more": (frames, lambda ds: make.changed(ds, NumberOfFrames=2, PixelData=ds.PixelData[: 2 * 41 * 33])),
    "an overlay in another place": (unsigned, overlay_elsewhere),
    "an overlay with one other bit": (unsigned, overlay_otherwise),
    "the meaning of grey": (unsigned, lambda ds: make.changed(ds, PhotometricInterpretation="MONOCHROME1")),
    "the meaning of colours": (IMAGES["colour"], lambda ds: make.changed(ds, PhotometricInterpretation="YBR_FULL")),
    "one colour of a palette": (palette, lambda ds: make.changed(ds, BluePaletteColorLookupTableData=bytes(512))),
    "an index of the same colour": (flat_palette, one_pixel),
    "rows and columns": (unsigned, lambda ds: make.changed(ds, Rows=ds.Columns, Columns=ds.Rows)),
}


@pytest.mark.sample(5, 12)
@pytest.mark.diagonal
@pytest.mark.parametrize("encoding", ["RLE", "JPEG-LS", "JPEG 2000", "big endian", "deflated"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_what_differs_is_for_a_person_to_decide(root: Root, tmp_path: Path, attack: str, encoding: str) -> None:
    image, change = ATTACKS[attack]
    first, second = image(), image()
    second.SOPInstanceUID = second.file_meta.MediaStorageSOPInstanceUID = first.SOPInstanceUID
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        if name in first:
            second[name] = first[name]
    if "overlay" in attack:
        overlay(first)
    change(second)
    [path] = make.saved([second], tmp_path)
    RECODERS[encoding](path, tmp_path / "second")
    assert root.take(first) is Outcome.STORED
    assert received(root, tmp_path / "second") is Outcome.OTHER_BYTES
    assert compare(root) == OPEN


lossy = by_pydicom(JPEG2000, j2k_cr=[20])


def described_otherwise(path: Path, into: Path) -> None:
    """In the same syntax: then it is not what an encoder says of itself."""
    make.changed(dcmread(path), DerivationDescription="mean").save_as(into)


def lossy_called_lossless(path: Path, into: Path) -> None:
    lossy(path, into)
    ds = dcmread(into)
    ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
    ds.save_as(into)


def damaged(syntax: UID, change: Callable[[bytes], bytes]) -> Recoder:
    def recode(path: Path, into: Path) -> None:
        by_pydicom(syntax)(path, into)
        ds = dcmread(into)
        ds.PixelData = encapsulate([change(next(generate_frames(ds.PixelData, number_of_frames=1)))])
        ds.save_as(into)

    return recode


truncated = damaged(JPEG2000Lossless, lambda frame: frame[: len(frame) // 4 * 2])
not_decodable = damaged(JPEGLSLossless, lambda frame: b"no frame")


@pytest.mark.parametrize("recode", [lossy, lossy_called_lossless, truncated, not_decodable, described_otherwise])
def test_what_lost_something_or_cannot_be_decoded_is_for_a_person(root: Root, tmp_path: Path, recode: Recoder) -> None:
    [path] = make.saved([unsigned()], tmp_path)
    recode(path, tmp_path / "second")
    assert received(root, path) is Outcome.STORED
    assert received(root, tmp_path / "second") is Outcome.OTHER_BYTES
    assert compare(root) == OPEN


def two_encodings(root: Root, tmp_path: Path, change: Callable[[FileDataset], object]) -> None:
    """Take a series in, and one of its instances again in JPEG-LS, perhaps changed."""
    series = make.ct_series(5, pixels=make.pattern(5, 48, 64))
    root.take_all(series)
    root.convert_due()
    change(series[2])
    [path] = make.saved([series[2]], tmp_path)
    RECODERS["JPEG-LS"](path, tmp_path / "second")
    assert received(root, tmp_path / "second") is Outcome.OTHER_BYTES


def test_a_series_is_not_suspect_at_any_time_and_is_not_converted_again(root: Root, tmp_path: Path) -> None:
    two_encodings(root, tmp_path, lambda ds: None)
    assert root.rows("SELECT decision, decided_by FROM v_conflicts") == [
        KEPT | {"decided_by": "the same data set in another encoding, if its pixels are"}
    ]
    assert root.rows("SELECT verdict FROM v_series") == [{"verdict": "complete"}]
    assert compare(root) == KEPT
    assert root.rows("SELECT verdict FROM v_series") == [{"verdict": "complete"}]
    assert root.rows("SELECT DISTINCT revision FROM v_volumes") == [{"revision": 1}]


def test_a_series_is_suspect_once_a_pixel_differs(root: Root, tmp_path: Path) -> None:
    two_encodings(root, tmp_path, one_pixel)
    assert compare(root) == OPEN
    assert root.rows("SELECT verdict FROM v_series") == [{"verdict": "suspect"}]
    [row] = root.rows("SELECT detail FROM v_conflicts")
    assert row["detail"] == "the instance came again with other bytes; the first is current"
    assert root.rows("SELECT detail FROM v_events WHERE kind = 'instance-conflict'")[-1] == row


def test_what_a_person_has_decided_meanwhile_stays(root: Root, tmp_path: Path) -> None:
    two_encodings(root, tmp_path, one_pixel)
    root.index.conflicts.decide([1], "kept", "somebody", root.clock())
    assert compare(root) == {"decision": "kept", "decided_by": "somebody"}


WRONG = {"PatientID": "C-7", "PatientName": "Wrong^Person", "PatientAge": "044Y", "PatientComments": "of another"}


@pytest.mark.sample(4, 16)
@pytest.mark.parametrize("is_changed", [False, True])
@pytest.mark.parametrize("policy", ["never", "replace", "keep_both"])
@pytest.mark.parametrize("stored", ["", "implicit", "big endian", "deflated", "RLE"])
@pytest.mark.parametrize("encoding", ["", *RECODERS])
@pytest.mark.parametrize("decisions", [1, 2])
def test_an_own_copy_that_comes_back_is_the_stored_version(
    root: Root, tmp_path: Path, policy: Any, stored: str, encoding: str, decisions: int, *, is_changed: bool
) -> None:
    root.ingest.overwrite_policy = policy
    [first] = make.saved([grey(**WRONG, SpecificCharacterSet="ISO_IR 100", InstitutionName="Zürich")], tmp_path)
    if stored:
        RECODERS[stored](first, first)
    received(root, first)
    persons(root).correct(number(root, "C-7"), right(patient_id="C-1", patient_name="Yamada=山田"), root.clock())
    [image] = root.rows("SELECT path, sha256 FROM v_images")
    paths = [Path(image["path"]), *(tmp_path / str(place) for place in range(decisions))]
    for one, other in pairwise(paths):
        with root.index.reading() as index:
            [instance] = index.files.stored()
        identity = replace(instance.identity, patient_id=f"C-{other.name}")
        change = CopyChange(identity=identity, encoding="keep" if encoding in ("", stored) else "explicit")
        copy_of(forward(one, change, other), change)
    copy = dcmread(paths[-1])
    assert not any(name in copy for name in ("PatientAge", "PatientComments"))
    if is_changed:
        one_pixel(copy)
    copy.save_as(paths[-1])
    if encoding not in ("", stored):
        RECODERS[encoding](paths[-1], paths[-1])
    for _ in range(2):
        assert received(root, paths[-1]) is Outcome.ALREADY_THERE
    assert compare(root) == (OPEN if is_changed else KEPT)
    assert root.rows("SELECT sha256 FROM v_images") == [{"sha256": image["sha256"]}]
    assert len(root.rows("SELECT 1 FROM v_patients")) == 2
    persons(root).separate(number(root, "C-7"), root.clock())
    with root.index.reading() as index:
        assert [one.identity for one in index.files.stored()] == [None]
