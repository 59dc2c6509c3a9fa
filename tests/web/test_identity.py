"""A corrected identity at every door by which an instance leaves: what a copy says is what C-FIND and QIDO-RS say."""

import ast
import re
from collections.abc import Iterator
from email.parser import BytesParser
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import httpx2
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import RLELossless

from node.children.pseudonyms import Patient, new_key_file, read_keys
from tests import make
from tests.web.conftest import Site, every_route, made_download, open_site, until

STUDY, SERIES = "1.2.7001", "1.2.7001.1"
WRONG = {"PatientID": "WRONG-7", "PatientName": "Wrong^Person", "PatientBirthDate": "19010101", "PatientSex": "F",
         "OtherPatientIDs": "WRONG-8", "PatientAddress": "WRONG street", "PatientWeight": "70",
         "PatientAge": "099Y", "PatientSize": "1.987", "PatientComments": "WRONG words"}  # fmt: skip
RIGHT = {"patient_id": "RIGHT-1", "patient_name": "Right^Person", "patient_birth_date": "19850203", "patient_sex": "M"}
MARKS = re.compile(rb"WRONG|Wrong.Person|Wrong\^Person|1901-?01-?01|099Y|1\.987")

AS_STORED = {
    "/studies/{study_instance_uid}", "/studies/{study_instance_uid}/series/{series_instance_uid}/header",
    "/patients/compare", "/patients/merge", "/patients/separate", "/patients/apart", "/patients/correct",
    "/problems/merged", "/api/v1/patients",
    "/api/v1/events", "/administration/log", "/administration/changes",
}  # fmt: skip
"""Routes that show decisions about patients, or what the stored file says."""

ACCEPTED = ("*/*", 'multipart/related; type="application/dicom"; transfer-syntax=*', "application/zip",
            "application/dicom", "application/dicom+json", 'multipart/related; type="application/dicom+xml"',
            'multipart/related; type="application/octet-stream"', "application/octet-stream")  # fmt: skip

DECISION = re.compile(rb'"stored_patient_(id|name)":"[^"]*"')
"""The patient in the files of a study, which the API gives beside who has decided otherwise."""


