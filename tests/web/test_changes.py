"""Changes over REST: only to what the client has seen, and once."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from node.index.nouns import terms
from node.web.problem_types import KEY_REUSED, KEY_UNDER_WAY, PRECONDITION_FAILED, TOO_MANY_KEYS
from tests import make
from tests.rows import read_rows, write_rows
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


def keyed(site: Site, kind: str, verb: str, key: str = "one", **options: Any) -> httpx2.Response:
    headers = {"Idempotency-Key": key, **options.pop("headers", {})}
    return change(site, kind, verb, headers=headers, **options)


@pytest.mark.parametrize(("kind", "verb"), CHANGES)
def test_a_repetition_with_the_same_key_has_the_same_answer(stored: Site, kind: str, verb: str) -> None:
    client, path = stored.client(), paths(stored)[kind]
    etag = client.get(path).headers["etag"]
    request = client.build_request(
        "DELETE" if verb == "delete" else "POST",
        path if verb == "delete" else address(path, verb),
        headers={"Idempotency-Key": '"8e03978e-40d5-43dd-bc93-6894a57f9324"', "If-Match": etag},
        params={"replace": "true"} if verb == "release" else None,
        json={"into": client.get("/api/v1/patients").json()["items"][0]["id"]} if verb == "merge" else None,
    )
    first = client.send(request)
    assert first.status_code in (200, 202), first.text
    assert "idempotent-replayed" not in first.headers
    events = client.get("/api/v1/history", params={"limit": 1000}).json()
    again = client.send(request)
    assert (again.status_code, again.json()) == (first.status_code, first.json())
    assert again.headers["idempotent-replayed"] == "true"
    assert client.get("/api/v1/history", params={"limit": 1000}).json() == events


@pytest.mark.slow
def test_a_key_is_for_one_request(stored: Site) -> None:
    assert keyed(stored, "study", "reconvert").status_code == 202
    for kind, verb, options in (
        ("series", "reconvert", {}),
        ("study", "delete", {}),
        ("study", "delete", {"params": {"dry_run": "true"}}),
        ("patient", "merge", {}),
    ):
        other = keyed(stored, kind, verb, **options)
        assert (other.status_code, other.json()["type"]) == (422, KEY_REUSED.uri), (kind, verb)
    assert keyed(stored, "study", "delete", "two", params={"dry_run": "true"}).status_code == 200


def test_the_body_is_part_of_the_request(stored: Site) -> None:
    path, headers = paths(stored)["patient"], {"Idempotency-Key": "one"}
    other = stored.client().get("/api/v1/patients", params={"patient_id": "B"}).json()["items"][0]["id"]
    assert stored.client().post(f"{path}/merge", headers=headers, json={"into": other}).status_code == 200
    assert stored.client().post(f"{path}/merge", headers=headers, json={"into": other + 1}).status_code == 422


def test_a_refused_request_does_not_use_up_its_key(stored: Site) -> None:
    for headers in ({"If-Match": '"x"'}, {}):
        answer = keyed(stored, "study", "reconvert", headers=headers)
        assert "idempotent-replayed" not in answer.headers
    assert answer.status_code == 202
    assert keyed(stored, "quarantined", "release", "two").status_code == 409
    assert keyed(stored, "quarantined", "release", "two", params={"replace": "true"}).status_code == 200


def test_each_account_has_keys_of_its_own(guarded: Site) -> None:
    guarded.take(make.instance(study_uid=STUDY, series_uid=SERIES))
    path = f"/api/v1/studies/{STUDY}/reconvert"
    for name, replayed in (("writer", False), ("admin", False), ("writer", True)):
        headers = {"Authorization": f"Bearer {guarded.token(name)}", "Idempotency-Key": "one"}
        answer = guarded.client().post(path, headers=headers)
        assert (answer.status_code, "idempotent-replayed" in answer.headers) == (202, replayed), name
    headers = {"Authorization": f"Bearer {guarded.token('reader')}", "Idempotency-Key": "one"}
    assert guarded.client().post(path, headers=headers).status_code == 403


def test_an_answer_is_kept_for_a_day(stored: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    now = stored.services.ingest.now()
    for hours, replayed in ((0, False), (23, True), (25, False)):
        monkeypatch.setattr(stored.services.ingest, "now", lambda hours=hours: now + dt.timedelta(hours=hours))
        assert ("idempotent-replayed" in keyed(stored, "study", "reconvert").headers) is replayed
    assert len(read_rows(stored.root, "SELECT id FROM keyed_requests")) == 1


def test_while_the_first_request_is_under_way_its_repetition_waits(
    stored: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, may_end = threading.Event(), threading.Event()
    require: Callable[..., None] = stored.services.audit.require

    def slow(message: Any) -> None:
        began.set()
        assert may_end.wait(20)
        require(message)

    monkeypatch.setattr(stored.services.audit, "require", slow)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(keyed, stored, "study", "delete")
        assert began.wait(20)
        meanwhile = stored.client().delete(f"/api/v1/studies/{STUDY}", headers={"Idempotency-Key": "one"})
        may_end.set()
        assert first.result(20).status_code == 200
    assert (meanwhile.status_code, meanwhile.json()["type"]) == (409, KEY_UNDER_WAY.uri)
    again = stored.client().delete(f"/api/v1/studies/{STUDY}", headers={"Idempotency-Key": "one"})
    assert (again.status_code, again.json()) == (200, first.result().json())


def test_a_request_without_an_answer_is_carried_out_again(stored: Site) -> None:
    """As after a crash between the change and its answer, where these are not one transaction."""
    path, headers = f"{paths(stored)['conflict']}/accept", {"Idempotency-Key": "one"}
    first = stored.client().post(path, headers=headers).json()
    write_rows(stored.root, "UPDATE keyed_requests SET answer = NULL")
    again = stored.client().post(path, headers=headers)
    assert (again.status_code, again.json()) == (200, first)
    assert "idempotent-replayed" not in again.headers


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb", "\x7f"], ids=["empty", "long", "tab", "control"])
def test_a_key_has_a_form(stored: Site, key: str) -> None:
    assert keyed(stored, "study", "reconvert", key).status_code == 422


def test_an_account_cannot_fill_the_disk_with_keys(stored: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terms, "MAX_KEYS", 2)
    assert [keyed(stored, "study", "reconvert", key).status_code for key in "aabb"] == [202] * 4
    refused = keyed(stored, "study", "reconvert", "c")
    assert (refused.status_code, refused.json()["type"]) == (429, TOO_MANY_KEYS.uri)
    assert keyed(stored, "study", "reconvert", "a").status_code == 202
