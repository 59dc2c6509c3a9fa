"""STOW of metadata and bulk data (PS3.18 10.5.2): what the client meant is stored, or refused with the reason."""

import json
import re
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.encaps import generate_frames
from pydicom.uid import VideoPhotographicImageStorage

from node.dicom.json_model import json_model
from node.extensions.dicomweb.xml_model import native_model
from tests import make
from tests.web.conftest import Site, open_site
from tests.web.mixed import NAMES, Sample, sample
from tests.web.test_stow import FAILED, OTHERS, REFERENCED, file_of, items, part_files, stored
from tests.web.test_wado import parts_of

JSON_TYPE = 'multipart/related; type="application/dicom+json"; boundary=XX'
XML_TYPE = 'multipart/related; type="application/dicom+xml"; boundary=XX'
METADATA = "application/dicom+json"


def part(content_type: str, body: bytes, location: str = "") -> bytes:
    head = f"Content-Type: {content_type}\r\n" + (f"Content-Location: {location}\r\n" if location else "")
    return f"--XX\r\n{head}\r\n".encode() + body + b"\r\n"


def post(site: Site, *parts: bytes, content_type: str = JSON_TYPE, end: bytes = b"--XX--\r\n") -> httpx2.Response:
    return site.client().post(
        "/dicom-web/studies", content=b"".join(parts) + end, headers={"Content-Type": content_type}
    )


def model_of(ds: Dataset, prefix: str = "") -> dict[str, Any]:
    return json_model(dcmread(BytesIO(file_of(ds))), lambda place: f"{prefix or ds.SOPInstanceUID}/{place}")


def kept(site: Site, uid: str) -> Dataset:
    with site.store.index.reading() as index:
        (one,) = index.instances.stored(sop_instance_uids=[uid])
        return dcmread(site.store.archive.path(one.key))


def reasons(response: httpx2.Response) -> list[str]:
    """What the header says of parts, without the UIDs of instances."""
    comments = re.findall(r'299 voxelnode "([^"]*)"', response.headers.get("warning", ""))
    return [re.sub(r"^[0-9./a-z]*\.[0-9./a-z]+: ", "", comment) for comment in comments]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["json", "xml"])
