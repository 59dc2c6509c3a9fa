"""QIDO-RS: how it is asked and told; what matches what is proven where queries are (test_matching, test_find)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pydicom import config

from node.dicom.matching import MAX_MATCHES
from tests import make
from tests.web.conftest import Site, open_site


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Three studies: of a CT with five slices, of an MR and a report, and of a report alone."""
    with open_site(tmp_path_factory.mktemp("stocked") / "root") as site:
        site.take(*make.ct_series(5, study_uid="1.2.3", series_uid="1.2.3.1"))
        site.take(
            make.instance(
                study_uid="1.2.4",
                series_uid="1.2.4.1",
                modality="MR",
                Rows=1,  # an image, whose values count before those of the report
                PatientName="Müller^Jürg",
                SpecificCharacterSet="ISO_IR 100",
                PatientID="P,1",
                StudyDate="20260304",
                StudyDescription="Head & neck",
            )
        )
        site.take(
            make.structured_report(study_uid="1.2.4", series_uid="1.2.4.2", PatientID="P,1", PatientName="Müller^Jürg")
        )
        site.take(make.structured_report(study_uid="1.2.5", series_uid="1.2.5.1", PatientID="P2", StudyDate="20260101"))
        yield site


@pytest.fixture(scope="module")
def client(stocked: Site) -> httpx2.Client:
    return stocked.client()


def search(client: httpx2.Client, path: str, **parameters: Any) -> list[dict[str, Any]]:
    response = client.get(f"/dicom-web/{path}", params=parameters or None)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/dicom+json"
    found = response.json()
    assert isinstance(found, list)
    return found


def values(found: list[dict[str, Any]], tag: str) -> list[Any]:
    return [one.get(tag, {}).get("Value", [None])[0] for one in found]


def test_all_studies_come_with_what_the_standard_asks_for(client: httpx2.Client) -> None:
    found = search(client, "studies")
    assert set(values(found, "0020000D")) == {"1.2.3", "1.2.4", "1.2.5"}
    of_mr = next(one for one in found if one["0020000D"]["Value"] == ["1.2.4"])
    assert of_mr["00080061"] == {"vr": "CS", "Value": ["MR", "SR"]}
    assert of_mr["00100010"] == {"vr": "PN", "Value": [{"Alphabetic": "Müller^Jürg"}]}
    assert of_mr["00201206"]["Value"] == [2]
    assert of_mr["00201208"]["Value"] == [2]
    assert of_mr["00081190"] == {
        "vr": "UR",
        "Value": [f"{client.base_url}/dicom-web/studies/1.2.4".replace("//dicom", "/dicom")],
    }
    assert of_mr["00080056"]["Value"] == ["ONLINE"]
    assert list(of_mr) == sorted(of_mr)


@pytest.mark.parametrize(
    ("parameters", "studies"),
    [
        ({"PatientID": "nobody"}, set()),
        ({"StudyInstanceUID": "1.2.3.4.5"}, set()),
        ({"PatientID": "P2"}, {"1.2.5"}),
        ({"00100020": "P2"}, {"1.2.5"}),
        ({"PatientID": "P,1"}, {"1.2.4"}),
        ({"PatientName": "m*"}, {"1.2.4"}),
        ({"StudyDate": "20260101-20260228"}, {"1.2.5"}),
        ({"StudyDate": "20260101-"}, {"1.2.4", "1.2.5"}),
        ({"ModalitiesInStudy": "CT,MR"}, {"1.2.3", "1.2.4"}),
        ({"ModalitiesInStudy": "CT\\MR"}, {"1.2.3", "1.2.4"}),
        ({"StudyInstanceUID": "1.2.3,1.2.5"}, {"1.2.3", "1.2.5"}),
        ({"StudyInstanceUID": ["1.2.3", "1.2.5"]}, {"1.2.3", "1.2.5"}),
        ({"StudyDescription": "Head & neck"}, {"1.2.4"}),
        ({"PatientName": "jürg", "fuzzymatching": "true"}, {"1.2.4"}),
        ({"PatientName": "jürg", "fuzzymatching": "false"}, set()),
        ({"PatientID": ""}, {"1.2.3", "1.2.4", "1.2.5"}),
        ({"PatientID": "%"}, set()),
    ],
)
def test_studies_are_found_by_attributes(client: httpx2.Client, parameters: dict[str, Any], studies: set[str]) -> None:
    assert set(values(search(client, "studies", **parameters), "0020000D")) == studies


