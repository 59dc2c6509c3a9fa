"""Changes over REST: only to what the client has seen."""

from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from node.web.problem_types import PRECONDITION_FAILED
from tests import make
from tests.web.conftest import Site

STUDY, SERIES, INSTANCE = "1.2.3", "1.2.3.1", "1.2.3.1.1"


@pytest.fixture
def stored(site: Site) -> Site:
    """One study of two instances, another version of one of them, and a second patient."""
    first = make.instance(study_uid=STUDY, series_uid=SERIES, sop_instance_uid=INSTANCE, PatientID="A")
    second = make.instance(study_uid=STUDY, series_uid=SERIES, sop_instance_uid="1.2.3.1.2", PatientID="A")
    site.take(first, second, make.corrected(first))
    site.take(make.instance(study_uid="1.2.4", PatientID="B"))
    return site


def paths(site: Site) -> dict[str, str]:
    """The path of one resource of each kind that can be changed."""
    client = site.client()
    patient = client.get("/api/v1/patients", params={"patient_id": "A"}).json()["items"][0]["id"]
    conflict = client.get("/api/v1/conflicts").json()["items"][0]["id"]
    quarantined = client.get("/api/v1/quarantine").json()["items"][0]["name"]
    return {
        "patient": f"/api/v1/patients/{patient}",
        "study": f"/api/v1/studies/{STUDY}",
        "series": f"/api/v1/studies/{STUDY}/series/{SERIES}",
        "instance": f"/api/v1/instances/{INSTANCE}",
        "conflict": f"/api/v1/conflicts/{conflict}",
        "quarantined": f"/api/v1/quarantine/{quarantined}",
    }


def change(site: Site, kind: str, verb: str, **options: Any) -> httpx2.Response:
    url = paths(site)[kind]
    if verb == "delete":
        return site.client().delete(url, **options)
    if verb == "merge":
        target = site.client().get("/api/v1/patients", params={"patient_id": "B"}).json()["items"][0]["id"]
        options["json"] = {"into": target}
    return site.client().post(address(url, verb), **options)


def address(url: str, verb: str) -> str:
    """Where a change of a resource is asked for: a series is converted again as one of its study."""
    study, _, series = url.partition("/series/")
    return f"{study}/{verb}?series_instance_uid={series}" if series else f"{url}/{verb}"


@pytest.mark.slow
def test_what_can_be_changed_has_an_entity_tag(stored: Site) -> None:
    client = stored.client()
    for kind, path in paths(stored).items():
        answer = client.get(path)
        etag = answer.headers["etag"]
        assert client.get(path).headers["etag"] == etag, kind
        for tags in (etag, f'"x", W/{etag}', "*"):
            again = client.get(path, headers={"If-None-Match": tags})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag), kind
        assert client.get(path, headers={"If-None-Match": '"x"'}).json() == answer.json()


CHANGES = [
    ("patient", "merge"),
    ("study", "reconvert"),
    ("study", "delete"),
    ("series", "reconvert"),
    ("series", "delete"),
    ("instance", "delete"),
    ("conflict", "accept"),
    ("conflict", "keep"),
    ("quarantined", "release"),
    ("quarantined", "delete"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "verb"), CHANGES)
def test_a_change_is_made_only_to_what_the_client_has_seen(stored: Site, kind: str, verb: str) -> None:
    client, path = stored.client(), paths(stored)[kind]
    etag = client.get(path).headers["etag"]
    for tags in ('"x"', f"W/{etag}", etag.strip('"'), ""):
        refused = change(stored, kind, verb, headers={"If-Match": tags})
        assert (refused.status_code, refused.json()["type"]) == (412, PRECONDITION_FAILED.uri), tags
        assert refused.headers["etag"] == etag
    assert client.get(path).headers["etag"] == etag
    params = {"replace": "true"} if verb == "release" else None
    done = change(stored, kind, verb, headers={"If-Match": f'"x", {etag}'}, params=params)
    assert done.status_code in (200, 202), done.text


def test_any_entity_tag_means_that_it_is_there(stored: Site) -> None:
    headers = {"If-Match": "*"}
    assert stored.client().delete(f"/api/v1/instances/{INSTANCE}", headers=headers).status_code == 200
    assert stored.client().delete(f"/api/v1/instances/{INSTANCE}", headers=headers).status_code == 404


def test_an_entity_tag_changes_with_what_it_is_of(stored: Site) -> None:
    client = stored.client()
    before = {kind: client.get(path).headers["etag"] for kind, path in paths(stored).items()}
    stored.take(make.instance(study_uid=STUDY, series_uid=SERIES, sop_instance_uid="1.2.3.1.3", PatientID="A"))
    after = {kind: client.get(path).headers["etag"] for kind, path in paths(stored).items()}
    assert {kind for kind in before if before[kind] != after[kind]} == {"study", "series"}


@pytest.mark.parametrize("level", ["study", "series"])
def test_what_arrives_between_the_comparison_and_the_deletion_is_not_deleted(
    stored: Site, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    require: Callable[..., None] = stored.services.audit.require

    def arriving(message: Any) -> None:
        require(message)
        stored.take(make.instance(study_uid=STUDY, series_uid=SERIES, sop_instance_uid="1.2.3.1.9", PatientID="A"))

    path = paths(stored)[level]
    etag = stored.client().get(path).headers["etag"]
    monkeypatch.setattr(stored.services.audit, "require", arriving)
    refused = stored.client().delete(path, headers={"If-Match": etag})
    assert refused.status_code == 412
    assert stored.client().get(path).json()["instances"] == 3
    assert "; the index did not change" in (stored.root / "audit.jsonl").read_text()


def test_a_dry_run_has_conditions_too(stored: Site) -> None:
    refused = change(stored, "study", "delete", headers={"If-Match": '"x"'}, params={"dry_run": "true"})
    assert refused.status_code == 412