@pytest.fixture(scope="module")
def corrected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A root with a series, half of it compressed, whose patient was named wrongly."""
    folder = tmp_path_factory.mktemp("corrected")
    new_key_file(folder / "key")
    with open_site(folder / "root", {"deidentify": {"trial": {"key": folder / "key"}}}) as site:
        instances = make.ct_series(4, study_uid=STUDY, series_uid=SERIES, **WRONG)
        for ds in instances[2:]:
            ds.compress(RLELossless, generate_instance_uid=False)
        site.take(*instances[:3])
        site.convert()
        [row] = site.client().get("/api/v1/patients").json()["items"]
        answer = site.client().post(f"/api/v1/patients/{row['id']}/correct", json={**RIGHT, "study": STUDY})
        assert answer.status_code == 200, answer.text
        site.take(instances[3])  # what comes late has the same wrong identity
        site.convert()
        yield site


def data_sets(body: bytes, content_type: str) -> list[Dataset]:
    """The DICOM files in an answer: itself, parts, or members of a ZIP file."""
    if body[128:132] == b"DICM":
        return [dcmread(BytesIO(body))]
    if body[:2] == b"PK":
        with ZipFile(BytesIO(body)) as file:
            found = [data_sets(file.read(name), "") for name in file.namelist() if name != "DICOMDIR"]
        return [ds for each in found for ds in each]
    if content_type.startswith("multipart/"):
        message = BytesParser().parsebytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
        return [ds for part in message.get_payload() for ds in data_sets(part.get_payload(decode=True), "")]
    return []


def require_right(ds: Dataset) -> None:
    assert (ds.PatientID, str(ds.PatientName), ds.PatientBirthDate, ds.PatientSex) == tuple(RIGHT.values())
    assert ds.PatientWeight == 70
    assert "OtherPatientIDs" not in ds
    [item] = ds.OriginalAttributesSequence
    assert item.ReasonForTheAttributeModification == "CORRECT"
    [before] = item.ModifiedAttributesSequence
    assert (before.PatientID, str(before.PatientName), before.OtherPatientIDs) == ("WRONG-7", "Wrong^Person", "WRONG-8")
    del ds[0x04000561]
    assert not MARKS.search(str(ds).encode())


READERS = {
    "node/association/services/retrieve.py": "C-GET and C-MOVE: `Outgoing.identity`",
    "node/association/services/commitment.py": "commits to what is stored",
    "node/cli/exchange/tables.py": "peers send: `Outgoing.identity`",
    "node/extensions/deidentify/downloads.py": "downloads: `CopyChange.of`",
    "node/extensions/dicomweb/bursts.py": "frames alone",
    "node/extensions/dicomweb/resources.py": "WADO",
    "node/extensions/dicomweb/stow.py": "UIDs of what was just stored",
    "node/extensions/media/downloads.py": "media",
    "node/extensions/media/export.py": "media",
    "node/extensions/results/rows.py": "results are stored as their series is, and leave as it does",
    "node/extensions/pages/series.py": "shows what the stored file says",
    "node/routing/worker.py": "routes: `Preparer` makes the copies",
    "node/web/api/resources.py": "the file of an instance",
    "node/web/pages/selected.py": "ZIP files",
}
"""Who asks the index where instances are. A new one is a door: what leaves has its `identity`, and is tried."""


@pytest.mark.slow
def test_whoever_reads_instances_is_a_door_that_is_known() -> None:
    root = Path(__file__).parents[2]
    found = set()
    for path in (root / "node").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and isinstance(called := call.func, ast.Attribute):
                of = getattr(called.value, "attr", "")
                if (of, called.attr) in {("files", "stored"), ("files", "selected"), ("routes", "due")}:
                    found.add(str(path.relative_to(root)))
    assert found == set(READERS)


def parameters(site: Site) -> dict[str, Any]:
    client = site.client()
    volume = client.get("/api/v1/volumes").json()["items"][-1]
    instance = client.get("/api/v1/instances").json()["items"][0]["sop_instance_uid"]
    return {
        "study_instance_uid": STUDY, "series_instance_uid": SERIES, "sop_instance_uid": instance, "study": STUDY,
        "series": SERIES, "instance": instance, "id": volume["id"], "name": volume["name"], "revision": 1,
        "frames": 1, "path": "7FE00010",
    }  # fmt: skip


def query_of(path: str, values: dict[str, Any]) -> dict[str, str]:
    if path.endswith("/wado"):
        uids = {"studyUID": STUDY, "seriesUID": SERIES, "objectUID": values["instance"]}
        return {"requestType": "WADO", "contentType": "application/dicom", "transferSyntax": "*", **uids}
    return {"study": STUDY, "series": SERIES} if "/selected/" in path else {}


def answers(site: Site) -> Iterator[tuple[str, httpx2.Response]]:
    """What each route answers to GET, in every form of DICOMweb."""
    client, values = site.client(), parameters(site)
    for path, route in every_route(site.app.routes):
        if "GET" in route.methods and path not in AS_STORED:
            url = re.sub(r"{(\w+)(:path)?}", lambda match: str(values.get(match[1], 1)), path)
            for accept in ACCEPTED if "dicom-web" in path else ACCEPTED[:1]:
                headers, query = {"Accept": accept}, query_of(path, values)
                answer = client.get(url, params=query, headers=headers, follow_redirects=False)
                assert answer.status_code < 500, (path, accept, answer.text[:200])
                if answer.status_code < 300:
                    yield f"{path} as {accept}", answer


@pytest.mark.long
def test_no_route_says_who_the_patient_was_named(corrected: Site) -> None:
    doors, others = set(), []
    for door, answer in answers(corrected):
        content_type = answer.headers.get("content-type", "")
        instances = data_sets(answer.content, content_type)
        if "/metadata" in door and content_type == "application/dicom+json":
            instances = [Dataset.from_json(model, lambda *_: b"") for model in answer.json()]
        if instances:
            doors.add(door)
        for ds in instances:
            require_right(ds)
        told = DECISION.sub(b"", answer.content) if "/api/v1/studies" in door else answer.content
        if not instances and "/metadata" not in door and MARKS.search(told):
            others.append(door)
    assert others == []
    assert len(doors) > 12, doors


@pytest.mark.slow
def test_what_is_made_for_a_download_is_of_the_right_patient(corrected: Site) -> None:
    client = corrected.serving().network_client(follow_redirects=True)
    made = client.get(f"/studies/{STUDY}/medium.zip").url
    until(lambda: "The file is ready" in client.get(made).text)
    instances = data_sets(client.get(f"{made}/file").content, "")
    assert len(instances) == 4
    for ds in instances:
        require_right(ds)
    order = {"profile": "trial", "content": "dicom", "study_instance_uids": [STUDY]}
    instances = data_sets(made_download(client, "deidentified", 60, **order).content, "")
    [key] = read_keys(corrected.root.parent / "key")
    assert [ds.PatientID for ds in instances] == [key.patient(Patient("", "RIGHT-1"))] * 4
    for ds in instances:
        assert "OriginalAttributesSequence" not in ds
        assert not MARKS.search(str(ds).encode())
