"""What decodes in child processes: whatever happens to a child, its node goes on."""

import hashlib
import importlib.resources
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from contextvars import copy_context
from copy import deepcopy
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from node.archive.intact import data_set_offset
from node.children.decoder import MAX_REMEMBERED, Decoder, DecoderBusy, NotDecoded, NotDecodedNow, _Refusals, _Subject
from node.children.decoding import differences_between, transcode
from node.children.forwarding import CopyChange, forward
from node.dicom.coercion import Coercion
from node.extensions.dicomweb.decoding import PictureOrder, Window, frame, native_picture, picture, stored_frame
from node.extensions.dicomweb.pixel_element import header_and_pixels
from node.files.reading import read_instance
from node.runtime.budget import Caller, calling
from node.volume.read.pixels import frame_reader
from tests import make
from tests.make import PYDICOM_FILES
from tests.pace import idle_seconds, now
from tests.web.conftest import until


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    decoder = Decoder(cpu_seconds=1, memory_bytes=3_000_000_000)
    yield decoder
    decoder.close()


def page_faults() -> bytes:
    """How often the kernel had to find a page for a hundred arrays of 4 MB, four at a time."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(25):
        [bytearray(4 << 20) for _ in range(4)]
    return b"%d" % (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)


@pytest.mark.slow
def test_an_array_has_the_memory_of_the_one_before(decoder: Decoder) -> None:
    assert int(decoder.run(page_faults)) < 10 * (4 << 20) / os.sysconf("SC_PAGESIZE")


@pytest.mark.slow
def test_a_child_that_crashes_harms_no_other_job(decoder: Decoder) -> None:
    with ThreadPoolExecutor(4) as threads:
        good = [threads.submit(decoder.run, frame, PYDICOM_FILES / "MR_small_RLE.dcm", 1) for _ in range(2)]
        with pytest.raises(NotDecoded, match="crashed"):
            decoder.run(os.abort)  # type: ignore[arg-type]  # returns nothing, not even that
        assert [len(job.result()) for job in good] == [64 * 64 * 2] * 2
    assert len(decoder.run(frame, PYDICOM_FILES / "MR_small_RLE.dcm", 1)) == 64 * 64 * 2


NATIVE = {
    "a CT": {},
    "a window": {"WindowCenter": ["40", "50"], "WindowWidth": ["80", "9"]},
    "a sigmoid": {"WindowCenter": "1040", "WindowWidth": "80", "VOILUTFunction": "SIGMOID"},
    "padding": {"PixelPaddingValue": 3},
    "inverted": {"PhotometricInterpretation": "MONOCHROME1", "Modality": "PT"},
    "other spacings": {"PixelSpacing": [0.5, 2.0]},
    "an aspect": {"PixelSpacing": None, "PixelAspectRatio": [1, 2]},
    "a slope below 0": {"RescaleSlope": "-2.5", "RescaleIntercept": "1e3"},
    "bits above": {"BitsStored": 5, "HighBit": 9},
    "8 bits": {
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
        "PixelData": bytes(range(256)),
        "Rows": 16,
        "Columns": 16,
    },
    "two frames": {"NumberOfFrames": 2, "Rows": 8},
    "sequences": {"ReferencedImageSequence": [Dataset()], "PatientComments": "\xe9" * 2000},
}
"""Changes of a slice of 16 x 16 that the node renders itself."""

LEFT = {
    "a VOI LUT": {"VOILUTSequence": [Dataset()]},
    "a Modality LUT": {"ModalityLUTSequence": [Dataset()]},
    "functional groups": {"SharedFunctionalGroupsSequence": [Dataset()]},
    "regions": {"PixelSpacing": None, "SequenceOfUltrasoundRegions": [Dataset()]},
    "a row too many": {"Rows": 17},
    "a row too few": {"Rows": 15},
    "colours": {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "Columns": 4, "Rows": 16},
    "no bits": {"BitsAllocated": 12},
    "a long side": {"Rows": 1, "Columns": 1025, "PixelData": bytes(2050)},
    "what follows the pixels": {"DataSetTrailingPadding": bytes(4)},
}
"""Changes with which it does not: a child has to."""


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("name", [*NATIVE, *LEFT])
def test_a_picture_that_the_node_renders_itself_is_that_of_a_child(tmp_path: Path, name: str, syntax: UID) -> None:
    [ds] = make.ct_series(1, rows=16, columns=16)
    ds.file_meta.TransferSyntaxUID = syntax
    make.changed(ds, **(NATIVE | LEFT)[name])
    ds.save_as(
        path := tmp_path / "a.dcm", enforce_file_format=True, implicit_vr=syntax.is_implicit_VR, little_endian=True
    )
    data_set = path.read_bytes()[data_set_offset(path) :]

    def drawn(data_set: bytes, order: PictureOrder) -> bytes | None:
        with (tmp_path / "picture").open("w+b") as file:
            is_drawn = native_picture(data_set, syntax, order, file)
            file.seek(0)
            assert is_drawn or not file.read(1)  # a child writes into the same file
            return file.read() if is_drawn else None

    for order in PictureOrder(1, "PNG"), PictureOrder(1, "JPEG", Window(1000, 10), (1, 2, 9, None), (40, 90), 70):
        shown = drawn(data_set, order)
        is_ambiguous = name == "padding" and syntax.is_implicit_VR  # US or SS: PS3.6 leaves it open
        assert (shown is None) == (name in LEFT or is_ambiguous)
        assert shown is None or shown == picture(path, order)
        assert drawn(data_set[:-2], order) is None
    assert drawn(data_set, PictureOrder(9)) is None
    assert drawn(data_set, PictureOrder(1, size=(2000, 1))) is None


@pytest.mark.parametrize("is_apart", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_pixels_of_two_versions_are_compared_in_any_encoding_or_it_is_said_why_not(
    decoder: Decoder, tmp_path: Path, is_apart: bool
) -> None:
    [ds] = make.ct_series(1)
    one, none = deepcopy(ds), deepcopy(ds)
    changed = make.changed(deepcopy(ds), PixelData=bytes([ds.PixelData[0] ^ 1]) + ds.PixelData[1:])
    small = make.set_pixels(deepcopy(ds), make.pattern(1, 4, 4)[0])
    one.compress(RLELossless, generate_instance_uid=False)
    del none.PixelData
    private = deepcopy(ds)
    private.private_block(0x9, "ACME", create=True).add_new(0x10, "LO", "other")
    private.KVP = "70"
    first, *others = make.saved([ds, one, changed, small, none, private], tmp_path)
    compare = decoder.differences if is_apart else lambda *files: differences_between(*files).decode()
    assert [compare(first, other) for other in others] == [
        "the pixels are the same",
        "1 of 192 pixel values differs",
        "the pixels have other dimensions: 1 x 16 x 12 and 1 x 4 x 4; elements that differ: Rows, Columns",
        "the pixels cannot be compared: the instance has no Pixel Data (7FE0,0010)",
        "the pixels are the same; elements that differ: (0009,0010), (0009,1010), KVP",
    ]
    if is_apart:
        gone = compare(first, tmp_path / "gone")
        assert gone == "the pixels cannot be compared: No such file or directory"


@pytest.mark.slow
def test_a_job_without_end_is_ended(decoder: Decoder) -> None:
    with pytest.raises(NotDecoded, match="time"):
        decoder.run(sum, range(10**15))  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_job_that_only_waits_is_ended_too_and_harms_no_other() -> None:
    with closing(Decoder()) as decoder:
        decoder.run(bytes, 1)  # which starts a child
        decoder._limits = replace(decoder._limits, deadline_seconds=2.0)
        began = time.monotonic()
        with ThreadPoolExecutor(1) as threads:
            asleep = threads.submit(decoder.run, time.sleep, 3600)  # type: ignore[arg-type]
            with pytest.raises(DecoderBusy):
                asleep.result(30)
        assert 1.5 < time.monotonic() - began < 15
        decoder._limits = replace(decoder._limits, deadline_seconds=60.0)
        assert decoder.run(bytes, 3) == b"\0\0\0"


def test_a_job_ends_with_the_client_that_waits_for_it(decoder: Decoder) -> None:
    caller = Caller("one")
    with ThreadPoolExecutor(1) as threads, calling(caller):
        asleep = threads.submit(copy_context().run, decoder.run, time.sleep, 3600)  # type: ignore[arg-type]
        until(lambda: decoder._children.busy == 1)
        caller.gone.set()
        with pytest.raises(NotDecodedNow, match="the client closed the connection"):
            asleep.result(30)
    assert decoder.run(bytes, 3) == b"\0\0\0"


@pytest.mark.slow
def test_a_deflated_data_set_is_inflated_as_a_stream(tmp_path: Path) -> None:
    ds = make.ct_series(1)[0]
    ds.Rows, ds.Columns = 16384, 16384
    ds.PixelData = bytes(2 * 16384 * 16384)
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    ds.save_as(tmp_path / "deflated.dcm", enforce_file_format=True)
    into = tmp_path / "inflated"
    into.touch()
    with closing(Decoder(workers=1, memory_bytes=600_000_000)) as decoder:
        decoder.run(transcode, tmp_path / "deflated.dcm", str(ExplicitVRLittleEndian), into=into)
    inflated = dcmread(into, force=True, defer_size=1000)
    assert (inflated.PatientID, inflated.Rows) == (ds.PatientID, 16384)
    assert into.stat().st_size > 2 * 16384 * 16384


def test_who_comes_when_many_wait_is_refused_at_once() -> None:
    decoder = Decoder(workers=1, max_waiting=1)
    with ThreadPoolExecutor(2) as threads:
        held = [threads.submit(decoder.run, time.sleep, 3600) for _ in range(2)]  # type: ignore[arg-type]
        until(lambda: decoder._turns._held.total() == 2)
        began = now()
        with pytest.raises(DecoderBusy):
            decoder.run(bytes, 1)
        assert idle_seconds(began, 1) < 1
        until(lambda: bool(decoder._children.busy))
        decoder.close()
        for each in held:
            with pytest.raises(NotDecoded):
                each.result(20)


@pytest.mark.slow
def test_an_answer_that_would_fill_our_own_memory_stays_in_the_child(decoder: Decoder) -> None:
    with closing(Decoder(max_answer_bytes=1000)) as bounded:
        assert len(bounded.run(bytes, 1000)) == 1000
        with pytest.raises(NotDecoded, match="1001 bytes"):
            bounded.run(bytes, 1001)


@pytest.mark.slow
def test_a_job_cannot_take_all_memory(decoder: Decoder) -> None:
    with pytest.raises(NotDecoded, match="memory"):
        decoder.run(bytes, 10**12)
    assert decoder.run(bytes, 3) == b"\0\0\0"


def test_what_the_data_forbid_is_reported_in_words(decoder: Decoder) -> None:
    with pytest.raises(NotDecoded, match="the instance has 1 frame, but frame 2 was requested"):
        decoder.run(frame, PYDICOM_FILES / "MR_small_RLE.dcm", 2)
    with pytest.raises(NotDecoded, match="no Pixel Data"):
        decoder.run(picture, PYDICOM_FILES / "rtplan.dcm", PictureOrder(1))
    with pytest.raises(FileNotFoundError):
        decoder.run(frame, PYDICOM_FILES / "nothing.dcm", 1)


def test_a_picture_is_as_it_was_ordered(decoder: Decoder) -> None:
    order = PictureOrder(2, "PNG", crop=(0, 0, 60, 40), size=(30, 30))
    with Image.open(BytesIO(decoder.run(picture, PYDICOM_FILES / "SC_rgb_rle_2frame.dcm", order))) as found:
        assert (found.format, found.size) == ("PNG", (30, 20))


def test_a_transcoded_data_set_goes_into_a_file(decoder: Decoder, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    assert (
        decoder.run(transcode, PYDICOM_FILES / "MR_small_RLE.dcm", "1.2.840.10008.1.2.1", into=tmp_path / "out") == b""
    )
    assert (tmp_path / "out").stat().st_size > 64 * 64 * 2


@pytest.mark.slow
def test_closing_ends_what_is_under_way_at_once() -> None:
    decoder = Decoder(cpu_seconds=60)
    assert decoder.run(bytes, 1) == b"\0"
    began = time.monotonic()
    with ThreadPoolExecutor(1) as threads:
        endless = threads.submit(decoder.run, sum, range(10**15))  # type: ignore[arg-type]
        until(lambda: endless.running())
        decoder.close()
        with pytest.raises(NotDecoded):
            endless.result(20)
    assert time.monotonic() - began < 20
    with pytest.raises(NotDecoded, match="stopping"):
        decoder.run(bytes, 1)
    decoder.close()


def fragmented(path: Path, fragments: int) -> Path:
    """Write an instance whose frame is of so many fragments."""
    ds = dcmread(PYDICOM_FILES / "MR_small_RLE.dcm")
    item = b"\xfe\xff\x00\xe0\x02\x00\x00\x00\x00\x00"
    ds.PixelData = item[:4] + bytes(4) + item * fragments + b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"
    ds.save_as(path)
    return path


@pytest.mark.slow
def test_a_file_that_exceeds_its_budget_costs_it_once(tmp_path: Path) -> None:
    hostile = fragmented(tmp_path / "hostile.dcm", 2_000_000)
    with closing(Decoder(frame_cpu_seconds=1)) as decoder:
        with pytest.raises(NotDecoded, match="more than 1 s of processor time"):
            decoder.run(frame, hostile, 1)
        began = now()
        for number in range(1, 100):
            with pytest.raises(NotDecoded, match="more than 1 s of processor time"):
                decoder.run(frame, hostile, number)
        assert idle_seconds(began, 1) < 1
        assert len(decoder.run(frame, PYDICOM_FILES / "MR_small_RLE.dcm", 1)) == 64 * 64 * 2
        hostile.write_bytes((PYDICOM_FILES / "MR_small_RLE.dcm").read_bytes())  # another file in its place
        assert len(decoder.run(frame, hostile, 1)) == 64 * 64 * 2


@pytest.mark.slow
def test_a_refusal_is_forgotten_after_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = fragmented(tmp_path / "hostile.dcm", 2000)
    with closing(Decoder()) as decoder:
        decoder._refusals.remember(_Subject.of(frame, (hostile,)), "as before")
        with pytest.raises(NotDecoded, match="as before"):
            decoder.run(frame, hostile, 1)
        with pytest.raises(NotDecoded, match="no Pixel Data"):
            decoder.run(picture, PYDICOM_FILES / "rtplan.dcm", PictureOrder(1))
        monkeypatch.setattr("node.children.decoder.REMEMBERED_SECONDS", 0.0)
        with pytest.raises(NotDecoded, match="cannot decode"):
            decoder.run(frame, hostile, 1)


@pytest.mark.slow
def test_a_crash_under_one_change_says_nothing_about_another(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    path = PYDICOM_FILES / "CT_small.dcm"
    one, other = (CopyChange(Coercion.of({"PatientID": name}, {}, ())) for name in "ab")
    with closing(Decoder()) as decoder:
        decoder._refusals.remember(_Subject.of(forward, (path, one)), "the decoder crashed")
        with pytest.raises(NotDecoded, match="crashed"):
            decoder.run(forward, path, one, into=tmp_path / "out")
        decoder.run(forward, path, other, into=tmp_path / "out")
        assert b"LO\x02\x00b " in (tmp_path / "out").read_bytes()
        with pytest.raises(NotDecodedNow, match="crashed"):  # by whom is not known: any process may be chosen
            decoder.run(signal.raise_signal, signal.SIGKILL)  # type: ignore[arg-type]  # returns nothing


def test_refusals_have_a_bound() -> None:
    refusals = _Refusals()
    for number in range(3 * MAX_REMEMBERED):
        refusals.remember(_Subject("frame", (0, number, 0, 0)), "no")
    assert len(refusals._known) == MAX_REMEMBERED
    refusals.check(_Subject("frame", (0, 1, 0, 0)))
    with pytest.raises(NotDecoded):
        refusals.check(_Subject("frame", (0, 3 * MAX_REMEMBERED - 1, 0, 0), (7,)))


@pytest.mark.slow
def test_a_frame_of_a_thousand_fragments_is_visited_in_a_child(tmp_path: Path) -> None:
    few, many = (fragmented(tmp_path / f"{count}.dcm", count) for count in (999, 1001))
    found = [header_and_pixels(path)[1] for path in (few, many, PYDICOM_FILES / "MR_small_RLE.dcm")]
    assert [element and element.has_more_fragments_than(1000) for element in found] == [False, True, False]
    with closing(Decoder()) as decoder:
        assert decoder.run(stored_frame, many, 1) == bytes(2 * 1001)


# Decoders of compressed frames: which there are, and what becomes of those that are not installed.


ROOT = Path(__file__).resolve().parents[2]
FILES = Path(str(importlib.resources.files("pydicom"))) / "data" / "test_files"
JPEG_LS_FILES = ("MR_small_jpeg_ls_lossless.dcm", "JPEGLSNearLossless_08.dcm", "JPEGLSNearLossless_16.dcm")


def samples_digests() -> dict[str, str]:
    """Digests of the first frames of the JPEG-LS files."""
    return {
        name: hashlib.sha256(frame_reader(read_instance(FILES / name))(0).tobytes()).hexdigest()
        for name in JPEG_LS_FILES
    }


@pytest.mark.long
def test_jpeg_ls_is_decoded_by_gdcm_where_pyjpegls_is_not_installed() -> None:
    pytest.importorskip("jpeg_ls", reason="pyjpegls has no wheel for this Python")
    program = """
import json, sys
sys.modules["jpeg_ls"] = None
from node.volume.read.transfer_syntaxes import decoders_by_transfer_syntax
from tests.integration.test_decoding import samples_digests
print(json.dumps([decoders_by_transfer_syntax(), samples_digests()]))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    decoders, digests = json.loads(done.stdout)
    syntaxes = {str(dcmread(FILES / name, stop_before_pixels=True).file_meta.TransferSyntaxUID) for name in digests}
    assert len(syntaxes) == 2
    assert {decoders[syntax][0].split()[0] for syntax in syntaxes} == {"python-gdcm"}
    assert digests == samples_digests()
