"""Bulk data and pixel data of studies, series and instances, and byte ranges of them (PS3.18 10.4.1.1.5 and 6)."""

from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import httpx2
import numpy as np
import pytest
from pydicom import Dataset, FileDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)

from node.children.decoder import NotDecoded
from node.extensions.dicomweb.decoding import ENCODERS
from tests import make
from tests.web.conftest import Site, open_site
from tests.web.mixed import sample
from tests.web.test_wado import parts_of

OCTETS = 'multipart/related; type="application/octet-stream"'
AS_STORED = f"{OCTETS}; transfer-syntax=*"
CT = make.ct_series(3, study_uid="1.2.3", series_uid="1.2.3.1")
LONG = bytes(range(256)) * 40
COMPRESSED, LARGE = sample("SC_rgb_rle_16bit_2frame.dcm"), sample("SC_ybr_full_422_uncompressed.dcm")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A root with a CT, whose instances have long private values, compressed frames, and a report."""
    with open_site(tmp_path_factory.mktemp("bulk") / "root") as site:
        for ds in CT:
            ds.private_block(0x0009, "ACME", create=True).add_new(1, "OB", LONG)
        site.take(*CT, COMPRESSED.read(), LARGE.read(), make.structured_report(study_uid="1.2.4", series_uid="1.2.4.1"))
        yield site


@pytest.fixture(scope="module")
def client(filled: Site) -> httpx2.Client:
    return filled.client()


def path_of(ds: Dataset) -> str:
    return f"/dicom-web/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"


@pytest.mark.slow
def test_bulk_data_of_all_levels_are_what_the_metadata_name(filled: Site, client: httpx2.Client) -> None:
    uris = {
        element["BulkDataURI"]
        for model in client.get("/dicom-web/studies/1.2.3/metadata").json()
        for element in model.values()
        if "BulkDataURI" in element
    }
    assert len(uris) == 6
    for level, count in (
        ("/dicom-web/studies/1.2.3", 3),
        ("/dicom-web/studies/1.2.3/series/1.2.3.1", 3),
        (path_of(CT[1]), 1),
    ):
        parts = parts_of(client.get(f"{level}/bulkdata", headers={"Accept": OCTETS}))
        found = {headers["Content-Location"]: body for headers, body in parts}
        assert len(found) == 2 * count
        assert {uri for uri in found if "/frames/" not in uri} <= uris
        assert list(found.values()).count(LONG) == count
        for uri, body in found.items():
            ((_, again),) = parts_of(client.get(uri, headers={"Accept": OCTETS}))
            assert again == body


def test_pixel_data_of_all_levels_are_the_frames(client: httpx2.Client) -> None:
    expected = [ds.PixelData for ds in CT]
    for level in ("/dicom-web/studies/1.2.3", "/dicom-web/studies/1.2.3/series/1.2.3.1"):
        parts = parts_of(client.get(f"{level}/pixeldata", headers={"Accept": OCTETS}))
        assert [body for _, body in parts] == expected
        assert [headers["Content-Location"].rpartition("/dicom-web")[2] for headers, _ in parts] == [
            f"{path_of(ds).removeprefix('/dicom-web')}/frames/1" for ds in CT
        ]
    stored = parts_of(client.get(f"{COMPRESSED.path}/pixeldata", headers={"Accept": AS_STORED}))
    assert [headers["Content-Type"].partition(";")[0] for headers, _ in stored] == ["image/dicom-rle"] * 2
    frames = parts_of(client.get(f"{COMPRESSED.path}/pixeldata", headers={"Accept": OCTETS}))
    assert b"".join(body for _, body in frames) == COMPRESSED.read().pixel_array.tobytes()


@pytest.mark.slow
def test_instances_as_octets_are_their_bulk_data(client: httpx2.Client) -> None:
    for level in ("/dicom-web/studies/1.2.3", "/dicom-web/studies/1.2.3/series/1.2.3.1", path_of(CT[1]), LARGE.path):
        for accept in (OCTETS, f'multipart/related; type="application/dicom"; q=0.5, {OCTETS}'):
            parts = parts_of(client.get(level, headers={"Accept": accept}))
            assert parts == parts_of(client.get(f"{level}/bulkdata", headers={"Accept": OCTETS}))
    for accept in (f'{OCTETS}; q=0.5, multipart/related; type="application/dicom"', "multipart/related", "*/*"):
        answer = client.get(path_of(CT[1]), headers={"Accept": accept})
        assert 'type="application/dicom"' in answer.headers["content-type"]


@pytest.mark.parametrize(
    ("path", "accept", "status"),
    [
        ("/dicom-web/studies/1.2.4", OCTETS, 404),
        ("/dicom-web/studies/1.2.4", "application/octet-stream", 406),
        ("/dicom-web/studies", "multipart/*", 200),
        ("/dicom-web/studies/1.2.3", "multipart/*", 200),
        ("/dicom-web/studies/1.2.3/metadata", "multipart/*", 200),
        ("/dicom-web/studies/1.2.3/bulkdata", "multipart/*", 200),
        ("/dicom-web/studies/1.2.3/pixeldata", "multipart/*", 200),
        ("/dicom-web/studies/1.2.3/rendered", "multipart/*", 200),
        ("/dicom-web/studies/1.2.4/pixeldata", OCTETS, 404),
        ("/dicom-web/studies/1.2.4/bulkdata", OCTETS, 404),
        ("/dicom-web/studies/1.2.5/bulkdata", OCTETS, 404),
        ("/dicom-web/studies/1.2.3/pixeldata", 'multipart/related; type="image/jpeg"', 406),
        ("/dicom-web/studies/1.2.3/bulkdata", "application/json", 406),
        ("/dicom-web/studies/1.2.3/pixeldata", "application/octet-stream", 406),
    ],
)
def test_what_is_not_there_or_not_accepted_is_reported(
    client: httpx2.Client, path: str, accept: str, status: int
) -> None:
    assert client.get(path, headers={"Accept": accept}).status_code == status


def test_instances_whose_frames_cannot_be_had_as_accepted_make_the_answer_partial(site: Site) -> None:
    first, second = sample("MR_small_jpeg_ls_lossless.dcm").read(), sample("MR_small_RLE.dcm").read()
    second.StudyInstanceUID, second.SeriesInstanceUID = first.StudyInstanceUID, first.SeriesInstanceUID
    site.take(first, second)
    path = f"/dicom-web/studies/{first.StudyInstanceUID}/pixeldata"
    answer = site.client().get(path, headers={"Accept": 'multipart/related; type="image/dicom-rle"'})
    assert (answer.status_code, len(parts_of(answer))) == (206, 1)


@pytest.mark.parametrize(
    ("path", "whole"),
    [
        (f"{path_of(CT[0])}/bulkdata/00091001", LONG),
        (f"{path_of(CT[0])}/bulkdata/7FE00010", CT[0].PixelData),
        (f"{LARGE.path}/bulkdata/7FE00010", LARGE.read().PixelData),
    ],
)
def test_a_part_of_bulk_data_can_be_asked_for(client: httpx2.Client, path: str, whole: bytes) -> None:
    accept = {"Accept": "application/octet-stream"}
    full = client.get(path, headers=accept)
    assert (full.status_code, full.content, full.headers["accept-ranges"]) == (200, whole, "bytes")
    etag, length = full.headers["etag"], len(whole)
    assert etag.startswith('"')
    for asked, start, end in (
        ("0-0", 0, 1), ("10-99", 10, 100), ("100-", 100, length), ("-7", length - 7, length),
        (f"5-{10 * length}", 5, length), (f"-{10 * length}", 0, length), (f"{length - 1}-", length - 1, length),
    ):  # fmt: skip
        answer = client.get(path, headers={**accept, "Range": f"bytes={asked}", "If-Range": etag})
        assert (answer.status_code, answer.content) == (206, whole[start:end]), asked
        assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{length}"
        assert int(answer.headers["content-length"]) == end - start
    for ignored in ("bytes=1-2,4-5", "items=1-2", "bytes=9-3", "bytes=-", "bytes=a-b", f"bytes=1-{'9' * 100}"):
        assert client.get(path, headers={**accept, "Range": ignored}).status_code == 200
    assert client.get(path, headers={**accept, "Range": "bytes=1-2", "If-Range": '"other"'}).status_code == 200
    assert client.get(path, headers={**accept, "Range": "bytes=1-2", "If-None-Match": etag}).status_code == 304
    for beyond in (f"bytes={length}-", "bytes=-0"):
        answer = client.get(path, headers={**accept, "Range": beyond})
        assert (answer.status_code, answer.headers["content-range"]) == (416, f"bytes */{length}")


@pytest.mark.slow
def test_fragments_within_a_sequence_are_not_offered(site: Site) -> None:
    ds, icon = COMPRESSED.read(), Dataset()
    icon.PixelData = encapsulate([b"fragment"])
    icon["PixelData"].VR, icon["PixelData"].is_undefined_length = "OB", True
    ds.IconImageSequence = [icon]
    site.take(ds)
    client = site.client()
    (model,) = client.get(f"{path_of(ds)}/metadata").json()
    assert model["00880200"]["Value"] == [{"7FE00010": {"vr": "OB"}}]
    asked = f"{path_of(ds)}/bulkdata/00880200.1.7FE00010"
    assert client.get(asked, headers={"Accept": "application/octet-stream"}).status_code == 404
    assert "BulkDataURI" in model["7FE00010"]


@pytest.mark.slow
@pytest.mark.parametrize("transfer_syntax_uid", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_every_uri_of_long_values_is_there_and_a_sequence_has_none(site: Site, transfer_syntax_uid: str) -> None:
    ds = make.structured_report(transfer_syntax_uid=transfer_syntax_uid)
    contour = make.dataset(ContourData=[1.5] * 14_000)  # 56,000 bytes
    ds.ROIContourSequence = [make.dataset(ContourSequence=[contour])] * 3
    ds.private_block(0x0029, "ACME", create=True).add_new(1, "UN", b"abc\0" * 20_000)
    if transfer_syntax_uid == ImplicitVRLittleEndian:
        ds.DVHData = [0.25] * 30_000  # a DS in Explicit VR is shorter
    site.take(ds)
    client = site.client()
    (model,) = client.get(f"{path_of(ds)}/metadata").json()
    contours = [item["30060040"]["Value"][0]["30060050"]["Value"] for item in model["30060039"]["Value"]]
    assert contours == [[1.5] * 14_000] * 3
    xml = client.get(f"{path_of(ds)}/metadata", headers={"Accept": "application/dicom+xml"})
    assert xml.text.count('tag="30060050"') == 3
    assert model["00291001"]["vr"] == "UN"
    uris = {tag: element["BulkDataURI"] for tag, element in model.items() if "BulkDataURI" in element}
    values = {tag: client.get(uri, headers={"Accept": "application/octet-stream"}) for tag, uri in uris.items()}
    assert {tag: answer.status_code for tag, answer in values.items()} == dict.fromkeys(uris, 200)
    assert values["00291001"].content == b"abc\0" * 20_000
    assert "30043058" not in uris or values["30043058"].content.split(b"\\")[0] == b"0.25"
    assert client.get(f"{path_of(ds)}/bulkdata/30060039").status_code == 404


def test_empty_pixel_data_are_none(site: Site) -> None:
    (ds, other) = make.ct_series(2, study_uid="1.2.7", series_uid="1.2.7.1")
    ds.PixelData = b""
    site.take(ds, other)
    client = site.client()
    (model,) = client.get(f"{path_of(ds)}/metadata").json()
    assert model["7FE00010"] == {"vr": "OW"}
    for what in ("bulkdata/7FE00010", "bulkdata", "pixeldata", "frames/1"):
        assert client.get(f"{path_of(ds)}/{what}", headers={"Accept": OCTETS}).status_code == 404, what
    parts = parts_of(client.get("/dicom-web/studies/1.2.7/pixeldata", headers={"Accept": OCTETS}))
    assert [body for _, body in parts] == [other.PixelData]


@pytest.mark.slow
def test_words_of_big_endian_are_given_in_little_endian(site: Site) -> None:
    ds = make.structured_report()
    ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    block = ds.private_block(0x0009, "ACME", create=True)
    block.add_new(1, "OW", b"\x01\x02" * 3)
    block.add_new(2, "OL", b"\x01\x02\x03\x04" * 1000)
    site.take(ds)
    (model,) = site.client().get(f"{path_of(ds)}/metadata").json()
    assert model["00091001"]["InlineBinary"] == "AgECAQIB"
    bulk = site.client().get(model["00091002"]["BulkDataURI"], headers={"Accept": "application/octet-stream"})
    assert bulk.content == b"\x04\x03\x02\x01" * 1000


@pytest.mark.slow
def test_frames_and_bulk_data_of_a_deflated_instance_are_those_of_its_data_set(site: Site) -> None:
    ds = make.rgb_capture(20, 30, frames=3, study_uid="1.2.6")
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    ds.private_block(0x0009, "ACME", create=True).add_new(1, "OB", LONG)
    client, octets = site.client(), {"Accept": "application/octet-stream"}
    stored = client.post("/dicom-web/studies", content=make.as_file(ds), headers={"Content-Type": "application/dicom"})
    assert stored.status_code == 200
    (model,) = client.get(f"{path_of(ds)}/metadata").json()
    values = {tag: client.get(model[tag]["BulkDataURI"], headers=octets).content for tag in ("7FE00010", "00091001")}
    assert values == {"7FE00010": ds.PixelData, "00091001": LONG}
    size = len(ds.PixelData) // 3
    for number in (2, 3, 1):
        answer = client.get(f"{path_of(ds)}/frames/{number}", headers=octets)
        assert answer.content == ds.PixelData[(number - 1) * size :][:size]
    for what, count in (("frames/3,1", 2), ("pixeldata", 3), ("bulkdata", 4)):
        answer = client.get(f"{path_of(ds)}/{what}", headers={"Accept": OCTETS})
        assert (answer.status_code, len(parts_of(answer))) == (200, count)
    assert client.get(f"{path_of(ds)}/frames/4", headers=octets).status_code == 404
    compressed = client.get(f"{path_of(ds)}/frames/2", headers={"Accept": 'multipart/related; type="image/jls"'})
    assert compressed.status_code == 200


# Frames that are compressed for who accepts them: negotiated, exact, kept, in byte ranges, and gone when erased.


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


def frame_path(ds: FileDataset, what: str = "frames/1") -> str:
    return f"{path_of(ds)}/{what}"


def get(site: Site, ds: FileDataset, accept: str, what: str = "frames/1", **headers: str) -> httpx2.Response:
    return site.client().get(frame_path(ds, what), headers={"Accept": accept} | headers)


def kept(site: Site) -> list[Path]:
    return list((site.root / "work" / "derived").glob("*/*"))


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
    series = frame_path(ct).partition("/instances/")[0]
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