def test_a_series_of_metadata_is_stored_as_it_was_meant(site: Site, form: str) -> None:
    series = make.ct_series(3, study_uid="1.2.3", series_uid="1.2.3.1")
    bulk = [part("application/octet-stream", ds.PixelData, f"{ds.SOPInstanceUID}/7FE00010") for ds in series]
    models = [model_of(ds) for ds in series]
    if form == "json":
        response = post(site, part(METADATA, json.dumps(models).encode()), *bulk)
    else:
        metadata = [part("application/dicom+xml", native_model(model)) for model in models]
        response = post(site, *metadata, *bulk, content_type=XML_TYPE)
    assert response.status_code == 200, response.text
    assert len(items(response, REFERENCED)) == 3
    for ds in series:
        assert kept(site, ds.SOPInstanceUID) == ds
        assert kept(site, ds.SOPInstanceUID).file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert part_files(site) == []


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Site]]:
    """Roots that take metadata and bulk data in each form, and one that never has anything to take."""
    sites = {name: open_site(tmp_path_factory.mktemp(name) / "root") for name in ("json", "xml", "nothing")}
    yield sites
    for site in sites.values():
        site.close()


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A root that gives out metadata and bulk data."""
    with open_site(tmp_path_factory.mktemp("origin") / "root") as site:
        yield site


AS_STORED = {"Accept": "multipart/related; type=*/*; transfer-syntax=*"}


def given_out(origin: Site, name: str) -> tuple[Sample, dict[str, Any]]:
    """A sample that a node has, and the metadata that it gives out."""
    one = sample(name)
    if one.instance not in stored(origin):
        origin.take(one.read())
    (model,) = origin.client().get(f"{one.path}/metadata").json()
    return one, model


@pytest.mark.sample(5, 8)
@pytest.mark.diagonal
@pytest.mark.parametrize("name", [name for name in NAMES if name != "image_dfl.dcm"])
@pytest.mark.parametrize("form", ["json", "xml"])
@pytest.mark.filterwarnings("ignore::UserWarning")  # of pydicom, about values of its own test files
def test_metadata_and_bulk_data_that_a_node_gives_out_make_the_same_instance(
    origin: Site, targets: dict[str, Site], name: str, form: str
) -> None:
    (one, model), site = given_out(origin, name), targets[form]
    bulk = []
    for tag, element in model.items():
        if "BulkDataURI" not in element:
            continue
        parts = parts_of(origin.client().get(element["BulkDataURI"], headers=AS_STORED))
        bulk += [part(headers["Content-Type"], body, element["BulkDataURI"]) for headers, body in parts]
        assert tag == "7FE00010" or len(parts) == 1
    if form == "json":
        response = post(site, part(METADATA, json.dumps([model]).encode()), *bulk)
    else:
        response = post(site, part("application/dicom+xml", native_model(model)), *bulk, content_type=XML_TYPE)
    assert response.status_code == 200, response.text
    came, given = one.read(), kept(site, one.instance)
    if came.file_meta.TransferSyntaxUID.is_compressed:
        assert given.file_meta.TransferSyntaxUID == came.file_meta.TransferSyntaxUID
    for element in came:
        if element.tag < 0x7FE00000 and element.keyword != "SpecificCharacterSet" and element.tag.element:
            value = given[element.tag].value
            is_same = (
                str(value).rstrip("^") == str(element.value).rstrip("^")
                if element.VR == "PN"
                else value == element.value
            )
            assert is_same, element.keyword
    if "PixelData" in came:
        np.testing.assert_array_equal(given.pixel_array, came.pixel_array)


def test_text_is_kept_in_utf_8_whatever_the_metadata_say(site: Site) -> None:
    report = make.structured_report(PatientName="Grün^Ärzte=山田^太郎", SpecificCharacterSet="ISO_IR 192")
    model = model_of(report)
    model["00080005"] = {"vr": "CS", "Value": ["ISO_IR 100"]}
    assert post(site, part(METADATA, json.dumps([model]).encode())).status_code == 200
    assert kept(site, report.SOPInstanceUID) == report


def test_one_data_set_without_a_list_private_elements_and_text_for_numbers_are_taken(site: Site) -> None:
    report = make.structured_report()
    block = report.private_block(0x0009, "ACME", create=True)
    block.add_new(1, "UN", b"\x01\x02\x03\x04")
    block.add_new(2, "SH", "private")
    report.PatientWeight = "70.50"
    model = model_of(report) | {
        "00101030": {"vr": "DS", "Value": ["70.50"]},
        "00020010": {"vr": "UI", "Value": ["1.2"]},
    }
    response = post(site, part(METADATA, json.dumps(model).encode()))
    assert response.status_code == 200, response.text
    assert kept(site, report.SOPInstanceUID) == report
    assert kept(site, report.SOPInstanceUID).PatientWeight.original_string == "70.50"


def test_an_instance_without_its_bulk_data_is_refused_and_stops_no_other(site: Site) -> None:
    whole, lacking = make.ct_series(2, study_uid="1.2.3", series_uid="1.2.3.1")
    metadata = part(METADATA, json.dumps([model_of(lacking), model_of(whole)]).encode())
    response = post(
        site, metadata, part("application/octet-stream", whole.PixelData, f"{whole.SOPInstanceUID}/7FE00010")
    )
    assert response.status_code == 202
    (failure,) = items(response, FAILED)
    assert (failure["00081155"], failure["00081197"]) == (lacking.SOPInstanceUID, 0xC000)
    assert reasons(response) == ["7FE00010: no part has the Content-Location of its BulkDataURI"]
    assert "00000902" not in failure
    assert stored(site) == {whole.SOPInstanceUID}
    assert part_files(site) == []


LAUGHS = b"".join(
    (
        b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">',
        *(b'<!ENTITY a%d "%s">' % (level, b"&a%d;" % (level - 1) * 10) for level in range(1, 9)),
        b"]><NativeDicomModel>&a8;</NativeDicomModel>",
    )
)


def _changed(**elements: Any) -> list[dict[str, Any]]:
    (ds,) = make.ct_series(1, study_uid="1.2.3", series_uid="1.2.3.1")
    model = model_of(ds, "bulk") | {name.removeprefix("t"): element for name, element in elements.items()}
    return [{tag: element for tag, element in model.items() if element is not None}]


@pytest.mark.parametrize(
    ("metadata", "reported"),
    [
        (b"no JSON", "the metadata are not JSON"),
        (b"[" * 100_000, "the metadata are not JSON"),
        (b"[1]", "an entry of the metadata is not a data set"),
        (b"[{}]", "SOP Class UID and SOP Instance UID"),
        (_changed(t00080018={"vr": "UI", "Value": ["../../etc"]}), "SOP Class UID and SOP Instance UID"),
        (_changed(t00080016={"vr": "UI", "Value": ["1.2.840.10008.1.1"]}), "the SOP class is not a storage class"),
        (_changed(t00280010={"vr": "US", "Value": [4711]}), "7FE00010: "),
        (_changed(t00280010=None), "00280010: "),
        (_changed(t00280010={"vr": "US", "Value": [-1]}), "00280010: a value is not valid for its VR, US"),
        (_changed(t00280010={"vr": "US", "Value": ["many"]}), "00280010: a value is not valid for its VR, US"),
        (_changed(t00280010={"vr": "US", "Value": 7}), "00280010: Value must be a list"),
        (_changed(t00280010="x"), "00280010: vr must be"),
        (_changed(t00280010={"vr": ["US"]}), "00280010: vr must be"),
        (_changed(t00100020={"vr": "LO", "Value": ["a\\b"]}), "00100020: a value is not valid"),
        (_changed(t00100020={"vr": "LO", "Value": [{"a": 1}]}), "00100020: a value is not valid"),
        (_changed(t00100020={"vr": "LO", "Value": ["a" * 70_000]}), "00100020: the value is longer than 65534"),
        (_changed(t00100030={"vr": "UN", "InlineBinary": "no base64!"}), "00100030: a value is not valid"),
        (_changed(t00100030={"vr": "UN", "BulkDataURI": ["bulk"]}), "00100030: no part has"),
        (_changed(t00100030={"vr": "UN", "BulkDataURI": "file:///etc/passwd"}), "00100030: no part has"),
        (_changed(t00081140={"vr": "SQ", "Value": ["x"]}), "00081140: an item must be a data set"),
        (_changed(tFFFEE00D={"vr": "UN"}), "a tag must be eight hexadecimal digits"),
        (_changed(t0010={"vr": "UN"}), "a tag must be eight hexadecimal digits"),
    ],
    ids=range(22),
)
def test_senseless_metadata_are_refused_with_the_reason(targets: dict[str, Site], metadata: Any, reported: str) -> None:
    site = targets["nothing"]
    body = metadata if isinstance(metadata, bytes) else json.dumps(metadata).encode()
    (ds,) = make.ct_series(1)
    response = post(site, part(METADATA, body), part("application/octet-stream", ds.PixelData, "bulk/7FE00010"))
    assert response.status_code == 409, response.text
    assert reasons(response)[0].startswith(reported.replace('"', "'")[:64])
    assert (stored(site), part_files(site)) == (set(), [])
    assert site.client().get("/healthz").status_code == 200


def test_entities_and_deep_nesting_are_refused(targets: dict[str, Site]) -> None:
    site = targets["nothing"]
    item = b'<DicomAttribute tag="00081140" vr="SQ"><Item number="1">'
    for document in (LAUGHS, b"<NativeDicomModel>" + 100_000 * item):
        response = post(site, part("application/dicom+xml", document), content_type=XML_TYPE)
        assert (response.status_code, reasons(response)[0][:36]) == (409, "the metadata are not in the Native D")
    nested: dict[str, Any] = {}
    for _ in range(100):
        nested = {"00081140": {"vr": "SQ", "Value": [nested]}}
    (model,) = _changed(**{f"t{tag}": element for tag, element in nested.items()})
    response = post(site, part(METADATA, json.dumps([model]).encode()))
    assert (response.status_code, stored(site)) == (409, set())


@pytest.mark.parametrize(
    ("name", "content_type", "reported"),
    [
        ("MR_small_jpeg_ls_lossless.dcm", "image/jpeg", "7FE00010: a frame is not encoded"),
        ("MR_small_jpeg_ls_lossless.dcm", "image/jp2", "7FE00010: a frame is not encoded"),
        ("MR_small_jp2klossless.dcm", "image/jls", "7FE00010: a frame is not encoded"),
        ("SC_rgb_jpeg_gdcm.dcm", "image/jpeg; transfer-syntax=1.2.840.10008.1.2.4.50", "7FE00010: a frame is not"),
        ("MR_small_jpeg_ls_lossless.dcm", "image/jls; transfer-syntax=1.2.840.10008.1.2.4.90", "a part is neither"),
        ("MR_small_jpeg_ls_lossless.dcm", "text/html", "a part is neither"),
        ("MR_small_jpeg_ls_lossless.dcm", "application/octet-stream", "7FE00010: "),
    ],
)
def test_frames_under_a_wrong_media_type_are_refused(
    origin: Site, targets: dict[str, Site], name: str, content_type: str, reported: str
) -> None:
    (_, model), site = given_out(origin, name), targets["nothing"]
    uri = model["7FE00010"]["BulkDataURI"]
    ((_, frame),) = parts_of(origin.client().get(uri, headers=AS_STORED))
    response = post(site, part(METADATA, json.dumps([model]).encode()), part(content_type, frame, uri))
    assert response.status_code == 409, response.text
    assert reported in [comment[: len(reported)] for comment in reasons(response)]
    assert stored(site) == set()


DESCRIPTION = (
    "00280002", "00280004", "00280010", "00280011", "00280100", "00280101", "00280102", "00280103", "00280006",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("examples_ybr_color.dcm", 200),
        ("SC_rgb_jpeg_gdcm.dcm", 200),
        ("MR_small_jp2klossless.dcm", 200),
        ("MR_small_jpeg_ls_lossless.dcm", 409),  # of 16 bits: nobody says whether they are signed
        ("examples_jpeg2k.dcm", 200),
        ("MR_small_RLE.dcm", 409),
    ],
)
def test_pixels_need_no_description_if_the_frames_say_it(origin: Site, site: Site, name: str, status: int) -> None:
    one, model = given_out(origin, name)
    uri, left = model["7FE00010"]["BulkDataURI"], {tag: model[tag] for tag in model if tag not in DESCRIPTION}
    answer = origin.client().get(uri, headers=AS_STORED)
    bulk = [part(headers["Content-Type"], body, uri) for headers, body in parts_of(answer)]
    response = post(site, part(METADATA, json.dumps([left]).encode()), *bulk)
    assert response.status_code == status, response.text
    if status == 200:
        came, given = one.read(), kept(site, one.instance)
        for tag in DESCRIPTION:
            assert given.get(int(tag, 16)) == came.get(int(tag, 16)), tag
    else:
        assert reasons(response)[0].startswith("00280010: ")


@pytest.mark.slow
def test_frames_that_the_metadata_hide_are_refused(origin: Site, targets: dict[str, Site]) -> None:
    (_, model), site = given_out(origin, "MR_small_jpeg_ls_lossless.dcm"), targets["nothing"]
    pixels = model.pop("7FE00010")
    ((_, frame),) = parts_of(origin.client().get(pixels["BulkDataURI"], headers=AS_STORED))
    for hidden, reported in (
        ({"7FE00010": {"vr": "OW"}}, "7FE00010: the metadata have neither"),
        ({"7fe00010": {"vr": "OW"}, "7FE00010": {"vr": "OW"}}, "a tag occurs twice"),
        ({"00880200": {"vr": "SQ", "Value": [{"7FE00010": pixels}]}}, "only pixel data may be compressed"),
        ({"7FE00008": pixels}, "only pixel data may be compressed"),
    ):
        metadata = part(METADATA, json.dumps([model | hidden]).encode())
        response = post(site, metadata, part("image/jls", frame, pixels["BulkDataURI"]))
        assert (response.status_code, reasons(response)[0][: len(reported)]) == (409, reported)
    lower = part(
        METADATA, json.dumps([model | {"7fe00010": pixels, "00080018": {"vr": "UI", "Value": ["1.9"]}}]).encode()
    )
    response = post(origin, lower, part("image/jls", frame, pixels["BulkDataURI"]))
    assert response.status_code == 200, response.text
    assert kept(origin, "1.9").file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.80"


def test_a_body_that_ends_too_early_stores_nothing(site: Site) -> None:
    (ds,) = make.ct_series(1)
    response = post(site, part(METADATA, json.dumps([model_of(ds)]).encode()), end=b"")
    assert (response.status_code, stored(site), part_files(site)) == (400, set(), [])


def picture(mode: str, name: str, **options: Any) -> tuple[bytes, np.ndarray[Any, Any]]:
    """A picture that a browser could have made, and its samples."""
    shape = (5, 7, 3) if mode == "RGB" else (5, 7)
    samples = (np.arange(np.prod(shape)) * 2).reshape(shape).astype(np.uint8)
    stream = BytesIO()
    Image.fromarray(samples).save(stream, name, **options)
    return stream.getvalue(), samples


def captured(**attributes: Any) -> dict[str, Any]:
    """Metadata of a capture without anything about its pixels, as a client with a picture has them."""
    model = model_of(make.rgb_capture(4, 4))
    left = {tag: element for tag, element in model.items() if not tag.startswith("0028")}
    return left | {"7FE00010": {"vr": "OB", "BulkDataURI": "bulk"}} | attributes


def uid_of(model: dict[str, Any]) -> str:
    return str(model["00080018"]["Value"][0])


@pytest.mark.parametrize(
    ("mode", "name", "media_type", "syntax", "photometric"),
    [
        ("RGB", "JPEG", "image/jpeg", "1.2.840.10008.1.2.4.50", "YBR_FULL_422"),
        ("L", "JPEG", "image/jpeg", "1.2.840.10008.1.2.4.50", "MONOCHROME2"),
        ("RGB", "JPEG2000", "image/jp2", "1.2.840.10008.1.2.4.90", "YBR_RCT"),
    ],
)
def test_a_picture_is_stored_with_the_media_type_alone(
    targets: dict[str, Site], mode: str, name: str, media_type: str, syntax: str, photometric: str
) -> None:
    options = {"irreversible": False, "mct": 1} if name == "JPEG2000" else {}
    (data, samples), model, site = picture(mode, name, **options), captured(), targets["json"]
    response = post(site, part(METADATA, json.dumps([model]).encode()), part(media_type, data, "bulk"))
    assert response.status_code == 200, response.text
    given = kept(site, uid_of(model))
    assert (given.file_meta.TransferSyntaxUID, given.PhotometricInterpretation) == (syntax, photometric)
    assert (given.Rows, given.Columns, given.BitsStored) == (5, 7, 8)
    assert given.get("LossyImageCompression") == ("01" if name == "JPEG" else None)
    if name == "JPEG":
        assert given.pixel_array.shape == samples.shape
    else:
        np.testing.assert_array_equal(given.pixel_array, samples)


def test_documents_are_stored_with_their_media_type_alone(targets: dict[str, Site]) -> None:
    site = targets["xml"]
    for sop_class_uid, media_type, data, reported in (
        ("1.2.840.10008.5.1.4.1.1.104.1", "application/pdf", b"%PDF-1.4 odd", "application/pdf"),
        ("1.2.840.10008.5.1.4.1.1.104.2", "text/xml", b"<ClinicalDocument/>", "text/XML"),
        ("1.2.840.10008.5.1.4.1.1.104.3", "model/stl", b"solid x", "model/stl"),
    ):
        model = captured(**{"00420011": {"vr": "OB", "BulkDataURI": "bulk"}})
        model |= {"00080016": {"vr": "UI", "Value": [sop_class_uid]}}
        del model["7FE00010"]
        metadata = part("application/dicom+xml", native_model(model))
        response = post(site, metadata, part(media_type, data, "bulk"), content_type=XML_TYPE)
        assert response.status_code == 200, response.text
        given = kept(site, uid_of(model))
        assert given.MIMETypeOfEncapsulatedDocument == reported
        assert given.EncapsulatedDocument[: given.EncapsulatedDocumentLength] == data
        assert given.EncapsulatedDocumentLength == len(data)


def test_a_film_is_stored_with_the_description_of_the_metadata(targets: dict[str, Site]) -> None:
    site, model = targets["json"], captured(**{"00080016": {"vr": "UI", "Value": [VideoPhotographicImageStorage]}})
    film = part("video/mp4", b"film", "bulk")
    response = post(site, part(METADATA, json.dumps([model]).encode()), film)
    assert (response.status_code, reasons(response)[0][:28]) == (409, "00280010: a video needs Rows")
    model = model_of(make.rgb_capture(4, 4)) | model | {"00280008": {"vr": "IS", "Value": [25]}}
    response = post(site, part(METADATA, json.dumps([model]).encode()), film)
    assert response.status_code == 200, response.text
    given = kept(site, uid_of(model))
    assert (given.file_meta.TransferSyntaxUID, given.NumberOfFrames) == ("1.2.840.10008.1.2.4.102", 25)
    assert list(generate_frames(given.PixelData, number_of_frames=1)) == [b"film"]


@pytest.mark.parametrize(
    ("media_type", "data", "reported"),
    [
        ("image/jpeg", picture("RGB", "JPEG", progressive=True)[0], "7FE00010: progressive JPEG"),
        ("image/jpeg", picture("RGB", "PNG")[0], "7FE00010: compressed frame: "),
        ("image/png", picture("RGB", "PNG")[0], "a part is neither metadata nor bulk data: image/png"),
        ("application/pdf", b"%PDF-1.4", "7FE00010: a part of the type application/pdf is a document"),
        ("text/html", b"<html>", "a part is neither metadata nor bulk data: text/html"),
    ],
    ids=range(5),
)
def test_pictures_that_dicom_cannot_have_are_refused_with_the_cause(
    targets: dict[str, Site], media_type: str, data: bytes, reported: str
) -> None:
    site = targets["nothing"]
    response = post(site, part(METADATA, json.dumps([captured()]).encode()), part(media_type, data, "bulk"))
    assert response.status_code == 409, response.text
    assert reported in [comment[: len(reported)] for comment in reasons(response)]
    assert (stored(site), part_files(site)) == (set(), [])


def test_a_part_that_belongs_to_no_instance_is_reported(targets: dict[str, Site]) -> None:
    report = make.structured_report()
    stray = part("application/octet-stream", b"1234", "elsewhere")
    response = post(targets["json"], part(METADATA, json.dumps([model_of(report)]).encode()), stray)
    assert response.status_code == 202
    assert (len(items(response, OTHERS)), reasons(response)) == (1, ["no BulkDataURI names a part of bulk data"])
    assert kept(targets["json"], report.SOPInstanceUID) == report
