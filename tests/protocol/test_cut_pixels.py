"""An instance without all its pixels is stored, and its sender is warned (PS3.4 B.2.3)."""

import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from pydicom import FileDataset
from pydicom.uid import RLELossless

from node.api import import_instances
from node.dicom.attributes import INDEXED_TAGS
from node.dicom.header import OF_PIXELS, CutPixels, cut_pixels, read_header_by_windows
from node.dicom.walker import HeaderCut
from node.errors import NotUnderstood
from tests import make
from tests.protocol.conftest import Running, after_file_meta, associate, data_set_bytes

LOST = 100


def shortened(ds: FileDataset) -> FileDataset:
    """The instance with less of its pixels, in an element whose length is right."""
    return make.changed(ds, PixelData=ds.PixelData[:-LOST])


def in_memory(data: bytes, syntax: str) -> bool:
    return lengths(data, syntax) is not None


def lengths(data: bytes, syntax: str) -> CutPixels | None:
    def read(offset: int, length: int) -> bytes:
        return data[offset : offset + length]

    found = cut_pixels(read, len(data), syntax)
    with suppress(HeaderCut, NotUnderstood):  # of a header that was read before, the rest alone is read
        walked = read_header_by_windows(read, syntax, INDEXED_TAGS | OF_PIXELS)
        assert cut_pixels(read, len(data), syntax, walked) == found
    return found


def encoded(ds: FileDataset, folder: Path) -> bytes:
    [path] = make.saved([ds], folder)
    return after_file_meta(path.read_bytes())


def test_pixels_that_are_cut_or_too_few_are_found(tmp_path: Path) -> None:
    [image] = make.ct_series(1)
    syntax = image.file_meta.TransferSyntaxUID
    whole = encoded(image, tmp_path / "whole")
    assert not in_memory(whole, syntax)
    there, stated = len(image.PixelData) - LOST, len(image.PixelData)
    assert lengths(whole[:-LOST], syntax) == CutPixels(there, stated)
    assert lengths(encoded(shortened(image), tmp_path / "short"), syntax) == CutPixels(there, stated)
    [image] = make.ct_series(1)
    image.compress(RLELossless, generate_instance_uid=False)
    packed = encoded(image, tmp_path / "packed")
    assert not in_memory(packed, RLELossless)
    value = len(packed) - packed.index(b"\xe0\x7f\x10\x00") - 12
    for lost in (8, LOST):  # without the delimiter, and within the fragment
        assert lengths(packed[:-lost], RLELossless) == CutPixels(value - lost, value)


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL_422"])
def test_colours_that_share_samples_have_two_thirds_of_the_pixels(photometric: str, tmp_path: Path) -> None:
    capture = make.rgb_capture(8, 10)
    syntax = capture.file_meta.TransferSyntaxUID
    capture.PhotometricInterpretation = photometric
    if photometric != "RGB":
        capture.PixelData = capture.PixelData[: 8 * 10 * 2]
    assert not in_memory(encoded(capture, tmp_path / "a"), syntax)
    capture.PixelData = capture.PixelData[:-80]
    assert in_memory(encoded(capture, tmp_path / "b"), syntax)


def test_an_instance_without_all_its_pixels_is_kept_and_answered_with_a_warning(node: Running) -> None:
    whole, short = make.ct_series(2)
    association = associate(node)
    responses = [association.send_c_store(ds) for ds in (whole, shortened(short))]
    association.release()
    assert [response.Status for response in responses] == [0x0000, 0xB007]
    assert responses[1].ErrorComment == "kept, but the data set has not all pixels that it states"
    assert node.stored_data_sets()[short.SOPInstanceUID] == data_set_bytes(short)


def test_an_import_lists_files_without_all_their_pixels(node: Running, tmp_path: Path) -> None:
    _, cut = make.saved(make.ct_series(2), tmp_path / "in")
    cut.write_bytes(cut.read_bytes()[:-LOST])
    report = import_instances([tmp_path / "in"], node.ingest)
    assert (report.stored, report.cut) == (2, [str(cut)])


@pytest.mark.slow
@pytest.mark.peer
def test_storescu_takes_the_warning_as_success(node: Running, tmp_path: Path) -> None:
    program = shutil.which("storescu")
    if program is None:
        pytest.skip("storescu is not installed")
    one, other = make.saved([shortened(ds) for ds in make.ct_series(2)], tmp_path / "in")
    command = [program, "-aec", "VOXELNODE", "-aet", "GOOD", node.host, str(node.port), one, other]
    sent = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert sent.returncode == 0, sent.stderr
    assert len(node.rows()) == 2


@pytest.mark.parametrize("way", ["C-STORE", "import"])
def test_a_whole_instance_takes_the_place_of_a_cut_one_whatever_way(node: Running, tmp_path: Path, way: str) -> None:
    [whole] = make.ct_series(1)
    [cut] = make.saved([whole], tmp_path / "cut")
    [file] = make.saved([whole], tmp_path / "whole")
    cut.write_bytes(cut.read_bytes()[:-LOST])
    assert import_instances([cut], node.ingest).cut == [str(cut)]
    if way == "import":
        assert import_instances([file], node.ingest).stored == 1
    else:
        association = associate(node)
        assert association.send_c_store(whole).Status == 0x0000
        association.release()
    assert node.stored_data_sets() == {whole.SOPInstanceUID: data_set_bytes(whole)}
    cut.write_bytes(cut.read_bytes()[:-LOST])
    assert import_instances([cut], node.ingest).other_bytes == [str(cut)]
    assert node.stored_data_sets() == {whole.SOPInstanceUID: data_set_bytes(whole)}
