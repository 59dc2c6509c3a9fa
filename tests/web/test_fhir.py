"""ImagingStudy over HTTP: FHIR R5 as another library reads it, and the studies that a search means."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from fhir.resources.bundle import Bundle
from fhir.resources.capabilitystatement import CapabilityStatement
from fhir.resources.imagingstudy import ImagingStudy
from fhir.resources.operationoutcome import OperationOutcome

from node.extensions.fhir.imaging_study import started
from tests import make
from tests.web.conftest import Site, open_site

BASE = "/api/fhir"
DICOM = "http://dicom.nema.org/resources/ontology/DCM"


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A CT of three slices, with all that the resource can tell; an MR and its report; and a report of last year."""
    site = open_site(tmp_path_factory.mktemp("stocked") / "root")
    told: dict[str, Any] = {
        "PatientName": "Doe^Jane^Q^Dr", "PatientID": "P1", "IssuerOfPatientID": "WEST", "AccessionNumber": "A-7",
        "StudyDate": "20260304", "StudyTime": "101112", "TimezoneOffsetFromUTC": "+0130", "StudyDescription": "Chest",
        "ReferringPhysicianName": "Ray^Alf", "BodyPartExamined": "CHEST", "SeriesNumber": 2,
    }  # fmt: skip
    site.take(*make.ct_series(3, study_uid="1.2.3", series_uid="1.2.3.1", **told))
    other = {"PatientID": "P2", "PatientName": "", "StudyDate": "20260401"}
    site.take(make.instance(study_uid="1.2.4", series_uid="1.2.4.1", modality="MR", SeriesNumber=-1, **other))
    site.take(make.structured_report(study_uid="1.2.4", series_uid="1.2.4.2", **other))
    site.take(make.structured_report(study_uid="1.2.5", series_uid="1.2.5.1", PatientID="P3", StudyDate="20251231"))
    yield site
    site.close()


def asked(site: Site, path: str, status: int = 200) -> Any:
    answer = site.client().get(f"{BASE}/{path}")
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/fhir+json; charset=utf-8"
    return answer.json()


def found(site: Site, query: str) -> list[str]:
    bundle = Bundle.model_validate(asked(site, f"ImagingStudy?{query}"))
    return sorted(entry.resource.id for entry in bundle.entry or ())


def test_a_study_is_what_its_instances_say(stocked: Site) -> None:
    resource = asked(stocked, "ImagingStudy/1.2.3")
    ImagingStudy.model_validate(resource)
    assert resource["identifier"][0] == {"system": "urn:dicom:uid", "value": "urn:oid:1.2.3"}
    assert resource["identifier"][1]["value"] == "A-7"
    assert resource["subject"]["identifier"]["value"] == "P1"
    assert resource["subject"]["identifier"]["assigner"] == {"display": "WEST"}
    assert resource["subject"]["display"] == "Dr Jane Q Doe"
    assert resource["started"] == "2026-03-04T10:11:12+01:30"
    assert resource["referrer"] == {"display": "Alf Ray"}
    assert (resource["description"], resource["numberOfSeries"], resource["numberOfInstances"]) == ("Chest", 1, 3)
    assert resource["modality"] == [{"coding": [{"system": DICOM, "code": "CT"}]}]
    [series] = resource["series"]
    assert (series["uid"], series["number"], series["numberOfInstances"]) == ("1.2.3.1", 2, 3)
    assert series["bodySite"] == {"concept": {"text": "CHEST"}}
    assert sorted(one["number"] for one in series["instance"]) == [1, 2, 3]
    assert {one["sopClass"]["code"] for one in series["instance"]} == {"urn:oid:1.2.840.10008.5.1.4.1.1.2"}
    endpoint = resource["contained"][0]
    got = stocked.client().get(f"{endpoint['address']}/studies/{resource['id']}/metadata")
    assert {one["00080018"]["Value"][0] for one in got.json()} == {one["uid"] for one in series["instance"]}


@pytest.mark.parametrize(
    ("date", "time", "offset", "told"),
    [
        ("20260304", "101112.5", "-0000", "2026-03-04T10:11:12.5-00:00"),
        ("20260230", "101112", "+0100", None),
        ("20260304", "251112", "+0100", "2026-03-04"),
        ("20260304", "101112", "+9900", "2026-03-04"),
    ],
)
def test_what_is_no_moment_has_not_started(date: str, time: str, offset: str, told: str | None) -> None:
    assert started(date, time, offset) == told


