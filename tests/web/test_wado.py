"""WADO-RS, with real instances of many transfer syntaxes; pydicom is the oracle of what their frames are."""

import json
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from email.message import Message
from io import BytesIO
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import encapsulate, generate_frames, get_frame
from pydicom.pixels import get_decoder
from pydicom.uid import UID, MRSpectroscopyStorage, RLELossless

from node.api import import_instances
from node.dicom.encoding import file_meta
from node.extensions.dicomweb import bulk_data
from node.extensions.dicomweb.decoding import web_transfer_syntax
from node.receive.ingest import Announced, Origin
from node.web.files import CHUNK_BYTES
from tests import make
from tests.ingest import indexed
from tests.made_once import decoder
from tests.web.conftest import Site, StartSite, open_site, until
from tests.web.mixed import NAMES, data_set, sample

AS_STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'
IMPLICIT_OR_BIG_ENDIAN = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.2")
EXPLICIT, DICOM = "1.2.840.10008.1.2.1", "application/dicom"
SAMPLES = {name: sample(name) for name in NAMES}
WITH_PIXELS = [name for name in NAMES if name not in ("rtplan.dcm", "image_dfl.dcm")]
FORBIDDEN = [name for name in NAMES if str(SAMPLES[name].read().file_meta.TransferSyntaxUID) in IMPLICIT_OR_BIG_ENDIAN]
LOSSY_COLOUR = ("SC_rgb_dcmtk_+eb+cy+np.dcm", "examples_ybr_color.dcm")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A root with every sample."""
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "media").mkdir()
    for name, one in SAMPLES.items():
        (folder / "media" / name).write_bytes(one.file)
    with open_site(folder / "root") as site:
        report = import_instances([folder / "media"], site.services.ingest)
        assert report.stored == len(SAMPLES), report
        yield site


@pytest.fixture(scope="module")
def client(mixed: Site) -> httpx2.Client:
    return mixed.client()


def parts_of(response: httpx2.Response) -> list[tuple[dict[str, str], bytes]]:
    """Headers and body of each part of a multipart message."""
    assert response.status_code in (200, 206), response.text
    message = Message()
    message["Content-Type"] = response.headers["content-type"]
    assert message.get_content_type() == "multipart/related"
    delimiter = b"--" + str(message.get_param("boundary")).encode()
    pieces = (b"\r\n" + response.content).split(b"\r\n" + delimiter)
    assert pieces[-1] == b"--\r\n"
    found = []
    for piece in pieces[1:-1]:
        head, _, body = piece.partition(b"\r\n\r\n")
        lines = [line.decode().partition(": ") for line in head.split(b"\r\n") if line]
        found.append(({name: value for name, _, value in lines}, body))
    return found


def get(client: httpx2.Client, path: str, accept: str = "*/*", **parameters: Any) -> httpx2.Response:
    return client.get(path, headers={"Accept": accept}, params=parameters or None)


# Instances


@pytest.mark.parametrize("name", [name for name in NAMES if name not in FORBIDDEN])
def test_an_instance_as_stored_has_the_very_bytes_that_came(client: httpx2.Client, name: str) -> None:
    one = SAMPLES[name]
    ((headers, body),) = parts_of(get(client, one.path, AS_STORED))
    syntax = one.read().file_meta.TransferSyntaxUID
    assert headers["Content-Type"] == f"application/dicom; transfer-syntax={syntax}"
    assert headers["Content-Location"].endswith(one.path)
    assert data_set(body) == data_set(one.file)
    single = get(client, one.path, "application/dicom; transfer-syntax=*")
    assert single.headers["content-type"] == f"application/dicom; transfer-syntax={syntax}"
    assert int(single.headers["content-length"]) == len(single.content)
    assert single.content == body


@pytest.mark.parametrize("name", FORBIDDEN)
def test_implicit_and_big_endian_are_never_given_out(client: httpx2.Client, name: str) -> None:
    one = SAMPLES[name]
    syntax = one.read().file_meta.TransferSyntaxUID
    ((headers, body),) = parts_of(get(client, one.path, AS_STORED))
    assert headers["Content-Type"] == f"application/dicom; transfer-syntax={EXPLICIT}"
    given = dcmread(BytesIO(body))
    assert given.file_meta.TransferSyntaxUID == EXPLICIT
    if name in WITH_PIXELS:
        assert_same_pixels(given.pixel_array, one.read().pixel_array, name)
    for accept in (
        f'multipart/related; type="application/dicom"; transfer-syntax={syntax}',
        f"{DICOM}; transfer-syntax={syntax}",
    ):
        assert get(client, one.path, accept).status_code == 406
    uri = {"requestType": "WADO", "studyUID": one.study, "seriesUID": one.series, "objectUID": one.instance}
    asked = {**uri, "contentType": DICOM, "transferSyntax": "*"}
    assert dcmread(BytesIO(get(client, "/dicom-web/wado", **asked).content)).file_meta.TransferSyntaxUID == EXPLICIT
    assert get(client, "/dicom-web/wado", **{**asked, "transferSyntax": syntax}).status_code == 406
    for path in (f"{one.path}/metadata", f"/dicom-web/instances?StudyInstanceUID={one.study}"):
        assert get(client, path).json()[0]["00083002"]["Value"] == [EXPLICIT]


@pytest.mark.sample(6)
@pytest.mark.parametrize("name", NAMES)
def test_an_instance_is_given_uncompressed_where_no_transfer_syntax_is_named(client: httpx2.Client, name: str) -> None:
    one = SAMPLES[name]
    ((headers, body),) = parts_of(get(client, one.path, 'multipart/related; type="application/dicom"'))
    assert headers["Content-Type"] == f"application/dicom; transfer-syntax={EXPLICIT}"
    given, stored = dcmread(BytesIO(body)), one.read()
    assert given.file_meta.TransferSyntaxUID == EXPLICIT
    assert given.SOPInstanceUID == one.instance
    if name in WITH_PIXELS:
        assert_same_pixels(given.pixel_array, stored.pixel_array, name)


def test_all_instances_of_a_series_come_in_their_order(filled: Site) -> None:
    message = parts_of(get(filled.client(), "/dicom-web/studies/1.2.3/series/1.2.3.1", AS_STORED))
    assert [dcmread(BytesIO(body)).InstanceNumber for _, body in message] == [1, 2, 3, 4, 5]
    assert len(parts_of(get(filled.client(), "/dicom-web/studies/1.2.3", AS_STORED))) == 5


def test_the_accept_query_parameter_goes_before_the_header(client: httpx2.Client) -> None:
    one = SAMPLES["MR_small_RLE.dcm"]
    response = get(client, f"{one.path}?accept=application/dicom;transfer-syntax=*", AS_STORED)
    assert response.headers["content-type"] == "application/dicom; transfer-syntax=1.2.840.10008.1.2.5"


@pytest.mark.parametrize(
    ("path", "accept"),
    [
        (SAMPLES["CT_small.dcm"].path, "text/html"),
        (SAMPLES["CT_small.dcm"].path, 'multipart/related; type="application/dicom+json"'),
        (SAMPLES["CT_small.dcm"].path, "application/dicom; transfer-syntax=1.2.840.10008.1.2.4.90"),
        (f"/dicom-web/studies/{SAMPLES['CT_small.dcm'].study}", "application/dicom"),
        (f"/dicom-web/studies/{SAMPLES['CT_small.dcm'].study}/metadata", "application/dicom+xml"),
        (f"{SAMPLES['CT_small.dcm'].path}/frames/1", 'multipart/related; type="image/jp2"'),
        (f"{SAMPLES['CT_small.dcm'].path}/rendered", "image/webp"),
        (f"{SAMPLES['rtplan.dcm'].path}/rendered", "image/png"),
        (f"{SAMPLES['rtdose_rle.dcm'].path}/frames/1,2", "application/octet-stream"),
    ],
)  # fmt: skip
def test_what_cannot_be_given_is_406_with_what_is_offered(client: httpx2.Client, path: str, accept: str) -> None:
    response = get(client, path, accept)
    assert response.status_code == 406
    assert "; available: " in response.json()["detail"]


def test_what_is_not_there_is_404_and_what_was_deleted_410(site: Site) -> None:
    client = site.client()
    site.take(*make.ct_series(2, study_uid="1.2.3", series_uid="1.2.3.1"))
    for path in (
        "1.2.5",
        "1.2.3/series/1.2.5",
        "1.2.3/series/1.2.3.1/instances/9",
        "..%2f..%2fetc",
        "1.2.3/metadata/x",
    ):
        assert client.get(f"/dicom-web/studies/{path}").status_code == 404, path
    site.services.actions["delete"](level="study", uid="1.2.3", study_instance_uid=None, who="test")
    assert client.get("/dicom-web/studies/1.2.3").status_code == 410
    assert client.get("/dicom-web/studies/1.2.3/metadata").status_code == 410


def test_head_tells_the_headers_and_an_entity_tag_saves_the_body(client: httpx2.Client) -> None:
    one = SAMPLES["CT_small.dcm"]
    of_instance = ("", "/metadata", "/frames/1", "/bulkdata", "/bulkdata/7FE00010", "/pixeldata", "/rendered")
    for path in ("/dicom-web/studies", *(f"{one.path}{what}" for what in of_instance)):
        plain = {"Accept-Encoding": "identity"}
        full, head = client.get(path, headers=plain), client.head(path, headers=plain)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers.get("content-length", str(len(full.content))) == str(len(full.content)), path
        assert head.headers["etag"] == full.headers["etag"]
        again = client.get(path, headers={"If-None-Match": full.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    compressed = SAMPLES["MR_small_RLE.dcm"].path
    assert get(client, compressed, AS_STORED).headers["etag"] != client.get(compressed).headers["etag"]


@pytest.mark.slow
def test_metadata_that_cannot_be_made_are_refused_before_a_status(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    [ds] = make.ct_series(1)
    site.take(ds)
    monkeypatch.setattr(decoder(), "_limits", replace(decoder()._limits, deadline_seconds=0.0))
    assert site.client().get(f"/dicom-web/studies/{ds.StudyInstanceUID}/metadata").status_code == 503


def test_a_file_that_has_changed_on_the_disk_is_never_given_as_whole(site: Site) -> None:
    site.take(*make.ct_series(2, study_uid="1.2.3", series_uid="1.2.3.1"))
    client = site.client()
    with site.store.index.reading() as index:
        first, second = index.files.stored("1.2.3")
    path = site.store.archive.path(second.key)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(httpx2.RemoteProtocolError):  # broken off in the middle of the answer
        get(client, "/dicom-web/studies/1.2.3", AS_STORED)
    alone = f"/dicom-web/studies/1.2.3/series/1.2.3.1/instances/{second.sop_instance_uid}"
    assert get(client, alone, AS_STORED).status_code == 500
    path.unlink()
    assert get(client, alone, AS_STORED).status_code == 500
    intact = f"/dicom-web/studies/1.2.3/series/1.2.3.1/instances/{first.sop_instance_uid}"
    assert get(client, intact, AS_STORED).status_code == 200


@pytest.mark.slow
def test_an_instance_that_cannot_be_decoded_is_given_as_stored_only(site: Site) -> None:
    ds = sample("MR_small_RLE.dcm").read()
    ds.PixelData = ds.PixelData[:40] + b"\0" * 200
    site.take(ds)
    path = sample("MR_small_RLE.dcm").path
    response = get(site.client(), path)
    assert response.status_code == 406
    assert "transfer-syntax=*" in response.json()["detail"]
    assert get(site.client(), path, AS_STORED).status_code == 200


@pytest.mark.slow
def test_a_study_is_streamed_and_never_held(site: Site) -> None:
    pixels = np.zeros((1024, 1024), np.int16)
    for number in range(20):
        ds = make.instance(study_uid="1.2.3", series_uid="1.2.3.1", InstanceNumber=number)
        make.set_pixels(ds, pixels)
        site.take(ds)
    client, received = site.client(), 0
    tracemalloc.start()
    try:
        with client.stream("GET", "/dicom-web/studies/1.2.3", headers={"Accept": AS_STORED}) as response:
            for piece in response.iter_bytes(CHUNK_BYTES):
                received += len(piece)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert received > 20 * pixels.nbytes
    assert peak < 12 * CHUNK_BYTES


@pytest.mark.slow
def test_a_client_that_goes_away_leaves_no_transcoded_file(site: Site) -> None:
    one = sample("examples_jpeg2k.dcm").read()
    for number in range(8):
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.1.{number}"
        site.take(one)
    with site.client().stream("GET", f"/dicom-web/studies/{one.StudyInstanceUID}") as response:
        assert response.status_code == 200
        next(response.iter_raw(1000))
    until(lambda: list((site.root / "incoming").glob("*.*")) == [])


# Frames


def frames_of(name: str) -> list[np.ndarray]:
    """The frames of a sample, as pydicom decodes them without turning colours."""
    ds = SAMPLES[name].read()
    decoder = get_decoder(ds.file_meta.TransferSyntaxUID)
    count = int(ds.get("NumberOfFrames") or 1)
    return [decoder.as_array(ds, index=index, raw=True)[0] for index in range(count)]


def assert_same_pixels(found: np.ndarray, expected: np.ndarray, name: str) -> None:
    if name in LOSSY_COLOUR:  # two decoders of lossy JPEG may differ in rounding
        assert np.abs(found.astype(int) - expected.astype(int)).max() <= 4
    else:
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", WITH_PIXELS)
def test_frames_are_given_uncompressed_where_no_transfer_syntax_is_named(client: httpx2.Client, name: str) -> None:
    expected, one = frames_of(name), SAMPLES[name]
    wanted = sorted({1, len(expected)})
    response = get(
        client, f"{one.path}/frames/{','.join(map(str, wanted))}", 'multipart/related; type="application/octet-stream"'
    )
    message = parts_of(response)
    assert len(message) == len(wanted)
    ds = one.read()
    for number, (headers, body) in zip(wanted, message, strict=True):
        assert headers["Content-Type"] == f"application/octet-stream; transfer-syntax={EXPLICIT}"
        assert headers["Content-Location"].endswith(f"{one.path}/frames/{number}")
        frame = expected[number - 1]
        if ds.BitsAllocated == 1:
            bits = np.unpackbits(np.frombuffer(body, np.uint8), bitorder="little")[: frame.size]
            np.testing.assert_array_equal(bits.reshape(frame.shape), frame)
        elif ds.PhotometricInterpretation == "YBR_FULL_422" and not UID(ds.file_meta.TransferSyntaxUID).is_compressed:
            assert body == ds.PixelData[: len(body)]
            assert len(body) == ds.Rows * ds.Columns * 2
        else:
            found = np.frombuffer(body, frame.dtype.newbyteorder("<"))[: frame.size].reshape(frame.shape)
            assert_same_pixels(found, frame, name)


@pytest.mark.parametrize(
    ("name", "media_type", "start"),
    [
        ("examples_ybr_color.dcm", "image/jpeg", b"\xff\xd8"),
        ("SC_rgb_jpeg_gdcm.dcm", "image/jpeg", b"\xff\xd8"),
        ("MR_small_jpeg_ls_lossless.dcm", "image/jls", b"\xff\xd8"),
        ("examples_jpeg2k.dcm", "image/jp2", b"\xff\x4f"),
        ("rtdose_rle.dcm", "image/dicom-rle", b"\x04\0\0\0"),
    ],
)
@pytest.mark.parametrize("accept", ["multipart/related; type=application/octet-stream; transfer-syntax=*", None])
def test_compressed_frames_are_given_as_they_are_stored(
    client: httpx2.Client, name: str, media_type: str, start: bytes, accept: str | None
) -> None:
    one, syntax = SAMPLES[name], SAMPLES[name].read().file_meta.TransferSyntaxUID
    last = int(one.read().get("NumberOfFrames") or 1)
    accept = accept or f'multipart/related; type="{media_type}"; transfer-syntax={syntax}'
    ((headers, body),) = parts_of(get(client, f"{one.path}/frames/{last}", accept))
    assert headers["Content-Type"] == f"{media_type}; transfer-syntax={syntax}"
    assert body.startswith(start)
    assert body == get_frame(one.read().PixelData, last - 1, number_of_frames=last)


def test_one_frame_may_be_asked_for_by_itself(client: httpx2.Client) -> None:
    one = SAMPLES["CT_small.dcm"]
    response = get(client, f"{one.path}/frames/1", "application/octet-stream")
    assert response.headers["content-type"] == f"application/octet-stream; transfer-syntax={EXPLICIT}"
    assert response.content == one.read().PixelData


@pytest.mark.parametrize(
    ("frames", "status"), [("0", 400), ("a", 400), ("1,", 400), ("-1", 400), ("2", 404), ("1,99", 404)]
)
def test_frames_that_there_are_not_are_reported(client: httpx2.Client, frames: str, status: int) -> None:
    assert client.get(f"{SAMPLES['CT_small.dcm'].path}/frames/{frames}").status_code == status
    assert client.get(f"{SAMPLES['rtplan.dcm'].path}/frames/1").status_code == 404


@pytest.mark.slow
def test_frames_are_broken_off_where_a_later_one_cannot_be_had(site: Site) -> None:
    one = sample("SC_rgb_rle_16bit_2frame.dcm")
    ds = one.read()
    whole, _ = generate_frames(ds.PixelData, number_of_frames=2)
    ds.PixelData = encapsulate([whole, b"\0" * 64])
    site.take(ds)
    client = site.client()
    assert client.get(f"{one.path}/frames/1").status_code == 200
    assert client.get(f"{one.path}/frames/2,1").status_code == 406
    with pytest.raises(httpx2.RemoteProtocolError):
        client.get(f"{one.path}/frames/1,2")


def test_frames_of_an_instance_that_was_replaced_are_those_of_the_new_one(start_site: StartSite) -> None:
    site = start_site()
    site.store.ingest.overwrite_policy = "replace"
    place = {"study_uid": "1.2.3", "series_uid": "1.2.3.1", "sop_instance_uid": "1.2.3.1.1"}
    for value in (1, 2):
        ds = make.instance(**place)
        make.set_pixels(ds, np.full((2, 8, 8), value, np.int16))
        site.take(ds)
        path = "/dicom-web/studies/1.2.3/series/1.2.3.1/instances/1.2.3.1.1/frames/2"
        assert get(site.client(), path, "application/octet-stream").content == np.full((8, 8), value, "<i2").tobytes()
    site.services.actions["delete"](level="study", uid="1.2.3", study_instance_uid=None, who="test")
    assert site.client().get(path).status_code == 410


# Metadata and bulk data


@pytest.mark.parametrize("name", NAMES)
def test_metadata_hold_every_attribute_and_no_pixels(client: httpx2.Client, name: str) -> None:
    one, response = SAMPLES[name], client.get(f"{SAMPLES[name].path}/metadata")
    assert response.headers["content-type"] == "application/dicom+json"
    (reported,) = response.json()
    ds = one.read()
    expected = {f"{tag:08X}" for tag in ds.keys() if tag & 0xFFFF}  # noqa: SIM118
    behind_pixels = {"FFFAFFFA", "FFFCFFFC"}  # signatures and padding
    assert set(reported) - {"00083002"} - behind_pixels == expected - behind_pixels
    assert reported["0020000D"]["Value"] == [one.study]
    assert list(reported) == sorted(reported)
    if name in WITH_PIXELS:
        assert set(reported["7FE00010"]) == {"vr", "BulkDataURI"}
        assert reported["00083002"]["Value"] == [web_transfer_syntax(ds.file_meta.TransferSyntaxUID)]


def test_bulk_data_are_where_the_metadata_say(client: httpx2.Client) -> None:
    one = SAMPLES["examples_palette.dcm"]
    (reported,) = client.get(f"{one.path}/metadata").json()
    ((_, body),) = parts_of(client.get(reported["7FE00010"]["BulkDataURI"]))
    assert body == one.read().PixelData
    ((headers, frame),) = parts_of(
        get(client, SAMPLES["MR_small_RLE.dcm"].path + "/bulkdata/7FE00010", "*/*; transfer-syntax=*")
    )
    assert headers["Content-Type"] == "image/dicom-rle; transfer-syntax=1.2.840.10008.1.2.5"
    assert frame in SAMPLES["MR_small_RLE.dcm"].file


@pytest.mark.slow
def test_long_values_in_sequences_are_bulk_data_too(site: Site) -> None:
    ds = make.instance(study_uid="1.2.3", series_uid="1.2.3.1", sop_instance_uid="1.2.3.1.1")
    item = make.instance()
    item.add_new(0x54001010, "OW", bytes(range(256)) * 20)
    ds.add_new(0x54000100, "SQ", [make.instance(), item])
    site.take(ds)
    client = site.client()
    (reported,) = client.get("/dicom-web/studies/1.2.3/metadata").json()
    uri = reported["54000100"]["Value"][1]["54001010"]["BulkDataURI"]
    assert uri.endswith("/bulkdata/54000100.2.54001010")
    assert get(client, uri, "application/octet-stream").content == bytes(range(256)) * 20
    ((_, body),) = parts_of(client.get(uri))
    assert body == bytes(range(256)) * 20
    for place in ("54000100.3.54001010", "54000100", "xyz", "00100010.1", ".".join(["54000100.1"] * 40)):
        assert client.get(uri.rpartition("/")[0] + f"/{place}").status_code == 404, place


def test_numbers_that_json_does_not_know_are_words(site: Site) -> None:
    ds = make.instance(
        study_uid="1.2.3", series_uid="1.2.3.1", PatientName="Müller^Jürg", SpecificCharacterSet="ISO_IR 192"
    )
    ds.add_new(0x00189306, "FD", [float("nan"), float("inf"), 1.5])
    site.take(ds)
    response = site.client().get("/dicom-web/studies/1.2.3/metadata")
    (reported,) = json.loads(response.content.decode("utf-8"), parse_constant=pytest.fail)
    assert reported["00189306"] == {"vr": "FD", "Value": ["NaN", "inf", 1.5]}
    assert reported["00100010"]["Value"] == [{"Alphabetic": "Müller^Jürg"}]


def test_an_unreadable_file_leaves_the_metadata_of_the_others(site: Site) -> None:
    site.take(*make.ct_series(3, study_uid="1.2.3", series_uid="1.2.3.1"))
    with site.store.index.reading() as index:
        _, second, _ = index.files.stored("1.2.3")
    site.store.archive.path(second.key).write_bytes(b"nothing")
    reported = site.client().get("/dicom-web/studies/1.2.3/metadata").json()
    assert [one["00080018"]["Value"][0] == second.sop_instance_uid for one in reported] == [False, True, False]
    assert len(reported[1]) < len(reported[0])


@pytest.mark.parametrize(("most", "most_bytes"), [(2, 64 << 20), (128, 1)])
def test_metadata_of_several_jobs_are_in_the_order_of_the_instances(
    filled: Site, monkeypatch: pytest.MonkeyPatch, most: int, most_bytes: int
) -> None:
    reported = filled.client().get("/dicom-web/studies/1.2.3/metadata").content
    monkeypatch.setattr("node.extensions.dicomweb.wado.AT_ONCE", most)
    monkeypatch.setattr("node.extensions.dicomweb.wado.AT_ONCE_BYTES", most_bytes)
    assert filled.client().get("/dicom-web/studies/1.2.3/metadata").content == reported
    assert len(json.loads(reported)) == 5


@pytest.mark.parametrize(
    "name", ["CT_small.dcm", "MR_small_bigendian.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm"]
)
def test_a_frame_that_is_sent_as_it_is_needs_no_child_process(
    mixed: Site, client: httpx2.Client, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def decoded(*_: object, **__: object) -> None:
        raise AssertionError("a child process was asked")

    bulk_data._of_few_frames.cache_clear()
    for method in ("run", "run_beside"):
        monkeypatch.setattr(mixed.services.decoder, method, decoded)
    assert get(client, f"{SAMPLES[name].path}/frames/1", "*/*; transfer-syntax=*").status_code == 200


# Pictures


@pytest.mark.parametrize("name", WITH_PIXELS)
def test_every_picture_can_be_rendered(client: httpx2.Client, name: str) -> None:
    one = SAMPLES[name]
    response = get(client, f"{one.path}/rendered", "image/png")
    assert response.headers["content-type"] == "image/png"
    with Image.open(BytesIO(response.content)) as picture:
        assert picture.format == "PNG"
        assert picture.getextrema() not in ((0, 0), ((0, 0),) * 3), "all of it is black"
    with Image.open(BytesIO(client.get(f"{one.path}/thumbnail").content)) as picture:
        assert picture.format == "JPEG"
        assert max(picture.size) <= 256


def test_the_window_the_part_and_the_size_can_be_chosen(client: httpx2.Client) -> None:
    one = SAMPLES["CT_small.dcm"]

    def shown(**parameters: str) -> np.ndarray:
        response = get(client, f"{one.path}/rendered", "image/png", **parameters)
        assert response.status_code == 200, response.text
        return np.asarray(Image.open(BytesIO(response.content)))

    ds = one.read()
    values = ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
    expected = np.rint(np.clip((values - (40 - 0.5)) / (400 - 1) + 0.5, 0, 1) * 255)
    np.testing.assert_allclose(shown(window="40,400,linear"), expected, atol=1)
    assert shown(viewport="64,64").shape == (64, 64)
    part = shown(window="40,400", viewport="32,32,10,20,32,32")
    np.testing.assert_allclose(part, expected[20:52, 10:42], atol=1)
    assert (shown(window="100000,1,linear-exact") == 0).all()
    for viewport, region in (
        ("128,128,,,,", np.s_[:, :]), ("32,32,,,32,32", np.s_[:32, :32]), ("28,28,100,100", np.s_[100:, 100:]),
        ("128,128,0,0,-128,128", np.s_[:, ::-1]), ("128,128,,,,-128", np.s_[::-1, :]),
        ("32,32,10,20,-32,-32", np.s_[51:19:-1, 41:9:-1]), ("28,28,100,100,9999,-9999", np.s_[:99:-1, 100:]),
    ):  # fmt: skip
        np.testing.assert_allclose(shown(window="40,400", viewport=viewport), expected[region], atol=1)
    for path in (f"{one.path}/rendered", f"{one.path}/thumbnail", f"{one.path}/frames/1/rendered"):
        for viewport in ("9,9,500,0", "9,9,128", "9,9,,128", "9,9,0,500,9,9"):
            assert get(client, path, viewport=viewport).status_code == 400, viewport


def test_a_gif_has_the_same_greys(client: httpx2.Client) -> None:
    path = f"{SAMPLES['CT_small.dcm'].path}/rendered"
    gif, png = (get(client, path, f"image/{form}") for form in ("gif", "png"))
    assert gif.headers["content-type"] == "image/gif"
    pictures = [np.asarray(Image.open(BytesIO(answer.content)).convert("L")) for answer in (gif, png)]
    np.testing.assert_array_equal(*pictures)


@pytest.mark.parametrize("parameter", ["annotation", "iccprofile"])
def test_annotations_and_profiles_are_ignored_with_a_warning(client: httpx2.Client, parameter: str) -> None:
    one = SAMPLES["CT_small.dcm"]
    ds = one.read()
    uri = {"requestType": "WADO", "studyUID": ds.StudyInstanceUID, "seriesUID": ds.SeriesInstanceUID}
    uri["objectUID"] = ds.SOPInstanceUID
    for path, query in ((f"{one.path}/rendered", {}), (f"{one.path}/thumbnail", {}), ("/dicom-web/wado", uri)):
        plain = get(client, path, **query)
        answer = get(client, path, **query, **{parameter: 'srgb,patient"\r\n'})
        assert (answer.status_code, answer.content) == (200, plain.content)
        assert answer.headers["warning"] == (
            f'299 voxelnode "The following {parameter} values are not supported: srgb,patient???"'
        )
        assert "warning" not in plain.headers


@pytest.mark.parametrize(
    "parameters",
    [{"window": "1"}, {"window": "1,0"}, {"window": "nan,1"}, {"window": "1,2,3,4"}, {"viewport": "0,1"},
     {"viewport": "1"}, {"viewport": "99999,1"}, {"viewport": "1,1,-1,0,1,1"}, {"viewport": "9,9,,,0,9"},
     {"viewport": "9,"}, {"viewport": "9,9,a"}, {"viewport": "9,9,,,,,9"}, {"viewport": "9,9,inf"},
     {"quality": "101"}, {"quality": "x"}],
)  # fmt: skip
def test_senseless_parameters_of_pictures_are_reported(client: httpx2.Client, parameters: dict[str, str]) -> None:
    response = get(client, f"{SAMPLES['CT_small.dcm'].path}/rendered", **parameters)
    assert response.status_code == 400
    assert "PS3.18" in response.json()["detail"]


def test_a_frame_can_be_rendered_by_itself(client: httpx2.Client) -> None:
    path = SAMPLES["examples_ybr_color.dcm"].path
    assert len({client.get(f"{path}/frames/{number}/rendered").content for number in (1, 15, 30)}) == 3
    assert client.get(f"{path}/frames/31/rendered").status_code == 404
    assert client.get(f"{path}/frames/31/thumbnail").status_code == 404
    assert client.get(f"{path}/frames/2/thumbnail").headers["content-type"] == "image/jpeg"


def test_a_series_can_be_rendered_and_a_study_has_a_thumbnail(filled: Site) -> None:
    client = filled.client()
    message = parts_of(get(client, "/dicom-web/studies/1.2.3/rendered", 'multipart/related; type="image/png"'))
    assert len(message) == 5
    assert client.get("/dicom-web/studies/1.2.3/thumbnail").status_code == 200
    for what in ("thumbnail", "rendered"):
        assert client.get(f"/dicom-web/studies/1.2.4/{what}").status_code == 406


def test_pictures_of_a_study_say_how_many_instances_have_none(site: Site) -> None:
    spectrum = make.instance(sop_class_uid=MRSpectroscopyStorage, modality="MR", study_uid="1.2.3", Rows=1, Columns=1)
    site.take(*make.ct_series(2, study_uid="1.2.3"), make.structured_report(study_uid="1.2.3"), spectrum)
    answer = site.client().get("/dicom-web/studies/1.2.3/rendered", headers={"Accept": "image/png"})
    assert (answer.status_code, len(parts_of(answer))) == (206, 2)
    assert answer.headers["warning"] == '299 voxelnode "Instances that cannot be rendered are omitted: 2"'


def test_an_image_that_cannot_be_rendered_is_in_no_answer_without_a_word(site: Site) -> None:
    whole, contradictory = make.ct_series(2, study_uid="1.2.3")
    contradictory.BitsAllocated = 12
    site.take(whole, contradictory)
    with site.serving().network_client() as client, pytest.raises(httpx2.RemoteProtocolError):
        client.get("/dicom-web/studies/1.2.3/rendered", headers={"Accept": "image/png"})


def test_the_thumbnail_of_a_study_is_of_images_even_where_most_of_it_are_reports(site: Site) -> None:
    site.take(*(make.structured_report(study_uid="1.2.3", series_uid="1.2.3.2") for _ in range(3)))
    assert site.client().get("/dicom-web/studies/1.2.3/thumbnail").status_code == 406
    site.take(*make.ct_series(1, study_uid="1.2.3", series_uid="1.2.3.1"))
    assert site.client().get("/dicom-web/studies/1.2.3/thumbnail").status_code == 200


# WADO-URI


def test_the_older_way_to_ask_for_one_instance(client: httpx2.Client) -> None:
    one = SAMPLES["MR_small_RLE.dcm"]
    uids = {"studyUID": one.study, "seriesUID": one.series, "objectUID": one.instance}

    def ask(**parameters: str) -> httpx2.Response:
        return client.get("/dicom-web/wado", params={"requestType": "WADO", **uids, **parameters})

    native = dcmread(BytesIO(ask(contentType="application/dicom").content))
    assert native.file_meta.TransferSyntaxUID == EXPLICIT
    assert data_set(ask(contentType="application/dicom", transferSyntax="*").content) == data_set(one.file)
    with Image.open(BytesIO(ask(rows="32", windowCenter="600", windowWidth="1200").content)) as picture:
        assert (picture.format, picture.size) == ("JPEG", (32, 32))
    assert ask(contentType="image/png", frameNumber="1").headers["content-type"] == "image/png"
    assert ask(contentType="text/html").status_code == 406
    assert ask(objectUID="1.2").status_code == ask(frameNumber="2").status_code == 404
    for wrong in (
        {"anonymize": "yes"},
        {"presentationUID": "1"},
        {"requestType": "x"},
        {"studyUID": ""},
        {"rows": "0"},
        {"windowCenter": "1"},
    ):
        assert ask(**wrong).status_code == 400, wrong


@pytest.mark.filterwarnings("ignore:Expected (im|ex)plicit VR")
@pytest.mark.parametrize("announced", [EXPLICIT, str(RLELossless)])
def test_a_data_set_is_sent_in_the_encoding_of_its_transfer_syntax(site: Site, announced: str) -> None:
    [ds] = make.ct_series(1)
    if announced == RLELossless:
        ds.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    file = make.misencoded(ds, announced, is_implicit=True)
    incoming = site.store.ingest.begin(Announced(ds.SOPClassUID, ds.SOPInstanceUID, announced), Origin("dicom"))
    incoming.take_fragment(file[file_meta(file)[1] :])
    indexed(incoming)
    path = f"/dicom-web/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"
    for answer in (
        site.client().get(path, headers={"Accept": f"{DICOM}; transfer-syntax={announced}"}).content,
        parts_of(site.client().get(path, headers={"Accept": AS_STORED}))[0][1],
    ):
        meta, offset = file_meta(answer)
        assert (meta[0x0010], answer[offset:][4:6]) == (announced, b"CS")
        assert dcmread(BytesIO(answer)).PixelData == ds.PixelData
