"""Every stored class is seen: by /rendered, WADO-URI and bulk data, and by a link on the page of its series."""

import os

import pytest
from pydicom import uid
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate
from pydicom.uid import MPEGTransferSyntaxes

from tests import make
from tests.unit.extensions.dicomweb.test_report import Reader, sample
from tests.web.conftest import Site

VIDEO = b"\0\0\0\x18ftypmp42" + os.urandom(3988)
DOCUMENT = b"%PDF-1.4\n%%EOF\n"


def video(syntax: str, fragments: int) -> FileDataset:
    ds = make.rgb_capture(SOPClassUID="1.2.840.10008.5.1.4.1.1.77.1.4.1", NumberOfFrames=50)
    length = len(VIDEO) // fragments
    ds.PixelData = encapsulate([VIDEO[at : at + length] for at in range(0, len(VIDEO), length)], has_bot=False)
    ds["PixelData"].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = syntax
    return ds


def path_of(ds: FileDataset) -> str:
    return f"/dicom-web/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"


def wado(ds: FileDataset, media_type: str) -> str:
    uids = f"studyUID={ds.StudyInstanceUID}&seriesUID={ds.SeriesInstanceUID}&objectUID={ds.SOPInstanceUID}"
    return f"/dicom-web/wado?requestType=WADO&{uids}&contentType={media_type}"


@pytest.mark.slow
@pytest.mark.parametrize("syntax", [str(syntax) for syntax in MPEGTransferSyntaxes])
def test_a_video_is_one_stream_at_every_door(site: Site, syntax: str) -> None:
    ds = video(syntax, 4 if syntax.endswith(".1") else 1)
    site.take(ds)
    kind = "video/mpeg" if ".4.100" in syntax or ".4.101" in syntax else "video/mp4"
    parts = f'multipart/related; type="{kind}"; transfer-syntax=*'
    path = path_of(ds)
    for url, accept in (
        (f"{path}/pixeldata", parts), (f"{path}/bulkdata/7FE00010", parts), (f"{path}/frames/1", parts),
        (f"{path}/pixeldata", "*/*"), (f"{path}/bulkdata/7FE00010", "*/*"), (f"{path}/frames/1", "*/*"),
        (f"{path}/frames/1", kind), (f"{path}/rendered", kind), (wado(ds, kind), "*/*"), (wado(ds, ""), "*/*"),
        (f"{path}/bulkdata/7FE00010", 'multipart/related; type="application/octet-stream"; transfer-syntax=*'),
    ):  # fmt: skip
        answer = site.client().get(url, headers={"Accept": accept})
        assert (answer.status_code, VIDEO in answer.content) == (200, True), (url, accept, answer.text[:200])
        assert kind in answer.headers["content-type"]
    part = site.client().get(f"{path}/rendered", headers={"Range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, VIDEO[100:200])
    assert site.client().get(f"{path}/frames/2", headers={"Accept": parts}).status_code == 404
    assert site.client().get(f"{path}/rendered", headers={"Accept": "image/jpeg"}).status_code == 406


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sop_class", "kind"),
    [
        ("EncapsulatedPDFStorage", "application/pdf"), ("EncapsulatedCDAStorage", "text/xml"),
        ("EncapsulatedSTLStorage", "model/stl"), ("EncapsulatedOBJStorage", "model/obj"),
        ("EncapsulatedMTLStorage", "model/mtl"),
    ],
)  # fmt: skip
def test_a_document_is_given_as_it_is(site: Site, sop_class: str, kind: str) -> None:
    ds = make.instance(SOPClassUID=getattr(uid, sop_class), Modality="DOC", EncapsulatedDocument=DOCUMENT + b"\0")
    ds.EncapsulatedDocumentLength = len(DOCUMENT)
    site.take(ds)
    for url in (f"{path_of(ds)}/rendered", f"{path_of(ds)}/bulkdata/00420011", wado(ds, kind), wado(ds, "")):
        answer = site.client().get(url, headers={"Accept": kind})
        assert (answer.status_code, answer.content) == (200, DOCUMENT), (url, answer.text)
        assert answer.headers["content-type"].startswith(kind)


@pytest.mark.slow
@pytest.mark.parametrize(
    "keyword",
    [
        "GrayscaleSoftcopyPresentationStateStorage", "TwelveLeadECGWaveformStorage", "RTPlanStorage", "RawDataStorage",
        "EncapsulatedPDFStorage", "ComprehensiveSRStorage", "KeyObjectSelectionDocumentStorage",
    ],
)  # fmt: skip
def test_what_is_neither_image_nor_report_or_has_no_content_is_seen_by_its_attributes(site: Site, keyword: str) -> None:
    ds = make.instance(SOPClassUID=getattr(uid, keyword), Modality="OT", ContentDescription="a <b> line")
    site.take(ds)
    for url in (f"{path_of(ds)}/rendered", wado(ds, "" if "PDF" in keyword else "text/html")):
        answer = site.client().get(url)
        assert answer.status_code == 200, answer.text
        assert "ContentDescription" in answer.text
        assert "a &lt;b&gt; line" in answer.text
    page = site.client().get(path_of(ds).removeprefix("/dicom-web").partition("/instances/")[0]).text
    assert f'href="{path_of(ds)}/rendered"' in page


@pytest.mark.slow
def test_a_report_is_on_the_page_of_a_series_with_a_volume_or_with_measurements(site: Site) -> None:
    images = make.ct_series(4)
    uid = images[0].SeriesInstanceUID
    among = make.changed(make.structured_report(), StudyInstanceUID=images[0].StudyInstanceUID, SeriesInstanceUID=uid)
    measured = make.measurement_report(images, make.measured(("410668003", "SCT", "Length"), "12.5", "mm"))
    site.take(*images, among, measured)
    site.convert()
    for report, mark in ((among, 'id="viewer"'), (measured, 'id="measurements"')):
        page = site.client().get(path_of(report).removeprefix("/dicom-web").partition("/instances/")[0]).text
        assert mark in page
        assert f'href="{path_of(report)}/rendered"' in page


# A structured report as a browser gets it.


@pytest.mark.slow
def test_a_report_is_given_as_html_with_every_item(site: Site) -> None:
    ds = sample()
    site.take(ds)
    path = f"/dicom-web/studies/1.2.4/series/1.2.4.1/instances/{ds.SOPInstanceUID}/rendered"
    for accept in ("text/html", "*/*"):
        answer = site.client().get(path, headers={"Accept": accept})
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.headers["content-security-policy"].startswith("default-src 'none';")
        assert answer.headers["content-security-policy"].endswith("; sandbox")
        assert answer.headers["x-content-type-options"] == "nosniff"
    text = Reader(answer.text).text
    for shown in (
        "Imaging Report", "Grün^Ärzte", "Findings", "Finding: first line", "second line", "Diameter: 12.5 mm",
        "Volume: no value", "Site: Liver", "has obs context Observer: Doe^Jane", "Day: 20260102", "Identifier: 1.2.5",
        "Source: image 1.2.3.4 frames 2, 5", "Outline: POLYLINE 1.0, 2.5", "Of the future: [TABLE: not shown]",
        "inferred from see item 1.2", "UNVERIFIED",
    ):  # fmt: skip
        assert shown in text, shown
    assert site.client().get(path, headers={"Accept": "image/png"}).status_code == 406
    assert site.audited("DICOM Instances Accessed")[-1]["detail"] == "rendered"
