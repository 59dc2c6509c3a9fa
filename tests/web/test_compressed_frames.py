"""Frames that are compressed for who accepts them: negotiated, exact, kept, in byte ranges, and gone when erased."""

from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import httpx2
import numpy as np
import pytest
from pydicom import FileDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID, generate_uid

from node.children.decoder import NotDecoded
from node.volume.read.transfer_syntaxes import ENCODERS
from tests import make
from tests.web.conftest import Site, open_site
from tests.web.mixed import sample

JPEG_LS = "image/jls; transfer-syntax=1.2.840.10008.1.2.4.80"
TYPES = {"1.2.840.10008.1.2.4.80": "image/jls", "1.2.840.10008.1.2.4.201": "image/jphc"}
NATIVE = "application/octet-stream; transfer-syntax=1.2.840.10008.1.2.1"


def signed_ct() -> FileDataset:
    """A slice with negative samples."""
    [ds] = make.ct_series(1, rows=48, columns=40)
    assert ds.PixelRepresentation == 1
    ds.PixelData = np.random.default_rng(0).integers(-1024, 3072, (48, 40), np.int16).tobytes()
    return ds


def with_high_bits() -> FileDataset:
    """A slice of 12 stored bits, whose unused bits have an overlay, as before 2004."""
    [ds] = make.ct_series(1, rows=48, columns=40)
    ds.PixelRepresentation, ds.BitsStored, ds.HighBit = 0, 12, 11
    ds.PixelData = np.random.default_rng(1).integers(0, 65536, (48, 40), np.uint16).tobytes()
    return ds


def in_colour() -> FileDataset:
    ds = with_high_bits()
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    ds.PixelData = ds.PixelData[:-1] + b"\0" + bytes(48 * 40)
    return ds