def test_series_and_instances_are_found_below_what_the_url_names(client: httpx2.Client) -> None:
    assert set(values(search(client, "series"), "0020000E")) == {"1.2.3.1", "1.2.4.1", "1.2.4.2", "1.2.5.1"}
    assert values(search(client, "series", Modality="CT"), "0020000D") == ["1.2.3"]
    (mr,) = search(client, "studies/1.2.4/series", Modality="MR")
    assert mr["0020000E"]["Value"] == ["1.2.4.1"]
    assert mr["00201209"]["Value"] == [1]
    assert mr["00081190"]["Value"][0].endswith("/dicom-web/studies/1.2.4/series/1.2.4.1")
    instances = search(client, "studies/1.2.3/series/1.2.3.1/instances")
    assert values(instances, "00200013") == [1, 2, 3, 4, 5]
    assert values(instances, "00083002") == ["1.2.840.10008.1.2.1"] * 5
    assert instances[0]["00081190"]["Value"][0].endswith(f"/instances/{instances[0]['00080018']['Value'][0]}")
    assert search(client, "studies/1.9.9/series") == []
    overruled = search(client, "studies/1.2.4/series", StudyInstanceUID="1.2.3")
    assert values(overruled, "0020000D") == ["1.2.4", "1.2.4"]
    assert len(search(client, "studies/1.2.4/instances")) == 2
    assert len(search(client, "instances")) == 8
    assert values(search(client, "instances", InstanceNumber="3", Modality="CT"), "00200013") == [3]


def test_fields_can_be_asked_for_by_keyword_by_tag_and_all(client: httpx2.Client) -> None:
    (plain,) = search(client, "studies", PatientID="P2")
    assert "00101010" not in plain
    (asked,) = search(client, "studies", PatientID="P2", includefield="PatientAge,00080062")
    assert {"00101010", "00080062"} <= set(asked)
    (asked,) = search(client, "studies", PatientID="P2", includefield=["PatientAge", "00080062"])
    assert {"00101010", "00080062"} <= set(asked)
    (every,) = search(client, "studies/1.2.5/series", includefield="all")
    assert {"00080070", "00101010", "00100010", "0020000E"} <= set(every)


@pytest.mark.slow
def test_pages_follow_each_other_without_gap_or_overlap(client: httpx2.Client) -> None:
    first = client.get("/dicom-web/instances", params={"limit": 5})
    assert first.headers["warning"] == '299 voxelnode "There are additional results that can be requested"'
    second = client.get("/dicom-web/instances", params={"limit": 5, "offset": 5})
    assert "warning" not in second.headers
    uids = values([*first.json(), *second.json()], "00080018")
    assert len(uids) == len(set(uids)) == 8
    assert search(client, "instances", limit=0) == []
    assert search(client, "instances", offset=10**12) == []


