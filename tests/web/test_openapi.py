"""The OpenAPI document, and what schemathesis makes of it: no request that it allows is an error of ours.

Tests import what judges them themselves: that takes two seconds, and every worker imports this module.
"""

import datetime as dt
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node.index.rules.people.accounts import Role
from node.index.rules.work.messages import PendingEvent
from node.web.problem_types import MEDIA_TYPE, NOT_FOUND
from tests import make
from tests.web.conftest import Site, open_site

ROLES = {"reader": Role.READ, "writer": Role.WRITE, "admin": Role.ADMIN}
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "web.md"


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A root with something in it that requests may change and delete."""
    with open_site(tmp_path_factory.mktemp("fuzzed") / "root") as site:
        for number in range(3):
            site.take(*make.ct_series(3, study_uid=f"1.2.{number}", series_uid=f"1.2.{number}.1"))
        site.take(make.corrected(make.instance(sop_instance_uid="1.2.0.1.9", study_uid="1.2.0", series_uid="1.2.0.1")))
        site.take(make.instance(sop_instance_uid="1.2.0.1.9", study_uid="1.2.0", series_uid="1.2.0.1"))
        site.convert()
        for name, role in ROLES.items():
            site.account(name, role, None)
        planned = {"modality": "CT", "station_ae_title": "CT1", "start_date": "2026-11-21"}
        site.client().post("/api/v1/worklist", json={"patient_id": "P", "patient_name": "N", **planned})
        yield site


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("step", "requests"), [(3, 2), pytest.param(1, 100, marks=pytest.mark.long)])
def test_no_request_is_a_server_error(fuzzed: Site, step: int, requests: int) -> None:
    """As many requests of one operation in so many, the same ones every time."""
    import schemathesis
    from schemathesis import GenerationMode
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

    schema = schemathesis.openapi.from_url(f"{fuzzed.url}/api/v1/openapi.json")
    schema = schema.include(path_regex="^/api/").exclude(path="/api/v1/events")  # which has no end
    declared = described(fuzzed)["paths"]
    operations = [each.ok() for each in schema.get_all_operations()]
    operations.sort(key=lambda operation: operation.method.upper() == "DELETE")  # when there is nothing left to ask for
    tokens, there = [fuzzed.token(name) for name in ROLES], what_is_there(fuzzed)
    statuses: Counter[int] = Counter()
    assert len(operations) > 20
    for operation in operations[::step]:
        valid = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
        wrong = operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)

        @given(case=valid | wrong, is_there=st.booleans(), token=st.sampled_from(tokens))
        @settings(max_examples=requests, suppress_health_check=list(HealthCheck), derandomize=True)
        def probe(case: schemathesis.Case, is_there: bool, token: str) -> None:
            case.headers["Authorization"] = f"Bearer {token}"
            if is_there:
                case.path_parameters = {name: there[name] for name in case.path_parameters}
            answer = case.call_and_validate(
                checks=(not_a_server_error, status_code_conformance, response_schema_conformance)
            )
            statuses[answer.status_code] += 1
            if answer.status_code >= 400:
                response = declared[case.operation.path][case.operation.method.lower()]["responses"]
                assert answer.json()["type"] in response[str(answer.status_code)]["x-problem-types"]

        probe()
    assert min(statuses[200], statuses[403], statuses[404], statuses[422]) > (20 if step == 1 else 1)


def what_is_there(site: Site) -> dict[str, Any]:
    """Values of parameters of paths that lead to something."""
    client = site.client()
    pending = PendingEvent("fuzzed", "series-quiet", dt.datetime(2026, 1, 1, tzinfo=dt.UTC), "1.2.0", "1.2.0.1")
    job, _ = site.store.index.jobs.begin("hook", pending, pending.happened_at, dt.timedelta(days=1))
    site.store.index.work.add_retrievals("NOBODY", [("1.2.0", None)], "fuzzer", pending.happened_at)
    volume = client.get("/api/v1/volumes").json()["items"][0]
    instance = client.get("/api/v1/instances").json()["items"][-1]
    conflict = client.get("/api/v1/conflicts").json()["items"][0]
    site.account("member", Role.READ, None)
    client.put("/api/v1/projects/trial", json={})
    return {name: volume[name] for name in ("id", "name", "study_instance_uid", "series_instance_uid")} | {
        "project": "trial",
        "account": "member",
        "share": 1,
        "token": "fuzzed",
        "session": 1,
        "sop_instance_uid": instance["sop_instance_uid"],
        "conflict": conflict["id"],
        "number": 1,
        "slug": NOT_FOUND.slug,
        "route": "-",
        "hook": "-",
        "table": "retention",
        "destination": "NOWHERE",
        "action": "retry",
        "decision": "keep",
        "job": job.job_id,
        "peer": "NOBODY",
        "work": client.get("/api/v1/work").json()["items"][-1]["id"],
        "file": "mask.nii.gz",
        "entry": client.get("/api/v1/worklist").json()["items"][-1]["id"],
        "comment": client.post("/api/v1/studies/1.2.0/comments", json={"comment": "a word"}).json()["id"],
    }


def described(site: Site) -> dict[str, Any]:
    """The OpenAPI document."""
    document: dict[str, Any] = site.client().get("/api/v1/openapi.json").json()
    return document


@pytest.mark.slow
def test_the_document_is_valid(fuzzed: Site) -> None:
    from openapi_spec_validator import OpenAPIV31SpecValidator

    assert list(OpenAPIV31SpecValidator(described(fuzzed)).iter_errors()) == []


@pytest.mark.slow
def test_every_operation_is_described(fuzzed: Site) -> None:
    operations = [operation for path in described(fuzzed)["paths"].values() for operation in path.values()]
    assert len(operations) > 20
    for operation in operations:
        assert operation["description"]
        assert {"401", "403", "422", "500", "503"} <= set(operation["responses"])
        assert all(parameter["description"] for parameter in operation.get("parameters", ()))
        for status, response in operation["responses"].items():
            assert response["description"], operation["operationId"]
            if status >= "400":
                [(media_type, content)] = response["content"].items()
                assert (media_type, content["schema"]) == (MEDIA_TYPE, {"$ref": "#/components/schemas/Problem"})
            elif status != "304":
                assert all(content["schema"] for content in response["content"].values())


SAME_HOWEVER_OFTEN = "put_job_file", "search_peer", "make_share"


@pytest.mark.slow
def test_every_change_takes_conditions(fuzzed: Site) -> None:
    changes = [
        operation
        for path in described(fuzzed)["paths"].values()
        for method, operation in path.items()
        if method not in ("get", "head") and operation["operationId"] not in SAME_HOWEVER_OFTEN
    ]
    assert len(changes) == 34
    for operation in changes:
        assert "if-match" in {parameter["name"] for parameter in operation["parameters"]}
        assert {"404", "412", "422"} <= set(operation["responses"])


def test_the_documentation_names_every_path_and_no_other(fuzzed: Site) -> None:
    paths = described(fuzzed)["paths"]
    rows = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("| `/")]
    documented = {name for row in rows for name in re.findall(r"`(/[^`]+)`", row)}
    below = {path.removeprefix("/api/v1") for path in paths if path.startswith("/api/v1")}
    assert {unnamed(path) for path in documented} == {unnamed(path) for path in below}


def test_requests_of_the_documentation_are_answered(fuzzed: Site) -> None:
    urls = re.findall(r"^    curl (.*?)'?http://127.0.0.1:8080(/\S+?)'?$", DOCUMENT.read_text(), flags=re.MULTILINE)
    assert len(urls) > 5
    for options, url in urls:
        method = re.search(r"-X (\w+)", options)
        with fuzzed.client().stream(method[1] if method else "GET", url.replace("/ID", "/999999")) as answer:
            assert answer.status_code in (200, 202, 404), url


def unnamed(path: str) -> str:
    """A path whose parameters have no names."""
    return re.sub(r"\{\w+\}", "{}", path)