SOURCES: dict[str, Callable[[], FileDataset]] = {
    "signed": signed_ct,
    "high bits": with_high_bits,
    "RGB": in_colour,
    "palette": lambda: sample("examples_palette.dcm").read(),
    "big endian": lambda: sample("MR_small_bigendian.dcm").read(),
    "RLE": lambda: sample("MR_small_RLE.dcm").read(),
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with open_site(tmp_path_factory.mktemp("frames") / "root") as site:
        yield site


def path_of(ds: FileDataset, what: str = "frames/1") -> str:
    uids = ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID
    return "/dicom-web/studies/{}/series/{}/instances/{}/".format(*uids) + what


def get(site: Site, ds: FileDataset, accept: str, what: str = "frames/1", **headers: str) -> httpx2.Response:
    return site.client().get(path_of(ds, what), headers={"Accept": accept} | headers)


def kept(site: Site) -> list[Path]:
    return list((site.root / "work" / "derived").glob("*-*"))


def decoded(ds: FileDataset, codestream: bytes, syntax: str) -> bytes:
    """The samples, by pydicom, for JPEG-LS with another library than the node's."""
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    ds.PixelData = encapsulate([codestream])
    ds["PixelData"].is_undefined_length = True
    ds.BitsStored, ds.HighBit = ds.BitsAllocated, ds.BitsAllocated - 1
    plugin = "gdcm" if syntax.endswith(".80") else "pylibjpeg"
    return bytes(pixel_array(ds, raw=True, decoding_plugin=plugin).tobytes())


@pytest.mark.parametrize("syntax", ENCODERS)
@pytest.mark.parametrize("source", SOURCES)
def test_compressed_samples_are_those_that_are_sent_uncompressed(shared: Site, source: str, syntax: str) -> None:
    ds = SOURCES[source]()
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    shared.take(ds)
    answer = get(shared, ds, TYPES[syntax])
    if answer.status_code == 406:
        assert source == "high bits"  # not every library keeps them
        assert "would not have the same samples" in answer.text
        return
    assert answer.headers["content-type"] == f"{TYPES[syntax]}; transfer-syntax={syntax}"
    native = get(shared, ds, NATIVE).content
    assert decoded(ds, answer.content, syntax) == native


def test_who_does_not_ask_gets_what_is_there_and_who_asks_the_best_that_can_be_had(site: Site) -> None:
    ct, dose = signed_ct(), sample("rtdose_expb.dcm").read()
    site.take(ct, dose)
    for accept, ds, expected in (
        ("*/*", ct, 'multipart/related; type="application/octet-stream"'),
        ("application/octet-stream; transfer-syntax=*", ct, NATIVE),
        ("image/jls, application/octet-stream", ct, JPEG_LS),
        ("image/jls; q=0.5, application/octet-stream", ct, NATIVE),
        ("image/jls; transfer-syntax=*", ct, JPEG_LS),
        ('multipart/related; type="image/x-jls"', ct, 'multipart/related; type="image/jls"'),
        ("image/jls, application/octet-stream; q=0.1", dose, NATIVE),  # 32 bits
    ):
        assert get(site, ds, accept).headers["content-type"].startswith(expected), accept
    for accept, ds in (
        ("image/*", ct),
        ("image/jls; transfer-syntax=1.2.840.10008.1.2.4.81", ct),
        ("image/jp2", ct),
        ("image/jls", dose),
    ):
        assert get(site, ds, accept).status_code == 406, accept
    assert get(site, dose, "image/jls", "frames/1,2").status_code == 406
    series = path_of(ct).partition("/instances/")[0]
    answer = site.client().get(f"{series}/pixeldata", headers={"Accept": 'multipart/related; type="image/jls"'})
    assert f"Content-Type: {JPEG_LS}".encode() in answer.content


def test_what_was_made_is_sent_again_without_a_look_at_pixels(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    ds = signed_ct()
    site.take(ds)
    first = get(site, ds, "image/jls"), get(site, ds, "image/png", "rendered")

    monkeypatch.setattr("node.extensions.dicomweb.rendered.native_picture", Mock(return_value=False))
    for name in ("run", "run_beside"):
        monkeypatch.setattr(site.services.decoder, name, Mock(side_effect=NotDecoded("nothing is made any more")))
    again = get(site, ds, "image/jls"), get(site, ds, "image/png", "rendered")
    assert [answer.content for answer in again] == [answer.content for answer in first]
    assert len(kept(site)) == 2
    assert get(site, ds, "image/jpeg", "rendered").status_code == 406


def test_a_frame_is_sent_in_byte_ranges(site: Site) -> None:
    ds = signed_ct()
    site.take(ds)
    for accept in ("image/jls", NATIVE):
        whole = get(site, ds, accept)
        size, etag = len(whole.content), whole.headers["etag"]
        head = get(site, ds, accept, Range="bytes=0-99")
        rest = get(site, ds, accept, Range="bytes=100-", **{"If-Range": etag})
        assert (head.status_code, rest.status_code) == (206, 206)
        assert head.headers["content-range"] == f"bytes 0-99/{size}"
        assert head.content + rest.content == whole.content
        assert get(site, ds, accept, Range=f"bytes={size}-").status_code == 416
        assert get(site, ds, accept, Range="bytes=100-", **{"If-Range": '"other"'}).content == whole.content


@pytest.mark.parametrize("query", [{"erase": "true"}, {}])
def test_what_was_made_goes_with_its_instance(site: Site, query: dict[str, str]) -> None:
    gone, stays = signed_ct(), with_high_bits()
    site.take(gone, stays)
    for ds in (gone, stays):
        assert get(site, ds, "image/png", "rendered").status_code == 200
    assert len(kept(site)) == 2
    site.client().delete(f"/api/v1/studies/{gone.StudyInstanceUID}", params=query)
    assert len(kept(site)) == 1
    assert get(site, stays, "image/png", "rendered").status_code == 200


@pytest.mark.slow
def test_what_is_kept_is_bounded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.extensions.dicomweb.resources.FRAME_CACHE_BYTES", 6000)
    for ds in [signed_ct() for _ in range(4)]:
        site.take(ds)
        newest = get(site, ds, "image/jls").content
        assert get(site, ds, "image/jls").content == newest
    [path] = kept(site)
    assert path.read_bytes() == newest
