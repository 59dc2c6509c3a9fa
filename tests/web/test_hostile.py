"""Every route, asked for what nobody would (faults W3, W6): the answer may be anything but an error of ours."""

import random
import re
from unittest.mock import Mock
from urllib.parse import quote

import pytest
from pydicom import filereader
from pydicom.uid import DeflatedExplicitVRLittleEndian

from tests import make
from tests.web.conftest import Site, every_route, until

pytestmark = pytest.mark.slow

VALUES = (
    "..", "%2e%2e", "../../etc/passwd", "a" * 300, "1.2.3", "1.2.3.1", "0", "-1", "1", "9" * 23, "\0", "é", "\u202e",
    "'; DROP TABLE studies", "%", "1,2", "1-2", "nan", "*", "?", "\\", "\r\nX-Evil: 1", "<img onerror=1>", "{{7*7}}",
)  # fmt: skip
QUERIES = (
    "", "limit=1000000000", "limit=-1", "limit=x", "offset=-1", "PatientName=%25%00", "StudyDate=x-y",
    "StudyDate=20200101-20190101", "includefield=all", "includefield=..", "after=zzz", "accept=*/*", "window=1,nan,x",
    "viewport=0,0", "viewport=1e9,1e9", "00100010=*&fuzzymatching=true", "seen=x", "download=x", "a=%ff%fe",
)  # fmt: skip
BODIES = (b"", b"{}", b"a=b&words=%00", b"\xff" * 100, b'{"into":1e400}', b"--x\r\n\r\n")
CONTENT_TYPES = (
    "application/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain", "x",
    'multipart/related; type="application/dicom"; boundary=x', "multipart/related",
)  # fmt: skip
ACCEPTS = (
    "*/*", "text/html", "application/dicom+json", 'multipart/related; type="application/octet-stream"', "image/jpeg",
    "x", "application/json;q=x", "",
)  # fmt: skip


@pytest.mark.parametrize("tries", [1, pytest.param(12, marks=pytest.mark.long)])
def test_no_route_fails_whatever_it_is_asked(filled: Site, tries: int) -> None:
    chance, client, failed = random.Random(20261120), filled.client(), []
    with filled.store.index.reading() as index:
        instance = next(index.files.stored()).sop_instance_uid
    routes = [(path, method) for path, route in every_route(filled.app.routes) for method in route.methods]
    assert len(routes) > 50
    for path, method in sorted(routes):
        if path == "/api/v1/events" or method == "DELETE":  # without an end; and `filled` stays as it is
            continue
        for _ in range(tries):
            url = re.sub(r"{\w+(:path)?}", lambda _: quote(chance.choice((*VALUES, instance)), safe=""), path)
            content = {"content": chance.choice(BODIES)} if method == "POST" else {}
            headers = {"Accept": chance.choice(ACCEPTS), "Content-Type": chance.choice(CONTENT_TYPES)}
            answer = client.request(method, f"{url}?{chance.choice(QUERIES)}", headers=headers, **content)
            assert "x-evil" not in answer.headers
            if answer.status_code >= 500:
                failed.append((method, str(answer.request.url), headers, content, answer.text[:200]))
    assert failed == []


def test_no_answer_has_pydicom_parse_an_instance_in_this_process(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    ds, bomb, report = make.ct_series(1)[0], make.ct_series(1, SeriesNumber=2)[0], make.structured_report()
    bomb.PixelData, bomb.file_meta.TransferSyntaxUID = bytes(40_000_000), DeflatedExplicitVRLittleEndian
    for number in range(3000):
        ds.add_new(0x54010000 | 0x1000 + number, "LO", "x")
    client, type_ = site.client(), 'multipart/related; type="application/dicom"; boundary=b'
    for one in (ds, bomb, report):
        message = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + make.as_file(one) + b"\r\n--b--"
        assert client.post("/dicom-web/studies", content=message, headers={"Content-Type": type_}).status_code == 200
    until(lambda: client.get("/dicom-web/instances").text.count("0020000E") == 3)

    for name in ("read_partial", "data_element_generator"):
        monkeypatch.setattr(filereader, name, Mock(side_effect=AssertionError("parsed in the process of the node")))
    errors = []
    for one in (ds, bomb, report):
        series = f"/studies/{one.StudyInstanceUID}/series/{one.SeriesInstanceUID}"
        shown = client.get(f"{series}/header")
        assert (shown.status_code, "PatientID" in shown.text) == (200, True)
        assert shown.text.count("<tr") < 2100
        errors += re.findall('<p class="notice bad">(.*?)</p>', shown.text)
        [metadata] = client.get(f"/dicom-web{series}/metadata").json()
        assert "00100020" in metadata, "not reduced to its UIDs"
        instance = f"/dicom-web{series}/instances/{one.SOPInstanceUID}"
        for path in (instance, f"{instance}/frames/1", f"{instance}/bulkdata", f"{instance}/rendered"):
            assert client.get(path).status_code in (200, 206, 404, 406), path
    assert [error.partition(";")[0] for error in errors] == [
        "only the first 2000 elements are listed",
        "only the first 16777216 bytes of the deflated data set are listed",
    ]
