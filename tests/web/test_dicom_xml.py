"""Searches, metadata and answers to stores in XML, the Native DICOM Model (PS3.19 A.1), carry what JSON carries."""

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from pydicom import Dataset

from tests import make
from tests.make import as_file
from tests.web.conftest import Site, open_site
from tests.web.native import json_from_native
from tests.web.test_stow import body_of, post
from tests.web.test_wado import parts_of

XML = 'multipart/related; type="application/dicom+xml"'


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A root with a CT of three slices, and a report."""
    with open_site(tmp_path_factory.mktemp("pair") / "root") as site:
        site.take(*make.ct_series(3, study_uid="1.2.3", series_uid="1.2.3.1", PatientName="Grün^Ärzte <&>"))
        site.take(make.structured_report(study_uid="1.2.4", series_uid="1.2.4.1"))
        yield site


def as_data_sets(models: list[dict[str, Any]]) -> list[Dataset]:
    """The data sets that pydicom reads: it is the judge of both forms."""
    return [Dataset.from_json(model, lambda *place: b"") for model in models]


def documents(answer: httpx2.Response) -> list[dict[str, Any]]:
    parts = parts_of(answer)
    assert {headers["Content-Type"] for headers, _ in parts} == {"application/dicom+xml"}
    return [json_from_native(body) for _, body in parts]


@pytest.mark.parametrize(
    "path",
    [
        "studies",
        "series",
        "instances?includefield=all",
        "studies/1.2.3/metadata",
        "studies/1.2.4/series/1.2.4.1/metadata",
    ],
)
def test_xml_and_json_carry_the_same(pair: Site, path: str) -> None:
    answer = pair.client().get(f"/dicom-web/{path}", headers={"Accept": XML})
    assert answer.headers["content-type"].startswith('multipart/related; type="application/dicom+xml"; boundary=')
    reported = pair.client().get(f"/dicom-web/{path}").json()
    assert as_data_sets(documents(answer)) == as_data_sets(reported)
    assert {tag for model in reported for tag in model} == {tag for model in documents(answer) for tag in model}
    etag = answer.headers["etag"]
    again = pair.client().get(f"/dicom-web/{path}", headers={"Accept": XML, "If-None-Match": etag})
    assert again.status_code == 304
    assert pair.client().get(f"/dicom-web/{path}", headers={"If-None-Match": etag}).status_code == 200


def test_nothing_found_in_xml_is_no_content(pair: Site) -> None:
    answer = pair.client().get("/dicom-web/studies?PatientID=nobody", headers={"Accept": XML})
    assert (answer.status_code, answer.content) == (204, b"")


def test_one_data_set_may_be_xml_without_parts(pair: Site) -> None:
    (one,) = pair.client().get("/dicom-web/studies/1.2.4/metadata").json()
    path = f"/dicom-web/studies/1.2.4/series/1.2.4.1/instances/{one['00080018']['Value'][0]}/metadata"
    answer = pair.client().get(path, headers={"Accept": "application/dicom+xml"})
    assert answer.headers["content-type"] == "application/dicom+xml"
    assert as_data_sets([json_from_native(answer.content)]) == as_data_sets([one])


def test_the_first_accepted_form_is_taken(pair: Site) -> None:
    for accept, expected in (
        ("*/*", "application/dicom+json"),
        (f"application/json;q=0.5, {XML}", "multipart/related"),
        (f"{XML};q=0.5, application/json", "application/json"),
        ("text/html, multipart/related", "multipart/related"),
    ):
        answer = pair.client().get("/dicom-web/studies", headers={"Accept": accept})
        assert answer.headers["content-type"].partition(";")[0] == expected


def test_what_was_stored_is_reported_in_xml(site: Site) -> None:
    body = body_of(*(as_file(ds) for ds in make.ct_series(2, study_uid="1.2.3")))
    reported = post(site, body).json()
    single = post(site, body, Accept="application/dicom+xml")
    assert (single.status_code, single.headers["content-type"]) == (200, "application/dicom+xml")
    assert json_from_native(single.content) == reported
    assert documents(post(site, body, Accept=XML)) == [reported]
    refused = post(site, body_of(b"x"), Accept="application/dicom+xml")
    assert (refused.status_code, list(json_from_native(refused.content))) == (409, ["0008119A"])