def test_there_is_an_end_to_what_one_answer_holds(client: httpx2.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.extensions.dicomweb.qido.MAX_RESULTS", 2)
    response = client.get("/dicom-web/studies", params={"limit": 10**9})
    assert len(response.json()) == 2
    assert "At most 2 results" in response.headers["warning"]
    assert "additional results" in response.headers["warning"]


@pytest.mark.parametrize(
    "query",
    ["StudyDate=yesterday", "limit=-1", "limit=x", "offset=1.5", "fuzzymatching=maybe",
     "StudyInstanceUID=1.2.*", "StudyInstanceUID=1.2.abc", "InstanceNumber=a&limit=1",
     "RequestAttributesSequence." * 9 + "CodeValue=1", "PatientID=" + "x" * 2000,
     "includefield=" + ",".join(["PatientID"] * 600)],
)  # fmt: skip
def test_a_query_that_makes_no_sense_is_reported_why(client: httpx2.Client, query: str) -> None:
    response = client.get(f"/dicom-web/instances?{query}")
    assert response.status_code == 400
    assert response.json()["detail"]


NO_ATTRIBUTE = "name no attribute"


@pytest.mark.parametrize(
    ("parameters", "warning"),
    [
        *(({name: value}, NO_ATTRIBUTE) for name, value in (
            ("NoSuchKeyword", "1"), ("0010", "1"), ("includefield", "NoSuchKeyword"), ('no\r\nsuch"keyword', "1"),
            ("n\u00f6", "1"), ("", "1"),
        )),
        ({"includefield": "RetrieveURL"}, None),  # every answer has it
        ({"EncapsulatedDocument": "7", "00291010": "x"},
         "neither matched nor returned: EncapsulatedDocument, (0029,1010)"),
        ({"NumberOfStudyRelatedSeries": "7", "RetrieveURL": "x"},
         "returned, but not matched: NumberOfStudyRelatedSeries, RetrieveURL"),
    ],
    ids=range(9),
)  # fmt: skip
def test_what_is_not_searched_for_restricts_nothing_and_is_reported_by_a_warning(
    client: httpx2.Client, parameters: dict[str, str], warning: str | None
) -> None:
    response = client.get("/dicom-web/studies", params={**parameters, "limit": 3})
    assert len(response.json()) == 3
    assert all(study["00081190"]["Value"] for study in response.json())
    reported = response.headers.get("warning")
    assert (warning or "") in (reported or "")
    assert (reported is None) == (warning is None)
    assert warning is None or ("neither" in reported) == ("neither" in warning)


def test_kinds_of_matching_are_performed_or_told_to_be_not(client: httpx2.Client) -> None:
    several = client.get("/dicom-web/studies", params={"PatientID": "P,1\\P2", "multiplevaluematching": "true"})
    assert {study["0020000D"]["Value"][0] for study in several.json()} == {"1.2.4", "1.2.5"}
    assert several.headers["warning"] == (
        '299 voxelnode "The multiplevaluematching parameter is not supported. '
        'Multiple Value Matching has not been performed."'
    )
    empty = client.get("/dicom-web/studies", params={"emptyvaluematching": "true"})
    assert empty.headers["warning"] == (
        '299 voxelnode "The emptyvaluematching parameter is not supported. '
        'Empty Value Matching has not been performed."'
    )
    for keyword in ("StudyDate", "StudyTime", "PatientName", "PatientSex"):
        matched = client.get("/dicom-web/studies", params={"emptyvaluematching": "true", keyword: '""'})
        assert (matched.status_code, len(matched.json())) == (200, 3), keyword
        assert matched.headers["warning"] == empty.headers["warning"]
    for name in ("emptyvaluematching", "multiplevaluematching"):
        assert client.get("/dicom-web/studies", params={name: "maybe"}).status_code == 400


@pytest.mark.parametrize(
    ("accept", "status", "media_type"),
    [
        ("application/dicom+json;q=0, */*;q=0.5", 200, "application/json"),
        ("application/dicom+json;q=0, application/json;q=0, */*", 200, "multipart/related"),
        ("application/dicom+json;q=0.1, */*", 200, "application/json"),
        ("application/dicom+json;q=0", 406, "application/problem+json"),
        ("*/*;q=0", 406, "application/problem+json"),
    ],
)
def test_media_types_have_the_quality_of_the_most_specific_range(
    client: httpx2.Client, accept: str, status: int, media_type: str
) -> None:
    response = client.get("/dicom-web/studies", params={"limit": 1}, headers={"Accept": accept})
    assert (response.status_code, response.headers["content-type"].partition(";")[0]) == (status, media_type)


def test_an_attribute_that_some_series_or_instances_lack_does_not_vanish(tmp_path: Path) -> None:
    site = open_site(tmp_path / "root")
    client = site.client()

    def institution(path: str, **parameters: Any) -> list[Any]:
        return values(search(client, path, **({"includefield": "InstitutionName"} | parameters)), "00080080")

    def take(series: int, *names: str | None) -> None:
        for number, name in enumerate(names):
            ds = make.instance(study_uid="1.2.3", series_uid=f"1.2.3.{series}", InstanceNumber=number)
            if name is not None:
                ds.InstitutionName = name
            site.take(ds)

    take(1, "General", "General")
    take(2, None, "")
    assert institution("studies") == ["General"]
    assert institution("studies", includefield="all") == ["General"]
    take(3, None, "Other", None, "Other", "General")
    assert institution("studies") == ["General"]  # as many series: the first one
    assert sorted(institution("series"), key=str) == ["General", None, "Other"]
    assert institution("studies", InstitutionName="Oth*") == ["General"]
    take(4, "Other")
    assert institution("studies") == ["Other"]
    site.close()


def test_any_attribute_is_matched_and_answered(tmp_path: Path) -> None:
    site = open_site(tmp_path / "root")
    ds = make.ct_series(1)[0]
    ds.InstitutionName, ds.KVP, ds.OperatorsName = "General", "120.0", "Roe^Ann=山"
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ProcedureCodeSequence = [make.dataset(CodeValue="P1", CodeMeaning="Head")]
    ds.private_block(0x0029, "EXAMPLE", create=True).add_new(0x10, "DS", "1.50")
    site.take(ds)
    client = site.client()
    private = {"00290077": "EXAMPLE", "00297710": "1.5"}
    [one] = search(client, "instances", InstitutionName="Gen*", **{"ProcedureCodeSequence.CodeValue": "P1"}, **private)
    assert one["00280100"] == {"vr": "US", "Value": [16]}  # Bits Allocated, always
    assert one["00297710"] == {"vr": "DS", "Value": [1.5]}
    [study] = search(client, "studies", includefield="all")
    assert study["00080080"]["Value"] == ["General"]
    assert study["00180060"]["Value"] == [120.0]
    assert study["00081070"]["Value"] == [{"Alphabetic": "Roe^Ann", "Ideographic": "山"}]
    assert study["00081032"]["Value"][0]["00080104"]["Value"] == ["Head"]
    assert study["00290010"]["Value"] == ["EXAMPLE"]
    assert study["00291010"]["Value"] == [1.5]
    assert search(client, "studies", OperatorsName="doe*") == []


@pytest.mark.slow
def test_series_are_found_by_their_requests_and_offsets(tmp_path: Path) -> None:
    site = open_site(tmp_path / "root")
    requested = [make.dataset(ScheduledProcedureStepID=f"S{n}", RequestedProcedureID=f"Grün{n}") for n in (1, 2)]
    ds = make.ct_series(1, study_uid="1.2.3", series_uid="1.2.3.1")[0]
    ds.RequestAttributesSequence, ds.TimezoneOffsetFromUTC = requested, "+0530"
    ds.SpecificCharacterSet = "ISO_IR 192"
    site.take(ds, *make.ct_series(1, study_uid="1.2.4", series_uid="1.2.4.1"))
    client = site.client()
    step, procedure = (
        f"RequestAttributesSequence.{name}ID" for name in ("ScheduledProcedureStep", "RequestedProcedure")
    )
    [found] = search(client, "series", **{step: "S2", procedure: "Gr?n2"})
    assert found["0020000E"]["Value"] == ["1.2.3.1"]
    assert found["00400275"]["Value"] == [
        {"00400009": {"vr": "SH", "Value": [f"S{n}"]}, "00401001": {"vr": "SH", "Value": [f"Grün{n}"]}} for n in (1, 2)
    ]
    assert search(client, "series", **{step: "S1", procedure: "Grün2"}) == []  # of two items
    [of_study] = search(client, "studies", **{step: "S1"})
    assert of_study["00080201"] == {"vr": "SH", "Value": ["+0530"]}
    assert "00400275" not in of_study
    for path in ("studies", "series", "instances"):
        assert values(search(client, path, TimezoneOffsetFromUTC="+0530"), "00080201") == ["+0530"]
        assert search(client, path, TimezoneOffsetFromUTC="-0530") == []
    site.close()


def test_other_media_types_are_not_offered(client: httpx2.Client) -> None:
    for accept in ("text/html", "application/dicom+xml", 'multipart/related; type="application/dicom"'):
        assert client.get("/dicom-web/studies", headers={"Accept": accept}).status_code == 406
    plain = client.get("/dicom-web/studies", headers={"Accept": "application/json"})
    assert plain.headers["content-type"] == "application/json"


@pytest.mark.slow
def test_a_key_may_be_given_again_and_again_without_the_answer_taking_longer(empty: Site) -> None:
    client = empty.client()  # each time doubled the quotes around the values before it
    uids = "&".join(f"StudyInstanceUID=1.2.{number}" for number in range(400))
    assert client.get(f"/dicom-web/studies?{uids}").json() == []
    assert client.get("/dicom-web/studies?" + "&".join("PatientID=x" for _ in range(100))).json() == []
    refused = client.get("/dicom-web/studies?" + "&".join("PatientID=x" for _ in range(501)))
    assert (refused.status_code, "at most 500 parameters" in refused.text) == (400, True)


@pytest.mark.slow
def test_a_list_of_a_thousand_uids_is_answered(site: Site) -> None:
    site.take(make.instance(study_uid="1.2.3"))
    uids = ",".join([*(f"{'1.2.3456789' * 5}.{number}" for number in range(1000)), "1.2.3"])
    [found] = site.network_client().get("/dicom-web/studies", params={"StudyInstanceUID": uids}).json()
    assert found["0020000D"]["Value"] == ["1.2.3"]


@pytest.mark.parametrize("keyword", ["PatientName", "PatientID", "StudyDescription"])
def test_thousands_of_wildcards_are_refused_in_words(client: httpx2.Client, keyword: str) -> None:
    patterns = "\\".join(f"*{number}*" for number in range(2000))
    answer = client.get("/dicom-web/studies", params={keyword: patterns})
    assert answer.status_code == 400
    assert f"more than {MAX_MATCHES} values and wildcards" in answer.json()["detail"]
    patterns = "\\".join(f"*{number}*" for number in range(MAX_MATCHES))
    assert client.get("/dicom-web/studies", params={keyword: patterns}).status_code == 200


@pytest.mark.slow
def test_hundreds_of_words_of_a_name_are_refused_in_words(client: httpx2.Client) -> None:
    for words, status in ((MAX_MATCHES, 200), (MAX_MATCHES + 1, 400)):
        query = {"PatientName": " ".join(["a"] * words), "fuzzymatching": "true"}
        for level in ("studies", "series", "instances"):
            assert client.get(f"/dicom-web/{level}", params=query).status_code == status


@pytest.mark.slow
def test_an_answer_is_not_sent_again_to_who_has_it_and_is_compressed_if_asked_for(site: Site) -> None:
    site.take(*make.ct_series(3, study_uid="1.2.3", series_uid="1.2.3.1"))
    client = site.client()
    for path in ("/dicom-web/instances", "/dicom-web/studies/1.2.3/metadata"):
        plain = client.get(path, headers={"Accept-Encoding": "identity"})
        etag = plain.headers["etag"]
        assert etag.startswith('W/"')
        assert "content-encoding" not in plain.headers
        assert client.get(path, headers={"If-None-Match": f'"other", {etag}'}).status_code == 304
        assert client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200
        for accepted, is_compressed in (("gzip", True), ("br, *", True), ("gzip;q=0, *", False), ("br", False)):
            answer = client.get(path, headers={"Accept-Encoding": accepted})
            assert (answer.headers.get("content-encoding") == "gzip") == is_compressed
            assert answer.headers["vary"] == "Accept, Accept-Encoding"
            assert answer.json() == plain.json()
        head = client.head(path)
        assert (head.headers["etag"], head.content) == (etag, b"")
    etag = client.get("/dicom-web/studies").headers["etag"]
    site.take(make.instance(study_uid="1.2.4"))
    assert client.get("/dicom-web/studies", headers={"If-None-Match": etag}).status_code == 200


def test_an_accession_number_is_found_by_the_whole_of_it(site: Site) -> None:
    client = site.client()
    for number in "12":
        with config.disable_value_validation():
            site.take(make.instance(study_uid=f"1.2.{number}", AccessionNumber=f"HOSPITAL-2024-000000{number}"))
    whole = "HOSPITAL-2024-0000002"
    for path in ("studies", "series", "instances"):
        found = search(client, path, AccessionNumber=whole, includefield="AccessionNumber")
        assert (values(found, "0020000D"), values(found, "00080050")) == (["1.2.2"], [whole])
    assert search(client, "studies", AccessionNumber=whole[:16]) == []
    assert len(search(client, "studies", AccessionNumber="HOSPITAL-2024-*")) == 2
    assert len(client.get("/api/v1/studies", params={"accession_number": whole}).json()["items"]) == 1