def test_what_a_study_does_not_have_is_left_out(stocked: Site) -> None:
    resource = asked(stocked, "ImagingStudy/1.2.4")
    ImagingStudy.model_validate(resource)
    assert resource["started"] == "2026-04-01"  # a time without an offset from UTC is none in FHIR
    assert resource["subject"]["display"] == "P2"
    assert "number" not in next(one for one in resource["series"] if one["uid"] == "1.2.4.1")  # negative
    assert {code["coding"][0]["code"] for code in resource["modality"]} == {"MR", "SR"}


@pytest.mark.parametrize(
    ("query", "studies"),
    [
        ("", ["1.2.3", "1.2.4", "1.2.5"]),
        ("_id=1.2.4,1.2.5", ["1.2.4", "1.2.5"]),
        ("identifier=urn:dicom:uid|urn:oid:1.2.3", ["1.2.3"]),
        ("identifier=A-7", ["1.2.3"]),
        ("identifier=|A-7", ["1.2.3"]),
        ("patient.identifier=P2", ["1.2.4"]),
        ("subject:identifier=|P1", ["1.2.3"]),
        ("modality=MR", ["1.2.4"]),
        (f"modality={DICOM}|SR", ["1.2.4", "1.2.5"]),
        ("modality=CT,MR", ["1.2.3", "1.2.4"]),
        ("started=2026", ["1.2.3", "1.2.4"]),
        ("started=2026-03", ["1.2.3"]),
        ("started=ge2025-12-31&started=lt2026-04-01", ["1.2.3", "1.2.5"]),
        ("started=gt2026-03", ["1.2.4"]),
        ("started=le2025", ["1.2.5"]),
        ("started=ge2026&started=le2025", []),
        ("started=2026&modality=MR&patient.identifier=P1", []),
        ("status=available&modality=CT", ["1.2.3"]),
        ("status=cancelled", []),
        ("_count=0", []),
    ],
)
def test_a_search_finds_what_it_says(stocked: Site, query: str, studies: list[str]) -> None:
    assert found(stocked, query) == studies


def test_pages_lead_to_every_study_once(stocked: Site) -> None:
    seen, path = [], "ImagingStudy?_count=1&started=ge2025"
    while path:
        bundle = asked(stocked, path)
        seen += [entry["resource"]["id"] for entry in bundle["entry"]]
        links = {link["relation"]: link["url"] for link in bundle["link"]}
        assert dict(parse_qsl(urlsplit(links["self"]).query))["started"] == "ge2025"
        path = links.get("next", "").partition(f"{BASE}/")[2]
    assert sorted(seen) == ["1.2.3", "1.2.4", "1.2.5"]
    entry = bundle["entry"][0]
    assert entry["resource"]["meta"]["tag"][0]["code"] == "SUBSETTED"  # without instances
    assert stocked.client().get(entry["fullUrl"]).json()["id"] == entry["resource"]["id"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("ImagingStudy/1.2.99", 404),
        ("ImagingStudy/no-uid", 404),
        ("ImagingStudy?patiant=P1", 400),
        ("ImagingStudy?started=march", 400),
        ("ImagingStudy?started=9999-12-31", 400),
        ("ImagingStudy?patient.identifier=P*", 400),
        ("ImagingStudy?patient.identifier=", 400),
        ("ImagingStudy?patient.identifier=other|P1", 400),
        ("ImagingStudy?_id=1.2.4*", 400),
        ("ImagingStudy?_id=1.2.4&identifier=urn:oid:1.2.4", 400),
        ("ImagingStudy?_count=many", 400),
    ],
)
def test_a_refusal_says_why(stocked: Site, path: str, status: int) -> None:
    outcome = OperationOutcome.model_validate(asked(stocked, path, status))
    assert outcome.issue[0].diagnostics


def test_the_capabilities_are_those_of_the_server(stocked: Site) -> None:
    statement = CapabilityStatement.model_validate(asked(stocked, "metadata"))
    assert statement.fhirVersion == "5.0.0"
    [resource] = statement.rest[0].resource
    assert [one.code for one in resource.interaction] == ["read", "search-type"]
    assert {"identifier", "started", "modality"} <= {one.name for one in resource.searchParam}


def test_a_stranger_is_told_nothing(guarded: Site) -> None:
    guarded.take(make.instance(study_uid="1.2.3"))
    for path in ("ImagingStudy", "ImagingStudy/1.2.3", "metadata"):
        assert guarded.client().get(f"{BASE}/{path}").status_code == 401
    assert guarded.client(auth=("reader", "correct horse battery")).get(f"{BASE}/ImagingStudy/1.2.3").is_success
