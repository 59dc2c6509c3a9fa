"""Bulk data and pixel data of studies, series and instances, and byte ranges of them (PS3.18 10.4.1.1.5 and 6)."""

from collections.abc import Iterator
from io import BytesIO

import httpx2
import pytest
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

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
    client, octets, file = site.client(), {"Accept": "application/octet-stream"}, BytesIO()
    ds.save_as(file, enforce_file_format=True)
    stored = client.post("/dicom-web/studies", content=file.getvalue(), headers={"Content-Type": "application/dicom"})
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
